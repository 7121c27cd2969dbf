//! `imgtool inspect`: says what a file or folder is and what is in it. Nothing is
//! trusted and nothing is checked; that is `imgtool verify`'s.

mod release;
mod small;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::files;
use crate::loader::artefact::DESCRIPTION;
use cairn_release::{Envelope, name};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Options of `imgtool inspect`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// Release or loader folder, manifest, trust root, key, certificate or boot state
    thing: PathBuf,
    /// Write the exact bytes that an envelope's signatures cover, for other tools
    #[arg(long)]
    signed_bytes: bool,
}

/// Enough for all but images, of which only the beginning is looked at.
const LIMIT: u64 = 4 * 1024 * 1024;

/// What was found: for programs and for people.
pub(crate) struct Finding {
    kind: &'static str,
    value: serde_json::Value,
    text: String,
}

/// Runs `imgtool inspect`.
///
/// # Errors
/// If it can't be read, or is nothing of Cairn's.
pub fn run(args: Args, console: &Console) -> Result<()> {
    let path = &args.thing;
    if args.signed_bytes {
        return signed_bytes(path);
    }
    let mut finding = look(path)?;
    finding.value["kind"] = finding.kind.into();
    let Finding { kind, value, text } = finding;
    console.result(&value, || format!("{}: {kind}\n\n{text}", path.display()))
}

fn look(path: &Path) -> Result<Finding> {
    let meta = path
        .metadata()
        .map_err(|e| files::cannot("read", path, e))?;
    if meta.is_dir() {
        return if path.join(name::MANIFEST).symlink_metadata().is_ok() {
            release::folder(path)
        } else if path.join(DESCRIPTION).is_file() {
            look(&path.join(DESCRIPTION))
        } else {
            let shown = path.display();
            Err(Error::input(format!(
                "{shown}: a folder, but no {} or {DESCRIPTION} in it",
                name::MANIFEST
            )))
        };
    }
    let bytes = read_beginning(path)?;
    if bytes.is_empty() {
        return Err(Error::input(format!(
            "{}: 0 bytes, nothing to inspect",
            path.display()
        )));
    }
    small::look(path, &bytes)
}

fn read_beginning(path: &Path) -> Result<Zeroizing<Vec<u8>>> {
    let mut bytes = Zeroizing::new(Vec::with_capacity(LIMIT as usize));
    std::fs::File::open(path)
        .and_then(|file| file.take(LIMIT).read_to_end(&mut bytes))
        .map_err(|e| files::cannot("read", path, e))?;
    Ok(bytes)
}

/// The bytes that a signature covers go to stdout as they are: for `openssl
/// pkeyutl -verify -rawin` and the like.
fn signed_bytes(path: &Path) -> Result<()> {
    let path = if path.is_dir() {
        path.join(name::MANIFEST)
    } else {
        path.to_owned()
    };
    let envelope: Envelope = serde_json::from_slice(&files::read(&path, LIMIT)?).map_err(|e| {
        Error::input(format!("{}: expected a DSSE envelope", path.display())).because(e)
    })?;
    let mut stdout = std::io::stdout().lock();
    stdout
        .write_all(&envelope.signed_bytes())
        .and_then(|()| stdout.flush())
        .map_err(|e| Error::failed("cannot write to stdout").because(e))
}
