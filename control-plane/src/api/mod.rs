//! REST for people and pipelines; the document is at `/openapi.json`.
//!
//! Every route is collected together with its description, so that the document and the router can't differ. Every change is made in
//! one transaction with its line in the audit log.
//!
//! | Module | Owns |
//! |---|---|
//! | [`login`] | logging in and out, one's own account |
//! | [`accounts`] | accounts |
//! | [`api_tokens`] | API tokens |
//! | [`enrolment_tokens`] | enrolment tokens |
//! | [`devices`] | devices: list, show, change, revoke, remove |
//! | [`device_data`] | a device's attributes, telemetry and evidence |
//! | [`calls`] | remote calls to a device |
//! | [`timeline`] | what became of a device, in order |
//! | [`audit`] | the audit log |

pub mod accounts;
pub mod api_tokens;
pub mod audit;
pub mod calls;
pub mod device_data;
pub mod devices;
pub mod enrolment_tokens;
pub mod login;
pub mod timeline;

use axum::extract::DefaultBodyLimit;
use axum::routing::get;
use axum::{Json, Router};
use serde_json::{Value, json};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::openapi::{ComponentsBuilder, InfoBuilder, OpenApi, OpenApiBuilder};
use utoipa_axum::router::OpenApiRouter;

use crate::app::App;
use crate::web::{ApiError, Body, Page, PageQuery, Path, Query};

/// Does something that has a part after its transaction, also if the caller hangs up in between: a revoked device would stay connected.
async fn to_the_end<T: Send + 'static>(
    work: impl Future<Output = Result<T, ApiError>> + Send + 'static,
) -> Result<T, ApiError> {
    tokio::spawn(work).await.map_err(ApiError::internal)?
}

/// Largest JSON body in bytes, if a route doesn't say otherwise.
const LARGEST_BODY: usize = 1 << 20;

/// All of people's routes with their descriptions.
fn routes() -> OpenApiRouter<App> {
    let document = OpenApiBuilder::new()
        .info(
            InfoBuilder::new()
                .title("Cairn control plane")
                .version(env!("CARGO_PKG_VERSION"))
                .description(Some("For people and pipelines. Errors are {\"code\", \"message\"}. Lists come in pages: give `next` as `cursor`.")),
        )
        .components(Some(
            ComponentsBuilder::new()
                .security_scheme(
                    "token",
                    SecurityScheme::Http(
                        HttpBuilder::new()
                            .scheme(HttpAuthScheme::Bearer)
                            .description(Some("An API token, or the token of a login"))
                            .build(),
                    ),
                )
                .build(),
        ))
        .build();
    OpenApiRouter::with_openapi(document)
        .merge(login::routes())
        .merge(accounts::routes())
        .merge(api_tokens::routes())
        .merge(enrolment_tokens::routes())
        .merge(devices::routes())
        .merge(device_data::routes())
        .merge(calls::routes())
        .merge(timeline::routes())
        .merge(audit::routes())
        .merge(crate::releases::rest::routes())
        .merge(crate::rollouts::routes())
        .merge(crate::workloads::routes())
        .merge(crate::disks::routes())
        .merge(crate::traffic::routes())
        .merge(crate::stream::routes())
        .merge(crate::alarms::routes())
}

/// The OpenAPI document.
pub fn document() -> Value {
    completed(&routes().split_for_parts().1)
}

/// The document, with what the macros leave out: unique names, and the shape of every error.
fn completed(document: &OpenApi) -> Value {
    let mut document = serde_json::to_value(document).unwrap_or_default();
    let error = json!({
        "description": "It can't be done; the status says what kind of reason there is.",
        "content": { "application/json": { "schema": {
            "type": "object",
            "required": ["code", "message"],
            "properties": {
                "code": { "type": "string", "description": "A word for programs" },
                "message": { "type": "string", "description": "A sentence for people" },
            },
        } } },
    });
    for (path, item) in document["paths"].as_object_mut().into_iter().flatten() {
        for (method, operation) in item.as_object_mut().into_iter().flatten() {
            // A function's name is unique in its module only.
            operation["operationId"] = operation_id(method, path).into();
            if let Some(responses) = operation
                .get_mut("responses")
                .and_then(Value::as_object_mut)
            {
                // The specification wants a description of each, as wordless as it may be.
                for response in responses.values_mut().filter_map(Value::as_object_mut) {
                    response
                        .entry("description")
                        .or_insert_with(|| "It is done.".into());
                }
                responses.insert("default".into(), error.clone());
            }
        }
    }
    document
}

/// As `get-devices-id-attributes`.
fn operation_id(method: &str, path: &str) -> String {
    let path = path
        .trim_start_matches("/v1")
        .replace('/', "-")
        .replace(['{', '}'], "");
    format!("{method}{path}")
}

/// People's routes, and `/openapi.json`.
pub fn router() -> Router<App> {
    let (router, document) = routes().split_for_parts();
    let document = completed(&document);
    router
        .route(
            "/openapi.json",
            get(move || std::future::ready(Json(document.clone()))),
        )
        .layer(DefaultBodyLimit::max(LARGEST_BODY))
        .layer(axum::Extension(std::sync::Arc::new(
            crate::people::login::Limiter::default(),
        )))
}
