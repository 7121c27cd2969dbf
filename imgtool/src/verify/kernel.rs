//! What GRUB will check inside the kernel container.

use super::{Check, cat};
use crate::error::{Error, Result};
use crate::keys::BootPublic;
use cairn_release::{TrustRoot, name};
use std::path::Path;

/// What the bootloader loads, each with a signature beside it.
const SIGNED: [&str; 3] = ["vmlinuz", "initramfs.img", "boot.env"];

/// The key given must be the one that the trust root names.
pub fn fingerprint(trust: &TrustRoot, boot: &BootPublic) -> Check {
    let got = boot.fingerprint();
    let found = match &trust.boot_key {
        Some(named) if *named == got => Ok(got),
        Some(named) => Err(Error::refused(format!(
            "expected boot key {named}, got {got}"
        ))),
        None => Err(Error::refused(format!(
            "the trust root names no boot key; got {got}"
        ))),
    };
    Check::new(name::MANIFEST, "boot key", found)
}

/// The inner signatures.
pub fn signatures(container: &Path, boot: &BootPublic) -> Vec<Check> {
    let signed = |file: &str| -> Result<String> {
        let message = cat(container, file)?;
        let signature = cat(container, &format!("{file}.sig"))?;
        if boot.verify_detached(&message, &signature) {
            Ok(format!("{} bytes, signed", message.len()))
        } else {
            Err(Error::refused(format!(
                "{file}.sig is not the boot key's over /{file}"
            )))
        }
    };
    SIGNED
        .iter()
        .map(|file| Check::new(name::KERNEL, *file, signed(file)))
        .collect()
}
