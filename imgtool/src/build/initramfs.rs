//! The initramfs: a cpio of the hook, the modules that it may need, and the trust
//! root. imgtool makes it itself, so that it is small and always the same.
//!
//! ```text
//! /init                          the hook's static binary
//! /etc/cairn/trust.dsse.json     the trust root that a boot starts from
//! /etc/cairn/hook.json           what the profile asks of the hook
//! /etc/cairn/modules.json        names, order and hardware of the modules
//! /lib/modules/<name>.ko         the modules, unpacked: the hook has no decompressor
//! ```

use super::modules::{Choice, Modules};
use super::tree::KernelTree;
use crate::error::{Error, Result};
use crate::files::cannot;
use crate::profile::settings::Initramfs;
use cairn_release::Timestamp;
use cpio::newc::{Builder, ModeFileType};
use std::collections::BTreeMap;
use std::io::{Read, Write as _};
use std::path::Path;

/// zstd's level: 19 makes it a tenth smaller and takes twenty times as long, in
/// which nothing else of the kernel container can be done.
const LEVEL: i32 = 9;

/// Packs the initramfs for `kernel`.
///
/// # Errors
/// If a module is missing or damaged, or the hook is no program.
pub fn pack(
    kernel: &KernelTree,
    settings: &Initramfs,
    hook: &Path,
    trust: &[u8],
    epoch: Timestamp,
) -> Result<Vec<u8>> {
    let choice = Modules::read(&kernel.modules())?.choose(&settings.modules)?;
    let mut files: BTreeMap<String, (u32, Vec<u8>)> = BTreeMap::new();
    let program = std::fs::read(hook).map_err(|e| cannot("read", hook, e))?;
    if !program.starts_with(b"\x7fELF") {
        return Err(Error::input(format!(
            "{}: the initramfs hook is no program",
            hook.display()
        )));
    }
    files.insert("init".into(), (0o755, program));
    files.insert("etc/cairn/trust.dsse.json".into(), (0o644, trust.to_vec()));
    files.insert("etc/cairn/hook.json".into(), (0o644, hook_json(settings)));
    files.insert(
        "etc/cairn/modules.json".into(),
        (0o644, modules_json(&choice)),
    );
    for (name, module) in &choice.modules {
        let path = kernel.modules().join(&module.file);
        files.insert(format!("lib/modules/{name}.ko"), (0o644, unpacked(&path)?));
    }
    let write = |e: std::io::Error| Error::failed("cannot pack the initramfs").because(e);
    let archive = archive(&files, epoch).map_err(write)?;
    zstd::encode_all(archive.as_slice(), LEVEL).map_err(write)
}

fn hook_json(settings: &Initramfs) -> Vec<u8> {
    json(&serde_json::json!({
        "panic_on_corruption": settings.panic_on_corruption,
        "watchdog_seconds": settings.watchdog_seconds,
        "data_timeout_seconds": settings.data_timeout_seconds,
        "data_fs": "ext4",
    }))
}

fn modules_json(choice: &Choice) -> Vec<u8> {
    let modules: serde_json::Map<_, _> = choice
        .modules
        .iter()
        .map(|(name, m)| {
            (
                name.clone(),
                serde_json::json!({ "deps": m.deps, "aliases": m.aliases }),
            )
        })
        .collect();
    json(&serde_json::json!({ "load": choice.load, "modules": modules, "builtin": choice.builtin }))
}

fn json(value: &serde_json::Value) -> Vec<u8> {
    let mut text = value.to_string().into_bytes();
    text.push(b'\n');
    text
}

