//! A release folder, or its manifest alone.

use super::Finding;
use crate::contents::{self, FileType, Image, Record};
use crate::error::Result;
use crate::release_folder::ReleaseFolder;
use crate::sbom::{self, Package};
use crate::size::bytes;
use cairn_release::{Envelope, KeyId, Manifest, name};
use std::path::Path;

/// How many of the largest files are listed.
const LARGEST: usize = 10;

pub fn folder(path: &Path) -> Result<Finding> {
    let folder = ReleaseFolder::open(path)?;
    let packages = sbom::packages(&folder.read(name::SBOM)?, &folder.file(name::SBOM))?;
    let list = folder.file(name::CONTENTS);
    let records = contents::parse(&folder.read(name::CONTENTS)?[..], &list)?;
    let largest = largest(&records);

    let mut finding = manifest(&folder.envelope, &folder.manifest);
    finding.kind = "release";
    finding.value["packages"] = serde_json::json!(packages);
    finding.value["files"] = records.len().into();
    finding.value["largest"] = largest
        .iter()
        .map(|file| serde_json::json!({"image": file.image, "path": file.path, "bytes": file.size}))
        .collect();
    finding.text += &format!("\n{} packages\n", packages.len());
    finding.text += &packages.iter().map(package_line).collect::<String>();
    finding.text += &format!("\n{} files, the largest\n", records.len());
    for file in largest {
        let image = if file.image == Image::Kernel {
            "kernel"
        } else {
            "root"
        };
        finding.text += &format!("  {:>10}  {image:6} {}\n", bytes(file.size), file.path);
    }
    Ok(finding)
}

fn package_line(package: &Package) -> String {
    let Package {
        name,
        version,
        licenses,
    } = package;
    format!("  {name} {version}  {}", licenses.join(", "))
        .trim_end()
        .to_owned()
        + "\n"
}

fn largest(records: &[Record]) -> Vec<&Record> {
    let mut files: Vec<&Record> = records
        .iter()
        .filter(|record| record.file_type == FileType::File)
        .collect();
    // Stable: equal sizes stay in the order of their paths.
    files.sort_by_key(|record| std::cmp::Reverse(record.size));
    files.truncate(LARGEST);
    files
}

pub fn manifest(envelope: &Envelope, manifest: &Manifest) -> Finding {
    let signers: Vec<KeyId> = envelope.signatures.iter().map(|s| s.keyid).collect();
    let value = serde_json::json!({ "manifest": manifest, "signers": signers });
    let Manifest {
        version,
        sequence,
        architecture,
        created,
        kernel,
        root,
        ..
    } = manifest;
    let mut text = format!(
        "version       {version}\nsequence      {sequence}, updates from {} on\n\
         created       {created}\nfor           {architecture}: {}\n\
         profile       {} {}\nkernel        {}\n",
        manifest.minimum_sequence,
        manifest.compatible.join(", "),
        manifest.profile.name,
        manifest.profile.digest,
        kernel.kernel_version,
    );
    for (file, image) in [(name::KERNEL, &kernel.image), (name::ROOT, root)] {
        let tree = image.size - image.verity.hash_offset;
        text += &format!(
            "{file:15} {}, of which verity {}\n  SHA-256       {}\n  root hash     {}\n",
            bytes(image.size),
            bytes(tree),
            image.sha256,
            image.verity.root_hash
        );
    }
    if !manifest.notes.is_empty() {
        text += &format!("notes         {}\n", manifest.notes);
    }
    // Ids are claims until somebody with the keys checks them.
    text += match signers.len() {
        0 => "signed        by nobody\n",
        _ => "signed        says it is, by\n",
    };
    signers.iter().for_each(|id| text += &format!("  {id}\n"));
    Finding {
        kind: "manifest",
        value,
        text,
    }
}
