//! The sections `[server]` and `[link]`.

use std::path::PathBuf;
use std::time::Duration;

use serde::Deserialize;

use crate::setting::Invalid;
use crate::setting::duration::duration_or;

/// `[server]`, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct ServerInput {
    /// `https://host:port` of HTTP; that of the enrolment without it.
    pub url: Option<String>,
    /// `mqtts://host:port` or `mqtt://host:port`; that of the enrolment without it.
    pub mqtt: Option<String>,
    /// File with the CA certificates that the server's is checked against; those of the enrolment without it.
    pub ca: Option<PathBuf>,
    /// File with an access token, for a server that knows devices by that.
    pub token_file: Option<PathBuf>,
    /// The MQTT client id; the device's id without it.
    pub client_id: Option<String>,
}

/// `[link]`, as written.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields, rename_all = "kebab-case")]
pub struct Input {
    /// `mqtt` or `http`.
    pub transport: Option<Transport>,
    /// How long MQTT may be silent.
    pub keep_alive: Option<String>,
    /// The first wait before connecting again.
    pub reconnect_min: Option<String>,
    /// The longest.
    pub reconnect_max: Option<String>,
    /// How often the desired document is asked for without a push.
    pub poll: Option<String>,
}

/// How records, attributes and calls travel.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Transport {
    /// ThingsBoard's MQTT topics.
    #[default]
    Mqtt,
    /// ThingsBoard's HTTP device API.
    Http,
}

/// An address of MQTT.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Broker {
    /// Name or address.
    pub host: String,
    /// Port.
    pub port: u16,
    /// Whether with TLS.
    pub tls: bool,
}

/// Both sections, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where HTTP is, if said.
    pub url: Option<String>,
    /// Where MQTT is, if said.
    pub broker: Option<Broker>,
    /// File with CA certificates.
    pub ca: Option<PathBuf>,
    /// File with an access token.
    pub token_file: Option<PathBuf>,
    /// MQTT client id.
    pub client_id: Option<String>,
    /// How records travel.
    pub transport: Transport,
    /// How long MQTT may be silent.
    pub keep_alive: Duration,
    /// The first wait before connecting again.
    pub reconnect_min: Duration,
    /// The longest.
    pub reconnect_max: Duration,
    /// How often the desired document is asked for without a push.
    pub poll: Duration,
}

impl Settings {
    /// Checks both sections.
    ///
    /// # Errors
    /// Names the first setting that can't be used.
    pub fn check(server: &ServerInput, link: &Input) -> Result<Self, Invalid> {
        let url = server
            .url
            .as_deref()
            .map(|url| http_url("server.url", url))
            .transpose()?;
        let broker = server
            .mqtt
            .as_deref()
            .map(|mqtt| Broker::parse("server.mqtt", mqtt))
            .transpose()?;
        if let Some(id) = &server.client_id
            && (id.is_empty() || id.len() > 128 || id.chars().any(char::is_control))
        {
            return Err(Invalid::new(
                "server.client-id",
                "expected 1 to 128 characters",
            ));
        }
        let keep_alive = duration_or(
            "link.keep-alive",
            link.keep_alive.as_deref(),
            Duration::from_secs(60),
        )?;
        within("link.keep-alive", keep_alive, 5, 3600)?;
        let reconnect_min = duration_or(
            "link.reconnect-min",
            link.reconnect_min.as_deref(),
            Duration::from_secs(2),
        )?;
        let reconnect_max = duration_or(
            "link.reconnect-max",
            link.reconnect_max.as_deref(),
            Duration::from_secs(300),
        )?;
        if reconnect_min < Duration::from_millis(100) || reconnect_min > reconnect_max {
            return Err(Invalid::new(
                "link.reconnect-min",
                "expected at least 100ms and at most link.reconnect-max",
            ));
        }
        let poll = duration_or("link.poll", link.poll.as_deref(), Duration::from_secs(600))?;
        within("link.poll", poll, 1, 86_400)?;
        Ok(Self {
            url,
            broker,
            ca: server.ca.clone(),
            token_file: server.token_file.clone(),
            client_id: server.client_id.clone(),
            transport: link.transport.unwrap_or_default(),
            keep_alive,
            reconnect_min,
            reconnect_max,
            poll,
        })
    }
}

