//! Failures of a transfer, by what the caller can do.

use cstore_mesh::MeshError;
use cstore_types::{ErrorCode, RecipeError};
use cstore_wire::ClientError;
use tonic::Status;

/// Why a transfer did not happen.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{message}")]
pub struct Failure {
    /// The house's code.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl Failure {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        Self::new(error.code(), error.to_string())
    }
}

impl From<RecipeError> for Failure {
    fn from(error: RecipeError) -> Self {
        Self::invalid(format!("recipe: {error}"))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Self::new(cstore_proto::code_of(&status), status.message())
    }
}

impl From<MeshError> for Failure {
    fn from(error: MeshError) -> Self {
        Self::new(ErrorCode::Internal, error.to_string())
    }
}

impl From<Failure> for Status {
    fn from(failure: Failure) -> Self {
        cstore_proto::status(failure.code, failure.message)
    }
}

/// A task of ours ended without an answer: a defect.
pub(crate) fn lost_task(error: &tokio::task::JoinError) -> Failure {
    Failure::new(ErrorCode::Internal, format!("task ended early: {error}"))
}
