//! `POST /v1/enrol` and `POST /v1/renew`.

use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::routing::post;
use axum::{Json, Router};
use cairn_wire::enrol::{EnrolRequest, Identity, RenewRequest};

use crate::app::App;
use crate::ca::{Issued, SigningRequest, now};
use crate::metrics::Reason;
use crate::registry::DeviceId;
use crate::registry::enrolment::{self, EnrolError};
use crate::web::{ApiError, Body};

pub(super) fn router() -> Router<App> {
    Router::new()
        .route("/v1/enrol", post(enrol))
        .route("/v1/renew", post(renew))
}

async fn enrol(
    State(app): State<App>,
    headers: HeaderMap,
    Body(request): Body<EnrolRequest>,
) -> Result<Json<Identity>, ApiError> {
    let ca = app.ca.clone();
    let done = match SigningRequest::from_pem(&request.csr) {
        Ok(csr) => {
            app.store
                .write(move |tx| enrolment::enrol(tx, &ca, &request, &csr))
                .await
        }
        Err(error) => Err(error.into()),
    };
    answer(&app, &headers, "enrolled", done)
}

async fn renew(
    State(app): State<App>,
    headers: HeaderMap,
    Body(request): Body<RenewRequest>,
) -> Result<Json<Identity>, ApiError> {
    let ca = app.ca.clone();
    let done = match SigningRequest::from_pem(&request.csr) {
        Ok(csr) => {
            app.store
                .write(move |tx| enrolment::renew(tx, &ca, &request, &csr))
                .await
        }
        Err(error) => Err(error.into()),
    };
    answer(&app, &headers, "renewed", done)
}

fn answer(
    app: &App,
    headers: &HeaderMap,
    what: &'static str,
    done: Result<(DeviceId, Issued), EnrolError>,
) -> Result<Json<Identity>, ApiError> {
    match done {
        Ok((device, issued)) => {
            app.metrics.certificates.inc();
            tracing::info!(device = %device, serial = issued.serial, expires = issued.expires, "{what}");
            Ok(Json(Identity {
                device: device.to_string(),
                certificate: issued.pem,
                ca: app.ca.ca_pem().to_owned(),
                mqtt: mqtt_address(app, headers),
                time: now(),
            }))
        }
        Err(error) => {
            app.metrics
                .enrolments_refused
                .get_or_create(&Reason {
                    reason: error.code(),
                })
                .inc();
            tracing::info!(code = error.code(), %error, "no certificate");
            Err(refusal(error))
        }
    }
}

fn refusal(error: EnrolError) -> ApiError {
    let status = match error {
        EnrolError::Store(error) => return error.into(),
        EnrolError::Ca(error) => return ApiError::internal(error),
        EnrolError::TokenUnknown
        | EnrolError::TokenUsed
        | EnrolError::TokenExpired
        | EnrolError::Revoked(_)
        | EnrolError::WrongKey(_) => StatusCode::FORBIDDEN,
        EnrolError::Request(_) | EnrolError::Facts(_) => StatusCode::BAD_REQUEST,
        EnrolError::UnknownDevice(_) => StatusCode::NOT_FOUND,
    };
    ApiError::new(status, error.code(), error.to_string())
}

/// Where MQTT is: as configured, or the host that this request came to with the listener's port.
fn mqtt_address(app: &App, headers: &HeaderMap) -> String {
    if let Some(address) = &app.config.public_mqtt {
        return address.clone();
    }
    let port = app.mqtt_port();
    let host = headers
        .get(header::HOST)
        .and_then(|host| host.to_str().ok())
        .unwrap_or_default();
    let authority: Option<axum::http::uri::Authority> = host.parse().ok();
    match authority {
        Some(authority) if !authority.host().is_empty() => format!("{}:{port}", authority.host()),
        _ => format!("127.0.0.1:{port}"),
    }
}
