//! `contents.jsonl.zst`: every file in both images, one JSON object a line, sorted
//! by image and path, compressed with zstd.

use crate::error::{Error, Result};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read};
use std::path::Path;

/// Which image a file lies in.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Image {
    /// The kernel container.
    Kernel,
    /// The root image.
    Root,
}

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum FileType {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link.
    Symlink,
    /// A character device.
    Char,
    /// A block device.
    Block,
    /// A named pipe.
    Fifo,
    /// A socket.
    Socket,
}

/// One file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Record {
    /// Which image.
    pub image: Image,
    /// The absolute path within it.
    pub path: String,
    /// What it is.
    #[serde(rename = "type")]
    pub file_type: FileType,
    /// Permission bits, as four octal digits.
    pub mode: String,
    /// The owner.
    pub uid: u32,
    /// The group.
    pub gid: u32,
    /// Bytes of a regular file, else 0.
    pub size: u64,
    /// Digest of a regular file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sha256: Option<cairn_release::Digest>,
    /// Where a symbolic link points.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub target: Option<String>,
    /// `major:minor` of a device.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub device: Option<String>,
    /// Extended attributes, values in base64.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub xattrs: BTreeMap<String, String>,
}

/// A line longer than this is no record.
const LINE: u64 = 1024 * 1024;

/// Reads the list; `name` is the file's, for errors.
///
/// # Errors
/// If it isn't zstd, or a line isn't a record.
pub fn parse(bytes: impl Read, name: &Path) -> Result<Vec<Record>> {
    let name = name.display();
    let bad = |e: std::io::Error| Error::input(format!("{name}: not a zstd file")).because(e);
    let mut reader = BufReader::new(zstd::Decoder::new(bytes).map_err(bad)?);
    let (mut records, mut line) = (Vec::new(), Vec::new());
    loop {
        line.clear();
        if reader
            .by_ref()
            .take(LINE)
            .read_until(b'\n', &mut line)
            .map_err(bad)?
            == 0
        {
            return Ok(records);
        }
        records.push(serde_json::from_slice(&line).map_err(|e| {
            Error::input(format!("{name}: line {} is no record", records.len() + 1)).because(e)
        })?);
    }
}

/// Writes the list's lines, uncompressed; `records` must be sorted by image and path.
///
/// # Errors
/// If a record has no JSON form.
pub fn to_lines(records: &[Record]) -> Result<Vec<u8>> {
    let mut lines = Vec::new();
    for record in records {
        serde_json::to_writer(&mut lines, record)
            .map_err(|e| Error::failed(format!("cannot list {}", record.path)).because(e))?;
        lines.push(b'\n');
    }
    Ok(lines)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_back_what_it_writes_and_names_the_bad_line() {
        let record = Record {
            image: Image::Root,
            path: "/usr/bin/env".into(),
            file_type: FileType::Symlink,
            mode: "0777".into(),
            uid: 0,
            gid: 0,
            size: 0,
            sha256: None,
            target: Some("busybox".into()),
            device: None,
            xattrs: BTreeMap::new(),
        };
        let mut lines = to_lines(&[record.clone(), record.clone()]).unwrap();
        let pack = |lines: &[u8]| zstd::encode_all(lines, 3).unwrap();
        let name = Path::new("c");
        assert_eq!(
            parse(&pack(&lines)[..], name).unwrap(),
            [record.clone(), record]
        );
        lines.extend_from_slice(b"{}\n");
        let error = parse(&pack(&lines)[..], name).unwrap_err();
        assert_eq!(error.to_string(), "c: line 3 is no record");
        assert!(parse(&lines[..], name).is_err());
    }
}
