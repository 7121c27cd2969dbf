//! `[lines.<name>]` of the configuration.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use cairn_line::{Budget, Limits, Method, Methods, Per};
use cairn_update::window::{NotAWindow, Window};
use serde::{Deserialize, Serialize};

use crate::setting::{Invalid, duration};

/// Lines of a node, at most.
const LINES: usize = 16;
/// Targets of a line, at most.
const TARGETS: usize = 8;
/// Where TCP connects to if nobody says.
const HTTPS: u16 = 443;
/// What traceroute begins with: nobody listens there.
const NOBODY: u16 = 33_434;
/// Probes in a window, if it isn't said how long that is.
const PROBES: u32 = 12;

/// One line, as it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct LineInput {
    /// The interface, as `eth0`; without it the routes decide.
    pub interface: Option<String>,
    /// Whom to probe, as `["192.0.2.1", "example.org:443"]`; the control plane without it.
    pub targets: Option<Vec<String>>,
    /// How often: `10s`.
    pub interval: Option<String>,
    /// How far back figures look; 12 intervals.
    pub window: Option<String>,
    /// What takes longer is lost: `1s`.
    pub timeout: Option<String>,
    /// By preference: `["icmp", "udp", "tcp"]`.
    pub methods: Option<Vec<Method>>,
    /// Where UDP is sent to: 33434.
    pub udp_port: Option<u16>,
    /// How fast it is.
    pub speed: Option<SpeedInput>,
}

/// Speed tests of a line, as they are written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct SpeedInput {
    /// What all tests may take of the line, as `1GiB`.
    pub budget: Option<String>,
    /// In which time: `month`.
    pub per: Option<Per>,
    /// How often it is tested: `1d`.
    pub every: Option<String>,
    /// When, as `["02:00-05:00"]` in UTC; always without it.
    pub window: Option<Vec<String>>,
    /// Which way: `["up", "down"]`.
    pub directions: Option<Vec<Direction>>,
    /// The most bytes of one test in one direction: `16MiB`.
    pub bytes: Option<String>,
    /// The longest that takes: `10s`.
    pub time: Option<String>,
    /// What is fetched; the control plane's without it.
    pub down: Option<String>,
    /// Where it is sent; to the control plane without it.
    pub up: Option<String>,
}

/// All lines, as they are written.
pub type Input = BTreeMap<String, LineInput>;

/// Which way bytes go.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Direction {
    /// From the node.
    Up,
    /// To the node.
    Down,
}

/// Who is probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The control plane, wherever it is.
    Server,
    /// A host by name or address, and where TCP connects to.
    Host(String, u16),
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Line {
    /// Its name in keys of telemetry: 1 to 32 of `a-z`, `A-Z`, `0-9`, `_`, `-`.
    pub name: String,
    /// The interface; none: the routes decide.
    pub interface: Option<String>,
    /// Who is probed.
    pub targets: Vec<Target>,
    /// How often.
    pub interval: Duration,
    /// How far back figures look.
    pub window: Duration,
    /// What takes longer is lost.
    pub timeout: Duration,
    /// By preference.
    pub methods: Methods,
    /// Where UDP is sent to.
    pub udp_port: u16,
    /// How it is tested how fast it is; none: it isn't.
    pub speed: Option<Speed>,
}

/// Speed tests of a line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Speed {
    /// What all of them may take.
    pub budget: Budget,
    /// How often.
    pub every: Duration,
    /// When; none: always.
    pub windows: Vec<Window>,
    /// Which way.
    pub directions: Vec<Direction>,
    /// What one test in one direction may take.
    pub limits: Limits,
    /// What is fetched, if not the control plane's.
    pub down: Option<String>,
    /// Where it is sent, if not to the control plane.
    pub up: Option<String>,
}

/// All lines.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings(pub Vec<Line>);

impl Settings {
    /// Checks what is written, and fills in what isn't. Without any line there is one to the control plane, by the name `default`.
    ///
    /// # Errors
    /// Names the first value that can't be used.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        if input.len() > LINES {
            return Err(Invalid::new("lines", format!("expected {LINES} at most")));
        }
        if input.is_empty() {
            return Ok(Self(vec![Line::check("default", &LineInput::default())?]));
        }
        let lines = input.iter().map(|(name, line)| Line::check(name, line));
        Ok(Self(lines.collect::<Result<_, _>>()?))
    }
}

