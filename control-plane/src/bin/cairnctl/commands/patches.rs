//! Patches of a release: sent behind it, one at a time, each whole.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::time::Duration;

use cairn_control_plane::releases::files;
use cairn_control_plane::releases::patches::MOST;
use cairn_release::name;
use futures_util::stream;
use indicatif::ProgressBar;
use reqwest::{Body, Method, header};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use super::{cell, field};
use crate::client::{Client, part};
use crate::error::{Error, Result};
use crate::output::{self, Output};

/// Bytes read at once.
const CHUNK: usize = 128 * 1024;
/// How often a patch is sent before it is given up; each time after a longer wait.
const TRIES: u32 = 5;
/// How long one may take.
const PATIENCE: Duration = Duration::from_secs(3600);

/// The patches in a release folder, by name. What is called otherwise is none.
///
/// # Errors
/// If the folder can't be read, or there are more than the server takes.
pub fn find(dir: &Path) -> Result<Vec<PathBuf>> {
    let folder = dir.join(name::PATCHES);
    let cannot = |error: std::io::Error| {
        Error::new(format!("cannot read {}", folder.display())).because(error)
    };
    let mut found = Vec::new();
    if folder.symlink_metadata().is_err() {
        return Ok(found);
    }
    for entry in folder.read_dir().map_err(cannot)? {
        let path = entry.map_err(cannot)?.path();
        if name::patch_from(&file_name(&path)).is_some() {
            found.push(path);
        }
    }
    if found.len() > MOST {
        return Err(Error::new(format!(
            "expected at most {MOST} patches in {}, got {}",
            folder.display(),
            found.len()
        ))
        .hint("nothing was sent; take those away that start from the oldest releases"));
    }
    found.sort();
    Ok(found)
}

/// Sends the patches that the server doesn't have; gives all of them.
///
/// # Errors
/// If one can't be read, or the server can't be reached or says no.
pub async fn send(
    client: &Client,
    release: &Value,
    patches: &[PathBuf],
    output: &Output,
) -> Result<Value> {
    let mut done = Vec::new();
    if patches.is_empty() {
        return Ok(done.into());
    }
    let there = list(client, release).await?;
    for path in patches {
        let name = file_name(path);
        let (digest, size) = files::open_plain(path)
            .and_then(files::digest)
            .map_err(|error| {
                Error::new(format!("cannot read {}", path.display())).because(error)
            })?;
        let unchanged = there.iter().any(|known| {
            cell(known, "name") == name && cell(known, "sha256") == digest.to_string()
        });
        if !unchanged {
            let url = format!("{}/{}", of(release), part(&name));
            send_one(client, &url, path, size, output)
                .await
                .map_err(|error| {
                    error.hint(
                        "the release itself is published; run it again to send what is missing",
                    )
                })?;
        }
        done.push(json!({ "name": name, "size": size, "sha256": digest, "unchanged": unchanged }));
    }
    Ok(done.into())
}

/// The patches that the server has for a release.
///
/// # Errors
/// If it can't be reached or says no.
pub async fn list(client: &Client, release: &Value) -> Result<Vec<Value>> {
    let answer = client.get(&of(release)).await?;
    Ok(field(&answer, "items")
        .as_array()
        .cloned()
        .unwrap_or_default())
}

fn of(release: &Value) -> String {
    let (channel, version) = (cell(release, "channel"), cell(release, "version"));
    format!("/v1/releases/{}/{}/patches", part(&channel), part(&version))
}

fn file_name(path: &Path) -> String {
    let name = path.file_name().unwrap_or_default();
    name.to_string_lossy().into_owned()
}

async fn send_one(
    client: &Client,
    url: &str,
    path: &Path,
    size: u64,
    output: &Output,
) -> Result<()> {
    let mut tries = 0;
    loop {
        let file = File::open(path).map_err(|error| {
            Error::new(format!("cannot read {}", path.display())).because(error)
        })?;
        let bar = output.bar(size);
        bar.set_message("patch");
        let request = client
            .request(Method::PUT, url)
            .timeout(PATIENCE)
            .header(header::CONTENT_LENGTH, size)
            .body(body(file, bar.clone()));
        let sent = client.send(request).await;
        bar.finish_and_clear();
        match sent {
            Ok(_) => {
                output.note(&format!("{}: {}", file_name(path), output::bytes(size)));
                return Ok(());
            }
            Err(error) if tries < TRIES && (error.is("unreachable") || error.is("upload-busy")) => {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(200 << tries)).await;
            }
            Err(error) => return Err(error),
        }
    }
}

/// A file as a body that moves the bar.
fn body(file: File, bar: ProgressBar) -> Body {
    let file = tokio::fs::File::from_std(file);
    Body::wrap_stream(stream::try_unfold(
        (file, bar),
        |(mut file, bar)| async move {
            let mut chunk = vec![0; CHUNK];
            let len = file.read(&mut chunk).await?;
            chunk.truncate(len);
            bar.inc(len as u64);
            Ok::<_, std::io::Error>((len > 0).then_some((chunk, (file, bar))))
        },
    ))
}
