//! `/v1/migration`: moving the VM away.

use std::sync::Arc;

use axum::{
    Json,
    extract::{Query, State, rejection::JsonRejection, rejection::QueryRejection},
    http::StatusCode,
};
use serde::Deserialize;
use utoipa::IntoParams;

use super::{ApiError, ErrorBody, blocking};
use crate::daemon::{Daemon, MigrationRequest, MigrationState};

/// Begins to move the VM away.
#[utoipa::path(post, path = "/v1/migration", request_body = MigrationRequest,
    responses((status = 202, body = MigrationState), (status = 400, body = ErrorBody), (status = 409, body = ErrorBody)))]
pub(super) async fn begin(
    State(daemon): State<Arc<Daemon>>,
    request: Result<Json<MigrationRequest>, JsonRejection>,
) -> Result<(StatusCode, Json<MigrationState>), ApiError> {
    let Json(request) = request?;
    blocking(daemon, move |daemon| daemon.migrate(&request)).await?;
    // Not the state as it is by now: that might be a report, which only who asks for it should count as having seen.
    Ok((StatusCode::ACCEPTED, Json(MigrationState::default())))
}

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct MigrationQuery {
    /// Answer only when the migration is over. The process of a VM that has moved lingers for up to ten seconds until
    /// somebody who waits has got the report.
    #[serde(default)]
    wait: bool,
}

/// How far the last migration is, or what it cost.
#[utoipa::path(get, path = "/v1/migration", params(MigrationQuery),
    responses((status = 200, body = MigrationState)))]
pub(super) async fn show(
    State(daemon): State<Arc<Daemon>>,
    query: Result<Query<MigrationQuery>, QueryRejection>,
) -> Result<Json<MigrationState>, ApiError> {
    let Query(query) = query?;
    let mut changes = daemon.changes();
    // Also when the process ends, because the guest did: then no report will come.
    while query.wait && !daemon.is_migration_over() && daemon.end().is_none() {
        changes.changed().await.map_err(|_| ApiError::internal())?;
    }
    Ok(Json(daemon.migration(query.wait)))
}

/// Calls off the migration under way.
#[utoipa::path(delete, path = "/v1/migration",
    responses((status = 202, body = MigrationState), (status = 409, body = ErrorBody)))]
pub(super) async fn cancel(
    State(daemon): State<Arc<Daemon>>,
) -> Result<(StatusCode, Json<MigrationState>), ApiError> {
    daemon.cancel()?;
    Ok((StatusCode::ACCEPTED, Json(MigrationState::default())))
}
