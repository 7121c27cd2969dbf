//! A pacman package file: what `.PKGINFO` says of it, and the archive that it
//! heads. The same input always gives the same bytes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use tar::{Builder, EntryType, Header};

/// Quick to make; these packages are read more often from memory than from a line.
const ZSTD_LEVEL: i32 = 3;

/// What pacman is told about a package.
#[derive(Debug, Clone, Default)]
pub struct PackageInfo {
    /// Its name.
    pub name: String,
    /// `[epoch:]version-release`.
    pub version: String,
    /// One line about it.
    pub summary: String,
    /// Its home page, or nothing.
    pub url: String,
    /// When it was made, in seconds since 1970.
    pub built: u64,
    /// How much its files take, in bytes.
    pub size: u64,
    /// `x86_64` or `any`.
    pub arch: String,
    /// The names of its licences.
    pub licenses: BTreeSet<String>,
    /// What it needs.
    pub depends: BTreeSet<String>,
    /// What else it stands for.
    pub provides: BTreeSet<String>,
    /// What it can't stand beside.
    pub conflicts: BTreeSet<String>,
}

impl PackageInfo {
    /// The name of its file.
    pub fn file_name(&self) -> String {
        format!("{}-{}-{}.pkg.tar.zst", self.name, self.version, self.arch)
    }

    fn pkginfo(&self) -> String {
        let mut text = String::new();
        let single = [
            ("pkgname", &self.name),
            ("pkgbase", &self.name),
            ("pkgver", &self.version),
            ("pkgdesc", &self.summary),
            ("url", &self.url),
            ("builddate", &self.built.to_string()),
            ("packager", &"Cairn tests <tests@cairn.invalid>".to_owned()),
            ("size", &self.size.to_string()),
            ("arch", &self.arch),
        ];
        let lists = [
            ("license", &self.licenses),
            ("conflict", &self.conflicts),
            ("provides", &self.provides),
            ("depend", &self.depends),
        ];
        let many = lists
            .iter()
            .flat_map(|(key, list)| list.iter().map(move |value| (*key, value)));
        for (key, value) in single.into_iter().chain(many) {
            if !value.is_empty() {
                let _ = writeln!(text, "{key} = {value}");
            }
        }
        text
    }
}

/// Who owns a file and what may be done with it.
#[derive(Debug, Clone, Copy)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// Owner.
    pub uid: u64,
    /// Group.
    pub gid: u64,
    /// Modification time in seconds since 1970.
    pub mtime: u64,
}

/// The archive while it is written.
pub struct PackageWriter {
    tar: Builder<zstd::Encoder<'static, File>>,
    folders: BTreeSet<PathBuf>,
    partial: PathBuf,
    path: PathBuf,
}

impl PackageWriter {
    /// Begins a package in `dir`, with a scriptlet if there is one.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn create(dir: &Path, info: &PackageInfo, scriptlet: Option<&str>) -> Result<Self> {
        let path = dir.join(info.file_name());
        let partial = dir.join(format!(".{}.partial", info.file_name()));
        let file =
            File::create(&partial).with_context(|| format!("cannot make {}", partial.display()))?;
        let mut writer = Self {
            tar: Builder::new(zstd::Encoder::new(file, ZSTD_LEVEL)?),
            folders: BTreeSet::new(),
            partial,
            path,
        };
        let attributes = Attributes {
            mode: 0o644,
            uid: 0,
            gid: 0,
            mtime: info.built,
        };
        writer.file(
            Path::new(".PKGINFO"),
            attributes,
            info.pkginfo().as_bytes(),
            &[],
        )?;
        if let Some(text) = scriptlet {
            writer.file(Path::new(".INSTALL"), attributes, text.as_bytes(), &[])?;
        }
        Ok(writer)
    }

    /// Adds a folder, unless it is there.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn folder(&mut self, path: &Path, attributes: Attributes) -> Result<()> {
        if self.folders.insert(path.to_owned()) {
            let mut header = header(EntryType::Directory, attributes, 0);
            // A folder's name ends in a slash, or pacman takes it for a file.
            let mut name = path.as_os_str().to_owned();
            name.push("/");
            self.tar
                .append_data(&mut header, Path::new(&name), std::io::empty())?;
        }
        Ok(())
    }

    /// Adds a file whose bytes are at hand.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn file(
        &mut self,
        path: &Path,
        attributes: Attributes,
        bytes: &[u8],
        xattrs: &[(String, Vec<u8>)],
    ) -> Result<()> {
        let keys: Vec<_> = xattrs
            .iter()
            .map(|(name, _)| format!("SCHILY.xattr.{name}"))
            .collect();
        let records = keys
            .iter()
            .zip(xattrs)
            .map(|(key, (_, value))| (key.as_str(), value.as_slice()));
        self.tar.append_pax_extensions(records)?;
        self.stream(path, attributes, bytes.len() as u64, bytes)
    }

    /// Adds a file of `size` bytes.
    ///
    /// # Errors
    /// If it can't be read or written.
    pub fn stream(
        &mut self,
        path: &Path,
        attributes: Attributes,
        size: u64,
        bytes: impl Read,
    ) -> Result<()> {
        let mut header = header(EntryType::Regular, attributes, size);
        Ok(self.tar.append_data(&mut header, path, bytes)?)
    }

    /// Adds a symbolic link, or a hard link to a file that came before.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn link(
        &mut self,
        kind: EntryType,
        path: &Path,
        target: &Path,
        attributes: Attributes,
    ) -> Result<()> {
        let mut header = header(kind, attributes, 0);
        Ok(self.tar.append_link(&mut header, path, target)?)
    }

    /// Ends the package and gives it its name.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn finish(self) -> Result<PathBuf> {
        self.tar.into_inner()?.finish()?.flush()?;
        fs::rename(&self.partial, &self.path)?;
        Ok(self.path)
    }
}

