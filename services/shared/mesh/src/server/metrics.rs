//! Counts the answers of a server. Stands outside every layer that refuses calls, so that refusals
//! are counted too.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;
use tonic::Code;
use tower::{Layer, Service};

use crate::telemetry::metrics::MeshMetrics;
use crate::telemetry::status::grpc_status;
use crate::telemetry::{methods, trace};

#[derive(Debug, Clone)]
pub(crate) struct ServerMetricsLayer {
    metrics: MeshMetrics,
    role: &'static str,
}

impl ServerMetricsLayer {
    pub(crate) fn new(metrics: MeshMetrics, role: &'static str) -> Self {
        Self { metrics, role }
    }
}

impl<S> Layer<S> for ServerMetricsLayer {
    type Service = ServerMetrics<S>;
    fn layer(&self, inner: S) -> Self::Service {
        ServerMetrics {
            inner,
            layer: self.clone(),
            in_flight: self.metrics.in_flight(self.role),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ServerMetrics<S> {
    inner: S,
    layer: ServerMetricsLayer,
    in_flight: Gauge,
}

/// A call without an answer yet. Counts in the gauge until it is dropped.
struct InFlight(Gauge);

impl Drop for InFlight {
    fn drop(&mut self) {
        self.0.dec();
    }
}

impl<S, A, B> Service<Request<A>> for ServerMetrics<S>
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
        let ServerMetricsLayer { metrics, role } = self.layer.clone();
        let begun = Instant::now();
        self.in_flight.inc();
        let in_flight = InFlight(self.in_flight.clone());
        let answering = self.inner.call(request);
        Box::pin(async move {
            let result = answering.await;
            drop(in_flight);
            let code = match &result {
                Ok(response) => grpc_status(response.headers()).unwrap_or(Code::Ok),
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
