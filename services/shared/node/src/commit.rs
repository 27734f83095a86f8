//! Spans of group commits: one for each request that waits, with what its frame held.
//!
//! Requests of several traces share a frame and its sync. Each has a `commit` span of its own, so
//! that no trace ends in another's; those that came later link to the first of the frame.

use cstore_types::CommitFacts;
use opentelemetry::trace::{SpanContext, TraceContextExt};
use parking_lot::Mutex;
use tracing::Span;
use tracing_opentelemetry::OpenTelemetrySpanExt;

use crate::telemetry::context_of;

/// The commits of one log.
#[derive(Debug, Default)]
pub struct CommitSpans {
    /// The first span of the last frame.
    first: Mutex<Option<(u64, SpanContext)>>,
}

impl CommitSpans {
    /// The span of a request that waits for its records to land. Make it in the request's span.
    pub fn begin(&self) -> Span {
        tracing::debug_span!("commit", otel.kind = "internal")
    }

    /// Says what landed.
    pub fn landed(&self, span: &Span, frame: CommitFacts) {
        let context = context_of(span);
        let own = context.span().span_context().clone();
        if !own.is_sampled() {
            return;
        }
        let number = |value: u64| i64::try_from(value).unwrap_or(i64::MAX);
        span.set_attribute("cstore.commit.seq", number(frame.seq));
        span.set_attribute("cstore.commit.records", number(frame.records as u64));
        span.set_attribute("cstore.commit.bytes", number(frame.bytes));
        span.set_attribute("cstore.commit.requests", number(frame.requests as u64));
        span.set_attribute("cstore.commit.sync_seconds", frame.took.as_secs_f64());
        let mut first = self.first.lock();
        match &*first {
            Some((seq, leader)) if *seq == frame.seq => span.add_link(leader.clone()),
            _ => *first = Some((frame.seq, own)),
        }
    }
}
