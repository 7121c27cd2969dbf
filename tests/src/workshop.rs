//! Everything that the maker of an OS has: programs, keys, trust roots, a profile,
//! a loader and releases. It is made once, by the real imgtool from the real
//! packages, and kept; a test takes copies.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use cairn_system::Command;
use sha2::{Digest, Sha256};
use walkdir::WalkDir;

use crate::tools::{self, FileLock};
use crate::{PacmanRepo, programs};

/// The passphrase of every key here.
pub const PASSPHRASE: &str = "only for tests";
/// The moment that everything is stamped with.
pub const EPOCH: &str = "1790000000";
/// The release that always works.
pub const GOOD: &str = "1.0.0";
/// Its successor, which works too.
pub const NEXT: &str = "1.1.0";
/// A release whose init ends, so that the kernel panics.
pub const PANICS: &str = "1.2.0-panic";
/// A release whose init does nothing for ever.
pub const HANGS: &str = "1.2.0-hang";

/// How imgtool gets the passphrase.
const SECRET: [&str; 2] = ["--passphrase-env", "CAIRN_PASSPHRASE"];

/// What takes systemd's place in a release that doesn't come up.
const INIT: &str = "/usr/lib/systemd/systemd";
/// The releases after [`GOOD`]: version, sequence, and a file with its text that is
/// different.
const OTHERS: [(&str, u32, &str, &str); 3] = [
    (NEXT, 2, "/etc/motd", "the next one\n"),
    (PANICS, 3, INIT, "#!/bin/sh\nexit 1\n"),
    (
        HANGS,
        3,
        INIT,
        "#!/bin/sh\necho 'hanging now' >/dev/console\nwhile :; do sleep 1000; done\n",
    ),
];

/// The programs under test.
#[derive(Debug, Clone)]
pub struct Programs {
    /// imgtool.
    pub imgtool: PathBuf,
    /// The initramfs hook.
    pub hook: PathBuf,
}

impl Programs {
    /// Builds both; see [`programs`].
    ///
    /// # Errors
    /// If they don't build.
    pub fn build(release: bool) -> Result<Self> {
        Ok(Self {
            imgtool: programs::of_this_machine(release)?.join("imgtool"),
            hook: programs::of_a_node("hook")?.join("cairn-initramfs-hook"),
        })
    }
}

/// The workshop's folder.
#[derive(Debug, Clone)]
pub struct Workshop {
    dir: PathBuf,
    /// The programs that made it.
    pub programs: Programs,
    /// The packages that its profile names.
    pub repo: PacmanRepo,
}

impl Workshop {
    /// Gives the workshop for today's programs and packages, and makes it if
    /// nobody has; whoever else wants it waits.
    ///
    /// # Errors
    /// If a program is missing or a step fails.
    pub fn ensure() -> Result<Self> {
        for program in [
            "pacman",
            "mksquashfs",
            "mkfs.erofs",
            "mkfs.ext4",
            "unshare",
            "make",
        ] {
            tools::require(program)?;
        }
        let home = tools::cache_dir()?.join("workshop");
        fs::create_dir_all(&home)?;
        let _lock = FileLock::wait(&home.join("lock"))?;
        let programs = Programs::build(false)?;
        let repo = PacmanRepo::ensure()?;
        let mut workshop = Self {
            dir: PathBuf::new(),
            programs,
            repo,
        };
        let key = key(&workshop.programs, &workshop.repo)?;
        workshop.dir = tools::made_once(&home, &key, |dir| {
            Self {
                dir: dir.to_owned(),
                ..workshop.clone()
            }
            .make()
        })?;
        Ok(workshop)
    }

