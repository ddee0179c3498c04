//! `/v1/vm/guest`: what the guest itself says.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    extract::{Query, State, rejection::QueryRejection},
};
use serde::Deserialize;
use tokio::time::timeout;
use utoipa::IntoParams;

use super::{ApiError, ErrorBody, blocking};
use crate::{
    daemon::Daemon,
    machine::{CheckReport, GuestReport},
};

/// How long to wait for telemetry on pages that are still missing; shorter than a client waits for an answer.
const TELEMETRY_PATIENCE: Duration = Duration::from_secs(3);

#[derive(Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
pub(super) struct GuestQuery {
    /// `longest_gap_us` counts only gaps that ended at or after this reading of the time-stamp counter.
    #[serde(default)]
    since_tsc: u64,
}

/// The guest's telemetry.
#[utoipa::path(get, path = "/v1/vm/guest", params(GuestQuery),
    responses((status = 200, body = GuestReport), (status = 504, body = ErrorBody)))]
pub(super) async fn show(
    State(daemon): State<Arc<Daemon>>,
    query: Result<Query<GuestQuery>, QueryRejection>,
) -> Result<Json<GuestReport>, ApiError> {
    let Query(query) = query?;
    let report = async {
        // Held until the page has come, however long ago the client went away: who asks again and again must not fill the
        // process with threads that wait.
        let permit = daemon.guest_readers().acquire_owned().await;
        blocking(daemon, move |daemon| {
            let report = daemon.guest(query.since_tsc);
            drop(permit);
            Ok(report)
        })
        .await
    };
    match timeout(TELEMETRY_PATIENCE, report).await {
        Ok(report) => Ok(Json(report?)),
        Err(_) => Err(ApiError::no_answer("the guest's telemetry is on a page that has not come yet")),
    }
}

/// Has the guest check all of its memory, and waits for the result.
#[utoipa::path(post, path = "/v1/vm/guest/check",
    responses((status = 200, body = CheckReport), (status = 409, body = ErrorBody)))]
pub(super) async fn check(State(daemon): State<Arc<Daemon>>) -> Result<Json<CheckReport>, ApiError> {
    blocking(daemon, |daemon| daemon.check().map(Json)).await
}
