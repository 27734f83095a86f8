//! Failures of the protocol, by what the caller can do.

use cstore_types::ErrorCode;

/// Bytes that are no message.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// No such opcode.
    #[error("unknown opcode {0:#04x}")]
    Opcode(u8),
    /// The announced length is out of the opcode's bounds.
    #[error("payload of opcode {opcode:#04x} is {len} bytes long, allowed are {min} to {max}")]
    Length {
        /// The opcode.
        opcode: u8,
        /// Announced.
        len: u32,
        /// Lower bound.
        min: u32,
        /// Upper bound.
        max: u32,
    },
    /// The payload ends inside of a field, or goes on behind the last one.
    #[error("payload does not fit its fields: {0}")]
    Fields(&'static str),
    /// A field has a value that is not allowed.
    #[error("field {field} has value {value}, which is not allowed")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// What was found.
        value: u64,
    },
}

/// An answer that says no: an ERROR frame.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{code}: {message}")]
pub struct Refusal {
    /// The house's code.
    pub code: ErrorCode,
    /// When to try again, in milliseconds; 0 when the server does not say.
    pub retry_after_ms: u32,
    /// For people; at most 512 bytes travel.
    pub message: String,
}

impl Refusal {
    /// A refusal without a time to try again.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self { code, retry_after_ms: 0, message: message.into() }
    }
}

impl From<DecodeError> for Refusal {
    fn from(error: DecodeError) -> Self {
        Self::new(ErrorCode::InvalidArgument, error.to_string())
    }
}

/// Why a call has no answer that it wanted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The server refused; nothing was done.
    #[error("storage refused: {0}")]
    Refused(Refusal),
    /// The connection broke or was never there; whether it was done is unknown, and repeating it is safe.
    #[error("connection to storage is lost: {0}")]
    Disconnected(String),
    /// No answer in time; whether it was done is unknown, and repeating it is safe.
    #[error("storage did not answer within {0} ms")]
    Deadline(u128),
    /// The peer is not who it should be, or does not speak our protocol.
    #[error("handshake with storage failed: {0}")]
    Handshake(String),
    /// The peer sent something that is no answer to the question.
    #[error("storage broke the protocol: {0}")]
    Protocol(String),
}

impl ClientError {
    /// The house's code.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(refusal) => refusal.code,
            Self::Disconnected(_) => ErrorCode::Unavailable,
            Self::Deadline(_) => ErrorCode::Deadline,
            Self::Handshake(_) => ErrorCode::PermissionDenied,
            Self::Protocol(_) => ErrorCode::Internal,
        }
    }
}
