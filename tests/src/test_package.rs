//! Small pacman packages made by hand, for what no Debian package has, and
//! repositories of them that stand beside the big one.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use cairn_system::Command;
use tar::EntryType;

use crate::package::{Attributes, PackageInfo, PackageWriter, relative};

/// When these packages claim to be made: one fixed second of 2026.
const MADE: u64 = 1_770_000_000;

#[derive(Debug, Clone)]
enum Kind {
    File(Vec<u8>),
    Folder,
    Symlink(PathBuf),
    HardLink(PathBuf),
}

#[derive(Debug, Clone)]
struct Entry {
    kind: Kind,
    mode: u32,
    owner: (u64, u64),
    xattrs: Vec<(String, Vec<u8>)>,
}

/// A package in the making. Folders above a file are made as they are needed.
#[derive(Debug, Clone)]
pub struct TestPackage {
    info: PackageInfo,
    entries: BTreeMap<PathBuf, Entry>,
    scriptlet: Option<String>,
    last: PathBuf,
}

impl TestPackage {
    /// A package without files; a version without a release gets `-1`.
    pub fn new(name: &str, version: &str) -> Self {
        let release = if version.contains('-') { "" } else { "-1" };
        let info = PackageInfo {
            name: name.to_owned(),
            version: format!("{version}{release}"),
            summary: format!("{name}, made by the tests of Cairn"),
            built: MADE,
            arch: "any".to_owned(),
            licenses: ["Apache-2.0".to_owned()].into(),
            ..PackageInfo::default()
        };
        Self {
            info,
            entries: BTreeMap::new(),
            scriptlet: None,
            last: PathBuf::new(),
        }
    }

    /// A package that takes the place of systemd-sysv: `script` is what the
    /// kernel starts as `/usr/sbin/init`. One that ends makes the kernel panic,
    /// one that loops hangs the boot.
    pub fn init(name: &str, version: &str, script: &str) -> Self {
        Self::new(name, version)
            .depends("dash")
            .provides("systemd-sysv")
            .conflicts("systemd-sysv")
            .file("/usr/sbin/init", 0o755, script)
    }

    /// Adds something that it needs.
    #[must_use]
    pub fn depends(mut self, on: &str) -> Self {
        self.info.depends.insert(on.to_owned());
        self
    }

    /// Adds something that it stands for.
    #[must_use]
    pub fn provides(mut self, what: &str) -> Self {
        self.info.provides.insert(what.to_owned());
        self
    }

    /// Adds something that it can't stand beside.
    #[must_use]
    pub fn conflicts(mut self, with: &str) -> Self {
        self.info.conflicts.insert(with.to_owned());
        self
    }

    /// Sets its `.INSTALL` scriptlet.
    #[must_use]
    pub fn scriptlet(mut self, text: &str) -> Self {
        self.scriptlet = Some(text.to_owned());
        self
    }

    /// Adds a file of root's.
    #[must_use]
    pub fn file(self, path: &str, mode: u32, bytes: impl Into<Vec<u8>>) -> Self {
        self.entry(path, Kind::File(bytes.into()), mode)
    }

    /// Adds a folder of root's.
    #[must_use]
    pub fn folder(self, path: &str, mode: u32) -> Self {
        self.entry(path, Kind::Folder, mode)
    }

    /// Adds a symbolic link.
    #[must_use]
    pub fn symlink(self, path: &str, target: &str) -> Self {
        self.entry(path, Kind::Symlink(target.into()), 0o777)
    }

    /// Adds another name of a file. Names are written in order, so the file's own
    /// must sort before it.
    #[must_use]
    pub fn hard_link(self, path: &str, target: &str) -> Self {
        self.entry(path, Kind::HardLink(relative(Path::new(target))), 0o644)
    }

    /// Gives what was added last to somebody else.
    #[must_use]
    pub fn owner(mut self, uid: u64, gid: u64) -> Self {
        if let Some(entry) = self.entries.get_mut(&self.last) {
            entry.owner = (uid, gid);
        }
        self
    }

