//! `image.toml`: what imgtool needs to know about a profile and archiso has no
//! word for. Every field has a default; an unknown one is an error.

use crate::error::{Error, Result};
use crate::files;
use serde::{Deserialize, Serialize};
use std::path::Path;

/// The whole file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Settings {
    /// Kinds of hardware that releases of this profile are for.
    pub compatible: Vec<String>,
    /// The kernel container.
    pub kernel: Kernel,
    /// The root image.
    pub root: Root,
    /// The initramfs.
    pub initramfs: Initramfs,
    /// The bootloader.
    pub loader: Loader,
}

/// `[kernel]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Kernel {
    /// Arguments that are added to the kernel's command line; they are signed.
    pub arguments: String,
    /// How the squashfs is packed.
    pub compression: Squash,
}

/// What GRUB can unpack in a squashfs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Squash {
    /// Its bytes resemble those of the next release, so that updates are small.
    Lzo,
    /// An eighth smaller; an update fetches nearly all of it.
    Gzip,
    /// A third smaller and loads slowest; an update fetches nearly all of it.
    Xz,
}

impl Squash {
    /// The name by which mksquashfs knows it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Lzo => "lzo",
            Self::Gzip => "gzip",
            Self::Xz => "xz",
        }
    }

    /// What mksquashfs is told beside it. Its own levels take several times as long
    /// as level 6 and save a few hundredths at most.
    pub fn options(self) -> &'static [&'static str] {
        match self {
            Self::Lzo | Self::Gzip => &["-Xcompression-level", "6"],
            Self::Xz => &[],
        }
    }
}

/// `[root]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Root {
    /// As `mkfs.erofs -z` takes it: `lz4`, `lz4hc`, `lz4hc,12`, or `none`.
    pub compression: String,
}

/// `[initramfs]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Initramfs {
    /// Kernel modules beside imgtool's own list of storage drivers.
    pub modules: Vec<String>,
    /// A boot that hangs is reset after so many seconds; 0 arms no watchdog.
    pub watchdog_seconds: u32,
    /// How long to wait for the data partition.
    pub data_timeout_seconds: u32,
    /// Whether a damaged block found later reboots the node, instead of giving
    /// an I/O error to the program that reads it.
    pub panic_on_corruption: bool,
}

/// `[loader]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
pub struct Loader {
    /// Packages that bring GRUB and its modules; they are installed only while
    /// the loader is made, and are no part of the OS.
    pub packages: Vec<String>,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            compatible: vec!["generic-x86_64".into()],
            kernel: Kernel::default(),
            root: Root::default(),
            initramfs: Initramfs::default(),
            loader: Loader::default(),
        }
    }
}

impl Default for Kernel {
    fn default() -> Self {
        Self {
            arguments: String::new(),
            compression: Squash::Lzo,
        }
    }
}

impl Default for Root {
    fn default() -> Self {
        Self {
            compression: "lz4hc".into(),
        }
    }
}

impl Default for Initramfs {
    fn default() -> Self {
        Self {
            modules: Vec::new(),
            watchdog_seconds: 60,
            data_timeout_seconds: 60,
            panic_on_corruption: false,
        }
    }
}

impl Default for Loader {
    fn default() -> Self {
        Self {
            packages: vec!["grub".into()],
        }
    }
}

impl Settings {
    /// Reads `image.toml`; a profile without one has the defaults.
    ///
    /// # Errors
    /// If it can't be read or says something unknown or impossible.
    pub fn load(path: &Path) -> Result<Self> {
        if !path.exists() {
            return Ok(Self::default());
        }
        let settings: Self = read_toml(path)?;
        settings
            .check()
            .map_err(|e| Error::input(format!("{}: {e}", path.display())))?;
        Ok(settings)
    }

    fn check(&self) -> Result<(), String> {
        let arguments = &self.kernel.arguments;
        // GRUB splits and expands what it puts on the command line.
        let plain =
            |b: u8| b.is_ascii_graphic() && !b"\"'\\$`;{}<>|&#*?[]".contains(&b) || b == b' ';
        if !arguments.bytes().all(plain) || arguments.len() > 900 {
            return Err(format!(
                "kernel.arguments: expected at most 900 plain characters without quotes, $ or ;, got {arguments:?}"
            ));
        }
        if let Some(word) = arguments.split(' ').find(|word| word.starts_with("cairn.")) {
            return Err(format!(
                "kernel.arguments: {word:?} belongs to the bootloader"
            ));
        }
        let z = &self.root.compression;
        let known =
            |name: &str| ["none", "lz4", "lz4hc", "lzma", "deflate", "zstd"].contains(&name);
        let (name, level) = z
            .split_once(',')
            .map_or((z.as_str(), None), |(n, l)| (n, Some(l)));
        if !known(name) || level.is_some_and(|level| level.parse::<u8>().is_err()) {
            return Err(format!(
                "root.compression: expected lz4, lz4hc, lz4hc,<level> or none, got {z:?}"
            ));
        }
        for package in &self.loader.packages {
            super::is_package_name(package).map_err(|e| format!("loader.packages: {e}"))?;
        }
        if self.compatible.is_empty() {
            return Err("compatible: expected at least one kind of hardware".into());
        }
        Ok(())
    }
}

/// Reads a TOML file into a type; the error names file, line and field.
///
/// # Errors
/// If the file can't be read or doesn't fit.
pub fn read_toml<T: for<'de> Deserialize<'de>>(path: &Path) -> Result<T> {
    let bytes = files::read(path, 1 << 20)?;
    let text = String::from_utf8(bytes)
        .map_err(|_| Error::input(format!("{}: not UTF-8 text", path.display())))?;
    toml::from_str(&text).map_err(|error| {
        let line = error
            .span()
            .map(|span| 1 + text[..span.start.min(text.len())].matches('\n').count());
        let place = line.map_or_else(String::new, |line| format!(":{line}"));
        Error::input(format!("{}{place}: {}", path.display(), error.message()))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_file_is_the_defaults() {
        assert_eq!(toml::from_str::<Settings>("").unwrap(), Settings::default());
    }

    #[test]
    fn kernel_arguments_cannot_smuggle_anything_past_grub() {
        for bad in [
            "a; reboot",
            "$x",
            "\"a\"",
            "a\nb",
            "cairn.release=9",
            "quiet cairn.data=x",
        ] {
            let mut settings = Settings::default();
            settings.kernel.arguments = bad.into();
            assert!(settings.check().is_err(), "{bad}");
        }
        let mut settings = Settings::default();
        settings.kernel.arguments = "console=ttyS0,115200 quiet systemd.unit=a@b.target".into();
        assert_eq!(settings.check(), Ok(()));
    }
}
