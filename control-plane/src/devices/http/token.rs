//! Whose an access token is.

use axum::http::{Extensions, StatusCode};

use super::certified;
use crate::app::App;
use crate::registry::{DeviceId, credentials};
use crate::store::StoreError;
use crate::web::ApiError;

/// Whose token this is; `me` is that of the connection's certificate.
pub(super) async fn who(
    app: &App,
    token: String,
    extensions: &Extensions,
) -> Result<DeviceId, ApiError> {
    if token == "me" {
        return certified(extensions);
    }
    let found = app
        .store
        .read::<_, StoreError, _>(move |connection| {
            credentials::by_access_token(connection, &token)
        })
        .await?;
    found.ok_or_else(|| {
        ApiError::new(
            StatusCode::UNAUTHORIZED,
            "token-unknown",
            "no device has this access token",
        )
    })
}
