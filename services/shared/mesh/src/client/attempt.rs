//! One attempt of a call: its own span, count and time-out.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::timeout;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::client::call::{Call, Method};
use crate::client::deadline::late;
use crate::telemetry::metrics::ServiceMetrics;

#[derive(Debug, Clone)]
pub(crate) struct AttemptLayer {
    method: Method,
    bound: Duration,
    metrics: ServiceMetrics,
}

impl AttemptLayer {
    pub(crate) fn new(method: Method, bound: Duration, metrics: ServiceMetrics) -> Self {
        Self {
            method,
            bound,
            metrics,
        }
    }
}

impl<S> Layer<S> for AttemptLayer {
    type Service = Attempt<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Attempt {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Attempt<S> {
    inner: S,
    layer: AttemptLayer,
}

impl<S, Req, Res> Service<Call<Req>> for Attempt<S>
where
    S: Service<Call<Req>, Response = Res, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Res;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Res, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut call: Call<Req>) -> Self::Future {
        let AttemptLayer {
            method,
            bound,
            metrics,
        } = self.layer.clone();
        let left = call.left();
        // A call that may not be repeated has one attempt, and all the time there is for it.
        let bound = if method.idempotent {
            bound.min(left)
        } else {
            left
        };
        call.deadline = tokio::time::Instant::now() + bound;
        // The first attempt is the call itself; only repetitions need a span of their own.
        let span = match call.retries {
            0 => tracing::Span::none(),
            retries => {
                tracing::debug_span!(
                    "retry",
                    otel.kind = "internal",
                    rpc.method = method.path,
                    retries
                )
            }
        };
        let calling = span.in_scope(|| self.inner.call(call));
        let seen = async move {
            let result = timeout(bound, calling)
                .await
                .unwrap_or_else(|_| Err(late(bound)));
            metrics.attempt(
                method.path,
                result.as_ref().err().map_or(Code::Ok, Status::code),
            );
            result
        };
        Box::pin(seen.instrument(span))
    }
}
