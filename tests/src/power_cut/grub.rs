//! What GRUB sees on a disk, by its own drivers: `grub-fstest` is GRUB's code for
//! partitions and file systems as a program. It replays no journal, as GRUB doesn't.

use std::path::{Path, PathBuf};

use anyhow::{Result, bail};
use cairn_release::Version;
use cairn_system::Command;

/// A name in a folder.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// The name.
    pub name: String,
    /// Its bytes; `None` for a folder.
    pub size: Option<u64>,
    /// When it was changed: `YYYYMMDDhhmmss`.
    pub time: String,
}

/// GRUB's eyes on one image.
#[derive(Debug, Clone)]
pub struct Grub {
    image: PathBuf,
}

impl Grub {
    /// On this image: of a disk, or of a file system as `(loop0)` alone.
    pub fn on(image: &Path) -> Self {
        Self {
            image: image.to_owned(),
        }
    }

    /// A file's bytes: `(loop0,gpt2)/cairn/boot-a.env`.
    ///
    /// # Errors
    /// If GRUB can't read it.
    pub fn read(&self, path: &str) -> Result<Vec<u8>> {
        let output = self.command(&["cp", path, "/dev/stdout"]).run()?;
        if let Some(complaint) = complaint(&output.stderr) {
            bail!("{complaint}");
        }
        Ok(output.stdout)
    }

    /// Reads a file to its end.
    ///
    /// # Errors
    /// If GRUB can't.
    pub fn can_read(&self, path: &str) -> Result<()> {
        let output = self.command(&["crc", path]).run()?;
        match complaint(&output.stderr) {
            Some(complaint) => bail!("{complaint}"),
            None => Ok(()),
        }
    }

    /// What is in a folder; nothing if there is none, which GRUB doesn't tell apart.
    ///
    /// # Errors
    /// If the program fails.
    pub fn list(&self, folder: &str) -> Result<Vec<Entry>> {
        let output = self.command(&["ls", "--", "-l", folder]).run()?;
        Ok(output.text().lines().filter_map(entry).collect())
    }

    /// The releases, as `grub.cfg` takes them from the folder: the newest first by the
    /// time of its kernel container, unfinished downloads left out.
    ///
    /// # Errors
    /// If the program fails.
    pub fn releases(&self) -> Result<Vec<(Version, Vec<Entry>)>> {
        let mut found = Vec::new();
        for folder in self.list("(loop0,gpt3)/releases/")? {
            if folder.size.is_some() || folder.name.ends_with(".partial") {
                continue;
            }
            if let Ok(version) = folder.name.parse::<Version>() {
                let files = self.list(&format!("(loop0,gpt3)/releases/{version}/"))?;
                found.push((version, files));
            }
        }
        let time = |files: &[Entry]| {
            let kernel = files.iter().find(|file| file.name == "kernel.squashfs");
            kernel.map(|file| file.time.clone())
        };
        found.sort_by_key(|(_, files)| std::cmp::Reverse(time(files)));
        Ok(found)
    }

    fn command(&self, args: &[&str]) -> Command {
        Command::new("grub-fstest").arg(&self.image).args(args)
    }
}

fn complaint(stderr: &str) -> Option<&str> {
    stderr.lines().find(|line| line.contains("error:"))
}

/// `82395136     20260921141320 root.erofs` or `DIR   20260921141320 1.0.0/`
fn entry(line: &str) -> Option<Entry> {
    let (size, rest) = line.trim().split_once(' ')?;
    let (time, name) = rest.trim_start().split_once(' ')?;
    Some(Entry {
        name: name.trim_end_matches('/').to_owned(),
        size: match size {
            "DIR" => None,
            _ => Some(size.parse().ok()?),
        },
        time: time.to_owned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_listing_is_read() {
        let file = entry("82395136     20260921141320 root.erofs").unwrap();
        assert_eq!(
            (file.name.as_str(), file.size),
            ("root.erofs", Some(82_395_136))
        );
        let folder = entry("DIR          20261122054737 1.0.0/").unwrap();
        assert_eq!((folder.name.as_str(), folder.size), ("1.0.0", None));
        assert_eq!(entry("x y z"), None);
        assert_eq!(entry(""), None);
    }
}
