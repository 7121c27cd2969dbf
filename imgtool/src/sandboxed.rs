//! What can be done in a sandbox, by name.

use crate::error::Result;
use crate::{build, loader, sandbox};

/// The hidden command's options.
#[derive(Debug, clap::Args)]
pub struct Args {
    task: Task,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Task {
    Build,
    Loader,
}

/// Does the task.
///
/// # Errors
/// If this wasn't called by imgtool.
pub fn run(args: &Args) -> Result<()> {
    match args.task {
        Task::Build => sandbox::inside(build::inside::make),
        Task::Loader => sandbox::inside(loader::inside::make),
    }
}
