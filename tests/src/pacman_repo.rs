//! A pacman repository made from Debian packages, so that real pacman installs
//! real software where no Arch mirror can be reached. It is made once for each
//! set of packages and kept in [`crate::tools::cache_dir`].

use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use anyhow::{Context, Result, bail};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use crate::addition::{self, BASE, DOCKER, FIRMWARE, GRUB};
use crate::apt::{self, AptIndex, DebPackage};
use crate::convert::{Form, LEFT_OUT, convert};
use crate::test_package::{ExtraRepo, repo_add};
use crate::tools::{self, FileLock};

/// Its name in pacman.conf.
const NAME: &str = "cairn-test";
/// The list of what is inside, and the sign that it is whole.
const CONTENTS: &str = "packages.json";
/// What decides how a package is made: a change of it makes all of them anew.
const CONVERTER: &[&str] = &[
    include_str!("addition.rs"),
    include_str!("apt.rs"),
    include_str!("convert.rs"),
    include_str!("package.rs"),
    include_str!("test_package.rs"),
    include_str!("../data/filesystem/nsswitch.conf"),
    include_str!("../data/filesystem/os-release"),
    include_str!("../data/filesystem/profile"),
    include_str!("../data/hooks/20-systemd-sysusers.hook"),
    include_str!("../data/hooks/30-systemd-hwdb.hook"),
    include_str!("../data/hooks/40-ca-certificates.hook"),
    include_str!("../data/hooks/60-depmod.hook"),
    include_str!("../data/scripts/bash.install"),
    include_str!("../data/scripts/ca-certificates"),
    include_str!("../data/scripts/depmod"),
];

/// A package in the repository.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RepoPackage {
    /// Its name.
    pub name: String,
    /// Its version, as pacman has it.
    pub version: String,
    /// Its file's name.
    pub file: String,
}

/// The repository, whole and ready.
#[derive(Debug, Clone)]
pub struct PacmanRepo {
    dir: PathBuf,
    packages: Vec<RepoPackage>,
}

impl PacmanRepo {
    /// Gives the repository for the packages that apt has today, and makes it if
    /// nobody has; whoever else wants it waits.
    ///
    /// # Errors
    /// If a program is missing, or a package can't be fetched or converted.
    pub fn ensure() -> Result<Self> {
        for program in ["apt-cache", "apt-get", "dpkg-deb", "repo-add", "bsdtar"] {
            tools::require(program)?;
        }
        let home = tools::cache_dir()?.join("pacman");
        fs::create_dir_all(&home)?;
        let known = home.join(format!("{}.for", lists_digest()?));
        let dir = match fs::read_to_string(&known) {
            Ok(key) if home.join(&key).join(CONTENTS).is_file() => home.join(key),
            _ => Self::make(&home, &known)?,
        };
        let contents = fs::read(dir.join(CONTENTS))?;
        let packages = serde_json::from_slice(&contents)
            .with_context(|| format!("cannot read {}", dir.join(CONTENTS).display()))?;
        Ok(Self { dir, packages })
    }

    /// Makes it unless it is there, and notes which one belongs to these lists.
    fn make(home: &Path, known: &Path) -> Result<PathBuf> {
        let _lock = FileLock::wait(&home.join("lock"))?;
        let index = AptIndex::load()?;
        let plan = Plan::new(&index)?;
        let key = plan.key();
        let dir = home.join(&key);
        if !dir.join(CONTENTS).is_file() {
            plan.build(home, &dir)
                .context("cannot make the pacman repository")?;
        }
        // Others may be reading it: it is there whole or not at all.
        let partial = home.join("known");
        fs::write(&partial, key)?;
        fs::rename(partial, known)?;
        Ok(dir)
    }

    /// Its name in pacman.conf.
    pub fn name(&self) -> &str {
        NAME
    }

    /// What stands after `Server =`.
    pub fn server_url(&self) -> String {
        format!("file://{}", self.dir.display())
    }

    /// What is inside, by name.
    pub fn packages(&self) -> &[RepoPackage] {
        &self.packages
    }

    /// The file of the package of that name.
    ///
    /// # Errors
    /// If there is none.
    pub fn package_file(&self, name: &str) -> Result<PathBuf> {
        let package = self.packages.iter().find(|package| package.name == name);
        let package = package.with_context(|| format!("the repository has no {name}"))?;
        Ok(self.dir.join(&package.file))
    }

    /// A pacman.conf that names `extra` repositories first, then this one.
    pub fn pacman_conf(&self, extra: &[&ExtraRepo]) -> String {
        let first = "[options]\nArchitecture = x86_64\nSigLevel = Never\n".to_owned();
        let extra = extra
            .iter()
            .map(|repo| section(repo.name(), &repo.server_url()));
        first + &extra.collect::<String>() + &self.section()
    }

    /// What names it in a pacman.conf that is there.
    pub fn section(&self) -> String {
        section(NAME, &self.server_url())
    }
}

/// What names a repository in pacman.conf; its packages aren't signed.
pub(crate) fn section(name: &str, url: &str) -> String {
    format!("\n[{name}]\nSigLevel = Never\nServer = {url}\n")
}

/// What the repository is to hold.
struct Plan<'a> {
    index: &'a AptIndex,
    packages: Vec<(&'a DebPackage, Form)>,
    master: &'a DebPackage,
}

