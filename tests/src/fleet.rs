//! What an operator of nodes has beside the [`Workshop`]: our own programs, packaged,
//! and releases of an OS with the agent in it. Made once and kept, as the workshop is.

use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, Result, bail};
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::own_packages::{self, Recipe};
use crate::tools::{self, FileLock};
use crate::workshop::{append, copy_tree};
use crate::{Disk, Workshop, programs};

/// The release that a node is flashed with.
pub const FIRST: &str = "1.0.0";
/// Its successor, which works.
pub const SECOND: &str = "2.0.0";
/// The one after that, which works too.
pub const THIRD: &str = "2.1.0";
/// Its init ends, so that the kernel panics.
pub const PANICS: &str = "3.0.0-panics";
/// Its init does nothing for ever.
pub const HANGS: &str = "3.0.0-hangs";
/// It boots, and has no network.
pub const DEAF: &str = "3.0.0-deaf";
/// It boots, and its service doesn't work before [`CURE`] is there. It has a patch from
/// [`FIRST`], the others have none.
pub const SICK: &str = "3.0.0-sick";
/// It has Docker; its registries are those of the host, without TLS.
pub const DOCKER: &str = "4.0.0-docker";
/// The file on a node that makes [`SICK`] healthy.
pub const CURE: &str = "/data/cure";

/// A file of one release: its place, its mode, its text.
type File = (&'static str, &'static str, &'static str);

/// What is different in a release.
struct Release {
    version: &'static str,
    sequence: u32,
    packages: &'static [&'static str],
    files: &'static [File],
}

impl Release {
    const fn of(version: &'static str, sequence: u32, files: &'static [File]) -> Self {
        Self {
            version,
            sequence,
            packages: &[],
            files,
        }
    }

    /// The site file that makes it, with the files' texts beside it.
    fn site(&self, folder: &Path) -> Result<PathBuf> {
        fs::create_dir_all(folder)?;
        let mut text = format!("format = 1\npackages = {:?}\n", self.packages);
        for (number, (path, mode, content)) in self.files.iter().enumerate() {
            fs::write(folder.join(number.to_string()), content)?;
            text += &format!("[[file]]\nsource = \"{number}\"\npath = {path:?}\nmode = {mode:?}\n");
        }
        let site = folder.join("site.toml");
        fs::write(&site, text)?;
        Ok(site)
    }
}

const RELEASES: [Release; 8] = [
    Release::of(FIRST, 1, &[("/etc/motd", "0644", "the first release\n")]),
    Release::of(SECOND, 2, &[("/etc/motd", "0644", "the second release\n")]),
    Release::of(THIRD, 3, &[("/etc/motd", "0644", "the third release\n")]),
    Release::of(
        PANICS,
        4,
        &[("/usr/lib/systemd/systemd", "0755", "#!/bin/sh\nexit 1\n")],
    ),
    Release::of(
        HANGS,
        5,
        &[(
            "/usr/lib/systemd/systemd",
            "0755",
            "#!/bin/sh\necho 'hanging now' >/dev/console\nwhile :; do sleep 1000; done\n",
        )],
    ),
    Release::of(
        DEAF,
        6,
        &[(
            "/etc/systemd/network/80-dhcp.network",
            "0644",
            "[Match]\nName=none\n",
        )],
    ),
    Release::of(
        SICK,
        7,
        &[(
            "/usr/local/bin/check-service",
            "0755",
            "#!/bin/sh\n[ -e /data/cure ] || { echo 'the service does not answer' >&2; exit 1; }\n",
        )],
    ),
    Release {
        version: DOCKER,
        sequence: 8,
        packages: &["docker", "nftables"],
        files: &[
            (
                "/etc/docker/daemon.json",
                "0644",
                r#"{
  "data-root": "/data/docker",
  "insecure-registries": ["10.0.2.0/24"],
  "live-restore": true,
  "log-driver": "local"
}
"#,
            ),
            (
                "/usr/lib/cairn/agent.d/60-docker.toml",
                "0644",
                // Debian's Docker still makes itself a key there.
                "[tamper]\nfiles = [\"docker/key.json\"]\n",
            ),
            (
                "/etc/systemd/system/multi-user.target.d/docker.conf",
                "0644",
                "[Unit]\nWants=docker.service\n",
            ),
        ],
    },
];

/// The programs of the control plane and the node.
#[derive(Debug, Clone)]
pub struct Programs {
    /// The agent, as it runs on a node.
    pub agent: PathBuf,
    /// The control plane's server.
    pub control: PathBuf,
    /// The operator's program.
    pub ctl: PathBuf,
}

impl Programs {
    /// Builds them; see [`programs`].
    ///
    /// # Errors
    /// If they don't build.
    pub fn build(release: bool) -> Result<Self> {
        let own = programs::of_this_machine(release)?;
        Ok(Self {
            agent: programs::of_a_node("agent")?.join("cairn-agent"),
            control: own.join("cairn-control"),
            ctl: own.join("cairnctl"),
        })
    }
}

/// The fleet's folder.
#[derive(Debug, Clone)]
pub struct Fleet {
    dir: PathBuf,
    /// Keys, trust, loader.
    pub workshop: Workshop,
    /// Our programs.
    pub programs: Programs,
}

