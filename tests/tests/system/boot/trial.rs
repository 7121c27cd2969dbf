//! Trials that don't work out: the tries run out, and the good release boots.

use super::*;
use cairn_tests::workshop::{HANGS, PANICS};

#[test]
fn a_trial_that_panics_is_given_up_when_its_tries_are_used() -> Result<()> {
    let bench = Bench::new(PANICS, 2)?;
    let vm = bench.start("trial-panics")?;
    for _ in 0..2 {
        says(&vm, &format!("cairn: {PANICS}: starting as trial"))?;
        says(&vm, "Kernel panic")?;
    }
    says(&vm, &format!("cairn: {PANICS}: no tries left"))?;
    is_up(&vm, GOOD, "good")
}

#[test]
fn a_trial_that_hangs_is_ended_by_the_watchdog() -> Result<()> {
    let bench = Bench::new(HANGS, 1)?;
    let vm = bench.start("trial-hangs")?;
    says(&vm, "hanging now")?;
    says(&vm, &format!("cairn: {HANGS}: no tries left"))?;
    is_up(&vm, GOOD, "good")
}

#[test]
fn a_trial_whose_file_is_missing_is_not_started() -> Result<()> {
    for file in ["manifest.dsse.json", "kernel.squashfs", "root.erofs"] {
        let bench = Bench::on_trial()?;
        bench.disk.remove_data_file(&Bench::data(file))?;
        let vm = bench.start(&format!("trial-without-{file}"))?;
        says(&vm, &format!("cairn: {NEXT}: {file} is missing"))?;
        is_up(&vm, GOOD, "good")?;
    }
    Ok(())
}
