//! A typed call on its way down the client stack, and the stack itself.

use std::future::Future;
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tonic::Status;
use tower::retry::RetryLayer;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, service_fn};

use crate::client::attempt::AttemptLayer;
use crate::client::deadline::DeadlineLayer;
use crate::client::observe::ObserveLayer;
use crate::client::retry::{Budget, RetryPolicy};
use crate::endpoints::balance::Tried;
use crate::telemetry::metrics::ServiceMetrics;

/// A typed call: message in, message or status out.
pub type Unary<Req, Res> = BoxCloneSyncService<Req, Res, Status>;

/// An RPC and how it may be called.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Method {
    /// `package.Service/Method`
    pub(crate) path: &'static str,
    /// Whether a second call does no more than the first.
    pub(crate) idempotent: bool,
}

/// Bounds of a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct CallBounds {
    /// Of all attempts together.
    pub deadline: Duration,
    /// Of one attempt of a call that may be repeated.
    pub attempt: Duration,
    /// Attempts after the first.
    pub max_retries: u32,
}

impl Default for CallBounds {
    fn default() -> Self {
        Self { deadline: Duration::from_secs(5), attempt: Duration::from_secs(2), max_retries: 3 }
    }
}

/// A message with what all its attempts share.
#[derive(Debug, Clone)]
pub(crate) struct Call<Req> {
    pub(crate) message: Req,
    pub(crate) deadline: Instant,
    pub(crate) retries: u32,
    pub(crate) tried: Tried,
}

impl<Req> Call<Req> {
    pub(crate) fn new(message: Req, deadline: Instant) -> Self {
        Self { message, deadline, retries: 0, tried: Tried::default() }
    }

    pub(crate) fn left(&self) -> Duration {
        self.deadline.saturating_duration_since(Instant::now())
    }

    /// As tonic wants it: the time that is left travels as grpc-timeout.
    fn into_request(self) -> tonic::Request<Req> {
        let left = self.left();
        let mut request = tonic::Request::new(self.message);
        request.set_timeout(left);
        request.extensions_mut().insert(self.tried);
        request
    }
}

/// What all methods of a service share.
#[derive(Debug, Clone)]
pub(crate) struct CallStack {
    pub(crate) bounds: CallBounds,
    pub(crate) budget: Budget,
    pub(crate) metrics: ServiceMetrics,
}

impl CallStack {
    /// The upper, typed half of the client stack. Order is the design; the lower half is in `channel`.
    pub(crate) fn unary<Req, Res, F, Fut>(&self, method: Method, call: F) -> Unary<Req, Res>
    where
        Req: Clone + Send + Sync + 'static,
        Res: Send + 'static,
        F: Fn(tonic::Request<Req>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Res, Status>> + Send + 'static,
    {
        let bottom = service_fn(move |made: Call<Req>| -> BoxFuture<'static, Result<Res, Status>> {
            Box::pin(call(made.into_request()))
        });
        let stack = ServiceBuilder::new()
            // One span and one count for what the caller sees: retries must not count as calls.
            .layer(ObserveLayer::new(method, self.metrics.clone()))
            // Bounds all attempts together.
            .layer(DeadlineLayer::new(self.bounds.deadline))
            // Idempotent methods only, while the budget lasts.
            .layer(RetryLayer::new(RetryPolicy::new(
                method,
                self.bounds,
                self.budget.clone(),
                self.metrics.clone(),
            )))
            // One span, one count and one time-out for each attempt.
            .layer(AttemptLayer::new(method, self.bounds.attempt, self.metrics.clone()))
            .service(bottom);
        BoxCloneSyncService::new(stack)
    }
}
