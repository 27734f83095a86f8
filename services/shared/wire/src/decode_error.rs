//! Bytes that are not what they should be. Below the frames, which are decoded with it.

use cstore_types::codec::CodecError;
use cstore_types::{ErrorCode, Fault, IdError};

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
    /// The payload ends inside of a field, or goes on after the last one.
    #[error("payload does not fit its fields")]
    Fields(#[from] CodecError),
    /// A count announces more entries than the payload holds.
    #[error("{0} is greater than the payload holds")]
    Count(&'static str),
    /// A node id breaks the rule of node ids.
    #[error("node id cannot be used")]
    Node(#[from] IdError),
    /// A field has a value that is not allowed.
    #[error("field {field} has value {value}, which is not allowed")]
    Value {
        /// Name of the field.
        field: &'static str,
        /// The value.
        value: u64,
    },
}

impl From<DecodeError> for Fault {
    fn from(error: DecodeError) -> Self {
        Self::from_error(ErrorCode::InvalidArgument, error)
    }
}
