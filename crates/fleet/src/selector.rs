//! Which devices a rollout is for.

use std::collections::BTreeSet;

use serde::{Deserialize, Serialize};

/// Most devices that a rollout names one by one; more are put into a group or under a tag.
pub const MAX_DEVICES: usize = 10_000;
/// Most tags of a selector.
pub const MAX_TAGS: usize = 16;

/// Which devices a rollout is for. In JSON: `"all"`, `{"group": "…"}`, `{"tags": ["…"]}` or `{"devices": ["…"]}`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Selector {
    /// All.
    All,
    /// Those of a group.
    Group(String),
    /// Those that carry all of these tags.
    Tags(BTreeSet<String>),
    /// These.
    Devices(BTreeSet<String>),
}

/// A selector makes no sense.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SelectorError {
    /// Nothing is named.
    #[error("expected at least one {0}")]
    Empty(&'static str),
    /// Too much is named.
    #[error("expected at most {most} {what}, got {got}")]
    TooMany {
        /// Of what.
        what: &'static str,
        /// The limit.
        most: usize,
        /// What was given.
        got: usize,
    },
}

impl Selector {
    /// Whether it makes sense.
    ///
    /// # Errors
    /// If it names nothing, or too much.
    pub fn check(&self) -> Result<(), SelectorError> {
        let (what, most, got) = match self {
            Self::All => return Ok(()),
            Self::Group(group) => ("group", 1, usize::from(!group.is_empty())),
            Self::Tags(tags) if tags.contains("") => ("tag with a name", MAX_TAGS, 0),
            Self::Tags(tags) => ("tag", MAX_TAGS, tags.len()),
            Self::Devices(devices) => ("device", MAX_DEVICES, devices.len()),
        };
        match got {
            0 => Err(SelectorError::Empty(what)),
            got if got > most => Err(SelectorError::TooMany { what, most, got }),
            _ => Ok(()),
        }
    }

    /// Whether a device is meant.
    pub fn matches(&self, device: &str, group: &str, tags: &BTreeSet<String>) -> bool {
        match self {
            Self::All => true,
            Self::Group(wanted) => wanted == group,
            Self::Tags(wanted) => wanted.is_subset(tags),
            Self::Devices(wanted) => wanted.contains(device),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn set(items: &[&str]) -> BTreeSet<String> {
        items.iter().map(|item| (*item).to_owned()).collect()
    }

    #[test]
    fn a_device_needs_all_the_tags() {
        let selector: Selector = serde_json::from_str(r#"{"tags": ["lab", "arm"]}"#).unwrap();
        assert!(selector.matches("a", "g", &set(&["arm", "lab", "x"])));
        assert!(!selector.matches("a", "g", &set(&["arm"])));
        let all: Selector = serde_json::from_str(r#""all""#).unwrap();
        assert!(all.matches("a", "g", &set(&[])));
        assert!(Selector::Group("g".into()).matches("a", "g", &set(&[])));
        assert!(!Selector::Devices(set(&["b"])).matches("a", "g", &set(&[])));
    }

    #[test]
    fn an_empty_selector_is_refused() {
        assert!(Selector::Tags(set(&[])).check().is_err());
        assert!(Selector::Tags(set(&[""])).check().is_err());
        assert!(Selector::Devices(set(&[])).check().is_err());
        assert!(Selector::Group(String::new()).check().is_err());
        let many: BTreeSet<String> = (0..=MAX_DEVICES).map(|n| n.to_string()).collect();
        assert!(matches!(
            Selector::Devices(many).check(),
            Err(SelectorError::TooMany { .. })
        ));
        assert!(Selector::All.check().is_ok());
    }
}
