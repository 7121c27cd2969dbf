//! A release on DATA: its manifest, and the two files that the manifest names.
//!
//! A file is opened once, and what was checked is what is mapped: nobody can put
//! another file in its place in between.

use std::fs::File;
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::path::Path;

use cairn_release::manifest::Image;
use cairn_release::trust::TrustError;
use cairn_release::{BLOCK, Manifest, TrustRoot, Version, name};

use crate::error::{IoError, cannot};

/// No signed file is larger; a damaged one must not fill the memory.
const LARGEST: u64 = 4 << 20;

/// A release that may be used: its manifest is trusted, and its files are the
/// ones that it names, as far as that can be told before they are read.
#[derive(Debug)]
pub struct Release {
    /// The signed description.
    pub manifest: Manifest,
    /// The root image.
    pub root: File,
    /// The kernel container.
    pub kernel: File,
}

/// The machine that the release has to fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Machine {
    /// `uname -m`
    pub architecture: String,
    /// `uname -r`
    pub kernel_version: String,
}

/// The release can't be used.
#[derive(Debug, thiserror::Error)]
pub enum ReleaseError {
    /// A file is missing or can't be read.
    #[error(transparent)]
    Io(#[from] IoError),
    /// The manifest isn't trusted.
    #[error("{} is not trusted", name::MANIFEST)]
    Manifest(#[source] TrustError),
    /// A manifest of another release.
    #[error("the manifest is of another release: expected {expected}, got {got}")]
    Version {
        /// What the bootloader chose.
        expected: Version,
        /// What the manifest says.
        got: Version,
    },
    /// For other machines.
    #[error("the release is for {expected}, but this machine is {got}")]
    Architecture {
        /// What the manifest says.
        expected: String,
        /// What `uname -m` says.
        got: String,
    },
    /// With another kernel.
    #[error("the release has kernel {expected}, but {got} is running")]
    KernelVersion {
        /// What the release says.
        expected: String,
        /// What `uname -r` says.
        got: String,
    },
    /// Cut short, or too long.
    #[error("{file}: expected {expected} bytes, got {got}")]
    Size {
        /// Which file.
        file: &'static str,
        /// What the manifest says.
        expected: u64,
        /// What is there.
        got: u64,
    },
    /// The right size, but something else.
    #[error("{0} is not the image that the manifest names")]
    Other(&'static str),
}

impl ReleaseError {
    /// Whether it would be the same at the next try.
    pub fn is_definitive(&self) -> bool {
        match self {
            Self::Io(error) => error.is_not_found(),
            _ => true,
        }
    }
}

impl Machine {
    /// The one that this runs on.
    pub fn here() -> Self {
        let uname = rustix::system::uname();
        Self {
            architecture: uname.machine().to_string_lossy().into_owned(),
            kernel_version: uname.release().to_string_lossy().into_owned(),
        }
    }
}

impl Release {
    /// Opens release `version` in `folder`.
    ///
    /// # Errors
    /// If it isn't trusted, isn't for this machine, or its files aren't what the
    /// manifest names.
    pub fn open(
        folder: &Path,
        version: &Version,
        trust: &TrustRoot,
        machine: &Machine,
    ) -> Result<Self, ReleaseError> {
        let manifest = trust
            .parse_manifest(&read(&folder.join(name::MANIFEST))?)
            .map_err(ReleaseError::Manifest)?;
        if manifest.version != *version {
            return Err(ReleaseError::Version {
                expected: version.clone(),
                got: manifest.version,
            });
        }
        if manifest.architecture != machine.architecture {
            return Err(ReleaseError::Architecture {
                expected: manifest.architecture,
                got: machine.architecture.clone(),
            });
        }
        same_kernel(&manifest.kernel.kernel_version, machine)?;
        Ok(Self {
            root: image(folder, name::ROOT, &manifest.root)?,
            kernel: image(folder, name::KERNEL, &manifest.kernel.image)?,
            manifest,
        })
    }
}

/// Checks that the running kernel is the one that modules were built for.
///
/// # Errors
/// If it isn't.
pub fn same_kernel(expected: &str, machine: &Machine) -> Result<(), ReleaseError> {
    if expected == machine.kernel_version {
        return Ok(());
    }
    Err(ReleaseError::KernelVersion {
        expected: expected.to_owned(),
        got: machine.kernel_version.clone(),
    })
}

/// Reads a small signed file; one that is too large is cut, and so no longer valid.
///
/// # Errors
/// If it can't be read.
pub fn read(path: &Path) -> Result<Vec<u8>, IoError> {
    let mut bytes = Vec::new();
    File::open(path)
        .and_then(|file| file.take(LARGEST).read_to_end(&mut bytes))
        .map_err(cannot("read", path.display()))?;
    Ok(bytes)
}

fn image(folder: &Path, file: &'static str, image: &Image) -> Result<File, ReleaseError> {
    let path = folder.join(file);
    let open = File::open(&path).map_err(cannot("open", path.display()))?;
    let got = open
        .metadata()
        .map_err(cannot("read", path.display()))?
        .len();
    if got != image.size {
        return Err(ReleaseError::Size {
            file,
            expected: image.size,
            got,
        });
    }
    let mut top = [0; BLOCK];
    open.read_exact_at(&mut top, image.verity.hash_offset)
        .map_err(cannot("read", path.display()))?;
    if image.verity.is_top(&top) {
        Ok(open)
    } else {
        Err(ReleaseError::Other(file))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::chain;
    use cairn_release::manifest::example;
    use cairn_release::trust::{FORMAT, Role};
    use cairn_release::verity::{Builder, Salt};
    use cairn_release::{Digest, SecretKey};
    use std::fs;

    fn image_file(path: &Path, content: &[u8]) -> Image {
        let mut builder = Builder::new(Salt::default());
        let mut bytes = content.to_vec();
        bytes.resize(content.len().div_ceil(BLOCK) * BLOCK, 0);
        bytes.chunks(BLOCK).for_each(|block| builder.push(block));
        let (tree, verity) = builder.finish();
        bytes.extend(tree);
        fs::write(path, &bytes).unwrap();
        Image {
            size: bytes.len() as u64,
            sha256: Digest::of(&bytes),
            index: Digest::of(b""),
            verity,
        }
    }

    struct Site {
        folder: tempfile::TempDir,
        trust: TrustRoot,
        version: Version,
        machine: Machine,
    }

    impl Site {
        fn open(&self) -> Result<Release, ReleaseError> {
            Release::open(
                self.folder.path(),
                &self.version,
                &self.trust,
                &self.machine,
            )
        }
    }

    fn site() -> Site {
        let folder = tempfile::tempdir().unwrap();
        let key = SecretKey::from_seed(&[1; 32]);
        let role = Role {
            threshold: 1,
            keys: vec![key.public()],
        };
        let version: Version = "1.0.0".parse().unwrap();
        let mut manifest = example::manifest(&version, 1);
        manifest.root = image_file(&folder.path().join(name::ROOT), b"root");
        manifest.kernel.image = image_file(&folder.path().join(name::KERNEL), b"kernel");
        let mut envelope = manifest.to_envelope();
        envelope.sign(&key);
        fs::write(folder.path().join(name::MANIFEST), envelope.to_json()).unwrap();
        Site {
            folder,
            version,
            machine: Machine {
                architecture: "x86_64".into(),
                kernel_version: "6.1.0".into(),
            },
            trust: TrustRoot {
                format: FORMAT,
                version: 1,
                expires: None,
                root: role.clone(),
                release: role,
                boot_key: None,
                revoked: vec![],
            },
        }
    }

    #[test]
    fn a_whole_release_opens() {
        assert_eq!(site().open().unwrap().manifest.version.as_str(), "1.0.0");
    }

    type Damage = fn(&mut Site);

    #[test]
    fn says_what_is_wrong_and_never_tries_it_again() {
        let cases: [(Damage, &str); 8] = [
            (
                |s| s.version = "2.0.0".parse().unwrap(),
                "the manifest is of another release: expected 2.0.0, got 1.0.0",
            ),
            (
                |s| s.machine.architecture = "aarch64".into(),
                "the release is for x86_64, but this machine is aarch64",
            ),
            (
                |s| s.machine.kernel_version = "6.2.0".into(),
                "the release has kernel 6.1.0, but 6.2.0 is running",
            ),
            (
                |s| fs::write(s.folder.path().join(name::ROOT), b"short").unwrap(),
                "root.erofs: expected 8192 bytes, got 5",
            ),
            (
                |s| {
                    image_file(&s.folder.path().join(name::ROOT), b"another");
                },
                "root.erofs is not the image that the manifest names",
            ),
            (
                |s| fs::write(s.folder.path().join(name::KERNEL), [7; 8192]).unwrap(),
                "kernel.squashfs is not the image that the manifest names",
            ),
            (
                |s| fs::remove_file(s.folder.path().join(name::KERNEL)).unwrap(),
                "cannot open",
            ),
            (
                |s| s.trust.release.keys = vec![SecretKey::from_seed(&[9; 32]).public()],
                "manifest.dsse.json is not trusted: 0 of 1 needed signatures by the release keys of trust root 1 are valid; signed by unknown key",
            ),
        ];
        for (damage, expected) in cases {
            let mut site = site();
            damage(&mut site);
            let error = site.open().unwrap_err();
            assert!(chain(&error).starts_with(expected), "{}", chain(&error));
            assert!(error.is_definitive(), "{expected}");
        }
    }
}