    /// Gives the file that was added last an extended attribute.
    #[must_use]
    pub fn xattr(mut self, name: &str, value: &[u8]) -> Self {
        if let Some(entry) = self.entries.get_mut(&self.last) {
            entry.xattrs.push((name.to_owned(), value.to_owned()));
        }
        self
    }

    fn entry(mut self, path: &str, kind: Kind, mode: u32) -> Self {
        let path = relative(Path::new(path));
        for folder in path.ancestors().skip(1) {
            if folder != Path::new("") {
                self.entries.entry(folder.to_owned()).or_insert(Entry {
                    kind: Kind::Folder,
                    mode: 0o755,
                    owner: (0, 0),
                    xattrs: Vec::new(),
                });
            }
        }
        self.last.clone_from(&path);
        let entry = Entry {
            kind,
            mode,
            owner: (0, 0),
            xattrs: Vec::new(),
        };
        self.entries.insert(path, entry);
        self
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.info.name
    }

    /// Its version with its release.
    pub fn version(&self) -> &str {
        &self.info.version
    }

    /// Writes it into `dir` and says where.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn build(&self, dir: &Path) -> Result<PathBuf> {
        let mut info = self.info.clone();
        let sizes = self.entries.values().map(|entry| match &entry.kind {
            Kind::File(bytes) => bytes.len() as u64,
            _ => 0,
        });
        info.size = sizes.sum();
        let mut writer = PackageWriter::create(dir, &info, self.scriptlet.as_deref())?;
        for (path, entry) in &self.entries {
            let (uid, gid) = entry.owner;
            let attributes = Attributes {
                mode: entry.mode,
                uid,
                gid,
                mtime: MADE,
            };
            match &entry.kind {
                Kind::File(bytes) => writer.file(path, attributes, bytes, &entry.xattrs)?,
                Kind::Folder => writer.folder(path, attributes)?,
                Kind::Symlink(to) => writer.link(EntryType::Symlink, path, to, attributes)?,
                Kind::HardLink(to) => writer.link(EntryType::Link, path, to, attributes)?,
            }
        }
        writer.finish()
    }
}

/// A repository of a few packages, to be named before the big one in
/// pacman.conf, where it comes first.
#[derive(Debug, Clone)]
pub struct ExtraRepo {
    name: String,
    dir: PathBuf,
}

impl ExtraRepo {
    /// Makes one called `name` in a folder of its own in `parent`.
    ///
    /// # Errors
    /// If it is there already, or a package or the database can't be made.
    pub fn build(parent: &Path, name: &str, packages: &[TestPackage]) -> Result<Self> {
        let dir = parent.join(name);
        fs::create_dir(&dir).with_context(|| format!("cannot make {}", dir.display()))?;
        let files: Result<Vec<_>> = packages.iter().map(|package| package.build(&dir)).collect();
        Self::of_files(parent, name, &files?)
    }

    /// Makes one of package files that lie in its folder, `name` in `parent`.
    ///
    /// # Errors
    /// If the database can't be made.
    pub fn of_files(parent: &Path, name: &str, files: &[PathBuf]) -> Result<Self> {
        let dir = parent.join(name);
        repo_add(&dir, name, files)?;
        Ok(Self {
            name: name.to_owned(),
            dir,
        })
    }

    /// Its name in pacman.conf.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What stands after `Server =`.
    pub fn server_url(&self) -> String {
        format!("file://{}", self.dir.display())
    }
}

/// Makes the database of a repository with pacman's own tool.
pub(crate) fn repo_add(dir: &Path, name: &str, packages: &[PathBuf]) -> Result<()> {
    if packages.is_empty() {
        bail!("the repository {name} would be empty");
    }
    Command::new("repo-add")
        .args(["--quiet", "--nocolor"])
        .arg(format!("{name}.db.tar.gz"))
        .args(packages.iter().filter_map(|path| path.file_name()))
        .dir(dir)
        .run()
        .with_context(|| format!("cannot make the database of {name}"))?;
    Ok(())
}