impl Line {
    fn check(name: &str, input: &LineInput) -> Result<Self, Invalid> {
        let key = |key: &str| format!("lines.{name}.{key}");
        let in_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '-');
        if !(1..=32).contains(&name.len()) || !name.chars().all(in_name) {
            let reason = "expected 1 to 32 of A-Z, a-z, 0-9, underscore and dash as a line's name";
            return Err(Invalid::new(format!("lines.{name}"), reason));
        }
        if let Some(interface) = &input.interface
            && !is_interface(interface)
        {
            let reason = format!("expected the name of an interface, as eth0, got {interface:?}");
            return Err(Invalid::new(key("interface"), reason));
        }
        let second = Duration::from_secs(1);
        let interval = input.interval.as_deref();
        let interval = span(
            key("interval"),
            interval,
            second * 10,
            second,
            second * 3600,
        )?;
        let window = input.window.as_deref();
        let window = span(
            key("window"),
            window,
            interval * PROBES,
            interval * 3,
            interval * 3600,
        )?;
        let timeout = input.timeout.as_deref();
        let longest = interval.min(second * 5);
        let timeout = span(key("timeout"), timeout, second, second / 10, longest)?;
        let methods = match &input.methods {
            None => Methods::default(),
            Some(methods) => Methods::new(methods).ok_or_else(|| {
                Invalid::new(
                    key("methods"),
                    "expected some of icmp, udp and tcp, each once",
                )
            })?,
        };
        let udp_port = input.udp_port.unwrap_or(NOBODY);
        if udp_port == 0 {
            return Err(Invalid::new(key("udp-port"), "expected 1 to 65535"));
        }
        let speed = input.speed.as_ref();
        let line = Self {
            name: name.to_owned(),
            interface: input.interface.clone(),
            targets: targets(&key("targets"), input.targets.as_deref())?,
            interval,
            window,
            timeout,
            methods,
            udp_port,
            speed: speed
                .map(|speed| Speed::check(&key("speed"), speed))
                .transpose()?,
        };
        Ok(line)
    }
}

fn targets(key: &str, written: Option<&[String]>) -> Result<Vec<Target>, Invalid> {
    let Some(written) = written else {
        return Ok(vec![Target::Server]);
    };
    if written.len() > TARGETS {
        return Err(Invalid::new(key, format!("expected {TARGETS} at most")));
    }
    let target = |text: &String| {
        Target::parse(text).ok_or_else(|| {
            let reason =
                format!("expected 192.0.2.1, [2001:db8::1]:443 or example.org:443, got {text:?}");
            Invalid::new(key, reason)
        })
    };
    written.iter().map(target).collect()
}

impl Target {
    /// Reads a host with or without a port.
    pub fn parse(text: &str) -> Option<Self> {
        if let Ok(address) = text.parse::<IpAddr>() {
            return Some(Self::Host(address.to_string(), HTTPS));
        }
        if let Ok(address) = text.parse::<SocketAddr>() {
            let port = Some(address.port()).filter(|port| *port > 0)?;
            return Some(Self::Host(address.ip().to_string(), port));
        }
        let (host, port) = match text.rsplit_once(':') {
            None => (text, HTTPS),
            Some((host, port)) => (host, port.parse().ok().filter(|port| *port > 0)?),
        };
        let in_host = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_');
        let host_is_one = (1..=253).contains(&host.len()) && host.chars().all(in_host);
        host_is_one.then(|| Self::Host(host.to_owned(), port))
    }
}

impl Speed {
    fn check(prefix: &str, input: &SpeedInput) -> Result<Self, Invalid> {
        let key = |key: &str| format!("{prefix}.{key}");
        let budget = input.budget.as_deref().ok_or_else(|| {
            Invalid::new(
                key("budget"),
                "expected what speed tests may take of the line, as \"1GiB\"",
            )
        })?;
        let size = |name: &str, text: &str, least: u64, most: u64| {
            let size = duration::bytes(&key(name), text)?;
            if (least..=most).contains(&size) {
                return Ok(size);
            }
            let reason = format!("expected {least} to {most} bytes");
            Err(Invalid::new(key(name), reason))
        };
        let second = Duration::from_secs(1);
        let bytes = input.bytes.as_deref().unwrap_or("16MiB");
        let (every, day) = (input.every.as_deref(), second * 86_400);
        let windows = input.window.iter().flatten().map(|text| {
            text.parse()
                .map_err(|error: NotAWindow| Invalid::new(key("window"), error.to_string()))
        });
        let both = || vec![Direction::Up, Direction::Down];
        let directions = input.directions.clone().unwrap_or_else(both);
        if !matches!(
            directions.as_slice(),
            [_] | [Direction::Up, Direction::Down] | [Direction::Down, Direction::Up]
        ) {
            return Err(Invalid::new(key("directions"), "expected up, down or both"));
        }
        let url = |name: &str, url: Option<&String>| match url {
            Some(url) if !is_url(url) => {
                let reason = format!("expected https://host/path, got {url:?}");
                Err(Invalid::new(key(name), reason))
            }
            url => Ok(url.cloned()),
        };
        Ok(Self {
            budget: Budget {
                bytes: size("budget", budget, 1 << 20, u64::MAX)?,
                per: input.per.unwrap_or(Per::Month),
            },
            every: span(key("every"), every, day, second * 60, day * 31)?,
            windows: windows.collect::<Result<_, _>>()?,
            directions,
            limits: Limits {
                bytes: size("bytes", bytes, 256 << 10, cairn_wire::speed::LARGEST)?,
                // Whoever waits longer for an answer is given up by HTTP.
                time: span(
                    key("time"),
                    input.time.as_deref(),
                    second * 10,
                    second,
                    second * 30,
                )?,
            },
            down: url("down", input.down.as_ref())?,
            up: url("up", input.up.as_ref())?,
        })
    }
}

