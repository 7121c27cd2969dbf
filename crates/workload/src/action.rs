//! Something to do.

use cairn_wire::workload::{Image, Name, Restart, Workload};

/// Something to do. Each may be done twice; each is about one Docker container of ours, or none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Fetch an image.
    Pull {
        /// For whom.
        workload: Name,
        /// Which.
        image: Image,
    },
    /// Make the workload's Docker container, under its current name.
    Create(Box<Workload>),
    /// Start a Docker container.
    Start {
        /// Whose.
        workload: Name,
        /// Its id.
        id: String,
        /// When Docker starts it again by itself.
        restart: Restart,
    },
    /// Stop one, within its own grace. Docker doesn't start it again by itself.
    Stop {
        /// Whose.
        workload: Name,
        /// Its id.
        id: String,
    },
    /// Give a stopped one the name of the one before. Docker doesn't start it by itself.
    SetAside {
        /// Whose.
        workload: Name,
        /// Its id.
        id: String,
    },
    /// Give the one before the current name again.
    Restore {
        /// Whose.
        workload: Name,
        /// Its id.
        id: String,
    },
    /// Remove a stopped one.
    Remove {
        /// Whose.
        workload: Name,
        /// Its id.
        id: String,
    },
}

impl Action {
    /// The workload that it is for.
    pub fn workload(&self) -> &Name {
        match self {
            Self::Create(workload) => &workload.name,
            Self::Pull { workload, .. }
            | Self::Start { workload, .. }
            | Self::Stop { workload, .. }
            | Self::SetAside { workload, .. }
            | Self::Restore { workload, .. }
            | Self::Remove { workload, .. } => workload,
        }
    }
}
