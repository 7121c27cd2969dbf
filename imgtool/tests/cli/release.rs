//! Releases of a few pages, made without packages: valid to the last byte.

use crate::bench::{Bench, EPOCH};
use cairn_imgtool::contents::{self, FileType, Record};
use cairn_imgtool::keys::release::public_pem;
use cairn_release::index::BlockIndex;
use cairn_release::manifest::{self, Image, Kernel, Manifest, Profile};
use cairn_release::trust::{self, Role};
use cairn_release::verity::{Builder, Salt, Verity};
use cairn_release::{BLOCK, Digest, Envelope, SecretKey, Sequence, Timestamp, TrustRoot, name};
use std::collections::BTreeMap;
use std::path::PathBuf;

/// The key that signs trust roots here.
pub fn root_key() -> SecretKey {
    SecretKey::from_seed(&[1; 32])
}

/// The key that signs releases here.
pub fn release_key() -> SecretKey {
    SecretKey::from_seed(&[2; 32])
}

/// A secret key as `imgtool keygen release --no-passphrase` would have written it.
pub fn secret_pem(key_seed: u8) -> String {
    // PKCS#8 around an Ed25519 seed is 16 fixed bytes and the seed (RFC 8410, 10.3).
    use base64::Engine as _;
    let mut der = vec![
        0x30, 0x2e, 2, 1, 0, 0x30, 5, 6, 3, 0x2b, 0x65, 0x70, 4, 0x22, 4, 0x20,
    ];
    der.extend_from_slice(&[key_seed; 32]);
    let text = base64::engine::general_purpose::STANDARD.encode(der);
    format!("-----BEGIN PRIVATE KEY-----\n{text}\n-----END PRIVATE KEY-----\n")
}

/// The data of a root image: the same bytes, moved by one for each `step`, so that no
/// block of one step is in another.
pub fn moved(step: usize, blocks: usize) -> Vec<u8> {
    let noise = (0..(blocks * BLOCK) as u64)
        .map(|at| (at.wrapping_mul(at).wrapping_mul(2_654_435_761) >> 24) as u8);
    let mut bytes: Vec<u8> = std::iter::repeat_n(7, step).chain(noise).collect();
    bytes.truncate(blocks * BLOCK);
    bytes
}

/// What goes into a release.
pub struct Plan {
    pub version: &'static str,
    pub sequence: u64,
    /// The kernel container's data; padded to blocks.
    pub kernel: Vec<u8>,
    /// The root image's data; padded to blocks.
    pub root: Vec<u8>,
    /// Name and version.
    pub packages: Vec<(&'static str, &'static str)>,
    /// Path and content of files in the root image.
    pub files: Vec<(&'static str, &'static [u8])>,
}

impl Plan {
    /// A release with three blocks of root and one of kernel.
    pub fn new(version: &'static str, sequence: u64) -> Self {
        Self {
            version,
            sequence,
            kernel: vec![0x4b; BLOCK],
            root: [[1; BLOCK], [2; BLOCK], [3; BLOCK]].concat(),
            packages: vec![("bash", "5.2-1"), ("linux", "6.1.1-1")],
            files: vec![("/usr/bin/bash", b"bash 5.2"), ("/usr/bin/env", b"env")],
        }
    }

    /// Writes the release folder, signed by [`release_key`].
    pub fn write(&self, bench: &Bench, folder: &str) -> PathBuf {
        let path = bench.path(folder);
        std::fs::create_dir_all(&path).expect("a release folder");
        let put = |name: &str, bytes: &[u8]| {
            std::fs::write(path.join(name), bytes).expect("a release file");
        };
        let kernel = image(&self.kernel);
        let root = image(&self.root);
        let sbom = self.sbom();
        let contents = unpacked_frame(&self.contents());
        let manifest = Manifest {
            format: manifest::FORMAT,
            version: self.version.parse().expect("a version"),
            sequence: Sequence(self.sequence),
            architecture: "x86_64".into(),
            compatible: vec!["generic-x86_64".into()],
            created: Timestamp::from_unix(EPOCH.parse().expect("seconds")).expect("a moment"),
            profile: Profile {
                name: "tiny".into(),
                digest: Digest::of(b"profile"),
            },
            kernel: Kernel {
                kernel_version: "6.1.1".into(),
                image: kernel.named,
            },
            root: root.named,
            sbom: Digest::of(&sbom),
            contents: Digest::of(&contents),
            minimum_sequence: Sequence(0),
            notes: String::new(),
        };
        let mut envelope = manifest.to_envelope();
        envelope.sign(&release_key());
        put(name::MANIFEST, &envelope.to_json());
        put(name::KERNEL, &kernel.bytes);
        put(name::KERNEL_INDEX, kernel.index.as_bytes());
        put(name::ROOT, &root.bytes);
        put(name::ROOT_INDEX, root.index.as_bytes());
        put(name::SBOM, &sbom);
        put(name::CONTENTS, &contents);
        path
    }

