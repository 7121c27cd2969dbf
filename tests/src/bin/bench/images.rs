//! Building an image, against the bare tools; booting it, against a boot that verifies nothing.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use cairn_system::Command;
use cairn_tests::workshop::{GOOD, Programs, Workshop};
use cairn_tests::{Disk, Firmware, PacmanRepo, Vm, Writes};
use regex::Regex;

const BUILDS: usize = 3;
const BOOTS: usize = 5;
const BOOT: Duration = Duration::from_secs(120);

/// What a person would type, one after another. Hooks want /dev and /proc.
const BY_HAND: &str = r#"
set -eu
conf=$1 packages=$2 packing=$3
mkdir -p root/var/lib/pacman root/dev root/proc
mount --bind /dev root/dev
mount -t proc proc root/proc
pacman --root "$PWD/root" --dbpath "$PWD/root/var/lib/pacman" --config "$conf" --hookdir "$PWD/root/etc/pacman.d/hooks" \
    --cachedir "$PWD/cache" --logfile /dev/null --noconfirm --noprogressbar -Sy $packages >/dev/null 2>&1
umount root/proc root/dev
mkdir kernel
mv root/usr/lib/modules root/usr/lib/firmware kernel/
mkfs.erofs --quiet -T0 -zlz4hc root.erofs root >/dev/null
mksquashfs kernel kernel.squashfs -noappend -quiet -no-progress $packing >/dev/null
"#;

/// Measures a build and a boot.
pub fn run() -> Result<()> {
    let programs = Programs::build(true)?;
    let repo = PacmanRepo::ensure()?;
    let dir = super::folder("images")?;
    let workshop = Workshop::empty(&dir, programs, repo);
    workshop.make_keys()?;
    workshop.make_profile(&[])?;
    println!("## Images: {BUILDS} builds and {BOOTS} boots of each kind, in turn; medians\n");
    build(&workshop)?;
    workshop.make_loader()?;
    boot(&workshop)
}

fn build(workshop: &Workshop) -> Result<()> {
    let packages = fs::read_to_string(workshop.profile().join("packages.x86_64"))?;
    let packages: Vec<&str> = packages
        .lines()
        .filter_map(|line| line.split('#').next())
        .map(str::trim)
        .collect();
    let by_hand = |packing: &str| -> Result<f64> {
        let place = workshop.dir().join("by-hand");
        fs::create_dir(&place)?;
        let began = Instant::now();
        Command::new("unshare")
            .args([
                "--mount",
                "--propagation",
                "private",
                "bash",
                "-c",
                BY_HAND,
                "bash",
            ])
            .arg(workshop.profile().join("pacman.conf"))
            .args([&packages.join(" "), packing])
            .dir(&place)
            .run()?;
        let took = began.elapsed().as_secs_f64();
        fs::remove_dir_all(&place)?;
        Ok(took)
    };
    let (mut ours, mut same, mut default, mut last) = (vec![], vec![], vec![], None);
    for _ in 0..BUILDS {
        let out = workshop.dir().join("releases");
        if out.exists() {
            fs::remove_dir_all(&out)?;
        }
        let began = Instant::now();
        let output = workshop
            .imgtool(["--json"])
            .args(workshop.build_args(GOOD, 1, &out))
            .run()?;
        ours.push(began.elapsed().as_secs_f64());
        last = Some(serde_json::from_slice::<serde_json::Value>(&output.stdout)?);
        same.push(by_hand("-comp lzo -Xcompression-level 6")?);
        default.push(by_hand("")?);
    }
    let (ours, same, default) = (
        super::median(&mut ours),
        super::median(&mut same),
        super::median(&mut default),
    );
    let report = last.context("no build ran")?;
    println!("imgtool build, signed, with verity, index, SBOM and initramfs   {ours:7.2} s");
    println!("  each step, those of the images side by side:");
    for step in report["seconds"].as_array().context("no steps")? {
        println!(
            "    {:40} {:7.2} s",
            step[0].as_str().unwrap_or("?"),
            step[1].as_f64().unwrap_or(0.0)
        );
    }
    println!(
        "pacman, mkfs.erofs, mksquashfs by hand, lzo level 6 as ours     {same:7.2} s   ratio {:.2} (goal 0.90)",
        ours / same
    );
    println!(
        "the same with mksquashfs's own gzip level 9                     {default:7.2} s   ratio {:.2}",
        ours / default
    );
    for key in ["kernel_bytes", "root_bytes", "initramfs_bytes"] {
        println!("{key:20} {:>12}", report[key]);
    }
    let hook = fs::metadata(&workshop.programs.hook)?.len();
    println!("{:20} {hook:>12}\n", "hook_bytes");
    Ok(())
}

