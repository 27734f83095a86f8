//! Server spans of frames, under the trace context that travels in them.

use cstore_node::telemetry::continue_trace;
use cstore_wire::{Context, Request, TraceField};
use opentelemetry::trace::{SpanContext, SpanId, TraceContextExt, TraceFlags, TraceId, TraceState};
use tracing::Span;

/// The span of one request other than GetBlocks.
pub(crate) fn request_span(context: &Context, request: &Request) -> Span {
    let (blocks, session) = match request {
        Request::HaveBlocks { session, ids } | Request::Seal { session, ids, .. } => {
            (ids.len(), Some(session))
        }
        Request::PutBlocks { session, blocks } => (blocks.len(), Some(session)),
        Request::PutSeal {
            session, blocks, ..
        } => (blocks.len(), Some(session)),
        Request::Unpin { session } => (0, Some(session)),
        Request::GetBlocks { ids } => (ids.len(), None),
        Request::Usage { .. } | Request::Ping | Request::Goodbye => (0, None),
    };
    let span = tracing::debug_span!(
        // A worker of the same process calls in a span of its own.
        parent: None,
        "frame",
        otel.name = ?request.opcode(),
        otel.kind = "server",
        rpc.system.name = "cstore.block",
        cstore.peer = %context.peer,
        cstore.blocks = blocks,
        cstore.session = session.map(tracing::field::display),
    );
    adopt(&span, context.trace);
    span
}

/// The span of one GetBlocks.
pub(crate) fn read_span(context: &Context, blocks: usize) -> Span {
    let span = tracing::debug_span!(
        parent: None,
        "frame",
        otel.name = "GetBlocks",
        otel.kind = "server",
        rpc.system.name = "cstore.block",
        cstore.peer = %context.peer,
        cstore.blocks = blocks,
    );
    adopt(&span, context.trace);
    span
}

fn adopt(span: &Span, trace: Option<TraceField>) {
    let Some(trace) = trace else { return };
    let (trace_id, span_id, flags) = trace.parts();
    let remote = SpanContext::new(
        TraceId::from_bytes(trace_id),
        SpanId::from_bytes(span_id),
        TraceFlags::new(flags),
        true,
        TraceState::default(),
    );
    if remote.is_valid() {
        let parent = opentelemetry::Context::new().with_remote_span_context(remote);
        continue_trace(span, parent);
    }
}
