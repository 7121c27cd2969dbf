//! What goes to stdout and stderr: tables and sentences for people, JSON for programs.

use std::io::{IsTerminal as _, Write as _};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde_json::Value;

use crate::error::{Error, Result};

/// Where results go, and in which form.
pub struct Output {
    json: bool,
}

impl Output {
    /// For this process.
    pub fn new(json: bool) -> Self {
        Self { json }
    }

    /// Whether results are JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Writes a command's result: `value` for programs, `text` for people.
    ///
    /// # Errors
    /// If stdout can't be written to.
    pub fn result(&self, value: &Value, text: impl FnOnce() -> String) -> Result<()> {
        let mut out = if self.json {
            format!("{value:#}")
        } else {
            text()
        };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        self.bytes(out.as_bytes())
    }

    /// Writes bytes as they are.
    ///
    /// # Errors
    /// If stdout can't be written to.
    pub fn bytes(&self, bytes: &[u8]) -> Result<()> {
        // `cairnctl … | head` is no failure.
        self.read_on(bytes).map(|_| ())
    }

    /// Writes bytes as they are; whether anybody reads them, and what may follow.
    ///
    /// # Errors
    /// If stdout can't be written to, but not if it is a closed pipe.
    pub fn read_on(&self, bytes: &[u8]) -> Result<bool> {
        let mut stdout = std::io::stdout().lock();
        match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
            Ok(()) => {}
            Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => return Ok(false),
            Err(error) => return Err(Error::new("cannot write to stdout").because(error)),
        }
        // A pipe that took the bytes, or none, may be closed since.
        let mut fds = [PollFd::new(&stdout, PollFlags::empty())];
        let polled = poll(&mut fds, Some(&Timespec::default()));
        let closed = fds.iter().any(|fd| fd.revents().contains(PollFlags::ERR));
        Ok(polled.is_err() || !closed)
    }

    /// Says something that is no result.
    pub fn note(&self, text: &str) {
        if !self.json {
            let _ = writeln!(std::io::stderr(), "{text}");
        }
    }

    /// Writes an error to stderr.
    pub fn error(&self, error: &Error) {
        let text = if self.json {
            format!("{}\n", error.json())
        } else {
            error.text()
        };
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// A bar of so many bytes on a terminal; without one it draws nothing.
    pub fn bar(&self, total: u64) -> ProgressBar {
        let bar = ProgressBar::with_draw_target(Some(total), ProgressDrawTarget::stderr());
        if self.json || !std::io::stderr().is_terminal() {
            bar.set_draw_target(ProgressDrawTarget::hidden());
        }
        if let Ok(style) = ProgressStyle::with_template(
            "{msg:24} {wide_bar} {bytes}/{total_bytes} {bytes_per_sec} {eta}",
        ) {
            bar.set_style(style);
        }
        bar
    }

    /// Whether bars are seen; if not, lines tell of progress.
    pub fn draws(&self) -> bool {
        !self.json && std::io::stderr().is_terminal()
    }
}

/// A table with a head, its columns as wide as they need; `none` if there is nothing in it.
pub fn table(none: &str, head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return format!("{none}\n");
    }
    let mut widths: Vec<usize> = head.iter().map(|cell| cell.chars().count()).collect();
    for row in rows {
        for (width, cell) in widths.iter_mut().zip(row) {
            *width = (*width).max(cell.chars().count());
        }
    }
    let line = |cells: &mut dyn Iterator<Item = &str>| {
        let cells: Vec<_> = cells
            .zip(&widths)
            .map(|(cell, width)| format!("{cell:width$}"))
            .collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    let mut out = line(&mut head.iter().copied());
    for row in rows {
        out.push_str(&line(&mut row.iter().map(String::as_str)));
    }
    out
}

/// Names and values below each other.
pub fn fields(rows: &[(&str, String)]) -> String {
    let width = rows.iter().map(|(name, _)| name.len()).max().unwrap_or(0);
    rows.iter()
        .map(|(name, value)| format!("{name:width$}  {value}\n"))
        .collect()
}

/// A value of JSON as text in a cell: strings without quotes, and nothing that could steer a terminal.
pub fn cell(value: &Value) -> String {
    let text = match value {
        Value::Null => "-".into(),
        Value::String(text) => text.clone(),
        Value::Array(items) if items.iter().all(Value::is_string) => items
            .iter()
            .filter_map(Value::as_str)
            .collect::<Vec<_>>()
            .join(","),
        other => other.to_string(),
    };
    clean(&text)
}

/// A selector or an alarm's condition in a cell: `group fra`, `above 80, clear 70`, `all`.
pub fn brief(value: &Value) -> String {
    let Some((name, inner)) = value.as_object().and_then(|one| one.iter().next()) else {
        return cell(value);
    };
    let number = |name: &str| inner.get(name).and_then(Value::as_f64);
    let name = clean(name);
    match (number("limit"), number("clear")) {
        (Some(limit), Some(clear)) => format!("{name} {limit}, clear {clear}"),
        (Some(limit), None) => format!("{name} {limit}"),
        (None, _) => format!("{name} {}", cell(inner)),
    }
}

/// Text that a device or another person chose, made safe for a terminal.
pub fn clean(text: &str) -> String {
    text.chars()
        .map(|c| if c.is_control() { '\u{fffd}' } else { c })
        .collect()
}

/// A moment in seconds since 1970, for people.
pub fn moment(value: &Value) -> String {
    value
        .as_i64()
        .and_then(|seconds| jiff::Timestamp::from_second(seconds).ok())
        .map_or_else(|| "-".into(), |moment| moment.to_string())
}

/// Bytes for people.
pub fn bytes(count: u64) -> String {
    let mut size = count as f64;
    for unit in ["B", "KiB", "MiB"] {
        if size < 1024.0 {
            return if unit == "B" {
                format!("{count} B")
            } else {
                format!("{size:.1} {unit}")
            };
        }
        size /= 1024.0;
    }
    format!("{size:.1} GiB")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn selectors_and_conditions_are_brief() {
        for (json, text) in [
            (r#""all""#, "all"),
            (r#"{"group":"fra"}"#, "group fra"),
            (r#"{"tags":["a","b"]}"#, "tags a,b"),
            (
                r#"{"above":{"clear":70.0,"limit":80.0}}"#,
                "above 80, clear 70",
            ),
            (r#"{"below":{"limit":0.5}}"#, "below 0.5"),
            (r#"{"is-not":"ok"}"#, "is-not ok"),
        ] {
            assert_eq!(brief(&serde_json::from_str(json).unwrap()), text);
        }
    }

    #[test]
    fn a_table_is_aligned_and_cannot_steer_the_terminal() {
        let rows = [
            vec!["edge-1".into(), cell(&Value::from("a\u{1b}[2Jb"))],
            vec!["e".into(), cell(&Value::Null)],
        ];
        assert_eq!(
            table("nothing", &["ID", "NAME"], &rows),
            "ID      NAME\nedge-1  a\u{fffd}[2Jb\ne       -\n"
        );
        assert_eq!(table("nothing", &["ID", "NAME"], &[]), "nothing\n");
    }
}
