//! imgtool: parse, dispatch, print the error chain, exit.

use cairn_imgtool::cli::Cli;
use clap::Parser as _;
use std::process::ExitCode;

fn main() -> ExitCode {
    let cli = Cli::parse();
    let console = cli.console();
    match cli.run(&console) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            console.error(&error);
            ExitCode::from(error.kind() as u8)
        }
    }
}
