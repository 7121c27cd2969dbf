//! `imgtool build`: from a profile to a release.

mod bake;
mod bill;
mod hook;
mod image;
mod initramfs;
pub mod inside;
mod listing;
mod modules;
pub mod pacman;
mod tree;
pub mod work_area;

use crate::console::Console;
use crate::error::{Error, Result};
use crate::files::{self, cannot, make_folder};
use crate::keys::{self, BootKey, KeySource, PassphraseArgs, SecureBootKey};
use crate::profile::Profile;
use crate::profile::site::Site;
use crate::{interrupt, sandbox, trust};
use cairn_release::digest::Hasher;
use cairn_release::manifest::{self, Manifest};
use cairn_release::{Digest, Sequence, Timestamp, TrustRoot, Version, name};
use hook::Hook;
use inside::{Job, Made, SIGNED};
use serde::Serialize;
use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// Build a signed release from a profile
///
/// Installs the profile's packages with pacman and packs them into a kernel
/// container and a root image. Works as root, and as an ordinary user in a user
/// namespace. Give SOURCE_DATE_EPOCH to get the same bytes again.
#[derive(Debug, clap::Args)]
pub struct Args {
    /// The profile's folder
    #[arg(long, value_name = "DIR", default_value = "archiso-profile")]
    profile: PathBuf,
    /// A site's TOML file, baked into the image
    #[arg(long, value_name = "FILE")]
    site: Option<PathBuf>,
    /// The release's name, such as 1.4.0
    #[arg(long, value_name = "NAME")]
    version: Version,
    /// The release's place in the order of releases; must grow
    #[arg(long, value_name = "N")]
    sequence: Sequence,
    /// The lowest sequence that may update to this release
    #[arg(long, value_name = "N", default_value = "0")]
    minimum_sequence: Sequence,
    /// A word for people
    #[arg(long, value_name = "TEXT", default_value = "")]
    notes: String,
    /// The release is written to DIR/NAME
    #[arg(long, value_name = "DIR")]
    out: PathBuf,
    /// The trust root that nodes start from
    #[arg(long, value_name = "FILE")]
    trust: PathBuf,
    /// A release key to sign with: a file, env:VAR or fd:N; may be repeated, or
    /// left out to sign later with `imgtool sign`
    #[arg(long = "key", value_name = "KEY")]
    keys: Vec<KeySource>,
    /// The boot key, which GRUB checks kernel and initramfs with
    #[arg(long, value_name = "KEY")]
    boot_key: KeySource,
    #[command(flatten)]
    secure_boot: SecureBootArgs,
    #[command(flatten)]
    passphrase: PassphraseArgs,
    #[command(flatten)]
    place: Place,
    /// The initramfs hook's static binary, in place of the one in the image's packages
    #[arg(long, value_name = "FILE", env = "CAIRN_INITRAMFS_HOOK")]
    hook: Option<PathBuf>,
}

/// The owner's own Secure Boot key, for EFI files.
#[derive(Debug, Clone, clap::Args)]
pub struct SecureBootArgs {
    /// The owner's db key, to sign EFI files for UEFI Secure Boot
    #[arg(long, value_name = "KEY", requires = "secure_boot_cert")]
    secure_boot_key: Option<KeySource>,
    /// The certificate of that key
    #[arg(long, value_name = "FILE", requires = "secure_boot_key")]
    secure_boot_cert: Option<PathBuf>,
}

impl SecureBootArgs {
    /// The key, if one was given.
    ///
    /// # Errors
    /// If it can't be read.
    pub fn load(&self, passphrase: &PassphraseArgs) -> Result<Option<SecureBootKey>> {
        match (&self.secure_boot_key, &self.secure_boot_cert) {
            (Some(key), Some(cert)) => SecureBootKey::load(key, cert, passphrase).map(Some),
            _ => Ok(None),
        }
    }
}

/// Where the work is done.
#[derive(Debug, Clone, clap::Args)]
pub struct Place {
    /// Where downloaded packages are kept
    #[arg(long, value_name = "DIR", env = "CAIRN_PACKAGE_CACHE")]
    cache: Option<PathBuf>,
    /// Size of the work area in memory (it may be swapped out)
    #[arg(long, value_name = "SIZE", default_value = "75%")]
    work_size: String,
}