/// A module's bytes, unpacked as its name's ending says.
fn unpacked(path: &Path) -> Result<Vec<u8>> {
    let file = std::fs::File::open(path).map_err(|e| cannot("open", path, e))?;
    let ending = path
        .extension()
        .and_then(|e| e.to_str())
        .unwrap_or_default();
    let mut bytes = Vec::new();
    let read = match ending {
        "zst" => zstd::Decoder::new(file).and_then(|mut d| d.read_to_end(&mut bytes)),
        "xz" => liblzma::read::XzDecoder::new(file).read_to_end(&mut bytes),
        "gz" => flate2::read::GzDecoder::new(file).read_to_end(&mut bytes),
        _ => std::io::BufReader::new(file).read_to_end(&mut bytes),
    };
    read.map_err(|e| cannot("read", path, e))?;
    if !bytes.starts_with(b"\x7fELF") {
        return Err(Error::input(format!(
            "{}: not a kernel module",
            path.display()
        )));
    }
    Ok(bytes)
}

/// A newc archive, with every folder before what is in it.
fn archive(files: &BTreeMap<String, (u32, Vec<u8>)>, epoch: Timestamp) -> std::io::Result<Vec<u8>> {
    let mtime = u32::try_from(epoch.unix()).unwrap_or(0);
    let mut out = Vec::new();
    let mut entry = 0;
    let mut add = |name: &str, kind, mode, bytes: &[u8]| -> std::io::Result<()> {
        entry += 1;
        let builder = Builder::new(name)
            .ino(entry)
            .nlink(1)
            .mtime(mtime)
            .mode(mode)
            .set_mode_file_type(kind);
        let mut writer = builder.write(
            &mut out,
            u32::try_from(bytes.len()).map_err(std::io::Error::other)?,
        );
        writer.write_all(bytes)?;
        writer.finish().map(drop)
    };
    // The mount points of the hook, and /dev/console's folder.
    let mut folders: Vec<String> = ["dev", "proc", "sys", "run"].map(String::from).to_vec();
    for name in files.keys() {
        folders.extend(
            name.match_indices('/')
                .filter_map(|(at, _)| name.get(..at))
                .map(String::from),
        );
    }
    folders.sort();
    folders.dedup();
    for folder in folders {
        add(&folder, ModeFileType::Directory, 0o755, &[])?;
    }
    for (name, (mode, bytes)) in files {
        add(name, ModeFileType::Regular, *mode, bytes)?;
    }
    // The kernel opens the one before it starts /init, whose runtime wants the other.
    for (name, major, minor) in [("dev/console", 5, 1), ("dev/null", 1, 3)] {
        let builder = Builder::new(name)
            .nlink(1)
            .mtime(mtime)
            .mode(0o600)
            .set_mode_file_type(ModeFileType::Char)
            .rdev_major(major)
            .rdev_minor(minor);
        builder.write(&mut out, 0).finish().map(drop)?;
    }
    cpio::newc::trailer(&mut out).map(drop)?;
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_archive_is_what_cpio_reads_and_always_the_same() {
        let files = BTreeMap::from([
            ("init".to_owned(), (0o755, b"\x7fELF".to_vec())),
            ("lib/modules/a.ko".to_owned(), (0o644, b"module".to_vec())),
        ]);
        let epoch = Timestamp::from_unix(1).unwrap();
        let bytes = archive(&files, epoch).unwrap();
        assert_eq!(bytes, archive(&files, epoch).unwrap());
        let list = cairn_system::Command::new("cpio")
            .args(["-t", "--quiet"])
            .stdin(bytes)
            .run()
            .unwrap();
        assert_eq!(
            list.text(),
            "dev\nlib\nlib/modules\nproc\nrun\nsys\ninit\nlib/modules/a.ko\ndev/console\ndev/null"
        );
    }

    #[test]
    fn modules_are_unpacked_and_must_be_modules() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str, bytes: &[u8]| {
            let path = folder.path().join(name);
            std::fs::write(&path, bytes).unwrap();
            path
        };
        let packed = zstd::encode_all(&b"\x7fELF rest"[..], 3).unwrap();
        assert_eq!(
            unpacked(&write("a.ko.zst", &packed)).unwrap(),
            b"\x7fELF rest"
        );
        let error = unpacked(&write("b.ko", b"text")).unwrap_err();
        assert!(error.to_string().ends_with("b.ko: not a kernel module"));
    }
}
