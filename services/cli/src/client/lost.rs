//! Requests that are not answered.

use super::again::Wait;
use crate::exit::{End, Failure};

/// Why there is no answer. A request that met this may have been carried out, unless it never left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Lost {
    #[error("connection refused")]
    Refused,
    #[error("its name is not known: it cannot be looked up")]
    Lookup,
    #[error("not connected")]
    Connect,
    #[error("the request cannot be put together")]
    Impossible,
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
        matches!(
            self,
            Self::Refused | Self::Lookup | Self::Connect | Self::Impossible
        )
    }

    /// When the same may be asked again.
    pub(crate) fn wait(self) -> Wait {
        match self {
            Self::Refused | Self::Lookup | Self::Connect => Wait::Away,
            Self::Timeout | Self::CutShort | Self::Connection => Wait::Usual,
            Self::Impossible | Self::TooLong => Wait::Never,
        }
    }

    pub(crate) fn failure(self, url: &str) -> Failure {
        let end = if matches!(self.wait(), Wait::Never) {
            End::Failed
        } else {
            End::Unavailable
        };
        Failure::client(end, format!("{}: {self}", url.trim_end_matches('/')))
    }
}

impl From<&reqwest::Error> for Lost {
    fn from(error: &reqwest::Error) -> Self {
        let mut cause: Option<&(dyn std::error::Error + 'static)> = Some(error);
        let (mut refused, mut lookup) = (false, false);
        while let Some(found) = cause {
            let io = found.downcast_ref::<std::io::Error>();
            refused |= io.is_some_and(|io| io.kind() == std::io::ErrorKind::ConnectionRefused);
            // The connector has no type for it that others could see.
            lookup |= found.to_string().contains("dns error");
            cause = found.source();
        }
        if error.is_builder() {
            Self::Impossible
        } else if error.is_timeout() && !error.is_connect() {
            Self::Timeout
        } else if refused {
            Self::Refused
        } else if lookup {
            Self::Lookup
        } else if error.is_connect() {
            Self::Connect
        } else if error.is_body() || error.is_decode() {
            Self::CutShort
        } else {
            Self::Connection
        }
    }
}