impl Place {
    /// The folder for downloads, which is made if need be.
    ///
    /// # Errors
    /// If it can't be made.
    pub fn cache(&self) -> Result<PathBuf> {
        let own = || {
            let home = std::env::var_os("XDG_CACHE_HOME")
                .map(PathBuf::from)
                .or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".cache")))
                .unwrap_or_else(|| "/var/cache".into());
            home.join("cairn/packages")
        };
        let folder = self.cache.clone().unwrap_or_else(own);
        make_folder(&folder)?;
        absolute(&folder)
    }

    /// Size of the work area.
    ///
    /// # Errors
    /// If it is no size.
    pub fn work_size(&self) -> Result<&str> {
        let size = self.work_size.as_str();
        let digits = size.trim_end_matches(['k', 'm', 'g', 'K', 'M', 'G', '%']);
        let good = size.len() - digits.len() <= 1 && digits.parse::<u64>().is_ok_and(|n| n > 0);
        good.then_some(size).ok_or_else(|| {
            Error::input(format!(
                "--work-size: expected a size such as 8G or 75%, got {size:?}"
            ))
        })
    }
}

/// What `--json` says.
#[derive(Debug, Serialize)]
struct Report {
    folder: PathBuf,
    version: Version,
    sequence: Sequence,
    kernel_version: String,
    kernel_bytes: u64,
    root_bytes: u64,
    initramfs_bytes: u64,
    manifest_payload: Digest,
    signatures: usize,
    seconds: sandbox::Times,
}

/// Runs the command.
///
/// # Errors
/// If the input is wrong or a step fails; then nothing is left behind.
pub fn run(args: Args, console: &Console) -> Result<()> {
    interrupt::watch()?;
    let profile = Profile::load(&args.profile)?;
    let site = args.site.as_deref().map(Site::load).transpose()?;
    let place = args.out.join(args.version.as_str());
    if place.symlink_metadata().is_ok() {
        return Err(
            Error::input(format!("{} is there already", place.display()))
                .hint("a release never changes; give another --version or --out"),
        );
    }
    let trust_bytes = files::read(&args.trust, 1 << 20)?;
    let root = TrustRoot::parse(&trust_bytes).map_err(|e| {
        Error::refused(format!("{}: no usable trust root", args.trust.display())).because(e)
    })?;
    let hook = Hook::choose(args.hook.as_deref())?;
    let release_keys = args
        .keys
        .iter()
        .map(|source| keys::load_release(source, &args.passphrase))
        .collect::<Result<Vec<_>>>()?;
    let boot_key = BootKey::load(&args.boot_key, &args.passphrase)?;
    trust::names_boot_key(&root, &boot_key.fingerprint(), &args.trust)?;
    let secure_boot = args.secure_boot.load(&args.passphrase)?;
    let epoch = keys::moment()?;

    make_folder(&args.out)?;
    let partial = tempfile::Builder::new()
        .prefix(&format!(".{}-", args.version))
        .suffix(".partial")
        .permissions(fs::Permissions::from_mode(0o755))
        .tempdir_in(&args.out)
        .map_err(|e| cannot("write to", &args.out, e))?;
    let out = absolute(partial.path())?;
    let job = Job {
        profile: profile.folder.clone(),
        site: args.site.as_deref().map(absolute).transpose()?,
        version: args.version.clone(),
        epoch,
        out: out.clone(),
        cache: args.place.cache()?,
        hook,
        trust: trust_bytes,
        work_size: args.place.work_size()?.to_owned(),
    };
    let (made, seconds): (Made, _) = sandbox::run("build", &job, console, |_| {
        SIGNED.iter().try_for_each(|file| {
            sign(
                &out.join(file),
                &boot_key,
                secure_boot.as_ref().filter(|_| *file == "vmlinuz"),
                epoch,
            )
        })
    })
    .map_err(|e| work_area::plain(e, &out, &place))?;
    files::remove(&out.join("work"))?;

    let manifest = Manifest {
        format: manifest::FORMAT,
        version: args.version,
        sequence: args.sequence,
        architecture: profile.definition.arch.clone(),
        compatible: profile.settings.compatible.clone(),
        created: epoch,
        profile: manifest::Profile {
            name: profile.definition.name.clone(),
            digest: inputs(&profile, site.as_ref(), args.site.as_deref())?,
        },
        kernel: made.kernel,
        root: made.root,
        sbom: made.sbom,
        contents: made.contents,
        minimum_sequence: args.minimum_sequence,
        notes: args.notes,
    };
    let mut envelope = manifest.to_envelope();
    release_keys.iter().for_each(|key| envelope.sign(key));
    if let Err(error) = root.verify(&envelope) {
        console.warn(&format!("the release is not trusted yet: {error}"));
    }
    files::write_whole(&out.join(name::MANIFEST), &envelope.to_json(), 0o644)?;
    interrupt::check()?;
    settle_release(&out)?;
    fs::rename(&out, &place).map_err(|e| cannot("write", &place, e))?;
    files::sync(&args.out)?;
    // Its folder has another name now, so there is nothing to remove.
    let _ = partial.keep();

    let report = Report {
        folder: place,
        version: manifest.version.clone(),
        sequence: manifest.sequence,
        kernel_version: manifest.kernel.kernel_version.clone(),
        kernel_bytes: manifest.kernel.image.size,
        root_bytes: manifest.root.size,
        initramfs_bytes: made.initramfs_size,
        manifest_payload: Digest::of(&envelope.payload),
        signatures: envelope.signatures.len(),
        seconds,
    };
    console.result(&report, || report.text())
}

