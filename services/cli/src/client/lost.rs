//! Requests that are not answered.

use crate::exit::{End, Failure};

/// Why there is no answer. A request that met this may have been carried out, unless it never left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Lost {
    #[error("connection refused")]
    Refused,
    #[error("not connected")]
    Connect,
    #[error("no answer in time")]
    Timeout,
    #[error("answer cut short")]
    CutShort,
    #[error("connection lost")]
    Connection,
    #[error("the answer is longer than any that a gateway gives")]
    TooLong,
}

impl Lost {
    /// No byte of the request was sent.
    pub(crate) fn never_left(self) -> bool {
        matches!(self, Self::Refused | Self::Connect)
    }

    pub(crate) fn failure(self, url: &str) -> Failure {
        Failure::client(End::Unavailable, format!("{}: {self}", url.trim_end_matches('/')))
    }
}

impl From<&reqwest::Error> for Lost {
    fn from(error: &reqwest::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let mut refused = false;
        while let Some(found) = cause {
            let io = found.downcast_ref::<std::io::Error>();
            refused |= io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
            cause = found.source();
        }
        if error.is_timeout() && !error.is_connect() {
            Self::Timeout
        } else if refused {
            Self::Refused
        } else if error.is_connect() {
            Self::Connect
        } else if error.is_body() || error.is_decode() {
            Self::CutShort
        } else {
            Self::Connection
        }
    }
}
