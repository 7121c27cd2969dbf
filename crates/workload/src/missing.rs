//! Folders whose disk is missing. What writes there fills the disk below.

use std::collections::BTreeSet;

use cairn_wire::workload::{AbsolutePath, Source, Workload};

/// What is missing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Missing {
    /// Folders where a disk should be mounted and isn't.
    pub folders: BTreeSet<AbsolutePath>,
    /// Where volumes lie that have a name only.
    pub volumes: Option<AbsolutePath>,
}

impl Missing {
    /// The folder that a workload needs and that is missing.
    pub fn of(&self, workload: &Workload) -> Option<&AbsolutePath> {
        let lies = |folder: &AbsolutePath| {
            workload.volumes.iter().any(|volume| match &volume.source {
                Source::HostPath(path) => path.is_in(folder),
                Source::Volume(_) => self.volumes.as_ref().is_some_and(|path| path.is_in(folder)),
            })
        };
        self.folders.iter().find(|folder| lies(folder))
    }
}
