//! What this machine's apt knows: which Debian packages there are, what each
//! needs, and where to get them. Nothing is installed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fs;
use std::io::Read;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cairn_system::Command;

/// A name that a package asks for, with the version it wants.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// A package or something that packages provide.
    pub name: String,
    /// Operator and version, as Debian writes them.
    pub version: Option<(String, String)>,
}

impl Relation {
    /// Reads `name[:arch] [(op version)] [restrictions]`.
    fn parse(text: &str) -> Option<Self> {
        let text = text.trim();
        let end = text.find([' ', '(', '[', '<']).unwrap_or(text.len());
        let name = text[..end].split(':').next()?.to_owned();
        let version = text.split_once('(').and_then(|(_, rest)| {
            let (op, version) = rest.split_once(')')?.0.trim().split_once(' ')?;
            Some((op.to_owned(), version.trim().to_owned()))
        });
        (!name.is_empty()).then_some(Self { name, version })
    }

    fn list(text: &str) -> Vec<Self> {
        text.split(',').filter_map(Self::parse).collect()
    }
}

/// A package that apt would install.
#[derive(Debug, Clone, Default)]
pub struct DebPackage {
    /// Its name.
    pub name: String,
    /// Its Debian version.
    pub version: String,
    /// The source package that it was built from.
    pub source: String,
    /// `amd64` or `all`.
    pub arch: String,
    /// What it needs: each inner list is a choice.
    pub depends: Vec<Vec<Relation>>,
    /// What else it stands for.
    pub provides: Vec<Relation>,
    /// What it can't stand beside.
    pub conflicts: Vec<Relation>,
    /// One line about it.
    pub summary: String,
    /// Its home page, or nothing.
    pub homepage: String,
    /// The digest of its file.
    pub sha256: String,
}

impl DebPackage {
    fn parse(stanza: &str) -> Self {
        let mut package = Self::default();
        for (key, value) in stanza.lines().filter_map(|line| line.split_once(": ")) {
            match key {
                "Package" => package.name = value.to_owned(),
                "Version" => package.version = value.to_owned(),
                // A rebuild names the source's version in brackets.
                "Source" => package.source = value.split(' ').next().unwrap_or(value).to_owned(),
                "Architecture" => package.arch = value.to_owned(),
                "Depends" | "Pre-Depends" => package.depends.extend(
                    value
                        .split(',')
                        .map(|choice| choice.split('|').filter_map(Relation::parse).collect()),
                ),
                "Provides" => package.provides = Relation::list(value),
                "Conflicts" => package.conflicts = Relation::list(value),
                "Description" => package.summary = value.to_owned(),
                "Homepage" => package.homepage = value.to_owned(),
                "SHA256" => package.sha256 = value.to_owned(),
                _ => {}
            }
        }
        if package.source.is_empty() {
            package.source.clone_from(&package.name);
        }
        package
    }

    fn runs_here(&self) -> bool {
        self.arch == "amd64" || self.arch == "all"
    }

    /// The name under which `apt-get download` stores it.
    pub fn file_name(&self) -> String {
        let version = self.version.replace(':', "%3a");
        format!("{}_{version}_{}.deb", self.name, self.arch)
    }
}

/// Every package that apt would install, by name.
#[derive(Debug)]
pub struct AptIndex {
    packages: BTreeMap<String, DebPackage>,
    providers: BTreeMap<String, BTreeSet<String>>,
}

impl AptIndex {
    /// Asks apt.
    ///
    /// # Errors
    /// If apt isn't there or knows of no package.
    pub fn load() -> Result<Self> {
        let output = Command::new("apt-cache").arg("dumpavail").run()?;
        let text = String::from_utf8_lossy(&output.stdout);
        let index = Self::parse(&text);
        if index.packages.is_empty() {
            bail!("apt knows of no package: run `apt-get update` as root");
        }
        Ok(index)
    }

    fn parse(text: &str) -> Self {
        let packages: BTreeMap<_, _> = text
            .split("\n\n")
            .map(DebPackage::parse)
            .filter(DebPackage::runs_here)
            .map(|package| (package.name.clone(), package))
            .collect();
        let mut providers: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
        for package in packages.values() {
            for provided in &package.provides {
                providers
                    .entry(provided.name.clone())
                    .or_default()
                    .insert(package.name.clone());
            }
        }
        Self {
            packages,
            providers,
        }
    }

    /// The package of that name.
    ///
    /// # Errors
    /// If apt knows of none.
    pub fn get(&self, name: &str) -> Result<&DebPackage> {
        self.packages
            .get(name)
            .with_context(|| format!("apt knows of no package {name}"))
    }

