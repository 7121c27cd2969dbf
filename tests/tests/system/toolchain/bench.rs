//! A place that root and an ordinary user can both work in, with everything that
//! imgtool needs, and a look at what it leaves behind.

use anyhow::{Context, Result, ensure};
use cairn_tests::Workshop;
use cairn_tests::tools;
use cairn_tests::workshop::{EPOCH, PASSPHRASE, copy_tree};
use regex::Regex;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use tempfile::TempDir;

/// The ordinary user, whom `.ci/setup` makes.
const CI: &str = "cairn-ci";

/// Who runs imgtool.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum User {
    Root,
    Ci,
}

/// The place:
///
/// ```text
/// imgtool hook repo/      for everybody to read
/// root/ ci/               one folder a user, with a kit of its own:
///   profile/ trust/ loader/ secure-boot/ *.key *.pub cache/ out/
/// ```
pub struct Bench {
    pub workshop: Workshop,
    dir: TempDir,
}

impl Bench {
    pub fn new() -> Result<Self> {
        let workshop = Workshop::ensure()?;
        ensure!(
            rustix::process::geteuid().is_root(),
            "these tests act as two users, so they need root"
        );
        let dir = tempfile::Builder::new()
            .prefix("cairn-toolchain-")
            .permissions(fs::Permissions::from_mode(0o755))
            .tempdir()?;
        let bench = Self { workshop, dir };
        link(&bench.workshop.programs.imgtool, &bench.path("imgtool"))?;
        link(&bench.workshop.programs.hook, &bench.path("hook"))?;
        let repo = bench.workshop.repo.server_url();
        let repo = Path::new(repo.trim_start_matches("file://"));
        fs::create_dir(bench.path("repo"))?;
        for entry in repo.read_dir()? {
            let entry = entry?;
            if entry.file_type()?.is_file() || entry.file_type()?.is_symlink() {
                link(&entry.path(), &bench.path("repo").join(entry.file_name()))?;
            }
        }
        for user in [User::Root, User::Ci] {
            bench.kit(user)?;
        }
        Ok(bench)
    }

