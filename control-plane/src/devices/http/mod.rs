//! The device API over HTTP.
//!
//! | Module | Owns |
//! |---|---|
//! | [`enrol`] | `/v1/enrol`, `/v1/renew` |
//! | [`me`] | `/v1/me/…`: desired state, evidence |
//! | `speed` | `/v1/me/speed`: how fast a line is |
//! | `turns` | one thing at a time for each device |
//! | [`evidence`] | the files of evidence |
//! | [`thingsboard`] | `/api/v1/…`: ThingsBoard's HTTP device API |
//! | [`poll`] | its long polls |
//! | `token` | whose an access token is |

pub mod enrol;
pub mod evidence;
pub mod me;
pub mod poll;
mod speed;
pub mod thingsboard;
mod token;
mod turns;

use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::http::{Extensions, StatusCode};

use super::{Peer, PeerRefused};
use crate::app::App;
use crate::registry::DeviceId;
use crate::web::ApiError;

/// Largest body of a device's request, but for evidence: a payload and something beside it.
const LARGEST_BODY: usize = cairn_wire::MAX_PAYLOAD + 1024;

/// All routes of devices.
pub fn router() -> Router<App> {
    Router::new()
        .merge(enrol::router())
        .merge(thingsboard::router())
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .merge(me::router())
        .merge(speed::router())
}

/// The device whose certificate the connection shows.
///
/// # Errors
/// 401 without a certificate, 403 with one that was refused.
fn certified(extensions: &Extensions) -> Result<DeviceId, ApiError> {
    if let Some(device) = Peer::device(extensions) {
        return Ok(device.clone());
    }
    match extensions.get::<PeerRefused>() {
        Some(PeerRefused(code)) => Err(ApiError::forbidden(
            code,
            "the device's certificate was refused",
        )),
        None => Err(ApiError::new(
            StatusCode::UNAUTHORIZED,
            "certificate-required",
            "this needs a device's client certificate",
        )),
    }
}
