//! Release files over HTTP: single ranges, ETags, `If-Range`, and never more than a chunk in memory.
//!
//! Whoever holds a device's certificate may fetch any release; people and pipelines need the scope `releases:read`.

use std::fs::File;
use std::io::{self, SeekFrom};
use std::path::PathBuf;

use axum::Router;
use axum::body::{Body, Bytes};
use axum::extract::{FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::get;
use cairn_release::{Digest, Version, name};
use futures_util::stream;
use tokio::io::{AsyncReadExt as _, AsyncSeekExt as _};

use super::folder::MANIFEST_LIMIT;
use super::publish::{LATEST, TRUST};
use super::range::{self, Wanted};
use super::{Releases, files, trust};
use crate::app::App;
use crate::people::{Caller, Scope};
use crate::web::{ApiError, Path};

/// Bytes read from the disk at once.
const CHUNK: usize = 128 * 1024;

/// The routes of release files.
pub fn router() -> Router<App> {
    Router::new()
        .route("/releases/{channel}/latest.dsse.json", get(latest))
        .route("/releases/{channel}/trust/{file}", get(trust_root))
        .route("/releases/{channel}/{version}/{file}", get(release_file))
        .route("/releases/{channel}/{version}/patches/{file}", get(patch))
}

/// Somebody who may fetch releases.
struct Reader;

impl FromRequestParts<App> for Reader {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut Parts, app: &App) -> Result<Self, ApiError> {
        if crate::devices::Peer::device(&parts.extensions).is_some() {
            return Ok(Self);
        }
        let caller = Caller::from_request_parts(parts, app).await?;
        caller.need(Scope::ReleasesRead)?;
        Ok(Self)
    }
}

fn version(text: &str) -> Result<Version, ApiError> {
    text.parse().map_err(|_| nothing())
}

/// What isn't there, or was removed this very moment, is answered as such.
fn found<T>(opened: io::Result<T>) -> Result<T, ApiError> {
    match opened {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Err(nothing()),
        opened => Ok(opened?),
    }
}

fn nothing() -> ApiError {
    ApiError::not_found("such release file")
}

