//! The overlay's upper layer of `/etc` against what was baked in below it.

use std::fs;
use std::io;
use std::path::Path;

use cairn_tamper::etc::{self, Entry, Thing};
use cairn_tamper::presets::{Enabled, Presets};
use cairn_tamper::{Finding, Kind};
use rustix::fs::lgetxattr;

use super::image::{Digests, Image};
use crate::disks::units;
use crate::files;

/// So many entries are looked at.
const ENTRIES: usize = 20_000;
/// So deep in each other.
const DEEP: usize = 32;
/// Marks a folder that hides all of the image's (Documentation/filesystems/overlayfs.rst).
const OPAQUE: &str = "trusted.overlay.opaque";
/// Where a release's presets and units lie; a file of the same name in the first hides the second's.
const PRESETS: [&str; 2] = ["etc/systemd/system-preset", "usr/lib/systemd/system-preset"];
const UNITS: &str = "usr/lib/systemd/system";

/// Which of the image's units its first boot enables.
pub fn enabled(image: &Image) -> Enabled {
    let mut files = std::collections::BTreeMap::new();
    for folder in PRESETS {
        for name in names(&image.path(folder)) {
            let text = image.text(&format!("{folder}/{name}"));
            files.entry(name).or_insert(text);
        }
    }
    let texts: Vec<_> = files.into_values().collect();
    let units = names(&image.path(UNITS));
    let read = |unit: &str| {
        let path = format!("{UNITS}/{unit}");
        image.path(&path).exists().then(|| image.text(&path))
    };
    Enabled::new(&Presets::parse(&texts), units, read)
}

fn names(folder: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder).into_iter().flatten().flatten();
    let named = entries.filter_map(|entry| entry.file_name().into_string().ok());
    named.take(ENTRIES).collect()
}

/// What the node's `/etc` has that the image doesn't account for. `upper` is the overlay's upper layer.
///
/// # Errors
/// If the upper layer or the image can't be read, or it holds more than anybody can look at.
pub fn look(
    upper: &Path,
    image: &Image,
    enabled: &Enabled,
    more: &[String],
    digests: &mut Digests,
) -> io::Result<Vec<Finding>> {
    let mut walk = Walk {
        upper,
        image,
        enabled,
        more,
        digests,
        left: ENTRIES,
        findings: Vec::new(),
    };
    walk.folder("", 0)?;
    let findings = walk.findings;
    digests.forget_unused();
    Ok(findings)
}

struct Walk<'w> {
    upper: &'w Path,
    image: &'w Image,
    enabled: &'w Enabled,
    more: &'w [String],
    digests: &'w mut Digests,
    left: usize,
    findings: Vec<Finding>,
}

impl Walk<'_> {
    fn folder(&mut self, path: &str, depth: usize) -> io::Result<()> {
        let folder = self.upper.join(path);
        if depth > DEEP {
            return Err(io::Error::other("folders lie too deep in each other"));
        }
        for entry in fs::read_dir(&folder)? {
            self.left = self
                .left
                .checked_sub(1)
                .ok_or_else(|| io::Error::other("there are too many files"))?;
            let name = entry?.file_name();
            let path = join(path, &name.to_string_lossy());
            // A name that isn't text can't be looked up by its text: it is no file of the image's.
            let at = folder.join(&name);
            if etc::is_expected(&path, self.more) {
                continue;
            }
            let Some(seen) = self.digests.entry(&at)? else {
                continue;
            };
            let is_folder = seen.thing == Thing::Folder;
            self.judge(&path, &seen)?;
            if is_folder && name.to_str().is_some() {
                self.folder(&path, depth + 1)?;
            } else if is_folder {
                let what = "is a folder whose name is no text";
                self.findings
                    .push(Finding::new(Kind::Etc, &format!("/etc/{path}"), what));
            }
        }
        if path.is_empty() || !is_opaque(&folder) {
            return Ok(());
        }
        // All of the image's that isn't here again is hidden.
        for name in names(&self.image.path(&format!("etc/{path}"))) {
            if fs::symlink_metadata(folder.join(&name)).is_err() {
                let path = join(path, &name);
                if !etc::is_expected(&path, self.more) {
                    self.judge(&path, &hidden())?;
                }
            }
        }
        Ok(())
    }

    fn judge(&mut self, path: &str, seen: &Entry) -> io::Result<()> {
        if let Thing::Link { to } = &seen.thing
            && self.enabled.makes(path, to)
        {
            return Ok(());
        }
        if self.mounts_a_declared_disk(path, seen) {
            return Ok(());
        }
        let baked = self.image.path(&format!("etc/{path}"));
        let baked = self.digests.entry(&baked)?;
        self.findings
            .extend(etc::compare(path, seen, baked.as_ref()));
        Ok(())
    }
}

/// Where units lie, below /etc.
const OWN_UNITS: &str = "systemd/system";

impl Walk<'_> {
    /// Whether this is a mount unit of the agent's own, or the link by which it is wanted.
    fn mounts_a_declared_disk(&self, path: &str, seen: &Entry) -> bool {
        let Some((folder, name)) = path.rsplit_once('/') else {
            return false;
        };
        let is_there = match &seen.thing {
            Thing::File { .. } => folder == OWN_UNITS && seen.owner == (0, 0),
            Thing::Link { to } => {
                folder == join(OWN_UNITS, units::WANTS) && *to == format!("../{name}")
            }
            _ => false,
        };
        let unit = self.upper.join(OWN_UNITS).join(name);
        let text = || files::read(&unit, units::LIMIT).ok().flatten();
        is_there && text().is_some_and(|text| units::is_ours(name, &String::from_utf8_lossy(&text)))
    }
}

fn join(folder: &str, name: &str) -> String {
    match folder {
        "" => name.to_owned(),
        _ => format!("{folder}/{name}"),
    }
}

fn hidden() -> Entry {
    Entry {
        thing: Thing::Nothing,
        mode: 0,
        owner: (0, 0),
    }
}

fn is_opaque(folder: &Path) -> bool {
    let mut value = [0; 4];
    matches!(lgetxattr(folder, OPAQUE, &mut value), Ok(1) if value[0] == b'y')
}
