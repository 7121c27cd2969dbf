//! What the bootloader says on the kernel's command line:
//! `cairn.release=<version> cairn.slot=<trial|good|other> cairn.data=PARTUUID=<uuid>`.
//!
//! The command line isn't signed, so it may choose between releases and disks, and
//! nothing else: whatever it chooses is verified.

use cairn_boot_state::Slot;
use cairn_boot_state::choice::NotASlot;
use cairn_release::Version;

use crate::gpt::{Guid, NotAGuid};

/// Which release to boot, and from where.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cmdline {
    /// The release.
    pub release: Version,
    /// Why the bootloader chose it.
    pub slot: Slot,
    /// DATA's partition id.
    pub data: Guid,
}

/// The command line doesn't say what to boot.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum CmdlineError {
    /// A word is missing.
    #[error("the kernel command line has no {0}=")]
    Missing(&'static str),
    /// A word is there twice, so one of them isn't the bootloader's.
    #[error("the kernel command line has more than one {0}=")]
    Twice(&'static str),
    /// The release isn't a version.
    #[error("cairn.release= on the kernel command line")]
    Release(#[source] cairn_release::name::NotAVersion),
    /// The slot is none of the three.
    #[error("cairn.slot= on the kernel command line")]
    Slot(#[source] NotASlot),
    /// DATA isn't named by its partition id.
    #[error("cairn.data= on the kernel command line: expected PARTUUID=<uuid>, got {0:?}")]
    NotAPartition(String),
    /// DATA's partition id can't be read.
    #[error("cairn.data= on the kernel command line")]
    Data(#[source] NotAGuid),
}

impl Cmdline {
    /// Reads `/proc/cmdline`'s text.
    ///
    /// # Errors
    /// If one of the three words is missing, doubled or malformed.
    pub fn parse(text: &str) -> Result<Self, CmdlineError> {
        let release = only(text, "cairn.release")?;
        let slot = only(text, "cairn.slot")?;
        let data = only(text, "cairn.data")?;
        Ok(Self {
            release: release.parse().map_err(CmdlineError::Release)?,
            slot: slot.parse().map_err(CmdlineError::Slot)?,
            data: data
                .strip_prefix("PARTUUID=")
                .ok_or_else(|| CmdlineError::NotAPartition(data.chars().take(80).collect()))?
                .parse()
                .map_err(CmdlineError::Data)?,
        })
    }
}

fn only<'t>(text: &'t str, name: &'static str) -> Result<&'t str, CmdlineError> {
    let mut values = text
        .split_ascii_whitespace()
        .filter_map(|word| word.strip_prefix(name)?.strip_prefix('='));
    let value = values.next().ok_or(CmdlineError::Missing(name))?;
    match values.next() {
        None => Ok(value),
        Some(_) => Err(CmdlineError::Twice(name)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;

    const UUID: &str = "0fc63daf-8483-4772-8e79-3d69d8477de4";

    #[test]
    fn reads_its_three_words_among_others() {
        let text = format!(
            "BOOT_IMAGE=x cairn.release=1.2.0 xcairn.slot=good cairn.slot=trial cairn.data=PARTUUID={UUID} panic=5\n"
        );
        let cmdline = Cmdline::parse(&text).unwrap();
        assert_eq!(cmdline.release.as_str(), "1.2.0");
        assert_eq!(cmdline.slot, Slot::Trial);
        assert_eq!(cmdline.data.to_string(), UUID);
    }

    #[test]
    fn says_which_word_is_wrong() {
        let good = |release: &str, slot: &str, data: &str| {
            format!("cairn.release={release} cairn.slot={slot} cairn.data={data}")
        };
        let data = format!("PARTUUID={UUID}");
        let cases = [
            (
                String::new(),
                "the kernel command line has no cairn.release=",
            ),
            (
                format!("{} cairn.slot=good", good("1", "good", &data)),
                "the kernel command line has more than one cairn.slot=",
            ),
            (
                good("../1", "good", &data),
                "cairn.release= on the kernel command line: expected a version of 1 to 64 characters [0-9A-Za-z.+_-] that begins with a letter or digit, got \"../1\"",
            ),
            (
                good("1", "Good", &data),
                "cairn.slot= on the kernel command line: expected trial, good or other, got \"Good\"",
            ),
            (
                good("1", "good", "LABEL=cairn-data"),
                "cairn.data= on the kernel command line: expected PARTUUID=<uuid>, got \"LABEL=cairn-data\"",
            ),
            (
                good("1", "good", &data.to_uppercase()),
                "cairn.data= on the kernel command line: expected a partition id of 36 lower-case characters, got \"0FC63DAF-8483-4772-8E79-3D69D8477DE4\"",
            ),
        ];
        for (text, expected) in cases {
            assert_eq!(chain(&Cmdline::parse(&text).unwrap_err()), expected);
        }
    }
}
