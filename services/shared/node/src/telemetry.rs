//! Logs to stderr, panics too, spans to an OTLP collector, and trace ids in both.
//!
//! Logs and spans are filtered apart: `LOG_LEVEL=ERROR` makes the log quiet and leaves the traces
//! whole. Without a collector spans still get valid ids, so that every answer can carry one, but
//! nothing else of a span is kept. A collector that is dead or slow costs a bounded queue on a
//! thread of its own: what does not fit is dropped.
//!
//! The spans of [`role_span`] are in the log only. As parents in a trace they would bind all
//! requests of a process's life into one.

mod config;
mod format;
mod ids;

use std::{
    backtrace::{Backtrace, BacktraceStatus},
    io,
};

use opentelemetry::{
    Context, KeyValue,
    trace::{TraceContextExt, TracerProvider},
};
use opentelemetry_otlp::{ExporterBuildError, SpanExporter, WithExportConfig};
use opentelemetry_sdk::{
    Resource,
    propagation::TraceContextPropagator,
    trace::{BatchConfigBuilder, BatchSpanProcessor, SdkTracerProvider},
};
use opentelemetry_semantic_conventions::resource::SERVICE_VERSION;
use tracing::{Level, Metadata, Span, Subscriber, field::display};
use tracing_opentelemetry::OpenTelemetrySpanExt;
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    filter::{ParseError, filter_fn},
    fmt::format::JsonFields,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

pub use config::{LogFormat, SamplerChoice, TelemetryConfig};
use format::{JsonWithTrace, TextWithTrace};
use ids::IdLayer;

use crate::limits::{EXPORT_TIMEOUT, FLUSH_TIMEOUT, SPAN_QUEUE};

const ROLE_TARGET: &str = "cstore_node::role";
/// The parts that carry the exported spans: a span about exporting would make the next one.
const TRANSPORT_TARGETS: [&str; 6] = [
    "h2",
    "hyper",
    "tower",
    "tonic",
    "opentelemetry",
    ROLE_TARGET,
];

/// Names of the spans of what a request waits for: other roles, tries, commits.
const WAITING_SPANS: [&str; 3] = ["call", "retry", "commit"];

/// Installs the subscriber, the W3C propagator and, if a collector is configured, the tracer of this
/// process: once, inside the tokio runtime.
///
/// # Errors
/// When telemetry was started before, or the collector's address is none.
pub fn init(role: &str, config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let provider = provider(role, config)?;
    subscriber(config, provider.as_ref(), io::stderr)?.try_init()?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    if let Some(provider) = &provider {
        opentelemetry::global::set_tracer_provider(provider.clone());
    }
    log_panics();
    Ok(Telemetry { provider })
}

