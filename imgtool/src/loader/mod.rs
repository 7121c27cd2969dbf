//! `imgtool loader`: makes the bootloader.

pub mod artefact;
pub mod inside;

use crate::build::work_area::plain;
use crate::build::{Place, SecureBootArgs};
use crate::console::Console;
use crate::error::{Error, Result};
use crate::files::{self, cannot, make_folder};
use crate::keys::{self, KeySource, PassphraseArgs};
use crate::profile::Profile;
use crate::trust::names_boot_key;
use crate::{interrupt, sandbox};
use artefact::{BOOT, CORE, DESCRIPTION, Description, EFI, FORMAT};
use cairn_release::{Digest, TrustRoot};
use inside::{Job, Made};
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

/// Make the bootloader: GRUB with its rules and the boot key inside
///
/// GRUB comes from the packages that the profile names. The loader is written to
/// a disk by `imgtool flash`, and replaced by `imgtool disk loader`.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The profile's folder
    #[arg(long, value_name = "DIR", default_value = "archiso-profile")]
    profile: PathBuf,
    /// The folder to make
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The trust root that names the boot key
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// The boot key's public half
    #[arg(long, value_name = "FILE")]
    boot_pub: PathBuf,
    /// A release key to sign with: a file, env:VAR or fd:N; may be repeated
    #[arg(long = "key", value_name = "KEY", required = true)]
    keys: Vec<KeySource>,
    #[command(flatten)]
    secure_boot: SecureBootArgs,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    place: Place,
}

/// Runs the command.
///
/// # Errors
/// If the input is wrong or a step fails; then nothing is left behind.
pub fn run(args: Args, console: &Console) -> Result<()> {
    interrupt::watch()?;
    let profile = Profile::load(&args.profile)?;
    if args.out.symlink_metadata().is_ok() {
        return Err(Error::input(format!(
            "{} is there already",
            args.out.display()
        )));
    }
    let trust = TrustRoot::parse(&files::read(&args.trust, 1 << 20)?).map_err(|e| {
        Error::refused(format!("{}: no usable trust root", args.trust.display())).because(e)
    })?;
    let boot_public = files::read(&args.boot_pub, 1 << 20)?;
    let boot_key = keys::boot_public(&boot_public)
        .map_err(|e| Error::input(format!("cannot read {}", args.boot_pub.display())).because(e))?
        .fingerprint();
    names_boot_key(&trust, &boot_key, &args.trust)?;
    let release_keys = args
        .keys
        .iter()
        .map(|source| keys::load_release(source, &args.passphrase))
        .collect::<Result<Vec<_>>>()?;
    let secure_boot = args.secure_boot.load(&args.passphrase)?;
    let epoch = keys::moment()?;

    let parent = files::folder_of(&args.out);
    make_folder(parent)?;
    let partial = tempfile::Builder::new()
        .prefix(".loader-")
        .suffix(".partial")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(parent)
        .map_err(|e| cannot("write to", parent, e))?;
    let out = partial
        .path()
        .canonicalize()
        .map_err(|e| cannot("open", partial.path(), e))?;
    let job = Job {
        profile: profile.folder,
        out: out.clone(),
        cache: args.place.cache()?,
        boot_public,
        epoch,
        work_size: args.place.work_size()?.to_owned(),
    };
    let (made, _): (Made, _) =
        sandbox::run("loader", &job, console, |_| Ok(())).map_err(|e| plain(e, &out, &args.out))?;
    files::remove(&out.join("work"))?;
    if let Some(key) = &secure_boot {
        let path = out.join(EFI);
        let signed =
            keys::authenticode::sign(key, &fs::read(&path).map_err(|e| cannot("read", &path, e))?)?;
        fs::write(&path, signed).map_err(|e| cannot("write", &path, e))?;
    }
    let digest = |name: &str| -> Result<(String, Digest)> {
        let path = out.join(name);
        let bytes = fs::read(&path).map_err(|e| cannot("read", &path, e))?;
        Ok((name.to_owned(), Digest::of(&bytes)))
    };
    let description = Description {
        format: FORMAT,
        grub: made.grub,
        created: epoch,
        boot_key,
        secure_boot: secure_boot.is_some(),
        files: [EFI, BOOT, CORE]
            .into_iter()
            .map(digest)
            .collect::<Result<BTreeMap<_, _>>>()?,
    };
    let mut envelope = description.to_envelope();
    release_keys.iter().for_each(|key| envelope.sign(key));
    files::write_whole(&out.join(DESCRIPTION), &envelope.to_json(), 0o644)?;
    for name in [EFI, BOOT, CORE] {
        files::sync(&out.join(name))?;
    }
    interrupt::check()?;
    fs::rename(&out, &args.out).map_err(|e| cannot("write", &args.out, e))?;
    // Its folder has another name now, so there is nothing to remove.
    let _ = partial.keep();
    console.result(&description, || {
        let secure = if description.secure_boot {
            "signed for Secure Boot"
        } else {
            "not signed for Secure Boot"
        };
        format!(
            "{}\n  GRUB {}, {secure}\n  boot key {}\n",
            args.out.display(),
            description.grub,
            description.boot_key
        )
    })
}
