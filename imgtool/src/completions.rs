//! `imgtool completions`: what a shell needs to complete imgtool's command line.

use crate::console::Console;
use crate::error::Result;
use clap::Command;
use clap_complete::Shell;

/// Options of `imgtool completions`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The shell
    shell: Shell,
}

/// Runs `imgtool completions`; `imgtool` is the command line.
///
/// # Errors
/// If stdout can't be written to.
pub fn run(args: Args, mut imgtool: Command, console: &Console) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut imgtool, "imgtool", &mut script);
    let script = String::from_utf8_lossy(&script).into_owned();
    let value = serde_json::json!({ "shell": args.shell.to_string(), "script": script });
    console.result(&value, || script.clone())
}