async fn release_file(
    _: Reader,
    State(app): State<App>,
    Path((channel, wanted, file)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (channel, version) = (version(&channel)?, version(&wanted)?);
    let release = app
        .releases
        .get_in(&channel, &version)
        .ok_or_else(nothing)?;
    let file = release.file(&file).ok_or_else(nothing)?;
    let path = app
        .releases
        .channel(&channel)
        .join(version.as_str())
        .join(&file.name);
    let opened = tokio::task::spawn_blocking(move || files::open_plain(&path)).await;
    let body = Content {
        file: found(opened.map_err(ApiError::internal)?)?,
        size: file.size,
        digest: file.sha256,
        json: file.name.ends_with(".json"),
        lasting: true,
    };
    body.answer(&method, &headers).await
}

async fn patch(
    _: Reader,
    State(app): State<App>,
    Path((channel, wanted, file)): Path<(String, String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let (channel, version) = (version(&channel)?, version(&wanted)?);
    let from = name::patch_from(&file).ok_or_else(nothing)?;
    let release = app
        .releases
        .get_in(&channel, &version)
        .ok_or_else(nothing)?;
    let opened =
        tokio::task::spawn_blocking(move || app.releases.open_patch(&release, &from)).await;
    let (file, about) = found(opened.map_err(ApiError::internal)?)?;
    let body = Content {
        file,
        size: about.size,
        digest: about.sha256,
        json: false,
        // A better one may take its place.
        lasting: false,
    };
    body.answer(&method, &headers).await
}

async fn latest(
    _: Reader,
    State(app): State<App>,
    Path(channel): Path<String>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let path = app.releases.channel(&version(&channel)?).join(LATEST);
    small(
        &app.releases,
        path,
        MANIFEST_LIMIT,
        false,
        &method,
        &headers,
    )
    .await
}

async fn trust_root(
    _: Reader,
    State(app): State<App>,
    Path((channel, file)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let number = trust::number(&file).ok_or_else(nothing)?;
    let path = app
        .releases
        .channel(&version(&channel)?)
        .join(TRUST)
        .join(trust::file_name(number));
    small(&app.releases, path, trust::LIMIT, true, &method, &headers).await
}

/// Answers with a small file that is replaced whole; its ETag comes from its bytes.
async fn small(
    _: &Releases,
    path: PathBuf,
    limit: u64,
    lasting: bool,
    method: &Method,
    headers: &HeaderMap,
) -> Result<Response, ApiError> {
    let read = tokio::task::spawn_blocking(move || files::read(&path, limit)).await;
    let bytes = found(read.map_err(ApiError::internal)?)?;
    let size = bytes.len() as u64;
    let plan = Plan::new(method, headers, size, Digest::of(&bytes));
    let body = match &plan.part {
        Some(part) if plan.body => {
            let (start, end) = (
                usize::try_from(part.start).unwrap_or(0),
                usize::try_from(part.end).unwrap_or(0),
            );
            Body::from(Bytes::from(bytes).slice(start..end))
        }
        _ => Body::empty(),
    };
    Ok(plan.response(body, true, lasting))
}

/// A file to answer with.
struct Content {
    file: File,
    size: u64,
    digest: Digest,
    json: bool,
    lasting: bool,
}

/// What the answer will be.
struct Plan {
    status: StatusCode,
    size: u64,
    etag: HeaderValue,
    /// Which bytes; none for 304 and 416.
    part: Option<std::ops::Range<u64>>,
    /// Whether they are sent.
    body: bool,
}

impl Plan {
    fn new(method: &Method, headers: &HeaderMap, size: u64, digest: Digest) -> Self {
        let tag = format!("\"{digest}\"");
        // Sixty-four digits between quotes are always a header's value.
        let etag = HeaderValue::from_str(&tag).unwrap_or(HeaderValue::from_static("\"\""));
        let get = *method == Method::GET;
        let done = |status, part| Self {
            status,
            size,
            etag: etag.clone(),
            part,
            body: get,
        };
        if headers
            .get_all(header::IF_NONE_MATCH)
            .iter()
            .any(|value| matches(value, &tag))
        {
            return done(StatusCode::NOT_MODIFIED, None);
        }
        let unchanged = headers
            .get(header::IF_RANGE)
            .is_none_or(|value| value.as_bytes() == tag.as_bytes());
        let range = headers
            .get(header::RANGE)
            .and_then(|value| value.to_str().ok())
            .filter(|_| get && unchanged);
        match range.map_or(Wanted::Whole, |range| range::parse(range, size)) {
            Wanted::Whole => done(StatusCode::OK, Some(0..size)),
            Wanted::Part(part) => done(StatusCode::PARTIAL_CONTENT, Some(part)),
            Wanted::Unsatisfiable => done(StatusCode::RANGE_NOT_SATISFIABLE, None),
        }
    }

    fn response(self, body: Body, json: bool, lasting: bool) -> Response {
        let Self {
            status,
            size,
            etag,
            part,
            ..
        } = self;
        let mut response = (status, body).into_response();
        let headers = response.headers_mut();
        headers.insert(header::ETAG, etag);
        headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
        let keep = if lasting {
            "private, max-age=31536000, immutable"
        } else {
            "no-cache"
        };
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static(keep));
        let range = match (&part, status) {
            (Some(part), StatusCode::PARTIAL_CONTENT) => {
                Some(format!("bytes {}-{}/{size}", part.start, part.end - 1))
            }
            (_, StatusCode::RANGE_NOT_SATISFIABLE) => Some(format!("bytes */{size}")),
            _ => None,
        };
        if let Some(Ok(range)) = range.map(|range| HeaderValue::from_str(&range)) {
            headers.insert(header::CONTENT_RANGE, range);
        }
        if let Some(part) = part {
            let kind = if json {
                "application/json"
            } else {
                "application/octet-stream"
            };
            headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
            headers.insert(
                header::CONTENT_LENGTH,
                HeaderValue::from(part.end - part.start),
            );
        }
        response
    }
}

/// Whether an `If-None-Match` names this tag.
fn matches(value: &HeaderValue, tag: &str) -> bool {
    let Ok(value) = value.to_str() else {
        return false;
    };
    value
        .split(',')
        .map(str::trim)
        .any(|one| one == "*" || one.strip_prefix("W/").unwrap_or(one) == tag)
}

impl Content {
    async fn answer(self, method: &Method, headers: &HeaderMap) -> Result<Response, ApiError> {
        let plan = Plan::new(method, headers, self.size, self.digest);
        let body = match &plan.part {
            Some(part) if plan.body && part.start < part.end => {
                Self::stream(self.file, part.start, part.end - part.start).await?
            }
            _ => Body::empty(),
        };
        Ok(plan.response(body, self.json, self.lasting))
    }

    async fn stream(file: File, start: u64, len: u64) -> Result<Body, ApiError> {
        let mut file = tokio::fs::File::from_std(file);
        file.seek(SeekFrom::Start(start)).await?;
        Ok(Body::from_stream(stream::try_unfold(
            (file, len),
            |(mut file, left)| async move {
                if left == 0 {
                    return Ok::<_, io::Error>(None);
                }
                let mut chunk =
                    vec![0; usize::try_from(left).map_or(CHUNK, |left| left.min(CHUNK))];
                let read = file.read(&mut chunk).await?;
                if read == 0 {
                    return Err(io::Error::new(
                        io::ErrorKind::UnexpectedEof,
                        "a release file is shorter than it was",
                    ));
                }
                chunk.truncate(read);
                Ok(Some((Bytes::from(chunk), (file, left - read as u64))))
            },
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(method: Method, pairs: &[(&'static str, &str)]) -> Plan {
        let mut headers = HeaderMap::new();
        for (name, value) in pairs {
            headers.append(*name, value.parse().unwrap());
        }
        Plan::new(&method, &headers, 10, Digest::of(b"x"))
    }

    #[test]
    fn a_range_counts_only_for_the_file_that_it_was_begun_of() {
        let tag = format!("\"{}\"", Digest::of(b"x"));
        let range = ("range", "bytes=2-3");
        assert_eq!(plan(Method::GET, &[range]).part, Some(2..4));
        assert_eq!(
            plan(Method::GET, &[range, ("if-range", &tag)]).status,
            StatusCode::PARTIAL_CONTENT
        );
        for other in [
            "\"other\"",
            &format!("W/{tag}"),
            "Sun, 22 Nov 2026 00:00:00 GMT",
        ] {
            let plan = plan(Method::GET, &[range, ("if-range", other)]);
            assert_eq!(
                (plan.status, plan.part),
                (StatusCode::OK, Some(0..10)),
                "{other}"
            );
        }
    }

    #[test]
    fn what_is_known_is_not_sent_again() {
        let tag = format!("\"{}\"", Digest::of(b"x"));
        for known in [
            tag.clone(),
            format!("W/{tag}"),
            format!("\"a\", {tag}"),
            "*".into(),
        ] {
            assert_eq!(
                plan(Method::GET, &[("if-none-match", &known)]).status,
                StatusCode::NOT_MODIFIED,
                "{known}"
            );
        }
        assert_eq!(
            plan(Method::GET, &[("if-none-match", "\"a\"")]).status,
            StatusCode::OK
        );
    }

    #[test]
    fn head_tells_of_the_whole_file() {
        let head = plan(Method::HEAD, &[("range", "bytes=2-3")]);
        assert_eq!(
            (head.status, head.part.clone(), head.body),
            (StatusCode::OK, Some(0..10), false)
        );
        let response = head.response(Body::empty(), false, true);
        assert_eq!(response.headers()["content-length"], "10");
        let none =
            plan(Method::GET, &[("range", "bytes=10-")]).response(Body::empty(), false, true);
        assert_eq!(
            (
                none.status().as_u16(),
                none.headers()["content-range"].to_str().unwrap()
            ),
            (416, "bytes */10")
        );
    }
}