/// Telemetry could not be started.
#[derive(Debug, thiserror::Error)]
pub enum TelemetryError {
    #[error("telemetry was started before in this process")]
    Twice(#[from] TryInitError),
    #[error("the collector's address cannot be used")]
    Exporter(#[from] ExporterBuildError),
    #[error("the log filter cannot be read")]
    Filter(#[from] ParseError),
}

/// Holds the tracer; [`Telemetry::shutdown`] sends what is still in the queue.
#[derive(Debug)]
pub struct Telemetry {
    /// `None` without a collector.
    provider: Option<SdkTracerProvider>,
}

impl Telemetry {
    /// Flushes, for at most 5 s. Last in `main`, after all roles have ended.
    pub async fn shutdown(self) {
        let Some(provider) = self.provider else {
            return;
        };
        let flush =
            tokio::task::spawn_blocking(move || provider.shutdown_with_timeout(FLUSH_TIMEOUT));
        // The outer bound is for a provider that does not keep its own.
        match tokio::time::timeout(FLUSH_TIMEOUT, flush).await {
            Ok(Ok(Ok(()))) => {}
            Ok(Ok(Err(error))) => tracing::info!(%error, "cannot flush the last spans"),
            Ok(Err(error)) => tracing::error!(%error, "flushing the last spans panicked"),
            Err(_) => tracing::info!("gave up flushing the last spans"),
        }
    }
}

/// Returns the trace id of the current span as 32 hex digits, for answers to clients.
pub fn current_trace_id() -> Option<String> {
    current_ids().map(|(trace, _)| trace)
}

/// Makes `span` a child of `parent`, which is the context that came with a request.
///
/// MUST be called BEFORE the span is entered and BEFORE it gets children, otherwise the span keeps
/// the ids that it already has. Does nothing for a span that is not traced.
pub fn continue_trace(span: &Span, parent: Context) {
    if !ids::set_parent(span, &parent) {
        // An error says that the span is not traced or has its ids already.
        let _ = span.set_parent(parent);
    }
}

/// Returns the context with the ids of `span`, or a context without ids if the span is not traced.
pub fn context_of(span: &Span) -> Context {
    ids::context_of(span).unwrap_or_else(|| span.context())
}

/// Returns the span that all logs of one role carry, for processes that run several.
pub fn role_span(role: &'static str) -> Span {
    // The level is the highest, so that no LOG_LEVEL takes the role from a line.
    tracing::error_span!(target: ROLE_TARGET, "role", role)
}

/// A panic becomes a line like all others. The runtime would write it past the format, and without
/// its trace.
fn log_panics() {
    std::panic::set_hook(Box::new(|panic| {
        let text = panic.payload_as_str().unwrap_or("unknown");
        let backtrace = Backtrace::capture();
        let backtrace =
            (backtrace.status() == BacktraceStatus::Captured).then(|| display(backtrace));
        tracing::error!(
            panic = text,
            location = panic.location().map(display),
            backtrace,
            "panicked"
        );
    }));
}

/// The trace id and the span id of the current span.
fn current_ids() -> Option<(String, String)> {
    let context = Context::current();
    let span = context.span();
    let ids = span.span_context();
    ids.is_valid()
        .then(|| (ids.trace_id().to_string(), ids.span_id().to_string()))
}

fn is_traced(metadata: &Metadata<'_>) -> bool {
    let is_transport = TRANSPORT_TARGETS
        .iter()
        .any(|target| metadata.target().starts_with(target));
    // Spans inside of a request have level DEBUG, so that the log does not format their fields at INFO.
    let is_ours = metadata.is_span() && metadata.target().starts_with("cstore");
    (is_ours || *metadata.level() <= Level::INFO) && !is_transport
}

/// Returns the whole stack of layers of a process.
fn subscriber<W>(
    config: &TelemetryConfig,
    provider: Option<&SdkTracerProvider>,
    writer: W,
) -> Result<impl Subscriber + Send + Sync + use<W>, ParseError>
where
    W: for<'writer> tracing_subscriber::fmt::MakeWriter<'writer> + Send + Sync + 'static,
{
    let registry = tracing_subscriber::registry().with(span_layer(config, provider));
    Ok(registry.with(log_layer(config, writer)?))
}

/// Returns the layer that gives spans their ids and, if there is a provider, exports them.
///
/// Without a collector, spans of calls, retries and commits are excluded: nothing would export them,
/// and those of requests are enough for the ids in answers, logs and calls.
fn span_layer(
    config: &TelemetryConfig,
    provider: Option<&SdkTracerProvider>,
) -> Box<dyn Layer<Registry> + Send + Sync> {
    let Some(provider) = provider else {
        let has_ids = |metadata: &Metadata<'_>| {
            metadata.is_span() && is_traced(metadata) && !WAITING_SPANS.contains(&metadata.name())
        };
        return IdLayer::new(config.sampler.sampler())
            .with_filter(filter_fn(has_ids))
            .boxed();
    };
    tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("cstore"))
        .with_location(false)
        .with_threads(false)
        .with_filter(filter_fn(is_traced))
        .boxed()
}

fn log_layer<S, W>(
    config: &TelemetryConfig,
    writer: W,
) -> Result<Box<dyn Layer<S> + Send + Sync>, ParseError>
where
    S: Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
    W: for<'writer> tracing_subscriber::fmt::MakeWriter<'writer> + Send + Sync + 'static,
{
    let filter = EnvFilter::builder().parse(&config.filter)?;
    let layer = tracing_subscriber::fmt::layer()
        .with_writer(writer)
        .with_ansi(false);
    Ok(match config.format {
        LogFormat::Text => layer
            .event_format(TextWithTrace::default())
            .with_filter(filter)
            .boxed(),
        LogFormat::Json => layer
            .fmt_fields(JsonFields::new())
            .event_format(JsonWithTrace::default())
            .with_filter(filter)
            .boxed(),
    })
}

/// Returns the provider that exports spans to the configured collector, if there is one.
fn provider(
    role: &str,
    config: &TelemetryConfig,
) -> Result<Option<SdkTracerProvider>, ExporterBuildError> {
    let Some(endpoint) = &config.endpoint else {
        return Ok(None);
    };
    let name = config
        .service_name
        .clone()
        .unwrap_or_else(|| format!("cstore-{role}"));
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new(SERVICE_VERSION, env!("CARGO_PKG_VERSION")))
        .build();
    let exporter = SpanExporter::builder()
        .with_tonic()
        .with_endpoint(endpoint)
        .with_timeout(EXPORT_TIMEOUT)
        .build()?;
    let queue = BatchConfigBuilder::default()
        .with_max_queue_size(SPAN_QUEUE)
        .build();
    let processor = BatchSpanProcessor::builder(exporter)
        .with_batch_config(queue)
        .build();
    let provider = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(config.sampler.sampler())
        .with_span_processor(processor)
        .build();
    Ok(Some(provider))
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;

