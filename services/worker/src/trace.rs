//! Client spans of frames, and the trace field that carries them.

use cstore_wire::TraceField;
use opentelemetry::trace::TraceContextExt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The span of one batch to one storage node.
pub(crate) fn batch_span(name: &'static str, node: &str, blocks: usize) -> Span {
    tracing::info_span!(
        "frame",
        otel.name = name,
        otel.kind = "client",
        rpc.system.name = "cstore.block",
        cstore.storage = node,
        cstore.blocks = blocks,
    )
}

/// Trace context of a span as it travels in a frame; none when there is no trace.
pub(crate) fn field(span: &Span) -> Option<TraceField> {
    let context = span.context();
    let span_ref = context.span();
    let found = span_ref.span_context();
    let bytes = || {
        TraceField::new(found.trace_id().to_bytes(), found.span_id().to_bytes(), found.trace_flags().to_u8())
    };
    found.is_valid().then(bytes)
}