fn boot(workshop: &Workshop) -> Result<()> {
    let image = workshop.dir().join("disk.img");
    workshop.flash(&image, &[GOOD], &[])?;
    let verified = initramfs(workshop)?;
    let unverified = with_init(workshop, &verified)?;
    let (mut with, mut without) = (vec![], vec![]);
    for _ in 0..BOOTS {
        with.push(kernel_to_switch(
            workshop,
            &image,
            &verified,
            "root verified",
        )?);
        without.push(kernel_to_switch(
            workshop,
            &image,
            &unverified,
            "root not verified",
        )?);
    }
    let (with, without) = (super::median(&mut with), super::median(&mut without));
    println!("kernel start to switch-root, verified                           {with:7.2} s");
    println!(
        "the same boot without signature and verity                      {without:7.2} s   ratio {:.2} (goal 1.15)",
        with / without
    );
    Ok(())
}

/// Takes kernel and initramfs out of the release's container.
fn initramfs(workshop: &Workshop) -> Result<PathBuf> {
    for name in ["vmlinuz", "initramfs.img"] {
        let bytes = Command::new("unsquashfs")
            .arg("-cat")
            .arg(workshop.release(GOOD).join("kernel.squashfs"))
            .arg(name)
            .run()?;
        fs::write(workshop.dir().join(name), bytes.stdout)?;
    }
    Ok(workshop.dir().join("initramfs.img"))
}

/// The same initramfs with another /init: what comes later in a cpio replaces what
/// came before.
fn with_init(workshop: &Workshop, initramfs: &Path) -> Result<PathBuf> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    Command::new(env!("CARGO"))
        .args([
            "build",
            "--profile",
            "node",
            "--target",
            "x86_64-unknown-linux-gnu",
        ])
        .args(["-p", "cairn-initramfs-hook", "--example", "unverified"])
        .env("RUSTFLAGS", "-C target-feature=+crt-static")
        .dir(root)
        .timeout(Duration::from_secs(1200))
        .run()?;
    let tree = workshop.dir().join("unverified");
    fs::create_dir(&tree)?;
    let built = workshop
        .programs
        .hook
        .with_file_name("examples")
        .join("unverified");
    fs::copy(built, tree.join("init"))?;
    let added = Command::new("cpio")
        .args(["--quiet", "-o", "-H", "newc", "-R", "0:0"])
        .dir(&tree)
        .stdin("init\n")
        .run()?;
    let unpacked = zstd::decode_all(fs::File::open(initramfs)?)?;
    let out = workshop.dir().join("unverified.img");
    fs::write(
        &out,
        zstd::encode_all([unpacked, added.stdout].concat().as_slice(), 12)?,
    )?;
    Ok(out)
}

/// Seconds on the kernel's own clock.
fn kernel_to_switch(workshop: &Workshop, image: &Path, initrd: &Path, line: &str) -> Result<f64> {
    let disk = Disk::open(image)?;
    let partition = Command::new("sgdisk")
        .args(["-i", "3"])
        .arg(disk.path())
        .run()?
        .text();
    let id = Regex::new("unique GUID: ([0-9A-F-]+)")?;
    let id = id
        .captures(&partition)
        .context("the data partition has no id")?[1]
        .to_lowercase();
    let vm = Vm::builder("bench")
        .disk(image, Writes::Dropped)
        .firmware(Firmware::Kernel {
            vmlinuz: workshop.dir().join("vmlinuz"),
            initrd: initrd.to_owned(),
            cmdline: format!("cairn.release={GOOD} cairn.slot=good cairn.data=PARTUUID={id} panic=5 console=ttyS0 no_timer_check"),
        })
        .watchdog()
        .no_reboot()
        .start()?;
    let pattern = Regex::new(&format!(r"\[ *(\d+\.\d+)\] cairn: \S+ {line}"))?;
    let matched = vm.serial().expect(pattern, BOOT)?;
    ensure!(matched.groups.len() > 1, "no time on the line");
    let seconds = matched.groups[1].parse()?;
    vm.cut_power();
    Ok(seconds)
}
