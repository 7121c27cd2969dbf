//! The device API: ThingsBoard's over MQTT and HTTP, and ours beside it (enrolment, desired state, evidence).
//!
//! Topics and paths name `me`; who that is comes from the connection alone.
//!
//! | Module | Owns |
//! |---|---|
//! | [`mqtt`] | the MQTT front end |
//! | [`http`] | the HTTP front end |
//! | [`requests`] | what both answer: attributes, calls to the server, claims |

pub mod http;
pub mod mqtt;
pub mod requests;

use std::time::Duration;

use axum::http::Extensions;
use rustls::pki_types::CertificateDer;

use crate::app::App;
use crate::registry::DeviceId;
use crate::registry::credentials::{self, Refused};
use crate::sessions::Admission;

/// Extension of every HTTPS request: the device whose certificate the connection shows.
#[derive(Debug, Clone, Default)]
pub struct Peer(pub Option<DeviceId>);

impl Peer {
    /// The device of a request.
    pub fn device(extensions: &Extensions) -> Option<&DeviceId> {
        extensions.get::<Self>()?.0.as_ref()
    }
}

/// Extension of an HTTPS request whose certificate was refused: the word for it.
#[derive(Debug, Clone, Copy)]
pub struct PeerRefused(pub &'static str);

/// Lets in who shows this certificate: a place among the device's connections, and when the certificate ends.
///
/// # Errors
/// If it is nobody's, or its device may not come in.
pub async fn admit(
    app: &App,
    certificate: CertificateDer<'static>,
) -> Result<(DeviceId, Admission, Option<i64>), Refused> {
    let look = |app: &App, certificate: CertificateDer<'static>| {
        let ca = app.ca.clone();
        let store = app.store.clone();
        async move {
            store
                .read::<_, Refused, _>(move |connection| {
                    credentials::by_certificate(connection, &ca, &certificate)
                })
                .await
        }
    };
    let (device, ends) = look(app, certificate.clone()).await?;
    let admission = app.sessions.admit(&device);
    // A revocation between the look and the place would be missed.
    look(app, certificate).await?;
    Ok((device, admission, ends))
}

/// Returns after this moment (in seconds since 1970), wherever the clock is set meanwhile; never without one.
pub async fn over(ends: Option<i64>) {
    let Some(ends) = ends else {
        return std::future::pending().await;
    };
    while let Some(left) = left(ends) {
        tokio::time::sleep(left.min(Duration::from_secs(600))).await;
    }
}

/// How long something counts that ends with this second; `None` if it is over.
pub(crate) fn left(ends: i64) -> Option<Duration> {
    let left = (ends + 1).saturating_mul(1000) - now_ms();
    u64::try_from(left)
        .ok()
        .filter(|left| *left > 0)
        .map(Duration::from_millis)
}

/// Milliseconds since 1970.
pub(crate) fn now_ms() -> i64 {
    std::time::SystemTime::now()
        .duration_since(std::time::UNIX_EPOCH)
        .map_or(0, |since| {
            i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
        })
}
