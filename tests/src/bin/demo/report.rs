//! The demo's report.

use std::time::{Duration, Instant};

use anyhow::{Context, Result};

/// What was done, in order.
#[derive(Default)]
pub struct Report {
    lines: Vec<(String, Duration, String)>,
}

impl Report {
    /// Does one step, and says so.
    ///
    /// # Errors
    /// Whatever goes wrong in it.
    pub fn step<T>(&mut self, name: &str, work: impl FnOnce() -> Result<T>) -> Result<T> {
        eprintln!("demo: {name} …");
        let began = Instant::now();
        let value = work().with_context(|| format!("the demo failed at: {name}"))?;
        self.add(name, began.elapsed());
        Ok(value)
    }

    /// Adds a step that took so long.
    pub fn add(&mut self, name: &str, took: Duration) {
        self.lines.push((name.to_owned(), took, String::new()));
    }

    /// Adds something to the step that ended last.
    pub fn note(&mut self, text: String) {
        if let Some(line) = self.lines.last_mut() {
            line.2 = text;
        }
    }

    /// Prints the steps, and then each of these texts below its title.
    pub fn print(&self, more: &[(String, String)]) {
        println!("\nFrom packages to a fleet that updates itself\n");
        for (name, took, note) in &self.lines {
            println!("  {:7.1} s  {name:58} {note}", took.as_secs_f64());
        }
        for (title, text) in more {
            println!("\n{title}\n");
            for line in text.lines() {
                println!("  {line}");
            }
        }
    }
}

/// A size for people.
pub fn megabytes(bytes: u64) -> String {
    format!("{:.1} MB", bytes as f64 / 1e6)
}
