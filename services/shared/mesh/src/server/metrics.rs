//! Counts what a server answers, refused calls too: it stands outside of everything that refuses.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::telemetry::methods;
use crate::telemetry::metrics::MeshMetrics;
use crate::telemetry::trace;

#[derive(Debug, Clone)]
pub(crate) struct ServedLayer {
    metrics: MeshMetrics,
    role: &'static str,
}

impl ServedLayer {
    pub(crate) fn new(metrics: MeshMetrics, role: &'static str) -> Self {
        Self { metrics, role }
    }
}

impl<S> Layer<S> for ServedLayer {
    type Service = Served<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Served { inner, layer: self.clone(), in_flight: self.metrics.in_flight(self.role) }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Served<S> {
    inner: S,
    layer: ServedLayer,
    in_flight: Gauge,
}

/// One call in flight.
struct Flying(Gauge);

impl Drop for Flying {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<S, A, B> Service<Request<A>> for Served<S>
where
    S: Service<Request<A>, Response = Response<B>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<B>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<B>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let method = methods::name(request.uri().path());
        let is_logged = trace::is_traced(method);
        let ServedLayer { metrics, role } = self.layer.clone();
        let begun = Instant::now();
        self.in_flight.inc();
        let flying = Flying(self.in_flight.clone());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let result = answering.await;
            drop(flying);
            let code = match &result {
                Ok(response) => Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code()),
                Err(_) => Code::Unknown,
            };
            let took = begun.elapsed();
            metrics.served(role, method, code, took);
            if is_logged {
                tracing::debug!(method, ?code, ?took, "answered");
            }
            result
        })
    }
}
