//! Writing the list of every file in both images.

use crate::contents::{FileType, Image, Record, to_lines};
use crate::error::{Error, Result};
use crate::files::cannot;
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use cairn_release::Digest;
use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::Path;

/// Lists `kernel` and `root`: the bytes of `contents.jsonl.zst`.
///
/// # Errors
/// If a file can't be read.
pub fn list(kernel: &Path, root: &Path) -> Result<Vec<u8>> {
    let (kernel, root) = std::thread::scope(|scope| {
        let kernel = scope.spawn(|| records(Image::Kernel, kernel));
        let root = records(Image::Root, root);
        (kernel.join(), root)
    });
    let mut all = kernel.map_err(|_| Error::failed("cannot list the kernel container"))??;
    all.extend(root?);
    zstd::encode_all(to_lines(&all)?.as_slice(), 9)
        .map_err(|e| Error::failed("cannot pack the list of files").because(e))
}

fn records(image: Image, tree: &Path) -> Result<Vec<Record>> {
    let mut records = walkdir::WalkDir::new(tree)
        .into_iter()
        .map(|entry| {
            let entry = entry
                .map_err(|e| Error::failed(format!("cannot read {}", tree.display())).because(e))?;
            record(image, tree, entry.path())
        })
        .collect::<Result<Vec<_>>>()?;
    records.sort_by(|a, b| a.path.cmp(&b.path));
    Ok(records)
}

fn record(image: Image, tree: &Path, path: &Path) -> Result<Record> {
    let meta = fs::symlink_metadata(path).map_err(|e| cannot("read", path, e))?;
    let kind = meta.file_type();
    let file_type = match () {
        () if kind.is_dir() => FileType::Dir,
        () if kind.is_symlink() => FileType::Symlink,
        () if kind.is_char_device() => FileType::Char,
        () if kind.is_block_device() => FileType::Block,
        () if kind.is_fifo() => FileType::Fifo,
        () if kind.is_socket() => FileType::Socket,
        () => FileType::File,
    };
    let read = || fs::read(path).map_err(|e| cannot("read", path, e));
    let target = || fs::read_link(path).map_err(|e| cannot("read", path, e));
    let device = || {
        let id = meta.rdev();
        format!("{}:{}", rustix::fs::major(id), rustix::fs::minor(id))
    };
    let is_file = file_type == FileType::File;
    Ok(Record {
        image,
        path: Path::new("/")
            .join(path.strip_prefix(tree).unwrap_or(path))
            .to_string_lossy()
            .into_owned(),
        file_type,
        mode: format!("{:04o}", meta.mode() & 0o7777),
        uid: meta.uid(),
        gid: meta.gid(),
        size: if is_file { meta.size() } else { 0 },
        sha256: if is_file {
            Some(Digest::of(&read()?))
        } else {
            None
        },
        target: if file_type == FileType::Symlink {
            Some(target()?.to_string_lossy().into_owned())
        } else {
            None
        },
        device: matches!(file_type, FileType::Char | FileType::Block).then(device),
        xattrs: xattrs(path)?,
    })
}

fn xattrs(path: &Path) -> Result<BTreeMap<String, String>> {
    let io = |e: rustix::io::Errno| cannot("read the attributes of", path, e.into());
    let mut names = vec![0; 64 * 1024];
    let length = match rustix::fs::llistxattr(path, &mut names) {
        Ok(length) => length,
        Err(rustix::io::Errno::OPNOTSUPP) => 0,
        Err(error) => return Err(io(error)),
    };
    let mut found = BTreeMap::new();
    for name in names[..length]
        .split(|b| *b == 0)
        .filter(|name| !name.is_empty())
    {
        let mut value = vec![0; 64 * 1024];
        let length = rustix::fs::lgetxattr(path, name, &mut value).map_err(io)?;
        found.insert(
            String::from_utf8_lossy(name).into_owned(),
            STANDARD.encode(&value[..length]),
        );
    }
    Ok(found)
}
