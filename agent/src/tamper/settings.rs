//! `[tamper]` of the configuration.

use std::collections::BTreeSet;
use std::time::Duration;

use cairn_tamper::Kind;
use cairn_tamper::sockets::Port;
use serde::Deserialize;

use crate::setting::{Invalid, duration};

/// The longest pattern, in bytes.
const LONGEST: usize = 256;

/// As it is written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case", default)]
pub struct Input {
    /// How often is looked: `30s`.
    pub interval: Option<String>,
    /// What isn't looked at, as `["ports", "clock"]`.
    pub off: Vec<String>,
    /// Files below `/etc` that may differ from the image's, as `["wireguard/*"]`.
    pub files: Vec<String>,
    /// Units that may run and aren't the image's, as `["backup-*.timer"]`.
    pub units: Vec<String>,
    /// Ports that may be open, whoever opens them, as `["tcp/8080"]`.
    pub ports: Vec<String>,
    /// Accounts that may differ from the image's.
    pub users: Vec<String>,
    /// Modules of the kernel that may be loaded, whatever they are.
    pub modules: Vec<String>,
}

/// As it is used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// How often is looked.
    pub interval: Duration,
    /// What is looked at.
    pub kinds: BTreeSet<Kind>,
    /// Patterns of paths relative to `/etc`.
    pub files: Vec<String>,
    /// Patterns of units.
    pub units: Vec<String>,
    /// Ports.
    pub ports: BTreeSet<Port>,
    /// Patterns of accounts.
    pub users: Vec<String>,
    /// Patterns of modules.
    pub modules: Vec<String>,
}

impl Settings {
    /// Checks what is written, and fills in what isn't.
    ///
    /// # Errors
    /// If the interval isn't 5 s to 1 h, a check isn't one, a port isn't one, or a pattern is empty or too long.
    pub fn check(input: &Input) -> Result<Self, Invalid> {
        let usual = Duration::from_secs(30);
        let interval = duration::duration_or("tamper.interval", input.interval.as_deref(), usual)?;
        if !(Duration::from_secs(5)..=Duration::from_secs(3600)).contains(&interval) {
            return Err(Invalid::new("tamper.interval", "expected 5s to 1h"));
        }
        let mut kinds = BTreeSet::from(Kind::ALL);
        for name in &input.off {
            let kind = Kind::ALL.into_iter().find(|kind| kind.as_str() == name);
            let Some(kind) = kind else {
                let known = Kind::ALL.map(Kind::as_str).join(", ");
                let reason = format!("expected names of checks ({known}), got {name:?}");
                return Err(Invalid::new("tamper.off", reason));
            };
            kinds.remove(&kind);
        }
        let ports = input.ports.iter().map(|port| port.parse::<Port>());
        let ports = ports.collect::<Result<_, _>>();
        Ok(Self {
            interval,
            kinds,
            files: patterns("tamper.files", &input.files)?,
            units: patterns("tamper.units", &input.units)?,
            ports: ports.map_err(|reason| Invalid::new("tamper.ports", reason))?,
            users: patterns("tamper.users", &input.users)?,
            modules: patterns("tamper.modules", &input.modules)?,
        })
    }
}

fn patterns(key: &str, given: &[String]) -> Result<Vec<String>, Invalid> {
    let wrong = |text: &&String| text.is_empty() || text.len() > LONGEST || text.starts_with('/');
    match given.iter().find(wrong) {
        None => Ok(given.to_vec()),
        Some(text) => Err(Invalid::new(
            key,
            format!("expected names with * for any characters, no / before them, got {text:?}"),
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str) -> Result<Settings, Invalid> {
        Settings::check(&toml::from_str(text).unwrap())
    }

    #[test]
    fn all_is_looked_at_but_what_is_off() {
        assert_eq!(check("").unwrap().kinds.len(), Kind::ALL.len());
        let settings = check("off = ['ports']\nports = ['tcp/80']\nfiles = ['hosts']").unwrap();
        assert!(!settings.kinds.contains(&Kind::Ports));
        assert_eq!((settings.ports.len(), settings.files.len()), (1, 1));
    }

    #[test]
    fn what_makes_no_sense_is_named() {
        for (text, key) in [
            ("interval = '1s'", "tamper.interval"),
            ("off = ['port']", "tamper.off"),
            ("ports = ['80']", "tamper.ports"),
            ("files = ['/etc/hosts']", "tamper.files"),
            ("units = ['']", "tamper.units"),
        ] {
            assert_eq!(check(text).unwrap_err().key, key);
        }
    }
}
