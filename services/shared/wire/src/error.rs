//! Failures of the protocol, by what the caller can do.
//!
//! Causes are sources and not part of the text: print them with `cstore_types::error_chain`.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use cstore_types::{ErrorCode, Fault, NodeId};

use crate::decode_error::DecodeError;
use crate::frame::Opcode;

/// The end of a connection.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Disconnect {
    /// The peer closed between two frames.
    #[error("peer closed the connection")]
    Closed,
    /// Our last handle is gone.
    #[error("closed by us")]
    ByUs,
    /// The peer sent nothing within the deadline of a read.
    #[error("peer sent nothing for too long")]
    Idle,
    /// The peer did not answer a Ping.
    #[error("peer has been silent for {} s", .0.as_secs())]
    Silent(Duration),
    /// Connect and handshake took longer than their deadline.
    #[error("no handshake within {0:?}")]
    Late(Duration),
    /// The connection could not be made or broke, also inside of a frame.
    #[error(transparent)]
    Io(Arc<io::Error>),
    /// The peer sent something that is no frame.
    #[error("peer broke the protocol")]
    Decode(#[from] DecodeError),
    /// The peer said why it closes.
    #[error("peer closed the connection: {}", .0.code)]
    Refused(#[source] Fault),
}

impl From<io::Error> for Disconnect {
    fn from(error: io::Error) -> Self {
        Self::Io(Arc::new(error))
    }
}

/// A handshake that failed at the worker's end.
#[derive(Debug, Clone, thiserror::Error)]
pub enum HandshakeError {
    /// The operating system gave no random bytes.
    #[error("no nonce")]
    Nonce(#[from] getrandom::Error),
    /// The node sent something that is no handshake message.
    #[error("message cannot be read")]
    Decode(#[from] DecodeError),
    /// The node refused us.
    #[error("the node refused: {}", .0.code)]
    Refused(#[source] Fault),
    /// The node's proof is wrong.
    #[error("the node does not hold the cluster secret")]
    Secret,
    /// The node is of another cluster, role or version.
    #[error("the node is of another cluster, role or version")]
    Foreign,
    /// Another node than the expected one has the address.
    #[error("expected node {expected}, found {found}")]
    Node {
        /// The node that we wanted.
        expected: NodeId,
        /// The node that we reached.
        found: NodeId,
    },
    /// A frame that does not belong into a handshake.
    #[error("expected {expected:?}, found {found:?}")]
    Opcode {
        /// The opcode that the step needs.
        expected: Opcode,
        /// The opcode that came.
        found: Opcode,
    },
}

/// A call without the answer that it wanted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum ClientError {
    /// The server refused; nothing was done.
    #[error("storage refused: {}", .0.code)]
    Refused(#[source] Fault),
    /// The connection broke or was never there; whether it was done is unknown, and repeating it is
    /// safe.
    #[error("connection to storage is lost")]
    Disconnected(#[from] Disconnect),
    /// No answer in time; whether it was done is unknown, and repeating it is safe.
    #[error("storage did not answer within {0} ms")]
    Deadline(u128),
    /// The peer is not who it should be, or does not speak our protocol.
    #[error("handshake with storage failed")]
    Handshake(#[from] HandshakeError),
    /// The peer sent something that is no answer to the question.
    #[error("storage broke the protocol: {0}")]
    Protocol(&'static str),
}

impl ClientError {
    /// Returns the code for our own caller.
    pub fn code(&self) -> ErrorCode {
        match self {
            Self::Refused(fault) => fault.code,
            Self::Disconnected(_) => ErrorCode::Unavailable,
            Self::Deadline(_) => ErrorCode::Deadline,
            Self::Handshake(_) => ErrorCode::PermissionDenied,
            Self::Protocol(_) => ErrorCode::Internal,
        }
    }
}

impl From<ClientError> for Fault {
    fn from(error: ClientError) -> Self {
        Self::from_error(error.code(), error)
    }
}

#[cfg(test)]
mod tests {
    use cstore_types::error_chain;

    use super::*;

    #[test]
    fn a_lost_connection_keeps_the_error_of_the_socket() {
        let refused = io::Error::from(io::ErrorKind::ConnectionRefused);
        let error = ClientError::from(Disconnect::from(refused));
        assert_eq!(
            error_chain(&error).to_string(),
            "connection to storage is lost: connection refused"
        );
        let ClientError::Disconnected(Disconnect::Io(source)) = &error else {
            panic!("{error:?}")
        };
        assert_eq!(source.kind(), io::ErrorKind::ConnectionRefused);
        assert_eq!(Fault::from(error).code, ErrorCode::Unavailable);
    }

    #[test]
    fn a_refusal_is_told_with_its_code_and_message() {
        let error = ClientError::Refused(Fault::new(ErrorCode::Full, "no room"));
        assert_eq!(
            error_chain(&error).to_string(),
            "storage refused: full: no room"
        );
        let closed = ClientError::from(Disconnect::Refused(Fault::from(DecodeError::Opcode(9))));
        let text = error_chain(&closed).to_string();
        assert_eq!(
            text,
            "connection to storage is lost: peer closed the connection: invalid_argument: unknown opcode 0x09"
        );
    }
}
