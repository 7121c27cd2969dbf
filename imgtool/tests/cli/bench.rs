//! A folder to work in and the real binary.

use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

/// The passphrase of every encrypted key in the tests.
pub const PASSPHRASE: &str = "correct horse battery staple";
/// The moment that tests live in: 2026-11-22T00:00:00Z.
pub const EPOCH: &str = "1795305600";

/// A folder that is gone after the test.
pub struct Bench {
    dir: tempfile::TempDir,
}

impl Bench {
    pub fn new() -> Self {
        Self {
            dir: tempfile::tempdir().expect("a temporary folder"),
        }
    }

    pub fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> PathBuf {
        let path = self.path(name);
        std::fs::write(&path, bytes).expect("a file in the temporary folder");
        path
    }

    /// imgtool in this folder, without a terminal.
    pub fn imgtool(&self, args: &[&str]) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_imgtool"));
        command
            .args(args)
            .current_dir(self.dir.path())
            .env_remove("NO_COLOR")
            .env("SOURCE_DATE_EPOCH", EPOCH)
            .env("PASSPHRASE", PASSPHRASE)
            .env("COLUMNS", "80")
            .stdin(Stdio::null());
        command
    }

    /// Runs imgtool and gives back exit code, stdout and stderr as one text.
    pub fn run(&self, args: &[&str]) -> String {
        self.shown(&self.imgtool(args).output().expect("imgtool runs"))
    }

    /// Runs imgtool, which must succeed, and gives back its stdout.
    pub fn ok(&self, args: &[&str]) -> String {
        let output = self.imgtool(args).output().expect("imgtool runs");
        assert!(output.status.success(), "{args:?}\n{}", self.shown(&output));
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Exit code, stdout and stderr, with what differs between runs taken out.
    pub fn shown(&self, output: &Output) -> String {
        let text = format!(
            "exit code: {}\n--- stdout\n{}--- stderr\n{}",
            output
                .status
                .code()
                .map_or("signal".into(), |code| code.to_string()),
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        redacted(&text.replace(&self.dir.path().display().to_string(), "[DIR]"))
    }

    /// Every name in the folder, hidden ones too.
    pub fn names(&self, folder: &str) -> Vec<String> {
        let mut names: Vec<String> = self
            .path(folder)
            .read_dir()
            .expect("a folder")
            .map(|entry| {
                entry
                    .expect("an entry")
                    .file_name()
                    .to_string_lossy()
                    .into_owned()
            })
            .collect();
        names.sort();
        names
    }

    /// Runs another program, which must succeed, and gives back its stdout.
    pub fn tool(&self, program: &str, args: &[&str]) -> String {
        let output = Command::new(program)
            .args(args)
            .current_dir(self.dir.path())
            .env("PASSPHRASE", PASSPHRASE)
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|e| panic!("{program} is needed for this test: {e}"));
        assert!(
            output.status.success(),
            "{program} {args:?}\n{}",
            self.shown(&output)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

/// Times of steps differ from run to run.
fn redacted(text: &str) -> String {
    text.lines()
        .map(|line| match line.rsplit_once(": ") {
            Some((name, time)) if is_time(time) => format!("{name}: [TIME]\n"),
            _ => format!("{line}\n"),
        })
        .collect()
}

fn is_time(text: &str) -> bool {
    text.strip_suffix(" s")
        .is_some_and(|number| number.parse::<f64>().is_ok())
}

/// Folder contents with digests: to see that nothing has changed.
pub fn fingerprint(folder: &Path) -> Vec<(PathBuf, Vec<u8>)> {
    let mut all = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        for entry in folder.read_dir().expect("a folder") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else {
                let bytes = std::fs::read(&path).expect("a file");
                all.push((path, bytes));
            }
        }
    }
    all.sort();
    all
}
