//! What a person, a pipeline's log and a program see.
//!
//! Results go to stdout: text, or with `--json` one JSON document. Progress goes
//! to stderr: bars on a terminal, plain lines without one, JSON lines with `--json`.

use crate::error::{Error, Result};
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde::Serialize;
use std::io::{IsTerminal as _, Write as _};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

/// Every bar on the screen: steps run side by side, each on a line of its own.
static BARS: LazyLock<MultiProgress> = LazyLock::new(MultiProgress::new);

/// Where output goes, and in which form.
#[derive(Debug, Clone, Copy)]
pub struct Console {
    json: bool,
    quiet: bool,
    bars: bool,
}

impl Console {
    /// The console for this process.
    pub fn new(json: bool, quiet: bool) -> Self {
        let bars = !json && !quiet && std::io::stderr().is_terminal();
        Self { json, quiet, bars }
    }

    /// Whether the result must be JSON.
    pub fn is_json(&self) -> bool {
        self.json
    }

    /// Prints the command's result: `text` for people, `value` for programs.
    ///
    /// # Errors
    /// If stdout can't be written to.
    pub fn result(&self, value: &impl Serialize, text: impl FnOnce() -> String) -> Result<()> {
        let mut out = if self.json {
            serde_json::to_string_pretty(value)
                .map_err(|e| Error::failed("cannot write the result as JSON").because(e))?
        } else {
            text()
        };
        if !out.is_empty() && !out.ends_with('\n') {
            out.push('\n');
        }
        let mut stdout = std::io::stdout().lock();
        match stdout
            .write_all(out.as_bytes())
            .and_then(|()| stdout.flush())
        {
            // `imgtool … | head` is no failure.
            Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => {
                Err(Error::failed("cannot write to stdout").because(error))
            }
            _ => Ok(()),
        }
    }

    /// Says something that is no result.
    pub fn note(&self, text: &str) {
        self.event("note", text, None, || text.to_owned());
    }

    /// Warns.
    pub fn warn(&self, text: &str) {
        self.event("warning", text, None, || format!("warning: {text}"));
    }

    /// Prints the error chain, once.
    pub fn error(&self, error: &Error) {
        let chain = error.chain();
        let text = if self.json {
            let value = serde_json::json!({
                "event": "error",
                "code": error.kind() as i32,
                "chain": chain,
                "hint": error.way_out(),
            });
            format!("{value}\n")
        } else {
            let mut text = format!("error: {}\n", chain[0]);
            for cause in &chain[1..] {
                text.push_str(&format!("  caused by: {cause}\n"));
            }
            if let Some(hint) = error.way_out() {
                text.push_str(&format!("\nhint: {hint}\n"));
            }
            text
        };
        // There is nowhere left to say that stderr is gone.
        let _ = std::io::stderr().write_all(text.as_bytes());
    }

    /// Begins a step that takes time. `total` is its size in bytes, if known.
    pub fn step(&self, name: &str, total: Option<u64>) -> Step {
        let bar = self.bars.then(|| {
            let (bar, template) = match total {
                Some(total) => (
                    ProgressBar::new(total),
                    "{spinner} {msg:32} {wide_bar} {bytes}/{total_bytes} {elapsed}",
                ),
                None => (ProgressBar::new_spinner(), "{spinner} {msg:32} {elapsed}"),
            };
            let bar = BARS.add(bar);
            if let Ok(style) = ProgressStyle::with_template(template) {
                bar.set_style(style);
            }
            bar.set_message(name.to_owned());
            bar.enable_steady_tick(Duration::from_millis(120));
            bar
        });
        if bar.is_none() {
            self.event("begin", name, None, || format!("{name} …"));
        }
        Step {
            console: *self,
            name: name.to_owned(),
            bar,
            began: Instant::now(),
        }
    }

    fn event(&self, event: &str, name: &str, seconds: Option<f64>, text: impl FnOnce() -> String) {
        if self.quiet && event != "warning" {
            return;
        }
        let line = if self.json {
            let mut value = serde_json::json!({ "event": event, "message": name });
            if let Some(seconds) = seconds {
                value["seconds"] = ((seconds * 1000.0).round() / 1000.0).into();
            }
            value.to_string()
        } else {
            text()
        };
        if self.bars {
            // Above the bars, which are drawn anew.
            let _ = BARS.println(line);
        } else {
            let _ = writeln!(std::io::stderr(), "{line}");
        }
    }
}

/// A step in progress; it is over when [`Step::done`] is called.
pub struct Step {
    console: Console,
    name: String,
    bar: Option<ProgressBar>,
    began: Instant,
}

impl Step {
    /// So many more bytes are through.
    pub fn advance(&self, bytes: u64) {
        if let Some(bar) = &self.bar {
            bar.inc(bytes);
        }
    }

    /// The step has succeeded; its time is said and given back.
    pub fn done(self) -> Duration {
        let took = self.began.elapsed();
        let seconds = took.as_secs_f64();
        let name = &self.name;
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
        self.console.event("end", name, Some(seconds), || {
            format!("{name}: {seconds:.1} s")
        });
        took
    }
}

impl Drop for Step {
    fn drop(&mut self) {
        if let Some(bar) = &self.bar {
            bar.finish_and_clear();
        }
    }
}
