//! `/v1/vm/balloon`: memory that the guest is asked to do without.

use std::sync::Arc;

use axum::{
    Json,
    extract::{State, rejection::JsonRejection},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use super::{ApiError, ErrorBody, blocking};
use crate::{daemon::Daemon, machine::BalloonReport};

/// What is asked for.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub struct BalloonRequest {
    /// How much the guest is to have in its balloon, in bytes: whole pages, and no more than its memory. 0 gives
    /// everything back to it.
    pub target_bytes: u64,
}

/// The guest's balloon.
#[utoipa::path(get, path = "/v1/vm/balloon",
    responses((status = 200, body = BalloonReport), (status = 409, body = ErrorBody)))]
pub(super) async fn show(State(daemon): State<Arc<Daemon>>) -> Result<Json<BalloonReport>, ApiError> {
    Ok(Json(daemon.balloon()?))
}

/// Asks the guest to have so much in its balloon, and does not wait until it has.
#[utoipa::path(put, path = "/v1/vm/balloon", request_body = BalloonRequest,
    responses((status = 200, body = BalloonReport), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn set(
    State(daemon): State<Arc<Daemon>>,
    request: Result<Json<BalloonRequest>, JsonRejection>,
) -> Result<Json<BalloonReport>, ApiError> {
    let Json(request) = request?;
    blocking(daemon, move |daemon| daemon.set_balloon(request.target_bytes).map(Json)).await
}
