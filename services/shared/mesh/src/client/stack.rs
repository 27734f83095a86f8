//! The upper, typed half of the client stack. The lower half is `endpoints::service`.

use std::future::Future;

use futures_util::future::BoxFuture;
use tonic::Status;
use tower::retry::RetryLayer;
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, service_fn};

use crate::client::attempt::AttemptLayer;
use crate::client::call::{Call, CallBounds, Method, Unary};
use crate::client::deadline::DeadlineLayer;
use crate::client::observe::ObserveLayer;
use crate::client::retry::{Budget, RetryPolicy};
use crate::telemetry::metrics::ServiceMetrics;

/// Options that all methods of a service share.
#[derive(Debug, Clone)]
pub(crate) struct CallStack {
    pub(crate) bounds: CallBounds,
    pub(crate) budget: Budget,
    pub(crate) metrics: ServiceMetrics,
}

impl CallStack {
    /// Builds the stack of one method. The order of the layers is the design.
    pub(crate) fn unary<Req, Res, F, Fut>(&self, method: Method, call: F) -> Unary<Req, Res>
    where
        Req: Clone + Send + Sync + 'static,
        Res: Send + 'static,
        F: Fn(tonic::Request<Req>) -> Fut + Clone + Send + Sync + 'static,
        Fut: Future<Output = Result<Res, Status>> + Send + 'static,
    {
        let bottom = service_fn(
            move |made: Call<Req>| -> BoxFuture<'static, Result<Res, Status>> {
                Box::pin(call(made.into_request()))
            },
        );
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
            .layer(AttemptLayer::new(
                method,
                self.bounds.attempt,
                self.metrics.clone(),
            ))
            .service(bottom);
        BoxCloneSyncService::new(stack)
    }
}
