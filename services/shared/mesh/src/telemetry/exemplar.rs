//! Exemplars of histograms: the trace of a request beside the bucket that it fell into.

use std::time::SystemTime;

use opentelemetry::Context;
use opentelemetry::trace::{TraceContextExt, TraceId};
use prometheus_client::encoding::{EncodeLabelSet, EncodeLabelValue, LabelValueEncoder};
use prometheus_client::metrics::histogram::exponential_buckets;

/// A histogram of seconds whose buckets remember a trace each.
pub type TracedSeconds = prometheus_client::metrics::exemplar::HistogramWithExemplars<Exemplar>;

/// The trace that an observation belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Hash, EncodeLabelSet)]
pub struct Exemplar {
    trace_id: TraceLabel,
}

/// Written as 32 hex digits when it is scraped, not when it is observed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
struct TraceLabel(TraceId);

impl EncodeLabelValue for TraceLabel {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), std::fmt::Error> {
        self.0.to_string().as_str().encode(encoder)
    }
}

/// 0.5 ms, doubling up to 16 s.
pub fn traced_seconds() -> TracedSeconds {
    TracedSeconds::new(exponential_buckets(0.0005, 2.0, 16))
}

/// Observes with the trace of the current span, if that is recorded: a trace that nobody has is no
/// example.
pub fn observe(histogram: &TracedSeconds, seconds: f64) {
    let context = Context::current();
    let span = context.span();
    let found = span.span_context();
    let exemplar = found.is_sampled().then(|| Exemplar {
        trace_id: TraceLabel(found.trace_id()),
    });
    let now = exemplar.is_some().then(SystemTime::now);
    histogram.observe(seconds, exemplar, now);
}

#[cfg(test)]
mod tests {
    use opentelemetry::trace::{SpanContext, SpanId, TraceFlags, TraceState};
    use prometheus_client::registry::Registry;

    use super::*;

    fn observed_in(flags: TraceFlags) -> String {
        let (trace, span) = (TraceId::from_bytes([0xab; 16]), SpanId::from_bytes([1; 8]));
        let remote = SpanContext::new(trace, span, flags, true, TraceState::default());
        let histogram = traced_seconds();
        let mut registry = Registry::default();
        registry.register("seconds", "Time", histogram.clone());
        let guard = Context::new().with_remote_span_context(remote).attach();
        observe(&histogram, 0.001);
        drop(guard);
        let mut text = String::new();
        prometheus_client::encoding::text::encode(&mut text, &registry).unwrap();
        text
    }

    #[test]
    fn an_observation_in_a_recorded_trace_names_it() {
        let wanted = format!(
            "seconds_bucket{{le=\"0.001\"}} 1 # {{trace_id=\"{}\"}} 0.001 ",
            "ab".repeat(16)
        );
        let text = observed_in(TraceFlags::SAMPLED);
        assert!(text.contains(&wanted), "{text}");
    }

    #[test]
    fn a_trace_that_is_not_recorded_is_counted_and_not_named() {
        let text = observed_in(TraceFlags::default());
        assert!(
            text.contains("seconds_count 1") && !text.contains("trace_id"),
            "{text}"
        );
    }
}
