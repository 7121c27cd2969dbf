//! Real Debian packages in two versions each, as repositories for pacman: the newest of
//! everything, and before it, for each pair, what that pair takes in an older version.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, ensure};
use cairn_tests::apt::{self, AptIndex, DebPackage};
use cairn_tests::convert::{Form, LEFT_OUT, convert};
use cairn_tests::{ExtraRepo, PacmanRepo, addition, tools};

/// What the tree of an edge node has beside the tests' base system.
pub const MORE: &[&str] = &[
    "bind9-dnsutils",
    "curl",
    "nftables",
    "openssh-server",
    "perl",
    "python3",
    "snapd",
    "sudo",
    "tcpdump",
    "xz-utils",
];

/// Source packages whose newest step makes the monthly set: some 30 packages.
const MONTHLY: &[&str] = &[
    "bind9",
    "ca-certificates",
    "curl",
    "expat",
    "libxml2",
    "openssh",
    "openssl",
    "pcre2",
    "python3.11",
    "sudo",
    "systemd",
    "tzdata",
    "xz-utils",
];

/// What is older in the release that a pair starts from.
#[derive(Debug, Clone, Copy)]
pub enum Older {
    /// Nothing.
    Nothing,
    /// The packages of these sources, by one version.
    Sources(&'static [&'static str]),
    /// The kernel: the last one of another upstream version.
    Kernel,
}

/// A security fix in one library, and the program that comes with it.
pub const SECURITY: Older = Older::Sources(&["openssl"]);
/// A month's updates.
pub const MONTH: Older = Older::Sources(MONTHLY);
/// Built again by Debian from the same source, with newer Go libraries (`+b2`).
pub const REBUILT: Older = Older::Sources(&["snapd"]);

/// Packages, fetched and converted.
pub struct Shelf {
    index: AptIndex,
    base: PacmanRepo,
    debs: PathBuf,
    /// The packages of the tree that apt has today, by name.
    tree: Vec<DebPackage>,
}

impl Shelf {
    /// Asks apt for what the tree needs.
    ///
    /// # Errors
    /// If apt doesn't know a package.
    pub fn new(base: PacmanRepo) -> Result<Self> {
        let index = AptIndex::load()?;
        let seeds: Vec<&str> = [addition::BASE, MORE].concat();
        let seeds: Vec<&str> = seeds.into_iter().filter(|n| *n != "filesystem").collect();
        let tree = index.closure(&seeds, LEFT_OUT)?;
        let tree = tree.into_iter().cloned().collect();
        let debs = tools::cache_dir()?.join("delta/debs");
        fs::create_dir_all(&debs)?;
        Ok(Self {
            index,
            base,
            debs,
            tree,
        })
    }

    /// A repository of what the tree has beside the base, in `parent`.
    ///
    /// # Errors
    /// If a package can't be fetched or converted.
    pub fn newest(&self, parent: &Path) -> Result<ExtraRepo> {
        let known: BTreeSet<&str> = (self.base.packages().iter())
            .map(|package| package.name.as_str())
            .collect();
        let more = self.tree.iter().filter(|p| !known.contains(&*p.name));
        let more: Vec<_> = more.map(|p| (p.clone(), Form::Plain)).collect();
        self.repository(parent, "cairn-more", &more)
    }

    /// A repository of what is older, in `parent`; `None` if nothing is. Says what it holds.
    ///
    /// # Errors
    /// If apt has no older version, or a package can't be fetched or converted.
    pub fn older(&self, parent: &Path, name: &str, older: Older) -> Result<Option<ExtraRepo>> {
        let packages = match older {
            Older::Nothing => return Ok(None),
            Older::Sources(sources) => self.older_of(sources)?,
            Older::Kernel => vec![(self.older_kernel()?, Form::SmallKernel)],
        };
        println!("{name}: {} packages are older before it:", packages.len());
        for ((source, version), count) in &by_source(&packages) {
            println!("  {source} {version} ({count})");
        }
        self.repository(parent, &format!("cairn-{name}"), &packages)
            .map(Some)
    }

    fn older_of(&self, sources: &[&str]) -> Result<Vec<(DebPackage, Form)>> {
        let mut packages = Vec::new();
        for source in sources {
            let before = packages.len();
            for package in self.tree.iter().filter(|p| p.source == *source) {
                let versions = apt::versions(&package.name)?;
                let mut older = versions
                    .into_iter()
                    .filter(|p| p.version != package.version);
                if let Some(older) = older.next() {
                    packages.push((older, Form::Plain));
                }
            }
            ensure!(
                packages.len() > before,
                "apt has only one version of {source}: this needs Debian 12's main, updates and security suites"
            );
        }
        Ok(packages)
    }

    /// Debian gives each kernel update a package name of its own.
    fn older_kernel(&self) -> Result<DebPackage> {
        let newest = self.index.get("linux-image-amd64")?;
        let newest = newest.depends.iter().flatten().next();
        let newest = self.index.get(&newest.context("no kernel")?.name)?;
        let name = |number: u32, rest: &str| format!("linux-image-6.1.0-{number}-{rest}");
        let number = newest.name.split('-').nth(3).and_then(|n| n.parse().ok());
        let number: u32 = number.with_context(|| format!("{} has no number", newest.name))?;
        let upstream = |p: &DebPackage| p.version.split('-').next().map(str::to_owned);
        (1..number)
            .rev()
            .filter_map(|number| self.index.get(&name(number, "amd64")).ok())
            .find(|older| upstream(older) != upstream(newest))
            .cloned()
            .with_context(|| format!("apt has no kernel before {}", newest.version))
    }

    fn repository(
        &self,
        parent: &Path,
        name: &str,
        packages: &[(DebPackage, Form)],
    ) -> Result<ExtraRepo> {
        let debs: Vec<&DebPackage> = packages.iter().map(|(package, _)| package).collect();
        apt::download(&debs, &self.debs)?;
        let dir = parent.join(name);
        fs::create_dir_all(&dir)?;
        tools::two_at_once(packages, |(package, form)| {
            let deb = self.debs.join(package.file_name());
            convert(&self.index, package, *form, &deb, &dir)
                .map(drop)
                .with_context(|| format!("cannot convert {}", package.name))
        })?;
        let mut files: Vec<PathBuf> = fs::read_dir(&dir)?
            .map(|entry| Ok(entry?.path()))
            .collect::<Result<_>>()?;
        files.sort();
        ExtraRepo::of_files(parent, name, &files)
    }
}

fn by_source(packages: &[(DebPackage, Form)]) -> BTreeMap<(&str, &str), usize> {
    let mut counts = BTreeMap::new();
    for (package, _) in packages {
        *counts
            .entry((package.source.as_str(), package.version.as_str()))
            .or_default() += 1;
    }
    counts
}
