//! `imgtool site`: checks a site's file without building anything.

use crate::console::Console;
use crate::error::Result;
use crate::profile::site::Site;
use clap::Subcommand;
use std::path::PathBuf;

/// Check a site's file, or print the schema that it follows
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    order: Order,
}

#[derive(Debug, Subcommand)]
enum Order {
    /// Check a file, and that the files that it names are there
    Check {
        /// The site's TOML file
        file: PathBuf,
    },
    /// Print the JSON schema, for editors
    Schema,
}

/// Runs the command.
///
/// # Errors
/// If the file is wrong.
pub fn run(args: Args, console: &Console) -> Result<()> {
    match args.order {
        Order::Check { file } => {
            let site = Site::load(&file)?;
            console.result(&site, || format!("{} is right\n", file.display()))
        }
        Order::Schema => {
            let schema = Site::schema();
            console.result(&schema, || format!("{schema:#}\n"))
        }
    }
}
