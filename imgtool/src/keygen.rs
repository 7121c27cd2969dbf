//! `imgtool keygen`: new key pairs. A secret key is encrypted unless told
//! otherwise, and nothing is ever overwritten.

use crate::console::Console;
use crate::error::{Error, Result};
use crate::files;
use crate::interrupt;
use crate::keys::enrolment::{Variable, owner, signature_list, signed_variable};
use crate::keys::{self, BootKey, PassphraseArgs, SecureBootKey};
use clap::Subcommand;
use std::fs::DirBuilder;
use std::os::unix::fs::DirBuilderExt as _;
use std::path::{Path, PathBuf};
use zeroize::Zeroizing;

/// Options of `imgtool keygen`.
#[derive(Debug, clap::Args)]
pub struct Args {
    #[command(subcommand)]
    kind: Kind,
}

#[derive(Debug, Subcommand)]
enum Kind {
    /// Ed25519 key that signs releases or trust roots
    Release(One),
    /// RSA-4096 OpenPGP key that GRUB checks the kernel with
    Boot(Boot),
    /// The owner's PK, KEK and db keys for UEFI Secure Boot
    SecureBoot(SecureBoot),
}

#[derive(Debug, clap::Args)]
struct One {
    /// New file for the secret key; FILE.pub gets the public one
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
    #[command(flatten)]
    protection: Protection,
}

#[derive(Debug, clap::Args)]
struct Boot {
    /// Name in the key, for people
    #[arg(long, default_value = "Cairn boot key")]
    name: String,
    #[command(flatten)]
    one: One,
}

#[derive(Debug, clap::Args)]
struct SecureBoot {
    /// New folder for keys, certificates, signature lists and signed variables
    #[arg(long, value_name = "DIR")]
    out_dir: PathBuf,
    /// Beginning of the names in the certificates
    #[arg(long, default_value = "Cairn")]
    name: String,
    #[command(flatten)]
    protection: Protection,
}

#[derive(Debug, clap::Args)]
struct Protection {
    #[command(flatten)]
    passphrase: PassphraseArgs,
    /// Leave the secret key unencrypted on disk
    #[arg(long, group = "passphrase")]
    no_passphrase: bool,
}

impl Protection {
    fn passphrase(&self, what: &Path) -> Result<Option<Zeroizing<String>>> {
        if self.no_passphrase {
            return Ok(None);
        }
        self.passphrase.new_one(&what.display()).map(Some)
    }
}

/// Runs `imgtool keygen`.
///
/// # Errors
/// If a file is there already or can't be written, or there is no passphrase.
pub fn run(args: Args, console: &Console) -> Result<()> {
    match args.kind {
        Kind::Release(args) => release(&args, console),
        Kind::Boot(args) => boot(&args, console),
        Kind::SecureBoot(args) => secure_boot(&args, console),
    }
}

fn release(args: &One, console: &Console) -> Result<()> {
    let public = absent(&args.out)?;
    let passphrase = args.protection.passphrase(&args.out)?;
    let (key, pem) = keys::release::generate(passphrase.as_ref())?;
    let public_pem = keys::release::public_pem(&key.public())?;
    write_pair(&args.out, pem.as_bytes(), &public, public_pem.as_bytes())?;
    let id = key.public().id();
    let value = serde_json::json!({ "secret": args.out, "public": public, "id": id });
    console.result(&value, || {
        format!(
            "secret key  {}\npublic key  {}\nkey id      {id}\n",
            args.out.display(),
            public.display()
        )
    })
}

