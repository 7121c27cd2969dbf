//! Small releases that are whole and signed.

use std::path::{Path, PathBuf};

use cairn_release::index::BlockIndex;
use cairn_release::manifest::Image;
use cairn_release::trust::{FORMAT, Role, TrustRoot};
use cairn_release::verity::{Builder, Salt};
use cairn_release::{BLOCK, Digest, Manifest, SecretKey, name};

pub fn key(seed: u8) -> SecretKey {
    SecretKey::from_seed(&[seed; 32])
}

/// Trust root `version`: root keys `root`, release keys `release`; signed by `signers`.
pub fn trust(folder: &Path, version: u64, root: &[u8], release: &[u8], signers: &[u8]) -> PathBuf {
    let role = |seeds: &[u8]| Role {
        threshold: 1,
        keys: seeds.iter().map(|seed| key(*seed).public()).collect(),
    };
    let trust = TrustRoot {
        format: FORMAT,
        version,
        expires: None,
        root: role(root),
        release: role(release),
        boot_key: None,
        revoked: vec![],
    };
    let mut envelope = trust.to_envelope();
    signers.iter().for_each(|seed| envelope.sign(&key(*seed)));
    std::fs::create_dir_all(folder).unwrap();
    let path = folder.join(format!("{version}.dsse.json"));
    std::fs::write(&path, envelope.to_json()).unwrap();
    path
}

/// Bytes that no compressor or luck makes equal.
fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(len + 8);
    while bytes.len() < len {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(len);
    bytes
}

fn image(folder: &Path, file: &str, index: &str, seed: u64, blocks: usize) -> Image {
    // Releases differ in their first block, as little as an update does.
    let mut bytes = noise(0, blocks * BLOCK);
    bytes[..BLOCK].copy_from_slice(&noise(seed, BLOCK));
    let mut builder = Builder::new(Salt::default());
    bytes.chunks(BLOCK).for_each(|block| builder.push(block));
    let (tree, verity) = builder.finish();
    bytes.extend(tree);
    let mut blocks = BlockIndex::default();
    bytes.chunks(BLOCK).for_each(|block| blocks.push(block));
    std::fs::write(folder.join(file), &bytes).unwrap();
    std::fs::write(folder.join(index), blocks.as_bytes()).unwrap();
    Image {
        size: bytes.len() as u64,
        sha256: Digest::of(&bytes),
        index: Digest::of(blocks.as_bytes()),
        verity,
    }
}

/// A release folder; its root image has `blocks` blocks of 4 KiB.
pub fn make(folder: &Path, version: &str, sequence: u64, signer: u8, blocks: usize) -> PathBuf {
    let folder = folder.join(format!("{version}-{sequence}-{signer}"));
    std::fs::create_dir_all(&folder).unwrap();
    let write = |file: &str, bytes: &[u8]| {
        std::fs::write(folder.join(file), bytes).unwrap();
        Digest::of(bytes)
    };
    let mut manifest: Manifest =
        cairn_release::manifest::example::manifest(&version.parse().unwrap(), sequence);
    manifest.sbom = write(name::SBOM, b"{}\n");
    manifest.contents = write(name::CONTENTS, b"");
    manifest.kernel.image = image(&folder, name::KERNEL, name::KERNEL_INDEX, sequence, 3);
    manifest.root = image(
        &folder,
        name::ROOT,
        name::ROOT_INDEX,
        sequence + 1000,
        blocks,
    );
    let mut envelope = manifest.to_envelope();
    envelope.sign(&key(signer));
    write(name::MANIFEST, &envelope.to_json());
    folder
}