impl Report {
    fn text(&self) -> String {
        let mb = |bytes: u64| format!("{:.1} MB", bytes as f64 / 1e6);
        format!(
            "{}\n  version    {} (sequence {})\n  kernel     {} in {}\n  initramfs  {}\n  root       {}\n  signatures {}\n",
            self.folder.display(),
            self.version,
            self.sequence,
            self.kernel_version,
            mb(self.kernel_bytes),
            mb(self.initramfs_bytes),
            mb(self.root_bytes),
            self.signatures,
        )
    }
}

/// Signs one file of the kernel container: for Secure Boot inside the file, for
/// GRUB beside it.
fn sign(
    path: &Path,
    boot_key: &BootKey,
    secure_boot: Option<&SecureBootKey>,
    epoch: Timestamp,
) -> Result<()> {
    let mut bytes = fs::read(path).map_err(|e| cannot("read", path, e))?;
    if let Some(key) = secure_boot {
        bytes = keys::authenticode::sign(key, &bytes)?;
        fs::write(path, &bytes).map_err(|e| cannot("write", path, e))?;
    }
    let signature = path.with_file_name(format!(
        "{}.sig",
        path.file_name().unwrap_or_default().to_string_lossy()
    ));
    fs::write(&signature, boot_key.sign_detached(&bytes, epoch)?)
        .map_err(|e| cannot("write", &signature, e))
}

/// One digest for everything that the caller gave: profile, site and its files.
fn inputs(profile: &Profile, site: Option<&Site>, path: Option<&Path>) -> Result<Digest> {
    let mut hasher = Hasher::default();
    hasher.update(&profile.digest()?.0);
    if let (Some(site), Some(path)) = (site, path) {
        hasher.update(&files::read(path, 1 << 20)?);
        for (_, source) in site.sources() {
            let full = crate::profile::site::source_path(path, source).map_err(Error::input)?;
            let bytes = fs::read(&full).map_err(|e| cannot("read", &full, e))?;
            hasher.update(&(bytes.len() as u64).to_le_bytes());
            hasher.update(&bytes);
        }
    }
    Ok(hasher.finish())
}

/// Gives every file of a finished release its mode, and sees it onto the disk.
fn settle_release(folder: &Path) -> Result<()> {
    for entry in fs::read_dir(folder).map_err(|e| cannot("read", folder, e))? {
        let path = entry.map_err(|e| cannot("read", folder, e))?.path();
        fs::set_permissions(&path, fs::Permissions::from_mode(0o644))
            .map_err(|e| cannot("change the mode of", &path, e))?;
        files::sync(&path)?;
    }
    files::sync(folder)
}

fn absolute(path: &Path) -> Result<PathBuf> {
    path.canonicalize().map_err(|e| cannot("open", path, e))
}
