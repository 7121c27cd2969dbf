//! `imgtool disk loader --replace`: the old loader boots until the new one does.

use super::bench::{Bench, User};
use anyhow::{Context, Result, ensure};
use cairn_tests::Disk;
use cairn_tests::tools::require;
use cairn_tests::workshop::GOOD;
use regex::Regex;
use std::fs::{self, File};
use std::os::unix::fs::FileExt as _;
use std::path::Path;

const NEW: &str = "EFI/BOOT/BOOTX64.EFI";
const OLD: &str = "EFI/BOOT/BOOTX64.OLD";

/// One write to the disk: where, and what.
struct Write {
    at: u64,
    bytes: Vec<u8>,
}

#[test]
fn power_may_be_cut_after_every_write() -> Result<()> {
    let bench = Bench::new()?;
    let release = bench.workshop.release(GOOD);
    let output = bench
        .flash(User::Root, &release, "disk.img", &["--size", "1G"])
        .output()?;
    ensure!(output.status.success(), "{}", bench.text(&output));
    let disk = Disk::open(bench.home(User::Root).join("disk.img"))?;
    // Not signed for Secure Boot, so another program.
    let output = bench.loader(User::Root, &[]).output()?;
    ensure!(output.status.success(), "{}", bench.text(&output));
    let new = fs::read(bench.home(User::Root).join("out/loader/BOOTX64.EFI"))?;
    let old = disk.esp_read(NEW)?;
    assert_ne!(old, new);

    let replayed = disk.copy_to(bench.path("replayed.img"))?;
    let writes = traced(&bench, &disk)?;
    assert_eq!(
        (disk.esp_read(NEW)?, disk.esp_read(OLD)?),
        (new.clone(), old.clone())
    );
    disk.fsck()?;

    let file = File::options().write(true).open(replayed.path())?;
    let mut exchanges = Vec::new();
    for write in &writes {
        let before = replayed.esp_read(NEW)?;
        file.write_all_at(&write.bytes, write.at)?;
        let after = replayed.esp_read(NEW)?;
        assert!(
            after == old || after == new,
            "no whole loader after a write at {}",
            write.at
        );
        if before != after {
            exchanges.push(write);
            replayed.fsck()?;
        }
    }
    let [exchange] = exchanges[..] else {
        anyhow::bail!("{} writes change the loader", exchanges.len());
    };
    assert_eq!(
        (exchange.bytes.len(), exchange.at % 512),
        (512, 0),
        "not one sector"
    );
    assert!(
        fs::read(replayed.path())? == fs::read(disk.path())?,
        "the trace isn't whole"
    );

    // A second time nothing is left to do.
    let again = traced(&bench, &disk)?;
    assert!(again.is_empty(), "{} writes", again.len());
    bench.is_at_rest()
}

/// Replaces the loader and gives what was written to the disk, in order.
fn traced(bench: &Bench, disk: &Disk) -> Result<Vec<Write>> {
    let log = bench.path("trace");
    let output = bench
        .program(User::Root, &require("strace")?.display().to_string())
        .args(["-f", "-y", "-xx", "-s", "16777216"])
        .args(["-e", "trace=write,pwrite64,lseek", "-o"])
        .arg(&log)
        .arg(bench.path("imgtool"))
        .args(["disk", "loader", "disk.img", "--replace", "out/loader"])
        .args(["--trust", "trust/1.dsse.json"])
        .output()?;
    ensure!(output.status.success(), "{}", bench.text(&output));
    parse(&fs::read_to_string(log)?, disk.path())
}

/// Reads strace's lines about one file. Descriptors of one open file share a place.
fn parse(log: &str, path: &Path) -> Result<Vec<Write>> {
    let hex: String = path
        .as_os_str()
        .as_encoded_bytes()
        .iter()
        .map(|byte| format!("\\x{byte:02x}"))
        .collect();
    let shown = [path.display().to_string(), hex];
    let call = Regex::new(r"(\w+)\(\d+<([^>]*)>, (.*)\) += (\d+)$")?;
    let (mut writes, mut place) = (Vec::new(), 0);
    for found in log.lines().filter_map(|line| call.captures(line)) {
        if !shown.contains(&found[2].trim_matches('"').to_owned()) {
            continue;
        }
        let (args, result): (_, u64) = (&found[3], found[4].parse()?);
        let data = || -> Result<Vec<u8>> {
            let text = args.split('"').nth(1).context("a write without data")?;
            Ok(hex::decode(text.replace("\\x", ""))?)
        };
        match &found[1] {
            "lseek" => place = result,
            "write" => {
                let mut bytes = data()?;
                bytes.truncate(usize::try_from(result)?);
                writes.push(Write { at: place, bytes });
                place += result;
            }
            _ => {
                let at = args
                    .rsplit(", ")
                    .next()
                    .context("a write without a place")?;
                let at = at.parse()?;
                writes.push(Write { at, bytes: data()? });
            }
        }
    }
    Ok(writes)
}
