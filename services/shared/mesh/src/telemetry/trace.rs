//! W3C trace context in gRPC metadata, both ways.

use std::task::{Context, Poll};

use cstore_node::telemetry::continue_trace;
use http::Request;
use opentelemetry_http::{HeaderExtractor, HeaderInjector};
use tonic::Code;
use tower::{Layer, Service};
use tracing::Span;

/// Writes the trace context of the request that is served into every call.
#[derive(Debug, Clone, Copy)]
pub(crate) struct InjectTraceLayer;

impl<S> Layer<S> for InjectTraceLayer {
    type Service = InjectTrace<S>;
    fn layer(&self, inner: S) -> Self::Service {
        InjectTrace(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct InjectTrace<S>(S);

impl<S: Service<Request<B>>, B> Service<Request<B>> for InjectTrace<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        // Not that of the current span: without a collector a call has none of its own.
        let context = opentelemetry::Context::current();
        opentelemetry::global::get_text_map_propagator(|propagator| {
            propagator.inject_context(&context, &mut HeaderInjector(request.headers_mut()));
        });
        self.0.call(request)
    }
}

/// Returns true if calls of this method are worth a trace. Calls that run all the time without a
/// request of a user are not.
pub(crate) fn is_traced(path: &str) -> bool {
    let background = ["Heartbeat", "Register", "WatchMap"];
    let is_background = path
        .strip_prefix("cstore.v1.Cluster/")
        .is_some_and(|method| background.contains(&method));
    !path.starts_with("grpc.") && !is_background
}

/// The client span of a call.
pub(crate) fn client_span(path: &str) -> Span {
    if !is_traced(path) {
        return Span::none();
    }
    tracing::debug_span!(
        "call",
        otel.name = path,
        otel.kind = "client",
        otel.status_code = tracing::field::Empty,
        rpc.system.name = "grpc",
        rpc.method = path,
        rpc.response.status_code = tracing::field::Empty,
    )
}

/// Records in a span how its call ended. An error that the caller could have avoided is no error of
/// the system.
pub(crate) fn record(span: &Span, code: Code) {
    if code == Code::Ok {
        return;
    }
    span.record("rpc.response.status_code", tracing::field::debug(code));
    let ours = matches!(
        code,
        Code::Unknown
            | Code::DeadlineExceeded
            | Code::Unimplemented
            | Code::Internal
            | Code::Unavailable
            | Code::DataLoss
    );
    if ours {
        span.record("otel.status_code", "ERROR");
    }
}

/// The server span of a call, a child of the caller's span. Health and reflection are not traced.
pub(crate) fn server_span<B>(request: &Request<B>) -> Span {
    let path = request.uri().path().trim_start_matches('/');
    if !is_traced(path) {
        return Span::none();
    }
    let span = tracing::debug_span!(
        // A caller of the same process calls in a span of its own, which travels in the headers.
        parent: None,
        "grpc",
        otel.name = path,
        otel.kind = "server",
        rpc.system.name = "grpc",
        otel.status_code = tracing::field::Empty,
        rpc.method = path,
        rpc.response.status_code = tracing::field::Empty,
    );
    let parent = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract(&HeaderExtractor(request.headers()))
    });
    continue_trace(&span, parent);
    span
}
