//! What a person wants to see of a node that he can't reach: one text, of bounded size, without secrets.
//!
//! Commands and files are named below; nothing is chosen by the one who asks. Lines that look as if they held a secret are left out,
//! whoever wrote them into the journal.

use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::Path;
use std::process::Stdio;
use std::time::Duration;

use tokio::io::AsyncReadExt;
use tokio::process::Command;

use crate::telemetry::{BOOT_FAILURES, Sources, facts};

/// One command's time.
const PATIENCE: Duration = Duration::from_secs(15);
/// The most of one part, in bytes; of a longer one the end is kept.
const PART: usize = 128 * 1024;
/// Of it all.
const WHOLE: usize = 2 * 1024 * 1024;
/// The longest line, in bytes.
const LINE: usize = 2048;

const COMMANDS: [(&str, &[&str]); 13] = [
    ("failed units", &["systemctl", "--no-pager", "--failed"]),
    ("jobs", &["systemctl", "--no-pager", "list-jobs"]),
    (
        "warnings",
        &[
            "journalctl",
            "--no-pager",
            "-o",
            "short-iso",
            "-b",
            "-p",
            "warning",
            "-n",
            "300",
        ],
    ),
    (
        "the agent",
        &[
            "journalctl",
            "--no-pager",
            "-o",
            "short-iso",
            "-b",
            "-u",
            "cairn-agent.service",
            "-n",
            "300",
        ],
    ),
    (
        "journal",
        &[
            "journalctl",
            "--no-pager",
            "-o",
            "short-iso",
            "-b",
            "-n",
            "500",
        ],
    ),
    (
        "the boot before",
        &[
            "journalctl",
            "--no-pager",
            "-o",
            "short-iso",
            "-b",
            "-1",
            "-n",
            "200",
        ],
    ),
    (
        "kernel",
        &[
            "journalctl",
            "--no-pager",
            "-o",
            "short-monotonic",
            "-k",
            "-b",
            "-n",
            "300",
        ],
    ),
    ("space", &["df", "-h"]),
    ("inodes", &["df", "-i"]),
    (
        "disks",
        &[
            "lsblk",
            "-o",
            "NAME,SIZE,TYPE,FSTYPE,MOUNTPOINTS,PARTUUID,MODEL",
        ],
    ),
    ("addresses", &["ip", "addr"]),
    ("routes", &["ip", "route", "show", "table", "all"]),
    (
        "processes",
        &["ps", "-eo", "pid,ppid,stat,rss,etime,comm", "--sort=-rss"],
    ),
];

const FILES: [&str; 6] = [
    "proc/cmdline",
    "proc/meminfo",
    "proc/loadavg",
    "proc/self/mountinfo",
    "proc/net/dev",
    "etc/os-release",
];

/// Files in DATA's folder `agent`.
const OWN: [&str; 3] = [BOOT_FAILURES, "update.json", "failed.json"];

/// Collects everything. `status` is what the agent knows of itself, as `cairn-agent status --json` shows it. Takes up to some minutes if
/// commands hang; gives at most 2 MiB.
pub async fn collect(sources: &Sources, status: &serde_json::Value) -> Vec<u8> {
    let mut report = Report(String::new());
    report.part("facts", &pretty(&facts(sources).into()));
    report.part("status", &pretty(status));
    for name in OWN {
        let path = sources.data.join("agent").join(name);
        report.part(
            &format!("agent/{name}"),
            &end_of(&path).unwrap_or_else(|error| format!("({error})")),
        );
    }
    report.part("releases", &releases(&sources.data.join("releases")));
    for (title, argv) in COMMANDS {
        report.part(&format!("{title}: {}", argv.join(" ")), &run(argv).await);
    }
    for name in FILES {
        report.part(
            &format!("/{name}"),
            &sources
                .text(name)
                .unwrap_or_else(|| "(not there)".to_owned()),
        );
    }
    report.0.into_bytes()
}

fn pretty(value: &serde_json::Value) -> String {
    serde_json::to_string_pretty(value).unwrap_or_default()
}

struct Report(String);

impl Report {
    fn part(&mut self, title: &str, text: &str) {
        let mut from = text.len().saturating_sub(PART);
        while !text.is_char_boundary(from) {
            from += 1;
        }
        let text = clean(text.get(from..).unwrap_or_default());
        let title = format!("==== {title}\n");
        if self.0.len() + title.len() + text.len() + 64 > WHOLE {
            let note = "==== (no more room)\n";
            if !self.0.ends_with(note) {
                self.0.push_str(note);
            }
            return;
        }
        self.0.push_str(&title);
        if from > 0 {
            self.0.push_str("(the beginning is left out)\n");
        }
        self.0.push_str(&text);
        if !text.ends_with('\n') {
            self.0.push('\n');
        }
    }
}

/// Leaves out lines that look as if they held a secret, and what terminals would take for orders.
fn clean(text: &str) -> String {
    const WORDS: [&str; 9] = [
        "password",
        "passwd",
        "passphrase",
        "secret",
        "token",
        "bearer ",
        "authorization:",
        "api-key",
        "apikey",
    ];
    let mut out = String::with_capacity(text.len());
    let mut in_key = false;
    for line in text.lines() {
        let lower = line.to_ascii_lowercase();
        let begins = lower.contains("-----begin") && lower.contains("key");
        in_key |= begins;
        if in_key || WORDS.iter().any(|word| lower.contains(word)) {
            if begins || !in_key {
                out.push_str("(a line is left out: it may hold a secret)\n");
            }
            in_key &= !lower.contains("-----end");
            continue;
        }
        let mut end = line.len().min(LINE);
        while !line.is_char_boundary(end) {
            end -= 1;
        }
        out.extend(
            line.get(..end)
                .unwrap_or_default()
                .chars()
                .filter(|c| !c.is_control() || *c == '\t'),
        );
        out.push('\n');
    }
    out
}

