//! Running a program for a call: with a time limit, and an end to what it may say.

use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt};
use tokio::process::Command;

/// How much of each stream is kept, in bytes: an answer must fit a message.
const KEPT: usize = 16 * 1024;

/// What a program did.
#[derive(Debug)]
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// The end of what it printed.
    pub stdout: String,
    /// The end of what it complained.
    pub stderr: String,
}

/// Runs `argv` without a shell.
///
/// # Errors
/// If it can't be started, or doesn't end in time; then it is killed.
pub async fn run(argv: &[String], limit: Duration) -> Result<Output, String> {
    let (program, arguments) = argv.split_first().ok_or("no program is named")?;
    let mut child = Command::new(program)
        .args(arguments)
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .env_remove("NOTIFY_SOCKET")
        .env_remove("WATCHDOG_USEC")
        .kill_on_drop(true)
        .spawn()
        .map_err(|error| format!("cannot run {program}: {error}"))?;
    let (stdout, stderr) = (child.stdout.take(), child.stderr.take());
    let work = async {
        let (stdout, stderr) = tokio::join!(tail(stdout), tail(stderr));
        child.wait().await.map(|status| Output {
            status,
            stdout,
            stderr,
        })
    };
    match tokio::time::timeout(limit, work).await {
        Ok(ended) => ended.map_err(|error| format!("{program}: {error}")),
        Err(_) => Err(format!(
            "{program} did not end within {} s and was stopped",
            limit.as_secs()
        )),
    }
}

/// Runs `argv`; anything but success is an error.
///
/// # Errors
/// Also if it ends with another status than 0.
pub async fn succeed(argv: &[&str], limit: Duration) -> Result<String, String> {
    let argv: Vec<String> = argv.iter().map(|&part| part.to_owned()).collect();
    let output = run(&argv, limit).await?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    Err(format!(
        "`{}` failed with {}: {}",
        argv.join(" "),
        output.status,
        output.stderr.trim_end()
    ))
}

/// Reads to the end, and keeps the last of it.
async fn tail(stream: Option<impl AsyncRead + Unpin>) -> String {
    let Some(mut stream) = stream else {
        return String::new();
    };
    let mut kept = Vec::new();
    let mut part = [0; 4096];
    while let Ok(read @ 1..) = stream.read(&mut part).await {
        kept.extend_from_slice(&part[..read]);
        if kept.len() > KEPT * 2 {
            kept.drain(..kept.len() - KEPT);
        }
    }
    kept.drain(..kept.len().saturating_sub(KEPT));
    String::from_utf8_lossy(&kept).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sh(script: &str, limit: Duration) -> Result<Output, String> {
        let argv = ["/bin/sh", "-c", script].map(str::to_owned);
        tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap()
            .block_on(run(&argv, limit))
    }

    #[test]
    fn a_program_that_hangs_is_stopped() {
        let error = sh("exec /bin/sleep 1000", Duration::from_millis(200)).unwrap_err();
        assert!(error.contains("was stopped"), "{error}");
    }

    #[test]
    fn only_the_end_of_much_output_is_kept() {
        let output = sh(
            "i=0; while [ $i -lt 20000 ]; do echo line $i; i=$((i+1)); done; echo bad >&2; exit 3",
            Duration::from_secs(60),
        )
        .unwrap();
        assert_eq!(output.status.code(), Some(3));
        assert!(output.stdout.len() <= KEPT && output.stdout.ends_with("line 19999\n"));
        assert_eq!(output.stderr, "bad\n");
    }
}
