//! What is done inside the sandbox to make a loader: GRUB's packages are installed
//! into a tree of their own, and their own grub-mkimage runs there, so that no part
//! of GRUB comes from the building host.

use super::artefact::{BOOT, CORE, EFI};
use crate::build::pacman;
use crate::build::work_area::{Devices, mount_at};
use crate::error::{Error, Result};
use crate::files::{cannot, make_folder};
use crate::profile::Profile;
use crate::sandbox::Outside;
use cairn_release::Timestamp;
use cairn_system::Command;
use serde::{Deserialize, Serialize};
use std::fs;
use std::path::{Path, PathBuf};

const CONFIG: &str = include_str!("../../../bootloader-entries/grub.cfg");
const SBAT: &str = include_str!("../../../bootloader-entries/sbat.csv");
const MODULES_EFI: &str = include_str!("../../../bootloader-entries/modules-efi.txt");
const MODULES_BIOS: &str = include_str!("../../../bootloader-entries/modules-bios.txt");

/// What to make.
#[derive(Debug, Serialize, Deserialize)]
pub struct Job {
    /// The profile's folder.
    pub profile: PathBuf,
    /// The folder that the outside sees.
    pub out: PathBuf,
    /// pacman's downloads.
    pub cache: PathBuf,
    /// The boot key's public half, as OpenPGP has it.
    pub boot_public: Vec<u8>,
    /// The time that everything is stamped with.
    pub epoch: Timestamp,
    /// Size of the work area.
    pub work_size: String,
}

/// What was made.
#[derive(Debug, Serialize, Deserialize)]
pub struct Made {
    /// What GRUB says of its version.
    pub grub: String,
}

/// Makes the three files.
///
/// # Errors
/// If any step fails.
pub fn make(job: Job, outside: &Outside) -> Result<Made> {
    let profile = Profile::load(&job.profile)?;
    let work = job.out.join("work");
    make_folder(&work)?;
    mount_at(&work, &job.work_size)?;
    let root = work.join("root");
    make_folder(&root)?;
    let _devices = Devices::mount(&root)?;
    outside.step("installing the loader's packages", || {
        pacman::install(
            &root,
            &profile.pacman_conf,
            &job.cache,
            &profile.settings.loader.packages,
            job.epoch,
        )
    })?;
    outside.step("making the loader", || {
        let here = root.join("tmp/cairn");
        make_folder(&here)?;
        let inputs = [
            ("boot.pub", job.boot_public.clone()),
            ("sbat.csv", SBAT.into()),
            ("memdisk.tar", memdisk(job.epoch)?),
        ];
        for (name, bytes) in inputs {
            let path = here.join(name);
            fs::write(&path, bytes).map_err(|e| cannot("write", &path, e))?;
        }
        mkimage(
            &root,
            "x86_64-efi",
            EFI,
            MODULES_EFI,
            &["--sbat=/tmp/cairn/sbat.csv", "--disable-shim-lock"],
        )?;
        mkimage(&root, "i386-pc", CORE, MODULES_BIOS, &[])?;
        let boot = root.join("usr/lib/grub/i386-pc").join(BOOT);
        let made = [(here.join(EFI), EFI), (here.join(CORE), CORE), (boot, BOOT)];
        for (from, name) in made {
            let to = job.out.join(name);
            fs::copy(&from, &to).map_err(|e| cannot("write", &to, e))?;
        }
        Ok(Made {
            grub: version(&grub(&root, &["--version"])?.text()),
        })
    })
}

/// `/usr/bin/grub-mkimage (GRUB) 2.06-13` is 2.06-13.
fn version(text: &str) -> String {
    text.rsplit(' ').next().unwrap_or(text).to_owned()
}

fn mkimage(root: &Path, format: &str, out: &str, modules: &str, extra: &[&str]) -> Result<()> {
    let folder = format!("usr/lib/grub/{format}");
    if !root.join(&folder).is_dir() {
        return Err(
            Error::input(format!("the loader's packages bring no {folder}"))
                .hint("image.toml names them: loader.packages"),
        );
    }
    let (format, out) = (
        format!("--format={format}"),
        format!("--output=/tmp/cairn/{out}"),
    );
    let mut args = vec![
        format.as_str(),
        &out,
        "--prefix=(memdisk)/boot/grub",
        "--memdisk=/tmp/cairn/memdisk.tar",
        "--pubkey=/tmp/cairn/boot.pub",
    ];
    args.extend(extra);
    args.extend(modules.split_whitespace());
    grub(root, &args).map(drop)
}

fn grub(root: &Path, args: &[&str]) -> Result<cairn_system::command::Output> {
    Command::new("chroot")
        .clear_env()
        .env(
            "PATH",
            "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        )
        .env("LC_ALL", "C")
        .arg(root)
        .arg("/usr/bin/grub-mkimage")
        .args(args)
        .run()
        .map_err(|e| Error::failed("GRUB's own grub-mkimage failed").because(e))
}

/// An archive with GRUB's configuration at the place where it looks for it.
fn memdisk(epoch: Timestamp) -> Result<Vec<u8>> {
    let write = |e: std::io::Error| Error::failed("cannot pack GRUB's configuration").because(e);
    let mut archive = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(CONFIG.len() as u64);
    header.set_mode(0o644);
    header.set_mtime(u64::try_from(epoch.unix()).unwrap_or(0));
    header.set_uid(0);
    header.set_gid(0);
    archive
        .append_data(&mut header, "boot/grub/grub.cfg", CONFIG.as_bytes())
        .map_err(write)?;
    archive.into_inner().map_err(write)
}
