//! Uploading a release: in pieces, and from where it stopped.

use std::fs::File;
use std::io::{Read as _, Seek as _, SeekFrom};
use std::path::Path;
use std::time::Duration;

use cairn_control_plane::releases::folder::{FILES, MANIFEST_LIMIT};
use cairn_control_plane::releases::upload::{Progress, Upload};
use cairn_release::name;
use reqwest::Method;
use serde_json::{Value, json};

use crate::client::{Client, part};
use crate::error::{Error, Result};
use crate::output::{self, Output};

/// Bytes in one request.
const PIECE: usize = 4 << 20;
/// How often a piece is sent before it is given up; each time after a longer wait.
const TRIES: u32 = 6;
/// How often an upload is begun again.
const ATTEMPTS: u32 = 4;
/// How long the server may take to check a whole release.
const COMMIT: Duration = Duration::from_secs(3600);

/// Uploads a release folder and publishes it; gives the release.
///
/// # Errors
/// If the folder is no release, or the server can't be reached or says no.
pub async fn upload(
    client: &Client,
    dir: &Path,
    channel: &str,
    keep_latest: bool,
    output: &Output,
) -> Result<Value> {
    let body = describe(dir, channel, keep_latest)?;
    let mut tries = 0;
    loop {
        tries += 1;
        match once(client, dir, &body, output).await {
            Err(error) if tries < ATTEMPTS && error.is("wrong-digest") => {
                output.note("a file was damaged on the way; sending it again");
            }
            // Somebody else who sends the same release was faster.
            Err(error) if tries < ATTEMPTS && error.is("not-found") => {}
            result => return result,
        }
    }
}

async fn once(client: &Client, dir: &Path, body: &Value, output: &Output) -> Result<Value> {
    let begun = begin(client, body).await?;
    if begun.published {
        return Ok(json!({
            "version": begun.version, "channel": begun.channel, "digest": begun.digest, "unchanged": true,
        }));
    }
    send(client, dir, &begun, output).await?;
    output.note(&format!("checking {} on the server …", begun.version));
    let path = format!("/v1/uploads/{}/commit", part(&begun.id));
    let committed = client
        .send(client.request(Method::POST, &path).timeout(COMMIT))
        .await;
    let mut release = match committed {
        Err(error) if error.is("unreachable") || error.is("upload-busy") => {
            wait_published(client, body).await?
        }
        committed => committed?,
    };
    release["unchanged"] = false.into();
    Ok(release)
}

/// The connection was lost while the server checked: it goes on without us.
async fn wait_published(client: &Client, body: &Value) -> Result<Value> {
    let mut waited = 0;
    loop {
        tokio::time::sleep(Duration::from_secs(2)).await;
        waited += 2;
        match begin(client, body).await {
            Ok(begun) if begun.published => {
                let path = format!(
                    "/v1/releases/{}/{}",
                    part(begun.channel.as_str()),
                    part(begun.version.as_str())
                );
                return client.get(&path).await;
            }
            Ok(begun) => {
                let path = format!("/v1/uploads/{}/commit", part(&begun.id));
                match client
                    .send(client.request(Method::POST, &path).timeout(COMMIT))
                    .await
                {
                    Err(error)
                        if (error.is("upload-busy") || error.is("unreachable")) && waited < 600 => {
                    }
                    answer => return answer,
                }
            }
            Err(error) if error.is("unreachable") && waited < 60 => {}
            Err(error) => return Err(error),
        }
    }
}

async fn begin(client: &Client, body: &Value) -> Result<Upload> {
    let answer = client.post("/v1/uploads", body).await?;
    serde_json::from_value(answer)
        .map_err(|error| Error::new("cannot read the server's answer").because(error))
}

