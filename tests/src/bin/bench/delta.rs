//! Small updates: bytes over the wire, time, memory and writes, over real packages in two
//! versions each, ours beside those who do the same.

pub mod measure;
pub mod ours;
mod packages;
mod peers;
pub mod releases;
mod wire;

use std::fs;
use std::path::Path;

use anyhow::{Context, Result};

use measure::Cost;
use ours::Image;
use peers::{Row, Task};
use releases::Pair;

/// Runs of what is compared by time, in turn.
const ROUNDS: usize = 3;
/// Average chunks of casync and bita: their default, and what suits small changes better.
const CHUNKS: [u32; 2] = [64 << 10, 16 << 10];
/// Memory that applying a patch may take.
const MEMORY: u64 = 64 << 20;
const MIB: f64 = 1024.0 * 1024.0;

/// The argument by which this program is asked to apply a patch.
pub const APPLY: &str = "apply-patch";

/// Measures all pairs.
pub fn run() -> Result<()> {
    println!(
        "## Small updates: {ROUNDS} runs of ours and of dd, in turn, medians; the rest once\n"
    );
    let dir = super::folder("delta")?;
    let pairs = releases::build(&dir)?;
    println!();
    for pair in &pairs {
        for image in pair.images {
            println!("### {}: {}, {image}\n", pair.name, pair.what);
            measure(&dir.join("work"), pair, image)?;
            println!();
        }
    }
    Ok(())
}

/// Applies a patch in this process: image, old image, patch, new release, output.
///
/// # Errors
/// If an argument is missing, or the patch can't be applied.
pub fn apply(args: &[String]) -> Result<()> {
    let [image, old, patch, new, out] = args else {
        anyhow::bail!("expected image, old image, patch, new release and output");
    };
    ours::apply(
        image,
        old.as_ref(),
        patch.as_ref(),
        new.as_ref(),
        out.as_ref(),
    )
}

fn measure(dir: &Path, pair: &Pair, image: &str) -> Result<()> {
    if dir.exists() {
        fs::remove_dir_all(dir)?;
    }
    fs::create_dir_all(dir)?;
    let (old, new) = (Image::of(&pair.old, image)?, Image::of(&pair.new, image)?);
    let task = Task {
        old: &old.path,
        new: &new.path,
        dir,
    };
    let patch = dir.join("patch");
    ours::make_patch(&old, &new, &patch)?;
    let (mut with, mut dd) = (Vec::new(), Vec::new());
    for _ in 0..ROUNDS {
        dd.push(task.whole()?);
        with.push(with_patch(&task, image, &patch, &pair.new)?);
    }
    let (with, dd) = (median(with)?, median(dd)?);
    let without = Row {
        tool: "ours, without a patch (computed)".to_owned(),
        wire: ours::blocks_to_fetch(&old, &new)?,
        cost: None,
    };
    let limit = task.zstd()?;
    let rauc = task.rauc()?;
    let mut chunked = Vec::new();
    for average in CHUNKS {
        chunked.push(task.casync(average)?);
        chunked.push(task.bita(average)?);
    }
    println!("| Tool | Bytes over the wire | Of the image | Seconds | Peak MiB | Written MiB |");
    println!("|---|---|---|---|---|---|");
    let rows = [&with, &without, &limit, &rauc];
    for row in rows.into_iter().chain(&chunked).chain([&dd]) {
        print_row(row, new.size());
    }
    let peers = chunked.iter().chain([&rauc]).map(|row| row.wire);
    goals(
        &with,
        &without,
        &dd,
        &limit,
        &rauc,
        peers.min().unwrap_or(u64::MAX),
    )
}

fn with_patch(task: &Task, image: &str, patch: &Path, new: &Path) -> Result<Row> {
    let (out, notes) = task.out()?;
    let program = std::env::current_exe()?;
    let paths = [task.old, patch, new, &out].map(|path| path.display().to_string());
    let args = [APPLY.to_owned(), image.to_owned()];
    let cost = measure::run(program, args.iter().chain(&paths), &notes)?;
    task.done("ours, with a patch", fs::metadata(patch)?.len(), cost)
}

/// The run that took neither the longest nor the shortest time.
fn median(mut rows: Vec<Row>) -> Result<Row> {
    let seconds = |row: &Row| row.cost.map_or(0.0, |cost| cost.seconds);
    rows.sort_by(|a, b| seconds(a).total_cmp(&seconds(b)));
    let middle = rows.len() / 2;
    rows.into_iter().nth(middle).context("nothing ran")
}

fn print_row(row: &Row, whole: u64) {
    let share = 100.0 * row.wire as f64 / whole as f64;
    let cost = row.cost.map_or("| | |".to_owned(), |cost: Cost| {
        let (memory, written) = (cost.memory as f64 / MIB, cost.written as f64 / MIB);
        format!("{:.2} | {memory:.1} | {written:.1} |", cost.seconds)
    });
    println!("| {} | {} | {share:.2} % | {cost}", row.tool, row.wire);
}

fn goals(with: &Row, without: &Row, dd: &Row, limit: &Row, rauc: &Row, best: u64) -> Result<()> {
    let (ours, theirs) = (with.cost.context("no cost")?, dd.cost.context("no cost")?);
    let ratio = |a: u64, b: u64| a as f64 / b as f64;
    println!();
    let all = [
        (
            "with a patch, to the best of casync, bita and RAUC",
            ratio(with.wire, best),
            0.5,
        ),
        (
            "without a patch, to RAUC",
            ratio(without.wire, rauc.wire),
            1.0,
        ),
        (
            "with a patch, to zstd over the whole image",
            ratio(with.wire, limit.wire),
            1.25,
        ),
        ("memory, to 64 MiB", ratio(ours.memory, MEMORY), 1.0),
        ("time to install, to dd", ours.seconds / theirs.seconds, 1.3),
    ];
    for (what, got, goal) in all {
        let word = if got <= goal { "met" } else { "MISSED" };
        println!("- {what}: {got:.2} (goal {goal:.2}, {word})");
    }
    Ok(())
}
