//! `make bench`: speed, size and memory, each against a peer or a limit that is measured in
//! the same run, since a machine's speed drifts. With names of parts as arguments only those.

mod agent;
mod alarms;
mod bills;
mod control;
mod delta;
mod images;
mod ingest;
mod workloads;

use std::fs;
use std::path::PathBuf;

use anyhow::{Result, bail};
use cairn_tests::tools;

type Part = (&'static str, fn() -> Result<()>);

const PARTS: [Part; 8] = [
    ("images", images::run),
    ("control", control::run),
    ("alarms", alarms::run),
    ("bills", bills::run),
    ("ingest", ingest::run),
    ("agent", agent::run),
    ("workloads", workloads::run),
    ("delta", delta::run),
];

fn main() -> Result<()> {
    let wanted: Vec<String> = std::env::args().skip(1).collect();
    if let Some((delta::APPLY, rest)) = wanted.split_first().map(|(word, rest)| (&**word, rest)) {
        return delta::apply(rest);
    }
    if wanted == [workloads::INSIDE] {
        return workloads::inside();
    }
    if let Some(unknown) = wanted
        .iter()
        .find(|name| PARTS.iter().all(|(part, _)| part != name))
    {
        bail!(
            "there is no part {unknown:?}: expected {}",
            PARTS.map(|(part, _)| part).join(", ")
        );
    }
    println!("{} processors\n", std::thread::available_parallelism()?);
    for (part, run) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|name| name == part) {
            run()?;
            println!();
        }
    }
    Ok(())
}

/// An empty folder for a part's work.
fn folder(part: &str) -> Result<PathBuf> {
    let dir = tools::target_dir().canonicalize()?.join("bench").join(part);
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    Ok(dir)
}

fn median(values: &mut [f64]) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}
