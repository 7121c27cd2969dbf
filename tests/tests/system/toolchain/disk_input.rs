//! Wrong input to `imgtool disk`: one clear error, and the disk as before.

use super::bench::{Bench, User, refuses};
use anyhow::{Result, ensure};
use cairn_tests::workshop::{GOOD, NEXT};
use std::fs::{self, File};

#[test]
fn what_is_no_disk_is_named() -> Result<()> {
    let bench = Bench::new()?;
    let home = bench.home(User::Root);
    fs::write(home.join("empty"), "")?;
    fs::write(home.join("text"), "a letter, not a disk\n")?;
    File::create(home.join("zeroes"))?.set_len(64 << 20)?;
    for name in ["empty", "text", "zeroes", "nowhere", "out"] {
        let order = ["disk", "show", name];
        refuses!(
            bench,
            User::Root,
            format!("show_{name}"),
            bench.imgtool(User::Root, &order)
        );
    }
    let order = ["disk", "boot", "zeroes", "--good", GOOD];
    refuses!(
        bench,
        User::Root,
        "boot_zeroes",
        bench.imgtool(User::Root, &order)
    );
    Ok(())
}

#[test]
fn an_order_that_is_not_possible_changes_nothing() -> Result<()> {
    let bench = Bench::new()?;
    let home = bench.home(User::Root);
    let next = bench.workshop.release(NEXT).display().to_string();
    let output = bench
        .flash(
            User::Root,
            &bench.workshop.release(GOOD),
            "disk.img",
            &["--size", "1G", "--release", &next, "--good", GOOD],
        )
        .output()?;
    ensure!(output.status.success(), "{}", bench.text(&output));
    let disk = cairn_tests::Disk::open(home.join("disk.img"))?;
    let order = |more: &[&str]| bench.imgtool(User::Root, &[&["disk"], more].concat());
    let state = || -> Result<_> {
        Ok((
            disk.esp_read("cairn/boot-a.env")?,
            disk.esp_read("cairn/boot-b.env")?,
        ))
    };
    let before = state()?;
    let boot = |more: &[&str]| order(&[&["boot", "disk.img"], more].concat());
    refuses!(bench, User::Root, "boot_nothing", boot(&[]));
    refuses!(
        bench,
        User::Root,
        "boot_unknown",
        boot(&["--good", "9.9.9"])
    );
    refuses!(
        bench,
        User::Root,
        "boot_trial_unknown",
        boot(&["--trial", "9.9.9"])
    );
    refuses!(
        bench,
        User::Root,
        "boot_trial_is_good",
        boot(&["--trial", GOOD])
    );
    refuses!(
        bench,
        User::Root,
        "boot_no_version",
        boot(&["--trial", "../etc"])
    );
    refuses!(
        bench,
        User::Root,
        "boot_tries",
        boot(&["--trial", NEXT, "--tries", "0"])
    );
    refuses!(
        bench,
        User::Root,
        "forgive_unknown",
        boot(&["--forgive", NEXT])
    );
    refuses!(bench, User::Root, "replace_missing", {
        order(&[
            "loader",
            "disk.img",
            "--replace",
            "nowhere",
            "--trust",
            "trust/1.dsse.json",
        ])
    });
    assert!(state()? == before, "the boot state has changed");

    // A release that failed: by the boot state's own rules it takes no trial.
    let failed = fail(&before.0, NEXT)?;
    disk.esp_write("cairn/boot-a.env", &failed)?;
    disk.esp_write("cairn/boot-b.env", &failed)?;
    refuses!(
        bench,
        User::Root,
        "show_failed",
        order(&["show", "disk.img"])
    );
    refuses!(bench, User::Root, "boot_failed", boot(&["--trial", NEXT]));
    refuses!(
        bench,
        User::Root,
        "boot_failed_good",
        boot(&["--good", NEXT])
    );
    assert!(state()?.0 == failed, "the boot state has changed");
    disk.esp_write("cairn/boot-a.env", b"rubbish")?;
    refuses!(
        bench,
        User::Root,
        "show_damaged",
        order(&["show", "disk.img"])
    );
    disk.fsck()
}

/// A boot state's block in which `version` has failed, as the hook would write it.
fn fail(block: &[u8], version: &str) -> Result<Vec<u8>> {
    use cairn_boot_state::{BootState, Event, step};
    let state = BootState::parse(block)?;
    let event = Event::BootFailed {
        version: version.parse()?,
    };
    Ok(step(&state, event)?.to_block().to_vec())
}