impl Fleet {
    /// Gives the fleet for today's programs and packages, and makes it if nobody has;
    /// whoever else wants it waits.
    ///
    /// # Errors
    /// If a program is missing or a step fails.
    pub fn ensure() -> Result<Self> {
        let workshop = Workshop::ensure()?;
        let home = tools::cache_dir()?.join("fleet");
        fs::create_dir_all(&home)?;
        let _lock = FileLock::wait(&home.join("lock"))?;
        let programs = Programs::build(false)?;
        let mut fleet = Self {
            dir: PathBuf::new(),
            workshop,
            programs,
        };
        let key = fleet.key()?;
        fleet.dir = tools::made_once(&home, &key, |dir| {
            Self {
                dir: dir.to_owned(),
                ..fleet.clone()
            }
            .make(&RELEASES.map(|release| release.version))
        })?;
        Ok(fleet)
    }

    /// A fleet in a folder of the caller's, with nothing in it yet.
    pub fn empty(dir: &Path, workshop: Workshop, programs: Programs) -> Self {
        Self {
            dir: dir.to_owned(),
            workshop,
            programs,
        }
    }

    /// A release's folder.
    pub fn release(&self, version: &str) -> PathBuf {
        self.dir.join("releases").join(version)
    }

    /// Makes packages, profile, and these releases.
    ///
    /// # Errors
    /// If makepkg or imgtool fails.
    pub fn make(&self, versions: &[&str]) -> Result<()> {
        self.make_profile()?;
        let Some((first, others)) = versions.split_first() else {
            bail!("a fleet needs a release");
        };
        // Alone, as it fills the cache of packages.
        self.build(first)?;
        tools::two_at_once(others, |version| self.build(version))?;
        if versions.contains(&SICK) {
            self.patch(first, SICK)?;
        }
        Ok(())
    }

    /// Makes the patches from one release to another, beside the latter.
    fn patch(&self, from: &str, to: &str) -> Result<()> {
        let made = self
            .workshop
            .imgtool(["delta", "--from"])
            .arg(self.release(from))
            .arg("--to")
            .arg(self.release(to))
            .run();
        made.with_context(|| format!("no patch from {from} to {to}"))?;
        Ok(())
    }

    /// Makes packages and profile.
    ///
    /// # Errors
    /// If makepkg fails.
    pub fn make_profile(&self) -> Result<()> {
        let section = own_packages::repository(&self.dir.join("packages"), &self.recipes())?;
        let profile = self.profile();
        copy_tree(&self.workshop.profile(), &profile)?;
        copy_tree(&node_profile(), &profile)?;
        append(&profile.join("pacman.conf"), &section)
    }

    /// Builds one of the releases that this module knows.
    ///
    /// # Errors
    /// If imgtool fails.
    pub fn build(&self, version: &str) -> Result<()> {
        let release = RELEASES.iter().find(|release| release.version == version);
        let release = release.with_context(|| format!("no release {version}"))?;
        let site = release.site(&self.dir.join("sites").join(version))?;
        let args = self.workshop.build_args_of(
            &self.profile(),
            version,
            release.sequence,
            &self.dir.join("releases"),
        );
        self.workshop
            .imgtool(args)
            .env("CAIRN_PACKAGE_CACHE", self.dir.join("cache"))
            .arg("--site")
            .arg(site)
            .run()
            .with_context(|| format!("cannot build {version}"))?;
        Ok(())
    }

    /// A new disk image at `path` with these releases, the first one good.
    ///
    /// # Errors
    /// If imgtool doesn't make it.
    pub fn flash(&self, path: &Path, releases: &[&str], enrol: Option<&Path>) -> Result<Disk> {
        let mut command = self
            .workshop
            .imgtool(["flash", "--loader"])
            .arg(self.workshop.loader())
            .arg("--trust")
            .arg(self.workshop.trust(1))
            .args(["--size", "2G", "--to"])
            .arg(path);
        for release in releases {
            command = command.arg("--release").arg(self.release(release));
        }
        if let Some(enrol) = enrol {
            command = command.arg("--enrol").arg(enrol);
        }
        let good = releases.first().context("a disk needs a release")?;
        command.args(["--good", good]).run()?;
        Disk::open(path)
    }

    fn profile(&self) -> PathBuf {
        self.dir.join("profile")
    }

    /// The packages of ours that are installed into a node's image.
    fn recipes(&self) -> [Recipe; 2] {
        [
            Recipe {
                folder: "agent",
                programs: [self.programs.agent.clone()].to_vec(),
            },
            Recipe {
                folder: "initramfs-hook",
                programs: [self.workshop.programs.hook.clone()].to_vec(),
            },
        ]
    }

    /// Names the fleet by what goes into it.
    fn key(&self) -> Result<String> {
        let mut hasher = Sha256::new();
        hasher.update(self.workshop.dir().as_os_str().as_encoded_bytes());
        hasher.update(include_str!("fleet.rs"));
        hasher.update(include_str!("own_packages.rs"));
        let profile = WalkDir::new(node_profile()).sort_by_file_name();
        let profile = profile.into_iter().filter_map(Result::ok);
        let files = profile
            .filter(|entry| !entry.file_type().is_dir())
            .map(walkdir::DirEntry::into_path);
        for file in self.recipes().iter().flat_map(Recipe::inputs).chain(files) {
            hasher.update(file.as_os_str().as_encoded_bytes());
            match fs::read_link(&file) {
                Ok(target) => hasher.update(target.as_os_str().as_encoded_bytes()),
                Err(_) => hasher.update(
                    fs::read(&file).with_context(|| format!("cannot read {}", file.display()))?,
                ),
            }
        }
        Ok(hex::encode(&hasher.finalize()[..12]))
    }
}

fn node_profile() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("profile-node")
}
