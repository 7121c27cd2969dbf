//! One thing that isn't as it should be.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// The longest text in a finding, in characters.
const TEXT: usize = 256;

/// What is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Blocks of the images that aren't what was signed.
    Verity,
    /// `/etc` against the image's.
    Etc,
    /// What lies over the image's other folders.
    Mounts,
    /// What systemd runs.
    Units,
    /// Who listens.
    Ports,
    /// Accounts.
    Users,
    /// The kernel's modules.
    Modules,
    /// What was booted, and with which arguments.
    Medium,
    /// Jumps of the wall clock.
    Clock,
}

impl Kind {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Verity,
        Self::Etc,
        Self::Mounts,
        Self::Units,
        Self::Ports,
        Self::Users,
        Self::Modules,
        Self::Medium,
        Self::Clock,
    ];

    /// Its name: that of the setting, and of the telemetry key behind `tamper.`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Verity => "verity",
            Self::Etc => "etc",
            Self::Mounts => "mounts",
            Self::Units => "units",
            Self::Ports => "ports",
            Self::Users => "users",
            Self::Modules => "modules",
            Self::Medium => "medium",
            Self::Clock => "clock",
        }
    }
}

/// Something that isn't as it should be. Two that are equal are one. It holds no contents of files.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Finding {
    /// What was looked at.
    pub kind: Kind,
    /// The file, unit, port, account or module.
    pub subject: String,
    /// What is wrong with it, in words.
    pub what: String,
    /// What was seen: digests, sizes, modes, owners, names.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub evidence: BTreeMap<String, String>,
}

impl Finding {
    /// Of texts that others wrote: they are cut, and lose what terminals would take for orders.
    pub fn new(kind: Kind, subject: &str, what: &str) -> Self {
        Self {
            kind,
            subject: clean(subject),
            what: clean(what),
            evidence: BTreeMap::new(),
        }
    }

    /// With evidence.
    #[must_use]
    pub fn with(mut self, name: &str, value: impl ToString) -> Self {
        self.evidence
            .insert(name.to_owned(), clean(&value.to_string()));
        self
    }
}

fn clean(text: &str) -> String {
    let shown = |c: char| if c.is_control() { '\u{fffd}' } else { c };
    text.chars().take(TEXT).map(shown).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_of_others_are_short_and_harmless() {
        let finding = Finding::new(Kind::Etc, "a\u{1b}[31m", &"é".repeat(1000)).with("n", "x\n");
        assert_eq!(finding.subject, "a\u{fffd}[31m");
        assert_eq!(finding.what.chars().count(), TEXT);
        assert_eq!(finding.evidence["n"], "x\u{fffd}");
    }

    #[test]
    fn a_kind_is_told_by_its_name() {
        for kind in Kind::ALL {
            assert_eq!(serde_json::to_value(kind).unwrap(), kind.as_str());
        }
    }
}
