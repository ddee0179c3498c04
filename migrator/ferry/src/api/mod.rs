//! The control socket of a VM's process: HTTP and JSON over a unix socket.
//!
//! | | |
//! |---|---|
//! | `GET /v1/vm` | the VM |
//! | `PUT /v1/vm/pause`, `resume[?force=true]`, `stop` | what it says |
//! | `GET`, `PUT /v1/vm/balloon` | memory that the guest is asked to do without |
//! | `GET /v1/vm/guest[?since_tsc=N]` | what the guest says of itself |
//! | `POST /v1/vm/guest/check` | has the guest check its memory |
//! | `POST /v1/migration` | begins to move it |
//! | `GET /v1/migration[?wait=true]` | how far that is, and the report |
//! | `DELETE /v1/migration` | calls it off |
//! | `GET /v1/openapi.json` | all of this, for machines |
//!
//! An error is `{"error": "a sentence"}`. What may take long runs on a thread of its own: a guest that waits for a missing
//! page must not keep the others from being answered.

mod balloon;
pub mod client;
mod error;
mod guest;
mod migration;
mod openapi;
mod vm;

use std::sync::Arc;

use axum::{
    Router,
    routing::{get, post, put},
};

pub use balloon::BalloonRequest;
pub use error::{ApiError, ErrorBody};
pub use openapi::document;

use crate::daemon::{Daemon, Refusal};

/// The API of one VM's process.
pub fn router(daemon: Arc<Daemon>) -> Router {
    Router::new()
        .route("/v1/vm", get(vm::show))
        .route("/v1/vm/pause", put(vm::pause))
        .route("/v1/vm/resume", put(vm::resume))
        .route("/v1/vm/stop", put(vm::stop))
        .route("/v1/vm/balloon", get(balloon::show).put(balloon::set))
        .route("/v1/vm/guest", get(guest::show))
        .route("/v1/vm/guest/check", post(guest::check))
        .route("/v1/migration", get(migration::show).post(migration::begin).delete(migration::cancel))
        .route("/v1/openapi.json", get(openapi::show))
        .fallback(error::no_such_path)
        .method_not_allowed_fallback(error::no_such_method)
        .with_state(daemon)
}

/// Does something that may wait on a thread of its own.
async fn blocking<T: Send + 'static>(
    daemon: Arc<Daemon>,
    act: impl FnOnce(&Arc<Daemon>) -> Result<T, Refusal> + Send + 'static,
) -> Result<T, ApiError> {
    let result = tokio::task::spawn_blocking(move || act(&daemon)).await;
    result.map_err(|_| ApiError::internal())?.map_err(ApiError::from)
}
