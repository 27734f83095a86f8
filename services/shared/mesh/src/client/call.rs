//! A typed call on its way down the client stack: how its method may be called, and what its
//! attempts share.

use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tower::util::BoxCloneSyncService;

use crate::endpoints::history::AttemptHistory;
use crate::limits::{ATTEMPT_TIMEOUT, CALL_TIMEOUT, MAX_CALL_RETRIES};

/// A typed call: message in, message or status out.
pub type Unary<Req, Res> = BoxCloneSyncService<Req, Res, Status>;

/// An RPC and how it may be called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    /// `package.Service/Method`
    pub(crate) path: &'static str,
    /// True if a second call does no more than the first.
    pub(crate) idempotent: bool,
}

/// Bounds of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallBounds {
    /// Bound of all attempts together.
    pub deadline: Duration,
    /// Bound of one attempt of a call that may be repeated.
    pub attempt: Duration,
    /// Attempts after the first.
    pub max_retries: u32,
}

impl Default for CallBounds {
    fn default() -> Self {
        Self {
            deadline: CALL_TIMEOUT,
            attempt: ATTEMPT_TIMEOUT,
            max_retries: MAX_CALL_RETRIES,
        }
    }
}

/// A message with what all its attempts share.
#[derive(Debug, Clone)]
pub(crate) struct Call<Req> {
    pub(crate) message: Req,
    pub(crate) deadline: Instant,
    pub(crate) retries: u32,
    pub(crate) history: AttemptHistory,
}

impl<Req> Call<Req> {
    pub(crate) fn new(message: Req, deadline: Instant) -> Self {
        Self {
            message,
            deadline,
            retries: 0,
            history: AttemptHistory::default(),
        }
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// Converts the call for a generated client. The time that is left travels as grpc-timeout.
    pub(super) fn into_request(self) -> tonic::Request<Req> {
        let left = self.left();
        let mut request = tonic::Request::new(self.message);
        request.set_timeout(left);
        request.extensions_mut().insert(self.history);
        request
    }
}
