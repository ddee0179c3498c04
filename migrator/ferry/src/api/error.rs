//! Errors as the API tells them.

use axum::{
    Json,
    extract::rejection::{JsonRejection, QueryRejection},
    http::StatusCode,
    response::{IntoResponse, Response},
};
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::daemon::Refusal;
use engine::report::in_words;

/// What went wrong, in a sentence.
#[derive(Clone, Debug, Serialize, Deserialize, ToSchema)]
pub struct ErrorBody {
    /// The sentence.
    pub error: String,
}

/// An error with its status code.
#[derive(Debug)]
pub struct ApiError {
    status: StatusCode,
    words: String,
}

impl ApiError {
    pub(super) fn internal() -> ApiError {
        let words = "something failed inside of Ferry; its log says what".to_owned();
        ApiError { status: StatusCode::INTERNAL_SERVER_ERROR, words }
    }

    pub(super) fn no_answer(words: &str) -> ApiError {
        ApiError { status: StatusCode::GATEWAY_TIMEOUT, words: words.to_owned() }
    }
}

impl From<Refusal> for ApiError {
    fn from(refusal: Refusal) -> ApiError {
        let status = match &refusal {
            Refusal::NotHereYet { .. }
            | Refusal::OnItsWay { .. }
            | Refusal::StillArriving { .. }
            | Refusal::Migrating { .. }
            | Refusal::PastHandover { .. }
            | Refusal::Moved { .. }
            | Refusal::Paused { .. }
            | Refusal::InDoubt
            | Refusal::Incomplete { .. }
            | Refusal::NotMigrating { .. }
            | Refusal::NoBalloon { .. }
            | Refusal::Guest(_) => StatusCode::CONFLICT,
            Refusal::Request(_) => StatusCode::BAD_REQUEST,
            Refusal::Machine(_) | Refusal::Thread(_) => StatusCode::INTERNAL_SERVER_ERROR,
        };
        ApiError { status, words: in_words(&refusal) }
    }
}

impl From<JsonRejection> for ApiError {
    fn from(rejection: JsonRejection) -> ApiError {
        ApiError { status: rejection.status(), words: rejection.body_text() }
    }
}

impl From<QueryRejection> for ApiError {
    fn from(rejection: QueryRejection) -> ApiError {
        ApiError { status: rejection.status(), words: rejection.body_text() }
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        (self.status, Json(ErrorBody { error: self.words })).into_response()
    }
}

pub(super) async fn no_such_path() -> ApiError {
    ApiError {
        status: StatusCode::NOT_FOUND,
        words: "there is nothing here: GET /v1/openapi.json lists what there is".to_owned(),
    }
}

pub(super) async fn no_such_method() -> ApiError {
    ApiError {
        status: StatusCode::METHOD_NOT_ALLOWED,
        words: "this cannot be done here: GET /v1/openapi.json lists what can".to_owned(),
    }
}