    use super::*;
    use crate::env::Env;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    /// The layer that gives spans their ids.
    #[derive(Debug, Clone, Copy)]
    pub(super) enum LayerKind {
        IdsOnly,
        Collector,
    }

    pub(super) const BOTH_KINDS: [LayerKind; 2] = [LayerKind::IdsOnly, LayerKind::Collector];

    /// Returns the lines that `act` logs under these variables. The collector gets nothing.
    pub(super) fn logged<const N: usize>(
        kind: LayerKind,
        variables: [(&str, &str); N],
        act: impl FnOnce(),
    ) -> String {
        let mut env = Env::new(&variables);
        let config = TelemetryConfig::from_env(&mut env);
        env.finish().unwrap();
        let provider = match kind {
            LayerKind::IdsOnly => provider("test", &config).unwrap(),
            LayerKind::Collector => {
                let sampler = config.sampler.sampler();
                Some(SdkTracerProvider::builder().with_sampler(sampler).build())
            }
        };
        let lines = Lines::default();
        let sink = lines.clone();
        let subscriber = subscriber(&config, provider.as_ref(), move || sink.clone()).unwrap();
        tracing::subscriber::with_default(subscriber, act);
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    #[test]
    fn a_log_line_inside_a_span_carries_its_trace_id_also_when_the_log_is_quiet() {
        for kind in BOTH_KINDS {
            let mut id = None;
            let text = logged(kind, [("LOG_LEVEL", "ERROR")], || {
                let _role = role_span("master").entered();
                assert_eq!(current_trace_id(), None, "a role is no trace");
                let _span = tracing::info_span!("request").entered();
                id = current_trace_id();
                tracing::info!("hidden");
                tracing::error!("seen");
            });
            let id = id.unwrap();
            assert_eq!(id.len(), 32);
            assert!(!text.contains("hidden"), "{text}");
            assert!(
                text.contains(&format!(" trace_id={id} span_id="))
                    && text.contains("role=\"master\""),
                "{text}"
            );
            assert_eq!(text.lines().count(), 1, "{text}");
        }
    }

    #[test]
    fn two_requests_of_one_role_are_two_traces() {
        for kind in BOTH_KINDS {
            logged(kind, [], || {
                let _role = role_span("master").entered();
                let one = tracing::info_span!("request").in_scope(current_trace_id);
                let other = tracing::info_span!("request").in_scope(current_trace_id);
                assert_ne!(one.unwrap(), other.unwrap());
            });
        }
    }

    #[test]
    fn a_json_line_carries_the_ids_as_fields() {
        for kind in BOTH_KINDS {
            let text = logged(kind, [("LOG_FORMAT", "json")], || {
                tracing::info!(n = 1, "outside");
                tracing::info_span!("request").in_scope(|| tracing::info!("inside"));
            });
            let (outside, inside) = text.trim_end().split_once('\n').unwrap();
            assert!(
                outside.ends_with('}') && !outside.contains("trace_id"),
                "{outside}"
            );
            assert!(
                inside.contains(r#","trace_id":""#) && inside.ends_with("\"}"),
                "{inside}"
            );
        }
    }

    #[test]
    fn debug_shows_our_frames_and_not_the_transport_below() {
        for kind in BOTH_KINDS {
            let text = logged(kind, [("LOG_LEVEL", "debug")], || {
                tracing::debug!(target: "cstore_wire", "ours");
                tracing::debug!(target: "h2::codec", "theirs");
                tracing::debug!(target: "sled::pagecache", "theirs");
            });
            assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
        }
    }

    #[tokio::test]
    async fn a_dead_collector_neither_stops_the_start_nor_delays_a_span() {
        let closed = tokio::net::TcpListener::bind("127.0.0.1:0")
            .await
            .unwrap()
            .local_addr()
            .unwrap();
        let endpoint = format!("http://{closed}");
        let config = TelemetryConfig {
            endpoint: Some(endpoint),
            ..TelemetryConfig::default()
        };
        let provider = provider("test", &config).unwrap();
        assert!(provider.is_some());
        let subscriber = subscriber(&config, provider.as_ref(), io::sink).unwrap();
        tracing::subscriber::with_default(subscriber, || {
            for _ in 0..2 * SPAN_QUEUE {
                tracing::info_span!("request").in_scope(|| ());
            }
        });
        let begin = tokio::time::Instant::now();
        Telemetry { provider }.shutdown().await;
        // Far beyond the time-out, so that other work on the machine does not matter.
        assert!(begin.elapsed() < FLUSH_TIMEOUT * 10);
    }
}
