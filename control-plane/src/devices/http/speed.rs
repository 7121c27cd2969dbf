//! `/v1/me/speed`: bytes that mean nothing, given and taken, by which a device measures its line. Nothing is kept.

use std::sync::LazyLock;
use std::time::{Duration, Instant};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::http::{Extensions, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use bytes::Bytes;
use cairn_wire::speed::{LARGEST, PATH};
use futures_util::stream;
use http_body_util::BodyExt as _;
use rand::RngCore as _;
use serde::Deserialize;
use tokio::sync::{Semaphore, SemaphorePermit};

use super::certified;
use super::turns::{Turn, Turns};
use crate::app::App;
use crate::config::SPEED_A_DAY;
use crate::registry::DeviceId;
use crate::web::{ApiError, Query};

/// Requests at once: they share the server's own line, and would measure that.
static PLACES: Semaphore = Semaphore::const_new(64);
/// Who waits for one asks again after so many seconds.
const BUSY: u64 = 30;
/// Devices that are at it.
static MEASURING: Turns = Turns::new();
/// What a request may take as a whole.
const LONGEST: Duration = Duration::from_secs(60);
/// What is given, again and again. Nobody on the way can compress it.
static FILLER: LazyLock<Bytes> = LazyLock::new(|| {
    let mut bytes = vec![0; 64 << 10];
    rand::thread_rng().fill_bytes(&mut bytes);
    bytes.into()
});

pub(super) fn router() -> Router<App> {
    Router::new().route(PATH, get(give).post(take))
}

#[derive(Deserialize)]
struct Wanted {
    bytes: u64,
}

/// A device's place, while it measures.
struct Place {
    _turn: Turn,
    _place: SemaphorePermit<'static>,
}

impl Place {
    /// For so many bytes.
    fn take(app: &App, device: &DeviceId, bytes: u64) -> Result<Self, ApiError> {
        if bytes > LARGEST {
            let message = format!("a request may have {LARGEST} bytes");
            return Err(ApiError::new(
                StatusCode::PAYLOAD_TOO_LARGE,
                "too-large",
                message,
            ));
        }
        let turn = MEASURING.take(device).ok_or_else(|| {
            let message = "this device measures its line right now";
            ApiError::new(StatusCode::TOO_MANY_REQUESTS, "speed-busy", message)
        })?;
        let place = PLACES.try_acquire().map_err(|_| ApiError {
            retry_after: Some(BUSY),
            ..ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "speed-busy",
                "too many devices measure their lines right now",
            )
        })?;
        let now = Instant::now();
        let wait = app.speed.charge(device, 0, now);
        if !wait.is_zero() {
            return Err(ApiError {
                retry_after: Some(wait.as_secs() + 1),
                ..ApiError::new(
                    StatusCode::TOO_MANY_REQUESTS,
                    "quota",
                    format!(
                        "this device has had {SPEED_A_DAY} bytes for measuring its line in a day"
                    ),
                )
            });
        }
        app.speed
            .charge(device, usize::try_from(bytes).unwrap_or(usize::MAX), now);
        Ok(Self {
            _turn: turn,
            _place: place,
        })
    }
}

async fn give(
    State(app): State<App>,
    Query(wanted): Query<Wanted>,
    extensions: Extensions,
) -> Result<Response, ApiError> {
    let device = certified(&extensions)?;
    let place = Place::take(&app, &device, wanted.bytes)?;
    let ends = Instant::now() + LONGEST;
    // The place is free with the last piece: the device may come again as soon as it has that.
    let pieces = stream::unfold(
        (wanted.bytes, Some(place)),
        move |(left, place)| async move {
            if left == 0 {
                return None;
            }
            if Instant::now() >= ends {
                return Some((Err("too slow"), (0, None)));
            }
            let size = FILLER
                .len()
                .min(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left.saturating_sub(size as u64);
            Some((Ok(FILLER.slice(..size)), (left, place.filter(|_| left > 0))))
        },
    );
    let headers = [
        (header::CONTENT_TYPE, "application/octet-stream".to_owned()),
        (header::CONTENT_LENGTH, wanted.bytes.to_string()),
        (header::CACHE_CONTROL, "no-store".to_owned()),
    ];
    Ok((headers, Body::from_stream(pieces)).into_response())
}

async fn take(State(app): State<App>, request: Request) -> Result<StatusCode, ApiError> {
    let device = certified(request.extensions())?;
    let length = request.headers().get(header::CONTENT_LENGTH);
    let bytes = match length.and_then(|length| length.to_str().ok()?.parse().ok()) {
        Some(bytes) => bytes,
        None if request.headers().contains_key(header::TRANSFER_ENCODING) => {
            let message = "expected Content-Length";
            return Err(ApiError::new(
                StatusCode::LENGTH_REQUIRED,
                "length-required",
                message,
            ));
        }
        // RFC 9112, section 6.3: there is no body.
        None => 0,
    };
    let _place = Place::take(&app, &device, bytes)?;
    let mut body = request.into_body();
    let taken = async {
        while let Some(frame) = body.frame().await {
            frame.map_err(|_| ApiError::bad("bad-body", "the body couldn't be read"))?;
        }
        Ok(StatusCode::NO_CONTENT)
    };
    tokio::time::timeout(LONGEST, taken).await.map_err(|_| {
        let message = format!("the request took longer than {} s", LONGEST.as_secs());
        ApiError::new(StatusCode::REQUEST_TIMEOUT, "too-slow", message)
    })?
}
