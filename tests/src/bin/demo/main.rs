//! `make demo`: from packages to a verified boot, and from a control plane to a fleet that
//! updates itself, falls back, and works for customers, with nothing but the real parts. At the end a report
//! of what each step took, and of what each node went through.

mod nodes;
mod report;
mod work;

use std::fs;
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use cairn_tests::workshop::{GOOD, NEXT, Programs, Workshop};
use cairn_tests::{Disk, Firmware, PacmanRepo, Vm, Writes, tools};
use regex::Regex;
use report::{Report, megabytes};

const BOOT: Duration = Duration::from_secs(300);

fn main() -> Result<()> {
    let dir = tools::target_dir().canonicalize()?.join("demo");
    if dir.exists() {
        fs::remove_dir_all(&dir)?;
    }
    fs::create_dir_all(&dir)?;
    let mut report = Report::default();
    let workshop = match std::env::args().nth(1).as_deref() {
        None => image(&mut report, &dir)?,
        // Only the second half, with the tests' own keys.
        Some("nodes") => report.step("make the keys and the loader", Workshop::ensure)?,
        Some(other) => bail!("there is no part {other:?}: expected nothing, or nodes"),
    };
    let pages = nodes::run(&mut report, &dir, workshop)?;
    report.print(&pages);
    Ok(())
}

/// Builds two releases, flashes a disk, boots both by UEFI; gives the keys and the loader.
fn image(report: &mut Report, dir: &Path) -> Result<Workshop> {
    let programs = report.step("compile imgtool and the initramfs hook", || {
        Programs::build(true)
    })?;
    let repo = report.step(
        "make a pacman repository of Debian's packages",
        PacmanRepo::ensure,
    )?;
    report.note(format!("{} packages", repo.packages().len()));
    let workshop = Workshop::empty(dir, programs, repo);
    report.step("make the keys and the trust root", || workshop.make_keys())?;
    workshop.make_profile(&[("linux-qemu", "linux")])?;

    let releases = dir.join("releases");
    for (version, sequence, motd) in [
        (GOOD, 1, "the first release\n"),
        (NEXT, 2, "the second release\n"),
    ] {
        let site = workshop.site(
            version,
            "hostname = \"edge-{mac}\"",
            &[("motd", "/etc/motd", motd)],
        )?;
        let name = format!("imgtool build {version}");
        report.step(&name, || {
            let args = workshop.build_args(version, sequence, &releases);
            Ok(workshop.imgtool(args).arg("--site").arg(site).run()?)
        })?;
        let size = |file: &str| -> Result<String> {
            Ok(megabytes(
                fs::metadata(workshop.release(version).join(file))?.len(),
            ))
        };
        let (kernel, root) = (size("kernel.squashfs")?, size("root.erofs")?);
        report.note(format!("kernel container {kernel}, root image {root}"));
    }
    report.step("imgtool diff", || {
        let diff = workshop
            .imgtool(["diff"])
            .args([workshop.release(GOOD), workshop.release(NEXT)])
            .run()?;
        println!("{}", diff.text());
        Ok(())
    })?;
    report.step("imgtool loader", || workshop.make_loader())?;
    let image = dir.join("disk.img");
    let disk = report.step("imgtool flash, both releases", || {
        workshop.flash(&image, &[GOOD, NEXT], &[])
    })?;
    report.step("check the disk (sgdisk, fsck.vfat, e2fsck)", || disk.fsck())?;

    let choose = |args: &[&str]| {
        workshop
            .imgtool(["disk", "boot"])
            .arg(&image)
            .args(args)
            .run()
    };
    choose(&["--trial", NEXT])?;
    boot(report, &disk, NEXT, "trial")?;
    choose(&["--no-trial", "--good", GOOD])?;
    boot(report, &disk, GOOD, "good")?;
    report.note(format!(
        "{} boots by UEFI and by BIOS",
        image.file_name().unwrap_or_default().display()
    ));
    Ok(workshop)
}

/// Boots by UEFI, tells the stations on the way, and switches off in order.
fn boot(report: &mut Report, disk: &Disk, version: &str, slot: &str) -> Result<()> {
    let began = Instant::now();
    eprintln!("demo: booting {version} by OVMF under emulation …");
    let mut vm = Vm::builder(&format!("demo-{version}"))
        .disk(disk.path(), Writes::Kept)
        .firmware(Firmware::Ovmf)
        .watchdog()
        .start()?;
    let mut last = began.elapsed();
    for (station, line) in [
        (
            "OVMF, GRUB and the boot state",
            format!("cairn: {version}: starting as {slot}"),
        ),
        (
            "kernel, initramfs and dm-verity",
            format!("cairn: {version}: root verified"),
        ),
        (
            "systemd on the verified erofs",
            format!("cairn-up: release {version}, slot {slot}, root erofs"),
        ),
    ] {
        vm.serial()
            .expect(Regex::new(&regex::escape(&line))?, BOOT)?;
        let now = began.elapsed();
        report.add(&format!("boot {version}: {station}"), now - last);
        last = now;
    }
    vm.serial().expect("bash-5.2# ", BOOT)?;
    vm.serial().send_line("systemctl poweroff")?;
    vm.serial().expect("all file systems are unmounted", BOOT)?;
    vm.wait_for_end(BOOT)?;
    anyhow::ensure!(disk.is_clean()?, "the data partition was not left clean");
    report.add(
        &format!("boot {version}: switched off, disk clean"),
        began.elapsed() - last,
    );
    Ok(())
}