    fn kit(&self, user: User) -> Result<()> {
        let home = self.home(user);
        fs::create_dir(&home)?;
        for name in ["cache", "out"] {
            fs::create_dir(home.join(name))?;
        }
        for name in ["profile", "trust", "loader", "secure-boot"] {
            copy_tree(&self.workshop.dir().join(name), &home.join(name))?;
        }
        for name in ["root", "release", "stranger", "boot"] {
            fs::copy(self.workshop.key(name), home.join(format!("{name}.key")))?;
            fs::copy(
                self.workshop.public(name),
                home.join(format!("{name}.key.pub")),
            )?;
        }
        let conf = home.join("profile/pacman.conf");
        let repo = format!("file://{}", self.path("repo").display());
        let text = fs::read_to_string(&conf)?.replace(&self.workshop.repo.server_url(), &repo);
        fs::write(conf, text)?;
        if user == User::Ci {
            tools::require("setpriv")?;
            cairn_system::Command::new("chown")
                .args(["-R", &format!("{CI}:{CI}")])
                .arg(&home)
                .run()
                .context("is there no user cairn-ci? .ci/setup makes it")?;
        }
        Ok(())
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn home(&self, user: User) -> PathBuf {
        self.path(match user {
            User::Root => "root",
            User::Ci => "ci",
        })
    }

    /// imgtool, without a terminal, in the user's folder.
    pub fn imgtool(&self, user: User, args: &[&str]) -> Command {
        let mut command = self.program(user, &self.path("imgtool").display().to_string());
        command.args(args);
        command
    }

    /// Another program, as imgtool would be run.
    pub fn program(&self, user: User, program: &str) -> Command {
        let mut command = match user {
            User::Root => Command::new(program),
            User::Ci => {
                let mut command = Command::new("setpriv");
                command.args(["--reuid", CI, "--regid", CI, "--clear-groups", "--"]);
                command.arg(program);
                command
            }
        };
        let home = self.home(user);
        command
            .env_clear()
            .env(
                "PATH",
                "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            )
            .env("HOME", &home)
            .env("RUST_BACKTRACE", "0")
            .env("COLUMNS", "80")
            .env("CAIRN_PASSPHRASE", PASSPHRASE)
            .env("CAIRN_INITRAMFS_HOOK", self.path("hook"))
            .env("CAIRN_PACKAGE_CACHE", home.join("cache"))
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .current_dir(&home)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        command
    }

    /// `imgtool build` of `version` into `out/`.
    pub fn build(&self, user: User, version: &str, more: &[&str]) -> Command {
        let mut command = self.imgtool(user, &["build", "--profile", "profile", "--out", "out"]);
        command
            .args(["--version", version, "--sequence", "1"])
            .args(["--trust", "trust/1.dsse.json", "--key", "release.key"])
            .args([
                "--boot-key",
                "boot.key",
                "--passphrase-env",
                "CAIRN_PASSPHRASE",
            ])
            .args(["--secure-boot-key", "secure-boot/db.key"])
            .args(["--secure-boot-cert", "secure-boot/db.crt"])
            .args(more);
        command
    }

    /// `imgtool loader` into `out/loader`.
    pub fn loader(&self, user: User, more: &[&str]) -> Command {
        let mut command = self.imgtool(
            user,
            &["loader", "--profile", "profile", "--out", "out/loader"],
        );
        command
            .args(["--trust", "trust/1.dsse.json", "--boot-pub", "boot.key.pub"])
            .args([
                "--key",
                "release.key",
                "--passphrase-env",
                "CAIRN_PASSPHRASE",
            ])
            .args(more);
        command
    }

    /// `imgtool flash` of `release` to `to`.
    pub fn flash(&self, user: User, release: &Path, to: &str, more: &[&str]) -> Command {
        let mut command = self.imgtool(user, &["flash", "--loader", "loader", "--to", to]);
        command.arg("--release").arg(release).args(more);
        if !more.contains(&"--trust") {
            command.args(["--trust", "trust/1.dsse.json"]);
        }
        command
    }

    /// Runs imgtool and gives back exit code, stdout and stderr as one text, without
    /// the steps, whose order is that of the moment.
    pub fn shown(&self, command: &mut Command) -> Result<String> {
        Ok(self.text(&command.arg("--quiet").output()?))
    }

    /// Exit code, stdout and stderr, with what differs between runs taken out.
    pub fn text(&self, output: &Output) -> String {
        let text = format!(
            "exit code: {}\n--- stdout\n{}--- stderr\n{}",
            output
                .status
                .code()
                .map_or("signal".into(), |code| code.to_string()),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        let text = text
            .replace(&self.dir.path().display().to_string(), "[DIR]")
            .replace(&self.workshop.dir().display().to_string(), "[WORKSHOP]");
        let rules = [
            (r"[0-9a-fA-F]{16,}", "[HEX]"),
            (r"(?m)(: )\d+\.\d s$", "$1[TIME]"),
            (r"/dev/loop\d+", "/dev/loopN"),
            (r"\bloop\d+ is", "loopN is"),
            (r"linux-qemu-[0-9][^ /]*", "linux-qemu-[VERSION]"),
            (r"\b\d+ bytes", "[N] bytes"),
            (r"got \d{5,}", "got [N]"),
            (r"at least [\d.]+ MiB", "at least [N] MiB"),
            (r"kernel \d\S+", "kernel [VERSION]"),
            (r"\bkey [0-9a-f]{12}\b", "key [ID]"),
        ];
        rules.iter().fold(text, |text, (rule, to)| {
            let rule = Regex::new(rule).expect("a regular expression");
            rule.replace_all(&text, *to).into_owned()
        })
    }

    /// Every path in a user's folder but pacman's downloads, sorted.
    pub fn listing(&self, user: User) -> Result<Vec<PathBuf>> {
        let home = self.home(user);
        let mut paths = Vec::new();
        for entry in walkdir::WalkDir::new(&home).sort_by_file_name() {
            let path = entry?.into_path();
            if !path.starts_with(home.join("cache")) {
                paths.push(path.strip_prefix(&home)?.to_owned());
            }
        }
        Ok(paths)
    }

    /// Processes that this bench has started, and theirs.
    pub fn processes(&self) -> Result<Vec<i32>> {
        let mark = self.dir.path().display().to_string();
        self.told_by(&["cmdline", "environ", "mountinfo"], &mark)
    }

    /// Those whose argv, environment or mounts name the place.
    fn told_by(&self, files: &[&str], mark: &str) -> Result<Vec<i32>> {
        let own = i32::try_from(std::process::id())?;
        let mut found = Vec::new();
        for entry in Path::new("/proc").read_dir()? {
            let entry = entry?;
            let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse().ok()) else {
                continue;
            };
            // It may end while it is looked at.
            let names = |file: &&str| {
                let bytes = fs::read(entry.path().join(file)).unwrap_or_default();
                String::from_utf8_lossy(&bytes).contains(mark)
            };
            if pid != own && files.iter().any(names) {
                found.push(pid);
            }
        }
        Ok(found)
    }

    /// Checks that nobody works here any more, nothing is mounted here in any
    /// namespace, and no loop device is about a file of this place.
    pub fn is_at_rest(&self) -> Result<()> {
        let left = self.processes()?;
        ensure!(left.is_empty(), "processes are left: {left:?}");
        let mark = self.dir.path().display().to_string();
        let mounts = fs::read_to_string("/proc/self/mountinfo")?;
        ensure!(!mounts.contains(&mark), "mounts are left: {mounts}");
        let loops = cairn_system::Command::new("losetup")
            .arg("-a")
            .run()?
            .text();
        ensure!(!loops.contains(&mark), "loop devices are left: {loops}");
        Ok(())
    }
}

/// Another name of a file, or a copy where that can't be.
fn link(from: &Path, to: &Path) -> Result<()> {
    let from = from.canonicalize()?;
    if fs::hard_link(&from, to).is_err() {
        fs::copy(&from, to)?;
    }
    Ok(())
}

/// What a command must not change: a snapshot of its error, and the folder as before.
macro_rules! refuses {
    ($bench:expr, $user:expr, $name:expr, $command:expr) => {{
        let before = $bench.listing($user)?;
        insta::assert_snapshot!($name, $bench.shown(&mut $command)?);
        assert_eq!($bench.listing($user)?, before, "{}", $name);
        $bench.is_at_rest()?;
    }};
}
pub(crate) use refuses;
