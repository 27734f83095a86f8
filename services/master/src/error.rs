//! What the master answers when it says no.

use cstore_proto::FieldError;
use cstore_types::ErrorCode;
use tonic::Status;

use crate::meta::MetaError;

/// A refusal, by what the caller can do.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Refusal {
    /// The house's code.
    pub code: ErrorCode,
    /// For people.
    pub message: String,
}

impl Refusal {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, message: message.into() }
    }
}

impl From<MetaError> for Refusal {
    fn from(error: MetaError) -> Self {
        let code = match error {
            MetaError::Conflict | MetaError::Busy => ErrorCode::Overloaded,
            MetaError::Full => ErrorCode::Full,
            MetaError::Unavailable(_) => ErrorCode::Unavailable,
            MetaError::Damaged(_) => ErrorCode::DataLoss,
        };
        Self::new(code, error.to_string())
    }
}

impl From<FieldError> for Refusal {
    fn from(error: FieldError) -> Self {
        Self::new(ErrorCode::InvalidArgument, error.to_string())
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        cstore_proto::status(refusal.code, refusal.message)
    }
}
