//! Bytes of an upload, as they come.

use std::time::Duration;

use axum::body::{Body, HttpBody as _};
use axum::http::StatusCode;
use futures_util::StreamExt as _;
use tokio::io::AsyncWriteExt as _;

use super::Releases;
use super::upload::Progress;
use crate::web::ApiError;

/// How long a sender may be silent.
const SILENCE: Duration = Duration::from_secs(60);

impl Releases {
    /// Takes bytes of a file from `offset` on, which must be where it ends. What came before the sender went away stays.
    ///
    /// # Errors
    /// If there is no such file, the offset is another, or more comes than was stated.
    pub async fn put(
        &self,
        id: &str,
        file: &str,
        offset: u64,
        body: Body,
    ) -> Result<Progress, ApiError> {
        let state = self.state(id)?;
        let Some((name, &size)) = state.sizes.get_key_value(file) else {
            return Err(ApiError::not_found(format!(
                "file {:?} in upload {id}",
                file.chars().take(80).collect::<String>()
            )));
        };
        let _turn = self.turn(id)?;
        let path = self.upload_folder(id)?.join(name);
        let mut out = tokio::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(&path)
            .await?;
        let mut received = out.metadata().await?.len();
        if offset != received {
            return Err(ApiError::conflict(
                "wrong-offset",
                format!("{name} goes on at {received}, not at {offset}"),
            ));
        }
        let result = append(&mut out, body, name, &mut received, size).await;
        // Also after an error: what is counted as here must be here.
        out.flush().await?;
        if result.as_ref().is_err_and(|error| error.code == "too-much") {
            // Who sends too much has another file in mind: none of it counts.
            out.set_len(offset).await?;
        }
        result.map(|()| Progress {
            name: name.clone(),
            size,
            received,
        })
    }
}

/// Writes a body behind the `received` bytes of a file, which may have `size` bytes at most.
///
/// # Errors
/// If more comes, the sender is cut off or silent, or the disk takes no more. What was received is counted.
pub(super) async fn append(
    out: &mut tokio::fs::File,
    body: Body,
    name: &str,
    received: &mut u64,
    size: u64,
) -> Result<(), ApiError> {
    if body.size_hint().lower() > size.saturating_sub(*received) {
        return Err(too_much(name, size));
    }
    let mut stream = body.into_data_stream();
    loop {
        let chunk = match tokio::time::timeout(SILENCE, stream.next()).await {
            Ok(None) => return Ok(()),
            Ok(Some(Ok(chunk))) => chunk,
            Ok(Some(Err(error))) => {
                return Err(ApiError::bad(
                    "cut-off",
                    format!("{name} was cut off: {error}"),
                ));
            }
            Err(_) => {
                let silent = format!("nothing more of {name} came for {} s", SILENCE.as_secs());
                return Err(ApiError::new(
                    StatusCode::REQUEST_TIMEOUT,
                    "too-slow",
                    silent,
                ));
            }
        };
        if *received + chunk.len() as u64 > size {
            return Err(too_much(name, size));
        }
        out.write_all(&chunk).await?;
        *received += chunk.len() as u64;
    }
}

fn too_much(name: &str, size: u64) -> ApiError {
    ApiError::new(
        StatusCode::PAYLOAD_TOO_LARGE,
        "too-much",
        format!("{name} may have {size} bytes, and more came"),
    )
}
