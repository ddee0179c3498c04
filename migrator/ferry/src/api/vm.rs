//! `/v1/vm`: the VM itself.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{ApiError, ErrorBody, blocking};
use crate::daemon::{Daemon, Status};

/// The VM.
#[utoipa::path(get, path = "/v1/vm", responses((status = 200, body = Status)))]
pub(super) async fn show(State(daemon): State<Arc<Daemon>>) -> Result<Json<Status>, ApiError> {
    let show = |daemon: &Arc<Daemon>| {
        daemon.refresh_booting();
        Ok(Json(daemon.status()))
    };
    blocking(daemon, show).await
}

/// Stands the guest still.
#[utoipa::path(put, path = "/v1/vm/pause",
    responses((status = 200, body = Status), (status = 409, body = ErrorBody)))]
pub(super) async fn pause(State(daemon): State<Arc<Daemon>>) -> Result<Json<Status>, ApiError> {
    blocking(daemon, |daemon| daemon.pause().map(|()| Json(daemon.status()))).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct ResumeQuery {
    /// Run it here even though it may run at a destination as well.
    #[serde(default)]
    force: bool,
}

/// Lets the guest run on.
#[utoipa::path(put, path = "/v1/vm/resume", params(ResumeQuery),
    responses((status = 200, body = Status), (status = 409, body = ErrorBody)))]
pub(super) async fn resume(
    State(daemon): State<Arc<Daemon>>,
    query: Result<Query<ResumeQuery>, QueryRejection>,
) -> Result<Json<Status>, ApiError> {
    let Query(query) = query?;
    blocking(daemon, move |daemon| daemon.resume(query.force).map(|()| Json(daemon.status()))).await
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct StopQuery {
    /// Also while a guest at a destination needs pages that only this process has.
    #[serde(default)]
    force: bool,
}

/// Ends the guest and its process.
#[utoipa::path(put, path = "/v1/vm/stop", params(StopQuery),
    responses((status = 200, body = Status), (status = 409, body = ErrorBody)))]
pub(super) async fn stop(
    State(daemon): State<Arc<Daemon>>,
    query: Result<Query<StopQuery>, QueryRejection>,
) -> Result<Json<Status>, ApiError> {
    let Query(query) = query?;
    daemon.stop(query.force)?;
    Ok(Json(Status { status: "stopped".to_owned(), ..daemon.status() }))
}
