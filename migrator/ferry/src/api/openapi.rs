//! The API, described for machines.

use axum::Json;
use utoipa::OpenApi;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "Ferry",
        description = "The control socket of one VM's process, at $XDG_RUNTIME_DIR/ferry/NAME.sock",
        license(name = "Apache-2.0")
    ),
    paths(
        super::vm::show,
        super::vm::pause,
        super::vm::resume,
        super::vm::stop,
        super::balloon::show,
        super::balloon::set,
        super::guest::show,
        super::guest::check,
        super::migration::show,
        super::migration::begin,
        super::migration::cancel,
    )
)]
struct Description;

/// The OpenAPI document.
pub fn document() -> utoipa::openapi::OpenApi {
    Description::openapi()
}

pub(super) async fn show() -> Json<utoipa::openapi::OpenApi> {
    Json(document())
}
