//! Who may come in: the one place that judges requests under `/api`.

use cstore_types::ErrorCode;
use http::HeaderMap;

use crate::error::ApiError;

/// The rule of this gateway.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Auth {
    /// Everybody may do everything: a gateway on a loopback address, or behind a door of somebody else.
    Anonymous,
    /// Nobody may do anything, because no way to prove who one is has been configured.
    Closed,
}

impl Auth {
    pub(crate) const fn new(anonymous: bool) -> Self {
        if anonymous { Self::Anonymous } else { Self::Closed }
    }

    /// # Errors
    /// `unauthenticated` with what an operator can do about it.
    pub(crate) fn check(self, _headers: &HeaderMap) -> Result<(), ApiError> {
        match self {
            Self::Anonymous => Ok(()),
            Self::Closed => Err(ApiError::new(
                ErrorCode::Unauthenticated,
                "this gateway takes no anonymous requests; set CSTORE_ANONYMOUS=true to allow them",
            )),
        }
    }
}
