//! `imgtool man`: the manual pages, one a command.

use crate::console::Console;
use crate::error::Result;
use crate::files;
use clap::Command;
use std::path::{Path, PathBuf};

/// Options of `imgtool man`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Folder to write the pages to; made if it isn't there
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
}

/// Runs `imgtool man`; `imgtool` is the command line.
///
/// # Errors
/// If a page can't be written.
pub fn run(args: Args, mut imgtool: Command, console: &Console) -> Result<()> {
    std::fs::create_dir_all(&args.out).map_err(|e| files::cannot("write", &args.out, e))?;
    imgtool.build();
    let mut pages = Vec::new();
    write(&imgtool, "imgtool", &args.out, &mut pages)?;
    let value = serde_json::json!({ "folder": args.out, "pages": pages });
    console.result(&value, || {
        format!("{} pages in {}\n", pages.len(), args.out.display())
    })
}

fn write(command: &Command, name: &str, out: &Path, pages: &mut Vec<String>) -> Result<()> {
    let page = format!("{name}.1");
    let path = out.join(&page);
    let mut roff = Vec::new();
    let shown = command.clone().display_name(name.replace('-', " "));
    clap_mangen::Man::new(shown)
        .title(name.to_uppercase())
        .render(&mut roff)
        .map_err(|e| files::cannot("write", &path, e))?;
    files::write_whole(&path, &roff, 0o644)?;
    pages.push(page);
    for inner in command
        .get_subcommands()
        .filter(|inner| inner.get_name() != "help")
    {
        write(inner, &format!("{name}-{}", inner.get_name()), out, pages)?;
    }
    Ok(())
}