fn within(key: &str, value: Duration, min: u64, max: u64) -> Result<(), Invalid> {
    if value < Duration::from_secs(min) || value > Duration::from_secs(max) {
        return Err(Invalid::new(
            key,
            format!("expected {min} to {max} seconds"),
        ));
    }
    Ok(())
}

/// A URL of HTTP without a path, as text without a slash at its end.
fn http_url(key: &str, text: &str) -> Result<String, Invalid> {
    let wrong = || Invalid::new(key, format!("expected https://host:port, got {text:?}"));
    let url = reqwest::Url::parse(text).map_err(|_| wrong())?;
    let plain = matches!(url.scheme(), "https" | "http")
        && url.has_host()
        && url.path() == "/"
        && url.query().is_none()
        && url.username().is_empty();
    if plain {
        Ok(text.trim_end_matches('/').to_owned())
    } else {
        Err(wrong())
    }
}

impl Broker {
    /// Reads `mqtts://host:port`, `mqtt://host:port`, or `host:port`, which means TLS.
    ///
    /// # Errors
    /// If it is something else; `key` is named in the error.
    pub fn parse(key: &str, text: &str) -> Result<Self, Invalid> {
        let wrong = || {
            Invalid::new(
                key,
                format!("expected mqtts://host:port or mqtt://host:port, got {text:?}"),
            )
        };
        let (tls, rest) = match text.split_once("://") {
            None | Some(("mqtts", _)) => (true, text.strip_prefix("mqtts://").unwrap_or(text)),
            Some(("mqtt", rest)) => (false, rest),
            Some(_) => return Err(wrong()),
        };
        let rest = rest.strip_suffix('/').unwrap_or(rest);
        let (host, port) = match rest.rsplit_once(':') {
            Some((host, port)) if !host.ends_with(':') || host.starts_with('[') => {
                (host, port.parse().map_err(|_| wrong())?)
            }
            _ => (rest, if tls { 8883 } else { 1883 }),
        };
        let host = host
            .strip_prefix('[')
            .and_then(|host| host.strip_suffix(']'))
            .unwrap_or(host);
        if host.is_empty()
            || host.len() > 253
            || !host
                .chars()
                .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | ':' | '_'))
        {
            return Err(wrong());
        }
        Ok(Self {
            host: host.to_owned(),
            port,
            tls,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn brokers_are_read() {
        let broker = |text| Broker::parse("k", text).unwrap();
        assert_eq!(
            broker("mqtt://10.0.2.2:1883"),
            Broker {
                host: "10.0.2.2".into(),
                port: 1883,
                tls: false
            }
        );
        assert_eq!(
            broker("mqtts://cp.example"),
            Broker {
                host: "cp.example".into(),
                port: 8883,
                tls: true
            }
        );
        assert_eq!(
            broker("cp.example:18883"),
            Broker {
                host: "cp.example".into(),
                port: 18883,
                tls: true
            }
        );
        assert_eq!(
            broker("[::1]:8883"),
            Broker {
                host: "::1".into(),
                port: 8883,
                tls: true
            }
        );
        for wrong in [
            "",
            "tcp://x:1",
            "mqtt://",
            "mqtt://host:99999",
            "mqtt://user@host:1883",
            "mqtt://ho st",
        ] {
            assert!(Broker::parse("k", wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn what_is_wrong_is_named() {
        let of = |server: &str, link: &str| {
            Settings::check(
                &toml::from_str(server).unwrap(),
                &toml::from_str(link).unwrap(),
            )
            .unwrap_err()
            .to_string()
        };
        assert_eq!(
            of("url = 'cp.example'", ""),
            "server.url: expected https://host:port, got \"cp.example\""
        );
        assert_eq!(
            of("url = 'https://cp/path'", ""),
            "server.url: expected https://host:port, got \"https://cp/path\""
        );
        assert_eq!(
            of("", "keep-alive = '1s'"),
            "link.keep-alive: expected 5 to 3600 seconds"
        );
        assert_eq!(
            of("", "reconnect-min = '10m'"),
            "link.reconnect-min: expected at least 100ms and at most link.reconnect-max"
        );
    }
}
