//! Outermost of a call: the span that its caller's trace shows, and its final outcome in the
//! metrics.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::Instrument;

use crate::client::call::Method;
use crate::telemetry::metrics::ServiceMetrics;
use crate::telemetry::trace;

#[derive(Debug, Clone)]
pub(crate) struct ObserveLayer {
    method: Method,
    metrics: ServiceMetrics,
}

impl ObserveLayer {
    pub(crate) fn new(method: Method, metrics: ServiceMetrics) -> Self {
        Self { method, metrics }
    }
}

impl<S> Layer<S> for ObserveLayer {
    type Service = Observe<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Observe {
            inner,
            layer: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Observe<S> {
    inner: S,
    layer: ObserveLayer,
}

impl<S, Req, Res> Service<Req> for Observe<S>
where
    S: Service<Req, Response = Res, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Res;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Res, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, message: Req) -> Self::Future {
        let ObserveLayer { method, metrics } = self.layer.clone();
        let span = trace::client_span(method.path);
        let begun = Instant::now();
        // Called inside the span, because attempts take their parent when they are made.
        let calling = span.in_scope(|| self.inner.call(message));
        let own = span.clone();
        let seen = async move {
            let result = calling.await;
            let code = result.as_ref().err().map_or(Code::Ok, Status::code);
            metrics.call(method.path, code, begun.elapsed());
            trace::record(&own, code);
            result
        };
        Box::pin(seen.instrument(span))
    }
}
