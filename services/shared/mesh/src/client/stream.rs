//! Calls that take the lower half only: one span for the whole stream, and a count by the code in
//! the head of its answer.

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::{Layer, Service};
use tracing::{Instrument, Span};

use crate::telemetry::metrics::ServiceMetrics;
use crate::telemetry::status::grpc_status;
use crate::telemetry::{methods, trace};
use crate::transport::head_first::HeadFirst;

#[derive(Debug, Clone)]
pub(crate) struct StreamLayer(ServiceMetrics);

impl StreamLayer {
    pub(crate) fn new(metrics: ServiceMetrics) -> Self {
        Self(metrics)
    }
}

impl<S> Layer<S> for StreamLayer {
    type Service = ObservedStream<S>;
    fn layer(&self, inner: S) -> Self::Service {
        ObservedStream {
            inner,
            metrics: self.0.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct ObservedStream<S> {
    inner: S,
    metrics: ServiceMetrics,
}

impl<S> Service<Request<Body>> for ObservedStream<S>
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
        let span = trace::client_span(request.uri().path().trim_start_matches('/'));
        let calling = span
            .in_scope(|| self.inner.call(request))
            .instrument(span.clone());
        Box::pin(async move {
            let result = calling.await;
            let code = match &result {
                Ok(response) => grpc_status(response.headers()).unwrap_or(Code::Ok),
                Err(status) => status.code(),
            };
            metrics.attempt(method, code);
            metrics.call(method, code, begun.elapsed());
            trace::record(&span, code);
            result.map(|answer| {
                answer.map(|body| {
                    let body = HeadFirst::new(body);
                    Body::new(Spanned { body, span })
                })
            })
        })
    }
}

/// The body of an answer, in the span of its call.
struct Spanned {
    body: HeadFirst,
    span: Span,
}

impl http_body::Body for Spanned {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        let code = match &frame {
            Some(Ok(frame)) => frame.trailers_ref().and_then(grpc_status),
            Some(Err(status)) => Some(status.code()),
            None => None,
        };
        if let Some(code) = code {
            trace::record(&self.span, code);
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
