//! The bootloader as an artefact of its own, beside the releases: it is written
//! when a disk is flashed, and replaced only by an explicit order.
//!
//! ```text
//! loader.dsse.json   what it is and its files' digests, signed by release keys
//! BOOTX64.EFI        GRUB for UEFI, signed for Secure Boot if the owner has a key
//! boot.img core.img  GRUB for BIOS
//! ```

use crate::disk::bios::Bios;
use crate::error::{Error, Result};
use crate::files;
use crate::trust::names_boot_key;
use cairn_release::envelope::EnvelopeError;
use cairn_release::{Digest, Envelope, Timestamp, TrustRoot};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::Path;

/// The payload type of a loader's envelope.
pub const PAYLOAD_TYPE: &str = "application/vnd.cairn.loader+json";
/// The format that this code writes and reads.
pub const FORMAT: u32 = 1;
/// File name of the signed description.
pub const DESCRIPTION: &str = "loader.dsse.json";
/// File name of the EFI program.
pub const EFI: &str = "BOOTX64.EFI";
/// File name of BIOS' first sector.
pub const BOOT: &str = "boot.img";
/// File name of BIOS' core.
pub const CORE: &str = "core.img";
/// No file of a loader is larger.
const LIMIT: u64 = 32 << 20;

/// What a loader is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Description {
    /// [`FORMAT`].
    pub format: u32,
    /// What GRUB says of its version.
    pub grub: String,
    /// When it was made.
    pub created: Timestamp,
    /// Fingerprint of the boot key inside.
    pub boot_key: String,
    /// Whether the EFI program is signed for Secure Boot.
    pub secure_boot: bool,
    /// Digest of each file.
    pub files: BTreeMap<String, Digest>,
}

impl Description {
    /// In an envelope that nobody has signed yet.
    pub fn to_envelope(&self) -> Envelope {
        // Strings, numbers and digests always have a JSON form.
        let mut json = serde_json::to_vec_pretty(self).unwrap_or_default();
        json.push(b'\n');
        Envelope::new(PAYLOAD_TYPE, json)
    }
}

/// A loader that was read and checked.
pub struct Loader {
    /// What it is.
    pub description: Description,
    /// The EFI program.
    pub efi: Vec<u8>,
    /// BIOS' two files.
    pub bios: Bios,
}

impl Loader {
    /// Reads a loader, and checks it against `trust`.
    ///
    /// # Errors
    /// If a file is missing or altered, too few release keys signed it, or it
    /// holds another boot key than the trust root names.
    pub fn open(folder: &Path, trust: &TrustRoot) -> Result<Self> {
        let path = folder.join(DESCRIPTION);
        let shown = path.display();
        let unreadable = |e: EnvelopeError| Error::input(format!("cannot read {shown}")).because(e);
        let envelope =
            Envelope::parse(&files::read(&path, 1 << 20)?, PAYLOAD_TYPE).map_err(unreadable)?;
        trust.verify(&envelope).map_err(|e| {
            Error::refused(format!("{shown}: the loader is not trusted")).because(e)
        })?;
        let description: Description = serde_json::from_slice(&envelope.payload)
            .map_err(|e| Error::input(format!("{shown}: no loader's description")).because(e))?;
        if description.format != FORMAT {
            return Err(Error::input(format!(
                "{shown}: expected format {FORMAT}, got {}",
                description.format
            )));
        }
        names_boot_key(trust, &description.boot_key, &path)?;
        let read = |name: &str| -> Result<Vec<u8>> {
            let path = folder.join(name);
            let bytes = files::read(&path, LIMIT)?;
            match description.files.get(name) {
                Some(digest) if *digest == Digest::of(&bytes) => Ok(bytes),
                _ => Err(Error::refused(format!(
                    "{}: not the file that {DESCRIPTION} names",
                    path.display()
                ))),
            }
        };
        let (efi, bios) = (
            read(EFI)?,
            Bios {
                boot: read(BOOT)?,
                core: read(CORE)?,
            },
        );
        bios.check()
            .map_err(|e| Error::input(format!("{}: {e}", folder.display())))?;
        Ok(Self {
            description,
            efi,
            bios,
        })
    }
}
