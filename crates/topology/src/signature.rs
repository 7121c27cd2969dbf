//! What tools would know again.

/// Something that a tool would know again: a file system, a partition table, a part of an array.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Signature {
    /// As libblkid calls it: `ext4`, `LVM2_member`, `gpt`.
    pub kind: String,
    /// Its own id.
    pub uuid: Option<String>,
    /// Its label.
    pub label: Option<String>,
}

impl Signature {
    /// Whether it is a GPT's.
    pub fn is_table(&self) -> bool {
        matches!(self.kind.as_str(), "gpt" | "PMBR")
    }
}
