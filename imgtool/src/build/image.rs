//! Packing a tree into an image, and closing it with its verity tree, its index
//! and its digests.

use crate::error::{Error, Result};
use crate::files::cannot;
use crate::profile::settings::Squash;
use crate::release_folder::fill;
use cairn_release::digest::Hasher;
use cairn_release::index::BlockIndex;
use cairn_release::manifest::Image;
use cairn_release::verity::{Builder, Salt};
use cairn_release::{BLOCK, Digest, Timestamp};
use cairn_system::{Command, CommandError};
use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::time::Duration;

fn tool(name: &str) -> Command {
    Command::new(name)
        .clear_env()
        .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .env("LC_ALL", "C.UTF-8")
        .timeout(Duration::from_secs(4 * 3600))
}

fn explain(what: &'static str, package: &'static str) -> impl Fn(CommandError) -> Error {
    move |error| match &error {
        CommandError::NotFound { .. } => {
            Error::failed(error.to_string()).hint(format!("install {package}"))
        }
        _ => Error::failed(format!("cannot pack {what}")).because(error),
    }
}

/// Packs the kernel container. Those of the files `last` that are there come behind all others: what changes with every
/// build would move what doesn't, and nothing is aligned.
///
/// # Errors
/// If mksquashfs isn't there or fails.
pub fn squashfs(
    tree: &Path,
    out: &Path,
    compression: Squash,
    epoch: Timestamp,
    last: &[String],
) -> Result<()> {
    let epoch = epoch.unix().to_string();
    let order = out.with_extension("order");
    let there = last.iter().filter(|file| tree.join(file).exists());
    let lines: String = there.map(|file| format!("{file} -1\n")).collect();
    fs::write(&order, lines).map_err(|e| cannot("write", &order, e))?;
    tool("mksquashfs")
        .args([tree, out])
        .args([
            "-noappend",
            "-reproducible",
            "-xattrs",
            "-no-progress",
            "-quiet",
        ])
        .args(["-comp", compression.name()])
        .args(compression.options())
        .args(["-mkfs-time", &epoch, "-all-time", &epoch])
        .arg("-sort")
        .arg(&order)
        .run()
        .map_err(explain("the kernel container", "squashfs-tools"))?;
    fs::remove_file(&order).map_err(|e| cannot("remove", &order, e))
}

/// What mkfs.erofs is told so that little of an image changes when little of its tree does.
/// A file's last piece stands in a block of its own, not between the inodes: those hold
/// places in the image, and change behind every file that grows.
const STEADY: &str = "-Enoinline_data";
/// What is compressed goes into clusters of up to so many bytes: smaller than with the 4096
/// that are the default, by what the blocks of their own cost; larger ones read too much.
const CLUSTER: &str = "-C16384";

/// Packs the root image. `seed` decides its UUID.
///
/// # Errors
/// If mkfs.erofs isn't there or fails.
pub fn erofs(
    tree: &Path,
    out: &Path,
    compression: &str,
    epoch: Timestamp,
    seed: Digest,
) -> Result<()> {
    let mut command = tool("mkfs.erofs")
        .arg(format!("-T{}", epoch.unix()))
        .arg(format!("-U{}", uuid(seed)))
        .arg(STEADY);
    if compression != "none" {
        command = command.arg(format!("-z{compression}")).arg(CLUSTER);
    }
    command
        .arg("--quiet")
        .args([out, tree])
        .run()
        .map(drop)
        .map_err(explain("the root image", "erofs-utils"))
}

/// A UUID of version 8 (RFC 9562: "custom") from a digest.
fn uuid(seed: Digest) -> String {
    let mut bytes = [0; 16];
    bytes.copy_from_slice(&seed.0[..16]);
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes.iter().map(|b| format!("{b:02x}")).collect();
    format!(
        "{}-{}-{}-{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[12..16],
        &hex[16..20],
        &hex[20..]
    )
}

/// Appends the verity tree to an image and writes its index to `index`, in one pass.
///
/// # Errors
/// If the files can't be read or written.
pub fn close(path: &Path, index: &Path, salt: Salt) -> Result<Image> {
    let io = |e| cannot("write", path, e);
    let mut file = File::options()
        .read(true)
        .write(true)
        .open(path)
        .map_err(io)?;
    let mut tree = Builder::new(salt);
    let mut blocks = BlockIndex::default();
    let mut hasher = Hasher::default();
    let mut size = 0;
    let mut buffer = vec![0; 256 * BLOCK];
    loop {
        let length = fill(&mut file, &mut buffer).map_err(io)?;
        let Some(piece) = buffer.get_mut(..length.next_multiple_of(BLOCK)) else {
            break;
        };
        if length == 0 {
            break;
        }
        // Both packers end on a block; should one not, the file is filled up to it.
        piece[length..].fill(0);
        file.write_all(&piece[length..]).map_err(io)?;
        piece.chunks(BLOCK).for_each(|block| {
            tree.push(block);
            blocks.push(block);
        });
        hasher.update(piece);
        size += piece.len() as u64;
    }
    let (bytes, verity) = tree.finish();
    bytes.chunks(BLOCK).for_each(|block| blocks.push(block));
    hasher.update(&bytes);
    size += bytes.len() as u64;
    file.write_all(&bytes)
        .and_then(|()| file.sync_all())
        .map_err(io)?;
    fs::write(index, blocks.as_bytes()).map_err(|e| cannot("write", index, e))?;
    Ok(Image {
        size,
        sha256: hasher.finish(),
        index: Digest::of(blocks.as_bytes()),
        verity,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn veritysetup_agrees_with_the_tree() {
        let folder = tempfile::tempdir().unwrap();
        let (image, index) = (folder.path().join("image"), folder.path().join("index"));
        // More than one buffer, and not a whole number of blocks.
        let data: Vec<u8> = (0..(600 * BLOCK as u32 + 17))
            .map(|i| (i / 7) as u8)
            .collect();
        fs::write(&image, &data).unwrap();
        let closed = close(&image, &index, Salt::new(b"salt").unwrap()).unwrap();
        let bytes = fs::read(&image).unwrap();
        assert_eq!(
            (bytes.len() as u64, Digest::of(&bytes)),
            (closed.size, closed.sha256)
        );
        assert_eq!(fs::read(&index).unwrap().len(), bytes.len() / BLOCK * 32);
        let verity = &closed.verity;
        Command::new("/usr/sbin/veritysetup")
            .args(["verify", "--no-superblock", "--format=1", "--hash=sha256"])
            .arg(format!("--salt={}", verity.salt.for_table()))
            .arg(format!("--data-blocks={}", verity.data_blocks))
            .arg(format!("--hash-offset={}", verity.hash_offset))
            .args([&image, &image])
            .arg(verity.root_hash.to_string())
            .run()
            .unwrap();
    }
}