/// Owners go by number only: pacman would look names up on the building host.
fn header(kind: EntryType, attributes: Attributes, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(attributes.mode & 0o7777);
    header.set_uid(attributes.uid);
    header.set_gid(attributes.gid);
    header.set_mtime(attributes.mtime);
    header.set_size(size);
    header
}

/// A Debian version as a pacman one.
///
/// `~` sorts before everything in Debian; in pacman only a letter right after a
/// digit does, so that is what it becomes.
pub fn pacman_version(debian: &str) -> String {
    let version = pacman_constraint(debian);
    if debian.contains('-') {
        version
    } else {
        format!("{version}-1")
    }
}

/// As [`pacman_version`], but without the release that a native package lacks,
/// since pacman compares it only if both sides have one.
pub fn pacman_constraint(debian: &str) -> String {
    let mut version = String::new();
    let mut rest = debian.chars().peekable();
    while let Some(letter) = rest.next() {
        match (letter, rest.peek()) {
            ('~', Some(next)) if next.is_ascii_digit() => version.push_str("pre"),
            ('~', _) => {}
            _ => version.push(letter),
        }
    }
    match version.rsplit_once('-') {
        Some((upstream, release)) => format!("{}-{release}", upstream.replace('-', ".")),
        None => version,
    }
}

/// A path without a leading `/` or `./`, and without a trailing slash.
pub fn relative(path: &Path) -> PathBuf {
    let bytes = path.as_os_str().as_bytes();
    let bytes = bytes.strip_prefix(b".").unwrap_or(bytes);
    let start = bytes.iter().take_while(|b| **b == b'/').count();
    // A name that begins with a dot is no "./".
    if start == 0 && path.as_os_str().as_bytes().starts_with(b".") {
        return path.to_owned();
    }
    let end = bytes
        .iter()
        .rposition(|b| *b != b'/')
        .map_or(start, |i| i + 1);
    PathBuf::from(OsStr::from_bytes(&bytes[start..end]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn debian_versions_become_ones_that_pacman_sorts_the_same() {
        let cases = [
            ("2:1.02.185-2", "2:1.02.185-2"),
            ("252.39-1~deb12u2", "252.39-1deb12u2"),
            ("20250419~deb12u2", "20250419deb12u2-1"),
            ("0~20171227-0.3", "0pre20171227-0.3"),
            ("1.46.2-rc1-3", "1.46.2.rc1-3"),
        ];
        for (debian, pacman) in cases {
            assert_eq!(pacman_version(debian), pacman);
        }
        assert_eq!(pacman_constraint("5.6~"), "5.6");
    }

    #[test]
    fn paths_lose_their_root() {
        for (path, expected) in [
            ("./usr/bin/", "usr/bin"),
            ("/etc/x", "etc/x"),
            ("./", ""),
            (".INSTALL", ".INSTALL"),
            ("./.hidden", ".hidden"),
        ] {
            assert_eq!(relative(Path::new(path)), Path::new(expected), "{path}");
        }
    }
}