fn boot(args: &Boot, console: &Console) -> Result<()> {
    let out = &args.one.out;
    let public = absent(out)?;
    let passphrase = args.one.protection.passphrase(out)?;
    let step = console.step("making an RSA-4096 key", None);
    let key = BootKey::generate(&args.name, keys::moment()?)?;
    step.done();
    let armour = key.to_armour(passphrase.as_ref())?;
    write_pair(out, &armour, &public, &key.public().to_bytes()?)?;
    let fingerprint = key.fingerprint();
    let value = serde_json::json!({ "secret": out, "public": public, "fingerprint": fingerprint });
    console.result(&value, || {
        format!(
            "secret key   {}\npublic key   {}\nfingerprint  {fingerprint}\n",
            out.display(),
            public.display()
        )
    })
}

/// `FILE.pub`; both must not be there yet, which is looked at before anybody types a
/// passphrase.
fn absent(secret: &Path) -> Result<PathBuf> {
    let mut public = secret.as_os_str().to_owned();
    public.push(".pub");
    let public = PathBuf::from(public);
    for path in [secret, &public] {
        if path.symlink_metadata().is_ok() {
            let shown = path.display();
            return Err(Error::input(format!(
                "{shown} is there already; it is never overwritten"
            )));
        }
    }
    Ok(public)
}

fn write_pair(secret: &Path, key: &[u8], public: &Path, public_key: &[u8]) -> Result<()> {
    files::write_new(secret, key, 0o600)?;
    files::write_new(public, public_key, 0o644).inspect_err(|_| {
        // A secret key without its public half is half an output.
        let _ = std::fs::remove_file(secret);
    })
}

fn secure_boot(args: &SecureBoot, console: &Console) -> Result<()> {
    let out = &args.out_dir;
    if out.symlink_metadata().is_ok() {
        let shown = out.display();
        return Err(Error::input(format!(
            "{shown} is there already; it is never overwritten"
        )));
    }
    let passphrase = args.protection.passphrase(out)?;
    // Made beside its final name and renamed, so that it is there whole or not.
    interrupt::watch()?;
    let folder = files::folder_of(out);
    let partial = tempfile::Builder::new()
        .prefix(".imgtool-")
        .tempdir_in(folder)
        .map_err(|e| files::cannot("write", out, e))?;
    let inner = partial.path().join("keys");
    let made = DirBuilder::new().mode(0o755).create(&inner);
    made.map_err(|e| files::cannot("write", out, e))?;

    let moment = keys::moment()?;
    let step = console.step("making three RSA-2048 keys", None);
    let make = |what: &str| SecureBootKey::generate(&format!("{} {what}", args.name), moment);
    let (pk, kek, db) = (make("PK")?, make("KEK")?, make("db")?);
    step.done();
    interrupt::check()?;
    let owner = owner(&pk);
    let chain = [
        (Variable::Pk, &pk, &pk),
        (Variable::Kek, &kek, &pk),
        (Variable::Db, &db, &kek),
    ];
    let mut names = Vec::new();
    for (variable, key, signer) in chain {
        let list = signature_list(key.certificate_der(), owner);
        let pem = keys::pkcs8::public_pem("CERTIFICATE", key.certificate_der())?;
        let update = signed_variable(signer, variable, &list, moment)?;
        let secret = key.to_pem(passphrase.as_ref())?;
        let files: [(&str, &[u8], u32); 5] = [
            ("key", secret.as_bytes(), 0o600),
            ("crt", pem.as_bytes(), 0o644),
            ("cer", key.certificate_der(), 0o644),
            ("esl", &list, 0o644),
            ("auth", &update, 0o644),
        ];
        for (suffix, bytes, mode) in files {
            let name = format!("{}.{suffix}", variable.name());
            files::write_new(&inner.join(&name), bytes, mode)?;
            names.push(name);
        }
    }
    interrupt::check()?;
    std::fs::rename(&inner, out).map_err(|e| files::cannot("write", out, e))?;
    let value = serde_json::json!({ "folder": out, "files": names });
    console.result(&value, || {
        let mut text = format!("folder  {}\n", out.display());
        for chunk in names.chunks(5) {
            text += &format!("        {}\n", chunk.join(" "));
        }
        text
    })
}