    /// Its folder.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// imgtool, quiet, with the passphrase and the moment set.
    pub fn imgtool<A: AsRef<std::ffi::OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        Command::new(&self.programs.imgtool)
            .arg("--quiet")
            .args(args)
            .env("CAIRN_PASSPHRASE", PASSPHRASE)
            .env("CAIRN_PACKAGE_CACHE", self.dir.join("cache"))
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .dir(&self.dir)
            .timeout(Duration::from_secs(1200))
    }

    /// A secret key: `root`, `release`, `revoked`, `stranger` or `boot`.
    pub fn key(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key"))
    }

    /// A public key of that name.
    pub fn public(&self, name: &str) -> PathBuf {
        self.dir.join(format!("{name}.key.pub"))
    }

    /// Trust root 1, or 2, in which the key `revoked` is revoked.
    pub fn trust(&self, number: u32) -> PathBuf {
        self.dir.join(format!("trust/{number}.dsse.json"))
    }

    /// The profile's folder.
    pub fn profile(&self) -> PathBuf {
        self.dir.join("profile")
    }

    /// The loader, signed for Secure Boot.
    pub fn loader(&self) -> PathBuf {
        self.dir.join("loader")
    }

    /// The owner's Secure Boot keys and certificates.
    pub fn secure_boot(&self) -> PathBuf {
        self.dir.join("secure-boot")
    }

    /// A release's folder: [`GOOD`], [`NEXT`], [`PANICS`] or [`HANGS`].
    pub fn release(&self, version: &str) -> PathBuf {
        self.dir.join("releases").join(version)
    }

    /// `imgtool build` of this workshop's profile, which has no package of the hook.
    pub fn build_args(&self, version: &str, sequence: u32, out: &Path) -> Vec<String> {
        let mut args = self.build_args_of(&self.profile(), version, sequence, out);
        args.extend(["--hook".into(), self.programs.hook.display().to_string()]);
        args
    }

    /// `imgtool build` of some profile, with this workshop's keys.
    pub fn build_args_of(
        &self,
        profile: &Path,
        version: &str,
        sequence: u32,
        out: &Path,
    ) -> Vec<String> {
        let show = |path: &Path| path.display().to_string();
        [
            "build".into(),
            "--profile".into(),
            show(profile),
            "--version".into(),
            version.into(),
            "--sequence".into(),
            sequence.to_string(),
            "--out".into(),
            show(out),
            "--trust".into(),
            show(&self.trust(1)),
            "--key".into(),
            show(&self.key("release")),
            "--boot-key".into(),
            show(&self.key("boot")),
            "--secure-boot-key".into(),
            show(&self.secure_boot().join("db.key")),
            "--secure-boot-cert".into(),
            show(&self.secure_boot().join("db.crt")),
            "--passphrase-env".into(),
            "CAIRN_PASSPHRASE".into(),
        ]
        .to_vec()
    }

    /// A new disk image at `path` with these releases, the first one good.
    ///
    /// # Errors
    /// If imgtool doesn't make it.
    pub fn flash(&self, path: &Path, releases: &[&str], more: &[&str]) -> Result<crate::Disk> {
        let mut command = self
            .imgtool(["flash", "--loader"])
            .arg(self.loader())
            .arg("--trust")
            .arg(self.trust(1))
            .args(["--size", "2G", "--to"])
            .arg(path);
        for release in releases {
            command = command.arg("--release").arg(self.release(release));
        }
        let good = releases.first().context("a disk needs a release")?;
        command.args(["--good", good]).args(more).run()?;
        crate::Disk::open(path)
    }

    /// A workshop in a folder of the caller's, with nothing in it yet.
    pub fn empty(dir: &Path, programs: Programs, repo: PacmanRepo) -> Self {
        Self {
            dir: dir.to_owned(),
            programs,
            repo,
        }
    }

    fn make(&self) -> Result<()> {
        self.make_keys()?;
        self.make_profile(&[])?;
        let releases = self.dir.join("releases");
        // Alone, as it fills the cache of packages.
        self.imgtool(self.build_args(GOOD, 1, &releases)).run()?;
        tools::two_at_once(&OTHERS, |(version, sequence, path, text)| {
            let site = self.site(version, "", &[("file", path, text)])?;
            self.imgtool(self.build_args(version, *sequence, &releases))
                .arg("--site")
                .arg(site)
                .run()?;
            Ok(())
        })?;
        self.make_loader()
    }

    /// Makes every key, and trust roots 1 and 2.
    ///
    /// # Errors
    /// If imgtool fails.
    pub fn make_keys(&self) -> Result<()> {
        for (kind, name) in [
            ("release", "root"),
            ("release", "release"),
            ("release", "revoked"),
            ("release", "stranger"),
            ("boot", "boot"),
        ] {
            self.imgtool(["keygen", kind, "--out"])
                .arg(self.key(name))
                .args(SECRET)
                .run()?;
        }
        self.imgtool(["keygen", "secure-boot", "--out-dir"])
            .arg(self.secure_boot())
            .args(SECRET)
            .run()?;
        fs::create_dir(self.dir.join("trust"))?;
        self.imgtool(["trust", "init", "--root-key"])
            .arg(self.key("root"))
            .arg("--release-key")
            .arg(self.public("release"))
            .arg("--release-key")
            .arg(self.public("revoked"))
            .arg("--boot-key")
            .arg(self.public("boot"))
            .arg("--out")
            .arg(self.trust(1))
            .args(SECRET)
            .run()?;
        let revoked = self
            .imgtool(["--json", "inspect"])
            .arg(self.public("revoked"))
            .run()?;
        let revoked: serde_json::Value = serde_json::from_slice(&revoked.stdout)?;
        let id = revoked["key_id"].as_str().context("a key without an id")?;
        self.imgtool(["trust", "revoke"])
            .arg(self.trust(1))
            .arg(id)
            .arg("--key")
            .arg(self.key("root"))
            .arg("--out")
            .arg(self.trust(2))
            .args(SECRET)
            .run()
            .map(drop)
            .map_err(Into::into)
    }

    /// Makes the profile: the tests' own, with names in its package list exchanged.
    ///
    /// # Errors
    /// If it can't be written.
    pub fn make_profile(&self, exchange: &[(&str, &str)]) -> Result<()> {
        copy_tree(
            &Path::new(env!("CARGO_MANIFEST_DIR")).join("profile"),
            &self.profile(),
        )?;
        let list = self.profile().join("packages.x86_64");
        let mut packages = fs::read_to_string(&list)?;
        for (old, new) in exchange {
            packages = packages.replace(old, new);
        }
        fs::write(&list, packages)?;
        append(&self.profile().join("pacman.conf"), &self.repo.section())
    }

    /// Makes the loader.
    ///
    /// # Errors
    /// If imgtool fails.
    pub fn make_loader(&self) -> Result<()> {
        self.imgtool(["loader", "--profile"])
            .arg(self.profile())
            .arg("--out")
            .arg(self.loader())
            .arg("--trust")
            .arg(self.trust(1))
            .arg("--boot-pub")
            .arg(self.public("boot"))
            .arg("--key")
            .arg(self.key("release"))
            .arg("--secure-boot-key")
            .arg(self.secure_boot().join("db.key"))
            .arg("--secure-boot-cert")
            .arg(self.secure_boot().join("db.crt"))
            .args(SECRET)
            .run()
            .map(drop)
            .map_err(Into::into)
    }

    /// A site's file with some files of its own: (name, place in the image, text).
    ///
    /// # Errors
    /// If it can't be written.
    pub fn site(&self, name: &str, body: &str, files: &[(&str, &str, &str)]) -> Result<PathBuf> {
        let folder = self.dir.join("sites").join(name);
        fs::create_dir_all(&folder)?;
        let mut text = format!("format = 1\n{body}\n");
        for (source, path, content) in files {
            fs::write(folder.join(source), content)?;
            text += &format!("[[file]]\nsource = {source:?}\npath = {path:?}\nmode = \"0755\"\n");
        }
        let site = folder.join("site.toml");
        fs::write(&site, text)?;
        Ok(site)
    }
}

