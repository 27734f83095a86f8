//! Traces of transfers: client spans of frames, the trace field that carries them, sums of a
//! stream.

use cstore_node::telemetry::context_of;
use cstore_proto::v1;
use cstore_wire::TraceField;
use opentelemetry::trace::TraceContextExt;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

/// The span of one batch to one storage node.
pub(crate) fn batch_span(name: &'static str, node: &str, blocks: usize) -> Span {
    tracing::debug_span!(
        "call",
        otel.name = name,
        otel.kind = "client",
        rpc.system.name = "cstore.block",
        cstore.storage = node,
        cstore.blocks = blocks,
    )
}

/// Records in the current span the result of an upload.
pub(crate) fn describe_upload(stored: Option<&v1::UploadResponse>) {
    let Some((stored, file)) = stored.and_then(|stored| Some((stored, stored.file.as_ref()?)))
    else {
        return;
    };
    let span = Span::current();
    span.set_attribute("cstore.bytes", number(file.size));
    span.set_attribute("cstore.blocks", number(file.blocks));
    span.set_attribute("cstore.chunker", file.chunking.clone());
    span.set_attribute("cstore.misses", number(stored.new_blocks));
    span.set_attribute(
        "cstore.hits",
        number(file.blocks.saturating_sub(stored.new_blocks)),
    );
}

/// Records in the current span the result of a whole download.
pub(crate) fn describe_download(bytes: Option<u64>) {
    if let Some(bytes) = bytes {
        Span::current().set_attribute("cstore.bytes", number(bytes));
    }
}

fn number(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Trace context of a span as it travels in a frame; none when there is no trace.
pub(crate) fn field(span: &Span) -> Option<TraceField> {
    let mut context = context_of(span);
    if !context.span().span_context().is_valid() {
        // Without a collector a batch has no span of its own: the request that is served has.
        context = opentelemetry::Context::current();
    }
    let span_ref = context.span();
    let found = span_ref.span_context();
    let bytes = || {
        TraceField::new(
            found.trace_id().to_bytes(),
            found.span_id().to_bytes(),
            found.trace_flags().to_u8(),
        )
    };
    found.is_valid().then(bytes)
}