    /// Of a choice, the first that exists; nothing if what is left out would do.
    pub fn choose<'a>(&self, choice: &'a [Relation], left_out: &[&str]) -> Option<&'a Relation> {
        if choice
            .iter()
            .any(|one| left_out.contains(&one.name.as_str()))
        {
            return None;
        }
        choice.iter().find(|one| {
            self.packages.contains_key(&one.name) || self.providers.contains_key(&one.name)
        })
    }

    /// The packages named by `seeds` and all that they need, sorted by name.
    ///
    /// # Errors
    /// If a package needs what nothing provides.
    pub fn closure(&self, seeds: &[&str], left_out: &[&str]) -> Result<Vec<&DebPackage>> {
        let mut chosen: BTreeMap<&str, &DebPackage> = BTreeMap::new();
        let mut queue: VecDeque<&str> = seeds.iter().copied().collect();
        while let Some(name) = queue.pop_front() {
            let package = match self.packages.get(name) {
                Some(package) => package,
                None => self.provider(name, &chosen)?,
            };
            if chosen.insert(&package.name, package).is_some() {
                continue;
            }
            for choice in &package.depends {
                if let Some(relation) = self.choose(choice, left_out) {
                    queue.push_back(&relation.name);
                } else if !choice.iter().any(|one| left_out.contains(&&*one.name)) {
                    bail!("{name} needs {choice:?}, which apt doesn't know");
                }
            }
        }
        Ok(chosen.into_values().collect())
    }

    /// One that is chosen already, if there is one; the choice must not hang on luck.
    fn provider(&self, name: &str, chosen: &BTreeMap<&str, &DebPackage>) -> Result<&DebPackage> {
        let providers = self.providers.get(name);
        let providers = providers.with_context(|| format!("apt knows of no package {name}"))?;
        let one = providers
            .iter()
            .find(|one| chosen.contains_key(one.as_str()))
            .or(providers.first());
        self.get(one.map_or(name, String::as_str))
    }
}

/// Every version of a package that apt could fetch, the newest first.
///
/// # Errors
/// If apt knows of none.
pub fn versions(name: &str) -> Result<Vec<DebPackage>> {
    let output = Command::new("apt-cache")
        .args(["show", "--all-versions", name])
        .run()
        .with_context(|| format!("apt knows of no package {name}"))?;
    let text = String::from_utf8_lossy(&output.stdout);
    let mut versions: Vec<DebPackage> = Vec::new();
    for package in text.split("\n\n").map(DebPackage::parse) {
        let known = |one: &DebPackage| one.version == package.version;
        // One that is only installed has no file to fetch.
        let fetchable = package.runs_here() && !package.sha256.is_empty();
        if package.name == name && fetchable && !versions.iter().any(known) {
            versions.push(package);
        }
    }
    Ok(versions)
}

/// Puts the packages' files into `dir`, those that aren't there yet.
///
/// # Errors
/// If apt can't fetch them.
pub fn download(packages: &[&DebPackage], dir: &Path) -> Result<()> {
    let missing: Vec<_> = packages
        .iter()
        .filter(|package| !dir.join(package.file_name()).is_file())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    let partial = tempfile::tempdir_in(dir)?;
    Command::new("apt-get")
        .args(["download", "-qq"])
        .args(missing.iter().map(|p| format!("{}={}", p.name, p.version)))
        .dir(partial.path())
        .timeout(Duration::from_secs(900))
        .run()?;
    for package in missing {
        let name = package.file_name();
        fs::rename(partial.path().join(&name), dir.join(&name))
            .with_context(|| format!("apt did not fetch {name}"))?;
    }
    Ok(())
}

/// When a .deb was made: the time in its first archive header.
///
/// # Errors
/// If it isn't a .deb.
pub fn built_at(deb: &Path) -> Result<u64> {
    let mut head = [0_u8; 8 + 60];
    fs::File::open(deb)?.read_exact(&mut head)?;
    if &head[..8] != b"!<arch>\n" {
        bail!("{} is no .deb", deb.display());
    }
    let time = str::from_utf8(&head[8 + 16..8 + 28])?.trim();
    time.parse()
        .with_context(|| format!("{} has no time, but {time:?}", deb.display()))
}

/// Unpacks the files of a .deb as a tar archive.
///
/// # Errors
/// If `dpkg-deb` can't.
pub fn data_tar(deb: &Path, to: &Path) -> Result<PathBuf> {
    let status = std::process::Command::new("dpkg-deb")
        .arg("--fsys-tarfile")
        .arg(deb)
        .stdout(fs::File::create(to)?)
        .status()
        .context("cannot run dpkg-deb")?;
    if !status.success() {
        bail!("dpkg-deb cannot read {}: {status}", deb.display());
    }
    Ok(to.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    const INDEX: &str = "Package: app\nVersion: 1\nArchitecture: amd64\nDepends: ghost | tool (>= 2:1.0~rc1), mta, setup:any\nPre-Depends: libc\n\n\
        Package: tool\nVersion: 2\nArchitecture: all\n\nPackage: libc\nVersion: 3\nArchitecture: amd64\n\n\
        Package: exim\nVersion: 1\nArchitecture: amd64\nProvides: mta (= 4)\n\nPackage: setup\nVersion: 1\nArchitecture: all\n\n\
        Package: libc\nVersion: 3\nArchitecture: i386\n";

    #[test]
    fn a_closure_takes_the_first_choice_that_exists_and_providers() {
        let index = AptIndex::parse(INDEX);
        let closure = index.closure(&["app"], &["setup"]).unwrap();
        let names: Vec<_> = closure
            .iter()
            .map(|package| package.name.as_str())
            .collect();
        assert_eq!(names, ["app", "exim", "libc", "tool"]);
        assert_eq!(
            index.get("app").unwrap().depends[0][1],
            Relation {
                name: "tool".into(),
                version: Some((">=".into(), "2:1.0~rc1".into()))
            }
        );
    }
}