impl<'a> Plan<'a> {
    fn new(index: &'a AptIndex) -> Result<Self> {
        let seeds: Vec<_> = [BASE, GRUB, FIRMWARE, DOCKER, &["nftables"]]
            .concat()
            .into_iter()
            .filter(|name| *name != "filesystem")
            .collect();
        let mut packages: Vec<_> = index
            .closure(&seeds, LEFT_OUT)?
            .into_iter()
            .map(|package| (package, Form::Plain))
            .collect();
        // linux-image-amd64 is a name that points at the newest kernel.
        let newest = index.get("linux-image-amd64")?;
        let kernel = newest.depends.iter().flatten().next();
        let kernel = index.get(&kernel.context("linux-image-amd64 needs no kernel")?.name)?;
        // The heaviest first, so that no thread is left with it at the end.
        packages.insert(0, (kernel, Form::Kernel));
        packages.insert(1, (kernel, Form::SmallKernel));
        let master = index.get("base-passwd")?;
        Ok(Self {
            index,
            packages,
            master,
        })
    }

    fn key(&self) -> String {
        let mut digest = Sha256::new();
        for text in CONVERTER {
            digest.update(text);
        }
        for (package, _) in &self.packages {
            digest.update(&package.name);
            digest.update(&package.version);
            digest.update(&package.sha256);
        }
        hex::encode(&digest.finalize()[..12])
    }

    fn build(&self, home: &Path, dir: &Path) -> Result<()> {
        let debs = home.join("debs");
        fs::create_dir_all(&debs)?;
        let mut wanted: Vec<_> = self.packages.iter().map(|(package, _)| *package).collect();
        wanted.push(self.master);
        // The kernel is in the plan twice, in two forms of one file.
        wanted.sort_by(|a, b| a.name.cmp(&b.name));
        wanted.dedup_by(|a, b| a.name == b.name);
        apt::download(&wanted, &debs)?;

        // One that was stopped half-way left its folder; the lock says that nobody is in it.
        let partial = home.join("partial");
        if partial.exists() {
            fs::remove_dir_all(&partial)?;
        }
        fs::create_dir(&partial)?;
        let mut packages = self.convert_all(&debs, &partial)?;
        for package in self.own_packages(&debs, &partial)? {
            let file = package.build(&partial)?;
            packages.push(RepoPackage {
                name: package.name().to_owned(),
                version: package.version().to_owned(),
                file: file_name(&file)?,
            });
        }
        packages.sort_by(|a, b| a.name.cmp(&b.name));
        let files: Vec<_> = packages
            .iter()
            .map(|package| partial.join(&package.file))
            .collect();
        repo_add(&partial, NAME, &files)?;
        fs::write(
            partial.join(CONTENTS),
            serde_json::to_vec_pretty(&packages)?,
        )?;
        fs::rename(&partial, dir).context("cannot put the repository in place")
    }

    fn convert_all(&self, debs: &Path, to: &Path) -> Result<Vec<RepoPackage>> {
        let made = Mutex::new(Vec::new());
        tools::two_at_once(&self.packages, |(package, form)| {
            let deb = debs.join(package.file_name());
            let info = convert(self.index, package, *form, &deb, to)
                .with_context(|| format!("cannot convert {}", package.name))?;
            let package = RepoPackage {
                file: info.file_name(),
                name: info.name,
                version: info.version,
            };
            made.lock()
                .map_err(|_| anyhow::anyhow!("a thread died"))?
                .push(package);
            Ok(())
        })?;
        made.into_inner().context("a converting thread died")
    }

    fn own_packages(&self, debs: &Path, scratch: &Path) -> Result<Vec<crate::TestPackage>> {
        let deb = debs.join(self.master.file_name());
        let data = apt::data_tar(&deb, &scratch.join("base-passwd.tar"))?;
        let read = |name: &str| -> Result<String> {
            let path = format!("./usr/share/base-passwd/{name}");
            let mut archive = tar::Archive::new(fs::File::open(&data)?);
            for entry in archive.entries()? {
                let mut entry = entry?;
                if entry.path()?.as_os_str() == path.as_str() {
                    let mut text = String::new();
                    entry.read_to_string(&mut text)?;
                    return Ok(text);
                }
            }
            bail!("base-passwd has no {path}")
        };
        let filesystem = addition::filesystem(&read("passwd.master")?, &read("group.master")?)?;
        fs::remove_file(&data)?;
        Ok(vec![
            filesystem,
            addition::meta("base", BASE),
            addition::meta("grub", GRUB),
            addition::meta("linux-firmware", FIRMWARE),
            addition::meta("docker", DOCKER),
            addition::odd_files(),
        ])
    }
}

/// Of the converter and of apt's lists as they lie there: to ask apt itself takes
/// seconds, and every test wants to know.
fn lists_digest() -> Result<String> {
    let dir = Path::new("/var/lib/apt/lists");
    let mut lists = Vec::new();
    for entry in fs::read_dir(dir).with_context(|| format!("cannot read {}", dir.display()))? {
        let entry = entry?;
        let about = entry.metadata()?;
        if about.is_file() {
            lists.push((entry.file_name(), about.len(), about.modified()?));
        }
    }
    lists.sort();
    let mut digest = Sha256::new();
    for text in CONVERTER {
        digest.update(text);
    }
    digest.update(format!("{lists:?}"));
    Ok(hex::encode(&digest.finalize()[..12]))
}

fn file_name(path: &Path) -> Result<String> {
    let name = path.file_name().and_then(|name| name.to_str());
    Ok(name.context("a package without a name")?.to_owned())
}