/// What the server is told before any bytes: the manifest, and how large the files are.
fn describe(dir: &Path, channel: &str, keep_latest: bool) -> Result<Value> {
    let cannot = |path: &Path, error: std::io::Error| {
        Error::new(format!("cannot read {}", path.display())).because(error)
    };
    let path = dir.join(name::MANIFEST);
    let mut manifest = String::new();
    File::open(&path)
        .and_then(|file| file.take(MANIFEST_LIMIT + 1).read_to_string(&mut manifest))
        .map_err(|error| {
            cannot(&path, error).hint("expected a release folder, as `imgtool build` makes it")
        })?;
    let mut sizes = serde_json::Map::new();
    for file in FILES.iter().skip(1) {
        let path = dir.join(file);
        let about = path.metadata().map_err(|error| cannot(&path, error))?;
        if !about.is_file() {
            return Err(Error::new(format!(
                "{} is not a regular file",
                path.display()
            )));
        }
        sizes.insert((*file).to_owned(), about.len().into());
    }
    Ok(
        json!({ "channel": channel, "manifest": manifest, "sizes": sizes, "keep_latest": keep_latest }),
    )
}

async fn send(client: &Client, dir: &Path, begun: &Upload, output: &Output) -> Result<()> {
    let total: u64 = begun.files.iter().map(|file| file.size).sum();
    let there: u64 = begun.files.iter().map(|file| file.received).sum();
    if there > 0 {
        output.note(&format!(
            "going on: {} of {} are there",
            output::bytes(there),
            output::bytes(total)
        ));
    }
    let bar = output.bar(total);
    bar.set_position(there);
    for file in &begun.files {
        bar.set_message(file.name.clone());
        send_file(client, dir, &begun.id, file, &bar).await?;
        if !output.draws() && file.received < file.size {
            output.note(&format!("{}: {}", file.name, output::bytes(file.size)));
        }
    }
    bar.finish_and_clear();
    Ok(())
}

async fn send_file(
    client: &Client,
    dir: &Path,
    id: &str,
    file: &Progress,
    bar: &indicatif::ProgressBar,
) -> Result<()> {
    let path = dir.join(&file.name);
    let cannot = |error: std::io::Error| {
        Error::new(format!("cannot read {}", path.display())).because(error)
    };
    let mut input = File::open(&path).map_err(cannot)?;
    let (mut offset, mut tries) = (file.received, 0);
    // An empty file is made by sending nothing of it.
    let mut sent = file.size > 0 && offset == file.size;
    while !sent {
        let mut piece = Vec::new();
        input.seek(SeekFrom::Start(offset)).map_err(cannot)?;
        input
            .by_ref()
            .take(PIECE as u64)
            .read_to_end(&mut piece)
            .map_err(cannot)?;
        if piece.is_empty() && offset < file.size {
            return Err(Error::new(format!("{} has become shorter", path.display())));
        }
        let url = format!(
            "/v1/uploads/{}/files/{}?offset={offset}",
            part(id),
            part(&file.name)
        );
        let len = piece.len() as u64;
        let request = client
            .request(Method::PUT, &url)
            .timeout(Duration::from_secs(600))
            .body(piece);
        match client.send(request).await {
            Ok(_) => {
                (offset, tries) = (offset + len, 0);
                bar.inc(len);
            }
            Err(error)
                if tries < TRIES
                    && (error.is("unreachable")
                        || error.is("wrong-offset")
                        || error.is("upload-busy")) =>
            {
                tries += 1;
                tokio::time::sleep(Duration::from_millis(200 << tries)).await;
                // What arrived of the piece counts.
                if let Ok(now) = client.get(&format!("/v1/uploads/{}", part(id))).await
                    && let Ok(now) = serde_json::from_value::<Upload>(now)
                    && let Some(now) = now.files.iter().find(|now| now.name == file.name)
                {
                    bar.set_position(bar.position() + now.received.saturating_sub(offset));
                    offset = now.received;
                }
            }
            Err(error) => return Err(error),
        }
        sent = offset >= file.size;
    }
    Ok(())
}
