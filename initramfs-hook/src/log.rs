//! Lines for people: into the kernel's log, and onto the console.
//!
//! The kernel puts a line of its log on every console whose level allows it; with
//! `quiet` on the command line it allows almost nothing. What the kernel would
//! keep to itself is therefore also written to `/dev/console`, so that every
//! line is seen exactly once where a person looks.

use std::fmt;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::sync::OnceLock;

use cairn_release::Version;

/// The longest piece that the kernel takes as one record, with room for its head.
const LONGEST: usize = 900;
const DEVKMSG: &str = "/proc/sys/kernel/printk_devkmsg";

static PREFIX: OnceLock<String> = OnceLock::new();

/// Stops the kernel from dropping lines that come fast. Needs `/proc`.
pub fn unlimited() {
    // Refused if the command line fixed it; then lines may be lost, no more.
    let _ = fs::write(DEVKMSG, "on\n");
}

/// Gives the kernel its own limit back, for the system that follows.
pub fn limited() {
    let _ = fs::write(DEVKMSG, "ratelimit\n");
}

/// Makes the console this program's input and output, and that of the init that
/// follows. The kernel can't do it if the initramfs has no node for it, and at
/// shutdown the node that is open lies in the root that has to go.
pub fn take_console() {
    if let Ok(console) = OpenOptions::new()
        .read(true)
        .write(true)
        .open("/dev/console")
    {
        let _ = rustix::stdio::dup2_stdin(&console);
        let _ = rustix::stdio::dup2_stdout(&console);
        let _ = rustix::stdio::dup2_stderr(&console);
    }
}

/// From now on each line names the release: `cairn: <version>: …`.
pub fn name_release(version: &Version) {
    // The release is named once in a boot; a second name would be a mistake.
    let _ = PREFIX.set(format!("cairn: {version}"));
}

/// Something went wrong.
pub fn error(line: impl fmt::Display) {
    write(3, &line.to_string(), true);
}

/// Something that a person should look at.
pub fn warn(line: impl fmt::Display) {
    write(4, &line.to_string(), true);
}

/// A step that was taken.
pub fn notice(line: impl fmt::Display) {
    write(5, &line.to_string(), true);
}

/// For the kernel's log only.
pub fn debug(line: impl fmt::Display) {
    write(7, &line.to_string(), false);
}

fn write(level: u8, line: &str, for_people: bool) {
    let prefix = PREFIX.get().map_or("cairn", String::as_str);
    let shown = for_people && console_level().is_none_or(|limit| level >= limit);
    for piece in pieces(line) {
        if let Ok(mut kmsg) = OpenOptions::new().write(true).open("/dev/kmsg") {
            let _ = kmsg.write_all(format!("<{level}>{prefix}: {piece}\n").as_bytes());
        }
        if shown && let Ok(mut console) = OpenOptions::new().write(true).open("/dev/console") {
            let _ = console.write_all(format!("{prefix}: {piece}\r\n").as_bytes());
        }
    }
}

/// The level below which the kernel shows a line on its consoles.
fn console_level() -> Option<u8> {
    let levels = fs::read_to_string("/proc/sys/kernel/printk").ok()?;
    levels.split_ascii_whitespace().next()?.parse().ok()
}

/// Cuts a line into pieces that the kernel takes; control characters, which could
/// forge a line or move a terminal's cursor, become spaces.
fn pieces(line: &str) -> Vec<String> {
    let clean: Vec<char> = line
        .chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect();
    // Four bytes is the most that a character takes.
    clean
        .chunks(LONGEST / 4)
        .map(|piece| piece.iter().collect())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_can_neither_forge_another_nor_be_too_long() {
        assert_eq!(pieces("a\nb\u{1b}[2J"), ["a b [2J"]);
        let long = "é".repeat(1000);
        let cut = pieces(&long);
        assert!(cut.iter().all(|piece| piece.len() <= LONGEST));
        assert_eq!(cut.concat(), long);
    }
}