    fn sbom(&self) -> Vec<u8> {
        let components: Vec<_> = self
            .packages
            .iter()
            .map(|(name, version)| {
                serde_json::json!({
                    "type": "library", "name": name, "version": version,
                    "licenses": [{ "license": { "id": "MIT" } }],
                })
            })
            .collect();
        let bom = serde_json::json!({
            "bomFormat": "CycloneDX", "specVersion": "1.6", "components": components,
        });
        serde_json::to_vec(&bom).expect("JSON")
    }

    fn contents(&self) -> Vec<u8> {
        let records: Vec<Record> = self
            .files
            .iter()
            .map(|(path, bytes)| Record {
                image: contents::Image::Root,
                path: (*path).into(),
                file_type: FileType::File,
                mode: "0755".into(),
                uid: 0,
                gid: 0,
                size: bytes.len() as u64,
                sha256: Some(Digest::of(bytes)),
                target: None,
                device: None,
                xattrs: BTreeMap::new(),
            })
            .collect();
        contents::to_lines(&records).expect("lines")
    }
}

/// A zstd frame that holds the bytes as they are (RFC 8878, 3.1.1): the same with
/// every version of zstd.
fn unpacked_frame(bytes: &[u8]) -> Vec<u8> {
    let size = bytes.len() as u32;
    let mut frame = vec![0x28, 0xb5, 0x2f, 0xfd, 0xa0];
    frame.extend_from_slice(&size.to_le_bytes());
    // One raw block, the last: its header is three bytes.
    frame.extend_from_slice(&(size << 3 | 1).to_le_bytes()[..3]);
    frame.extend_from_slice(bytes);
    frame
}

struct Made {
    bytes: Vec<u8>,
    index: BlockIndex,
    named: Image,
}

fn image(data: &[u8]) -> Made {
    let mut bytes = data.to_vec();
    bytes.resize(data.len().next_multiple_of(BLOCK), 0);
    let mut tree = Builder::new(Salt::new(b"salt").expect("a salt"));
    bytes.chunks(BLOCK).for_each(|block| tree.push(block));
    let (tree, verity) = tree.finish();
    bytes.extend_from_slice(&tree);
    let mut index = BlockIndex::default();
    bytes.chunks(BLOCK).for_each(|block| index.push(block));
    let named = Image {
        size: bytes.len() as u64,
        sha256: Digest::of(&bytes),
        index: Digest::of(index.as_bytes()),
        verity,
    };
    Made {
        bytes,
        index,
        named,
    }
}

/// Writes the keys as `root`, `release` (secret) and `.pub`, and trust root 1.
pub fn trust(bench: &Bench) -> PathBuf {
    for (name, seed) in [("root", 1), ("release", 2), ("other", 3)] {
        let key = SecretKey::from_seed(&[seed; 32]);
        bench.write(name, secret_pem(seed));
        bench.write(
            &format!("{name}.pub"),
            public_pem(&key.public()).expect("PEM"),
        );
    }
    let trust = TrustRoot {
        format: trust::FORMAT,
        version: 1,
        expires: None,
        root: Role {
            threshold: 1,
            keys: vec![root_key().public()],
        },
        release: Role {
            threshold: 1,
            keys: vec![release_key().public()],
        },
        boot_key: None,
        revoked: vec![],
    };
    let mut envelope: Envelope = trust.to_envelope();
    envelope.sign(&root_key());
    bench.write("1.dsse.json", envelope.to_json())
}

/// How the root image of the release in this folder is opened.
pub fn root_verity(bench: &Bench, folder: &str) -> Verity {
    let path = bench.path(&format!("{folder}/{}", name::MANIFEST));
    let bytes = std::fs::read(path).unwrap();
    let envelope = Envelope::parse(&bytes, manifest::PAYLOAD_TYPE).unwrap();
    Manifest::from_payload(&envelope.payload)
        .unwrap()
        .root
        .verity
}
