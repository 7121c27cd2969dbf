//! The command line: one flat list of commands.

use crate::console::Console;
use crate::error::Result;
use crate::{build, disk, flash, loader, sandboxed};
use crate::{
    completions, delta, diff, inspect, keygen, man, order, publish, sign, site, trust, verify,
};
use clap::{CommandFactory as _, Parser, Subcommand};

/// Builds, signs, checks and flashes an immutable OS for edge nodes.
///
/// Exit codes: 0 success, 1 the machine failed, 2 the input is wrong, 3 refused
/// for safety (signature, digest, wrong disk), 129, 130 and 143 stopped by a signal.
#[derive(Debug, Parser)]
#[command(name = "imgtool", version, max_term_width = 100)]
pub struct Cli {
    /// Print the result as JSON on stdout, and progress as JSON lines on stderr
    #[arg(long, global = true)]
    json: bool,
    /// Print no progress
    #[arg(long, short, global = true)]
    quiet: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Build(Box<build::Args>),
    Loader(Box<loader::Args>),
    Flash(Box<flash::Args>),
    Disk(disk::Args),
    Site(site::Args),
    /// Make key pairs: for releases, for GRUB, for UEFI Secure Boot
    Keygen(keygen::Args),
    /// Make and change the list of keys that may sign
    Trust(Box<trust::Args>),
    /// Add signatures to a manifest, a trust root or an order
    Sign(sign::Args),
    /// Make a signed order that lets nodes go back to an older release
    Order(order::Args),
    /// Check every byte of a release against its signed manifest
    Verify(verify::Args),
    /// Say what a file or folder is and what is in it
    Inspect(inspect::Args),
    /// Compare two releases: packages, files, sizes, cost of an update
    Diff(diff::Args),
    Delta(delta::Args),
    /// Copy a checked release into a folder for an HTTP server
    Publish(publish::Args),
    /// Print a shell's completion script
    Completions(completions::Args),
    /// Write the manual pages
    Man(man::Args),
    /// The inside of the sandbox; only imgtool calls it
    #[command(hide = true)]
    Sandboxed(sandboxed::Args),
}

impl Cli {
    /// The console that the options ask for.
    pub fn console(&self) -> Console {
        Console::new(self.json, self.quiet)
    }

    /// Runs the command.
    ///
    /// # Errors
    /// Whatever the command meets.
    pub fn run(self, console: &Console) -> Result<()> {
        match self.command {
            Command::Build(args) => build::run(*args, console),
            Command::Loader(args) => loader::run(*args, console),
            Command::Flash(args) => flash::run(*args, console),
            Command::Disk(args) => disk::run(args, console),
            Command::Site(args) => site::run(args, console),
            Command::Keygen(args) => keygen::run(args, console),
            Command::Trust(args) => trust::run(*args, console),
            Command::Sign(args) => sign::run(args, console),
            Command::Order(args) => order::run(args, console),
            Command::Verify(args) => verify::run(args, console),
            Command::Inspect(args) => inspect::run(args, console),
            Command::Diff(args) => diff::run(args, console),
            Command::Delta(args) => delta::run(args, console),
            Command::Publish(args) => publish::run(args, console),
            Command::Completions(args) => completions::run(args, Cli::command(), console),
            Command::Man(args) => man::run(args, Cli::command(), console),
            Command::Sandboxed(args) => sandboxed::run(&args),
        }
    }
}