/// A duration between two, both included.
fn span(
    key: String,
    text: Option<&str>,
    default: Duration,
    least: Duration,
    most: Duration,
) -> Result<Duration, Invalid> {
    let span = duration::duration_or(&key, text, default)?;
    if (least..=most).contains(&span) {
        return Ok(span);
    }
    Err(Invalid::new(key, format!("expected {least:?} to {most:?}")))
}

/// Linux takes names of up to 15 bytes.
fn is_interface(name: &str) -> bool {
    (1..16).contains(&name.len())
        && !name.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control())
}

fn is_url(text: &str) -> bool {
    reqwest::Url::parse(text).is_ok_and(|url| {
        matches!(url.scheme(), "https" | "http")
            && url.has_host()
            && url.username().is_empty()
            && url.password().is_none()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Vec<Line>, Invalid> {
        Settings::check(&toml::from_str(text).unwrap()).map(|settings| settings.0)
    }

    #[test]
    fn without_a_line_there_is_one_to_the_control_plane() {
        let lines = check("").unwrap();
        assert_eq!((lines.len(), lines[0].name.as_str()), (1, "default"));
        assert_eq!(lines[0].targets, [Target::Server]);
        assert_eq!(lines[0].speed, None, "bytes cost money");
        assert_eq!(check("[default]\ntargets = []").unwrap()[0].targets, []);
    }

    #[test]
    fn what_is_written_is_read() {
        let lines = check(
            "[wan]\ninterface = 'ppp0'\ntargets = ['192.0.2.1', '2001:db8::1', '[2001:db8::1]:8443', 'a.example:22']\n\
             interval = '1s'\nmethods = ['tcp']\n[wan.speed]\nbudget = '1GiB'\nper = 'day'\nwindow = ['02:00-05:00']\n\
             directions = ['up']\nup = 'https://sink.example/x'\n[lte]\n",
        );
        let lines = lines.unwrap();
        assert_eq!(lines[0].name, "lte");
        let wan = &lines[1];
        let host = |name: &str, port| Target::Host(name.to_owned(), port);
        assert_eq!(
            wan.targets,
            [
                host("192.0.2.1", 443),
                host("2001:db8::1", 443),
                host("2001:db8::1", 8443),
                host("a.example", 22)
            ]
        );
        assert_eq!(wan.window, Duration::from_secs(12));
        let speed = wan.speed.as_ref().unwrap();
        assert_eq!(speed.budget.bytes, 1 << 30);
        assert_eq!(speed.directions, [Direction::Up]);
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, key) in [
            ("['a.b']", "lines.a.b"),
            ("[a]\ninterface = 'a b'", "lines.a.interface"),
            ("[a]\ntargets = ['a b']", "lines.a.targets"),
            ("[a]\ntargets = ['a:0']", "lines.a.targets"),
            ("[a]\ninterval = '10ms'", "lines.a.interval"),
            ("[a]\nwindow = '1s'", "lines.a.window"),
            ("[a]\ninterval = '1s'\ntimeout = '2s'", "lines.a.timeout"),
            ("[a]\nmethods = []", "lines.a.methods"),
            ("[a]\nudp-port = 0", "lines.a.udp-port"),
            ("[a.speed]", "lines.a.speed.budget"),
            ("[a.speed]\nbudget = '1KiB'", "lines.a.speed.budget"),
            (
                "[a.speed]\nbudget = '1GiB'\nbytes = '1GiB'",
                "lines.a.speed.bytes",
            ),
            (
                "[a.speed]\nbudget = '1GiB'\nevery = '1s'",
                "lines.a.speed.every",
            ),
            (
                "[a.speed]\nbudget = '1GiB'\nwindow = ['2-5']",
                "lines.a.speed.window",
            ),
            (
                "[a.speed]\nbudget = '1GiB'\ndirections = []",
                "lines.a.speed.directions",
            ),
            (
                "[a.speed]\nbudget = '1GiB'\nup = 'ftp://a/b'",
                "lines.a.speed.up",
            ),
        ] {
            assert_eq!(check(text).unwrap_err().key, key, "{text}");
        }
        let many: String = (0..17).map(|n| format!("[l{n}]\n")).collect();
        assert_eq!(check(&many).unwrap_err().key, "lines");
    }
}