/// What a command printed, its complaints behind; or why there is nothing.
async fn run(argv: &[&str]) -> String {
    let Some((program, arguments)) = argv.split_first() else {
        return String::new();
    };
    let child = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C")
        .env_remove("NOTIFY_SOCKET")
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .kill_on_drop(true)
        .spawn();
    let mut child = match child {
        Ok(child) => child,
        Err(error) => return format!("({program}: {error})"),
    };
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (out, complaints) = tokio::join!(bounded(stdout), bounded(stderr));
        // A program that says more than is kept ends by the closed pipe.
        let status = child.wait().await;
        (out, complaints, status)
    };
    match tokio::time::timeout(PATIENCE, work).await {
        Ok((out, complaints, Ok(status))) if status.success() => out + &complaints,
        Ok((out, complaints, Ok(status))) => format!("{out}{complaints}({status})"),
        Ok((.., Err(error))) => format!("({program}: {error})"),
        Err(_) => format!("({program} didn't end within {} s)", PATIENCE.as_secs()),
    }
}

async fn bounded(stream: Option<impl tokio::io::AsyncRead + Unpin>) -> String {
    let mut bytes = Vec::new();
    if let Some(stream) = stream {
        let _ = stream.take(PART as u64).read_to_end(&mut bytes).await;
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn end_of(path: &Path) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    let length = file.metadata()?.len();
    file.seek(SeekFrom::Start(length.saturating_sub(PART as u64)))?;
    let mut bytes = Vec::new();
    file.take(PART as u64).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// Which releases are on the disk, with the sizes of their files.
fn releases(folder: &Path) -> String {
    let mut lines = Vec::new();
    for release in std::fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .take(64)
    {
        for file in std::fs::read_dir(release.path())
            .into_iter()
            .flatten()
            .flatten()
            .take(32)
        {
            let size = file.metadata().map_or(0, |data| data.len());
            lines.push(format!(
                "{size:>12} {}/{}",
                release.file_name().display(),
                file.file_name().display()
            ));
        }
    }
    lines.sort();
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    #[test]
    fn lines_that_may_hold_a_secret_are_left_out() {
        let text = "a\nlogin with Password=x1\nfw_url=/r?Token=x2\n-----BEGIN RSA PRIVATE KEY-----\nx3\nx3\n-----END RSA PRIVATE KEY-----\nAuthorization: Bearer x4\nb \u{1b}[31mred\n";
        let cleaned = clean(text);
        for secret in ["x1", "x2", "x3", "x4"] {
            assert!(!cleaned.contains(secret), "{cleaned}");
        }
        assert!(cleaned.starts_with("a\n(a line is left out") && cleaned.ends_with("b [31mred\n"));
        assert_eq!(
            cleaned.lines().filter(|line| line.starts_with('(')).count(),
            4
        );
    }

    #[test]
    fn each_part_and_the_whole_are_bounded() {
        let mut report = Report(String::new());
        for number in 0..100 {
            report.part(&format!("part {number}"), &"häufig\n".repeat(40_000));
        }
        assert!(report.0.len() <= WHOLE);
        assert!(
            report.0.ends_with("==== (no more room)\n")
                && report.0.matches("no more room").count() == 1
        );
        let mut report = Report(String::new());
        report.part("one line", &"é".repeat(PART));
        assert!(report.0.len() < LINE + 200);
    }

    #[tokio::test]
    async fn commands_that_fail_hang_up_or_are_missing_say_so() {
        assert_eq!(
            run(&["no-such-program-here"]).await,
            "(no-such-program-here: No such file or directory (os error 2))"
        );
        assert_eq!(
            run(&["sh", "-c", "echo out; echo err >&2; exit 3"]).await,
            "out\nerr\n(exit status: 3)"
        );
        let much = run(&["sh", "-c", "yes | head -c 1000000"]).await.len();
        assert!((PART..PART + 64).contains(&much), "{much}");
    }

    #[tokio::test]
    async fn a_node_is_described_without_its_key() {
        let root = tempfile::tempdir().unwrap();
        let write = |path: &str, text: &str| {
            let path = root.path().join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("data/agent/identity/key.pem", "hunter2");
        write("data/agent/enrol.toml", "hunter2");
        write("data/agent/update.json", "{\"state\":\"fetching\"}");
        write("data/releases/1.0/root.erofs", "12345");
        write("proc/cmdline", "cairn.release=1.0");
        let sources = Sources {
            root: root.path().to_owned(),
            data: root.path().join("data"),
        };
        let text = String::from_utf8(collect(&sources, &serde_json::json!({ "link": "up" })).await)
            .unwrap();
        for part in [
            "\"link\": \"up\"",
            "{\"state\":\"fetching\"}",
            "5 1.0/root.erofs",
            "cairn.release=1.0",
            "==== space: df -h",
        ] {
            assert!(text.contains(part), "{part} is not in\n{text}");
        }
        assert!(!text.contains("hunter2"));
    }
}
