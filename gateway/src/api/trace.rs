//! The trace of a request: continued from its headers, named in its answer.

use axum::extract::Request;
use cstore_mesh::context_from;
use cstore_node::telemetry::continue_trace;
use http::HeaderName;
use tracing::{Span, field};

/// Header of every answer with the trace id of its request.
pub(super) const TRACE_HEADER: HeaderName = HeaderName::from_static("x-cstore-trace-id");
/// Trace id of a request that has no valid span.
pub(crate) const NO_TRACE: &str = "00000000000000000000000000000000";

/// Trace id of a request, 32 hexadecimal digits, for answers that carry it in their JSON.
#[derive(Debug, Clone)]
pub(crate) struct TraceId(pub(crate) String);

/// Makes the server span of a request, as a child of the span that its headers name.
pub(super) fn span(request: &Request, route: &str) -> Span {
    let span = tracing::info_span!(
        "request",
        otel.name = %format_args!("{} {route}", request.method()),
        otel.kind = "server",
        otel.status_code = field::Empty,
        http.request.method = %request.method(),
        http.route = route,
        url.path = request.uri().path(),
        http.response.status_code = field::Empty,
    );
    continue_trace(&span, context_from(request.headers()));
    span
}