/// Copies a folder with its symlinks; modes are what git keeps.
///
/// # Errors
/// If it can't be copied.
pub fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    for entry in WalkDir::new(from) {
        let entry = entry?;
        let target = to.join(entry.path().strip_prefix(from)?);
        if entry.file_type().is_dir() {
            fs::create_dir_all(&target)?;
        } else if entry.file_type().is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(entry.path())?, &target)?;
        } else {
            fs::copy(entry.path(), &target)?;
        }
    }
    Ok(())
}

/// Writes this behind what a text file holds.
///
/// # Errors
/// If it can't be read or written.
pub fn append(file: &Path, text: &str) -> Result<()> {
    Ok(fs::write(file, fs::read_to_string(file)? + text)?)
}

/// Names the workshop by what goes into it.
fn key(programs: &Programs, repo: &PacmanRepo) -> Result<String> {
    let mut hasher = Sha256::new();
    for file in [&programs.imgtool, &programs.hook] {
        hasher.update(fs::read(file).with_context(|| format!("cannot read {}", file.display()))?);
    }
    hasher.update(repo.server_url());
    hasher.update(include_str!("workshop.rs"));
    let profile = Path::new(env!("CARGO_MANIFEST_DIR")).join("profile");
    for entry in WalkDir::new(&profile).sort_by_file_name() {
        let entry = entry?;
        hasher.update(
            entry
                .path()
                .strip_prefix(&profile)?
                .as_os_str()
                .as_encoded_bytes(),
        );
        if entry.file_type().is_file() {
            hasher.update(fs::read(entry.path())?);
        }
    }
    let name: String = hex::encode(hasher.finalize()).chars().take(24).collect();
    if name.len() == 24 {
        Ok(name)
    } else {
        bail!("a digest of the wrong length")
    }
}
