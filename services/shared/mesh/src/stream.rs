//! Counts calls that take the lower half only: streams, by the code in the head of their answer.

use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};

use crate::methods;
use crate::metrics::ServiceMetrics;

#[derive(Debug, Clone)]
pub(crate) struct StreamMetricsLayer(ServiceMetrics);

impl StreamMetricsLayer {
    pub(crate) fn new(metrics: ServiceMetrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for StreamMetricsLayer {
    type Service = StreamMetrics<S>;
    fn layer(&self, inner: S) -> Self::Service {
        StreamMetrics { inner, metrics: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct StreamMetrics<S> {
    inner: S,
    metrics: ServiceMetrics,
}

impl<S> Service<Request<Body>> for StreamMetrics<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let (metrics, method) = (self.metrics.clone(), methods::name(request.uri().path()));
        let begun = Instant::now();
        let calling = self.inner.call(request);
        Box::pin(async move {
            let result = calling.await;
            let code = match &result {
                Ok(response) => Status::from_header_map(response.headers()).map_or(Code::Ok, |s| s.code()),
                Err(status) => status.code(),
            };
            metrics.attempt(method, code);
            metrics.call(method, code, begun.elapsed());
            result
        })
    }
}
