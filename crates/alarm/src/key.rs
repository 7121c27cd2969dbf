//! Which telemetry keys a template looks at.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// Longest pattern in bytes.
const MOST: usize = 128;

/// A telemetry key in which one `*` stands for the instance: `disk.*.used_percent` looks at `disk./var.used_percent`, whose instance
/// is `/var`. Without a `*` it is one key, and the instance is empty.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Pattern {
    before: String,
    /// What follows the `*`, if there is one.
    after: Option<String>,
}

/// The text is no pattern.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "expected a telemetry key of 1 to {MOST} bytes with at most one *, as disk.*.used_percent, got {got:?}"
)]
pub struct NotAPattern {
    got: String,
}

impl Pattern {
    /// The instance in a key, if the key is meant.
    pub fn instance<'k>(&self, key: &'k str) -> Option<&'k str> {
        let rest = key.strip_prefix(self.before.as_str())?;
        match &self.after {
            None => rest.is_empty().then_some(""),
            Some(after) => rest
                .strip_suffix(after.as_str())
                .filter(|instance| !instance.is_empty()),
        }
    }

    /// The key of an instance.
    pub fn key(&self, instance: &str) -> String {
        match &self.after {
            None => self.before.clone(),
            Some(after) => format!("{}{instance}{after}", self.before),
        }
    }
}

impl FromStr for Pattern {
    type Err = NotAPattern;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let parts: Vec<&str> = text.split('*').collect();
        let bad = text.is_empty() || text.len() > MOST || text.chars().any(char::is_control);
        match parts.as_slice() {
            [before] if !bad => Ok(Self {
                before: (*before).to_owned(),
                after: None,
            }),
            [before, after] if !bad && text != "*" => Ok(Self {
                before: (*before).to_owned(),
                after: Some((*after).to_owned()),
            }),
            _ => Err(NotAPattern {
                got: text.chars().take(80).collect(),
            }),
        }
    }
}

impl TryFrom<String> for Pattern {
    type Error = NotAPattern;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

impl From<Pattern> for String {
    fn from(pattern: Pattern) -> Self {
        pattern.to_string()
    }
}

impl fmt::Display for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key("*"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_instance_is_what_stands_for_the_star() {
        let disk: Pattern = "disk.*.used_percent".parse().unwrap();
        assert_eq!(
            disk.instance("disk./srv/a.b.used_percent"),
            Some("/srv/a.b")
        );
        assert_eq!(disk.key("/srv/a.b"), "disk./srv/a.b.used_percent");
        for other in [
            "disk..used_percent",
            "disk.used_percent",
            "disk./.total_bytes",
            "x",
        ] {
            assert_eq!(disk.instance(other), None, "{other}");
        }
        let one: Pattern = "load_1m".parse().unwrap();
        assert_eq!(
            (one.instance("load_1m"), one.instance("load_1min")),
            (Some(""), None)
        );
        for bad in ["", "*", "a.*.*", "a\n"] {
            assert!(bad.parse::<Pattern>().is_err(), "{bad:?}");
        }
        assert_eq!(disk.to_string(), "disk.*.used_percent");
    }
}
