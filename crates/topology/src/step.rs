//! One thing to do.

use std::collections::BTreeSet;
use std::fmt;

use cairn_wire::disk::{FileSystem, FsLabel, MountOption, MountPoint, Name};

use crate::claim::Claim;
use crate::gpt::Table;
use crate::guid::Guid;
use crate::shape::{MARGIN, Shape};
use crate::write::Write;

/// Why a table is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// The disk has none.
    Make(Vec<Name>),
    /// It lacks these partitions.
    Add(Vec<Name>),
    /// One of its copies is damaged, or a change was interrupted.
    Mend,
}

/// One thing to do. Each may be done twice, and be interrupted anywhere.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Write the claim. From here on what the disk held is given up.
    Claim(Claim),
    /// Make the margins zero, but for the claim.
    Clear,
    /// Write the table.
    Table {
        /// The table.
        table: Table,
        /// Why.
        change: Change,
    },
    /// Have the kernel read the table.
    Refresh,
    /// Make a file system in a partition that is marked as unfinished; once it is whole and on the disk, take the mark away.
    Format {
        /// Which.
        partition: Place,
        /// Which file system.
        file_system: FileSystem,
        /// Its label.
        label: Option<FsLabel>,
        /// The table without the mark.
        finished: Table,
    },
    /// Mount one.
    Mount {
        /// Which.
        partition: Place,
        /// Which file system it has.
        file_system: FileSystem,
        /// Where.
        at: MountPoint,
        /// How.
        options: BTreeSet<MountOption>,
    },
}

/// A partition of ours on its disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// Its number.
    pub number: u32,
    /// Its name in the declaration.
    pub name: Name,
    /// Its id.
    pub id: Guid,
    /// Where it begins, in bytes.
    pub start: u64,
    /// Bytes.
    pub size: u64,
}

impl Step {
    /// Whether nobody else may have the disk meanwhile. With a table of ours on it, others have its partitions.
    pub fn is_exclusive(&self) -> bool {
        match self {
            Self::Claim(_) | Self::Clear => true,
            Self::Table { change, .. } => matches!(change, Change::Make(_)),
            Self::Refresh | Self::Format { .. } | Self::Mount { .. } => false,
        }
    }

    /// What it writes to the disk by itself, in groups: each is on the disk before the next begins. Empty for what other programs do;
    /// of [`Step::Format`] what comes after them.
    pub fn writes(&self, shape: Shape) -> Vec<Vec<Write>> {
        let zeros = |at: u64, length: u64| {
            let bytes = vec![0; usize::try_from(length).unwrap_or(0)];
            vec![Write { at, bytes }]
        };
        match self {
            Self::Claim(claim) => {
                let bytes = claim.to_sector(shape.sector());
                vec![vec![Write { at: 0, bytes }]]
            }
            Self::Clear => vec![
                zeros(shape.tail(), MARGIN),
                zeros(shape.sector(), MARGIN - shape.sector()),
            ],
            Self::Table { table, .. } => table.writes(shape),
            Self::Format { finished, .. } => finished.writes(shape),
            Self::Refresh | Self::Mount { .. } => Vec::new(),
        }
    }
}

impl fmt::Display for Step {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Claim(claim) => write!(f, "claim the disk as {}", claim.disk),
            Self::Clear => f.write_str("clear the first and the last MiB"),
            Self::Table { table, change } => match change {
                Change::Mend => f.write_str("mend the partition table"),
                Change::Make(names) | Change::Add(names) => {
                    f.write_str("make the partitions")?;
                    for name in names {
                        let id = table.disk.partition(name);
                        let size = table.entries.values().find(|entry| entry.id == id);
                        let size = size.map_or(0, |entry| entry.size >> 20);
                        write!(f, " {name} ({size} MiB)")?;
                    }
                    Ok(())
                }
            },
            Self::Refresh => f.write_str("have the kernel read the partition table"),
            Self::Format {
                partition,
                file_system,
                label,
                ..
            } => {
                write!(
                    f,
                    "make {} in partition {}",
                    file_system.as_str(),
                    partition.name
                )?;
                match label {
                    Some(label) => write!(f, " with the label {label}"),
                    None => Ok(()),
                }
            }
            Self::Mount { partition, at, .. } => {
                write!(f, "mount partition {} at {at}", partition.name)
            }
        }
    }
}
