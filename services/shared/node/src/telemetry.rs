//! Logs to stderr, panics too, spans to an OTLP collector, and trace ids in both.
//!
//! Logs and spans are filtered apart: `LOG_LEVEL=ERROR` makes the log quiet and leaves the traces
//! whole. Without a collector spans still get valid ids, so that every answer can carry one. A
//! collector that is dead or slow costs a bounded queue on a thread of its own: what does not fit
//! is dropped.
//!
//! The spans of [`role_span`] are in the log only. As parents in a trace they would bind all
//! requests of a process's life into one.

mod config;
mod format;

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
use tracing::{Level, Metadata, Span, field::display};
use tracing_subscriber::{
    EnvFilter, Layer,
    filter::{ParseError, filter_fn},
    fmt::format::JsonFields,
    layer::SubscriberExt,
    util::{SubscriberInitExt, TryInitError},
};

pub use config::{LogFormat, SamplerChoice, TelemetryConfig};
use format::{JsonWithTrace, TextWithTrace};

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

/// Installs the subscriber, the tracer and the W3C propagator of this process: once, inside the
/// tokio runtime.
///
/// # Errors
/// When telemetry was started before, or the collector's address is none.
pub fn init(role: &str, config: &TelemetryConfig) -> Result<Telemetry, TelemetryError> {
    let provider = provider(role, config)?;
    let spans = tracing_opentelemetry::layer()
        .with_tracer(provider.tracer("cstore"))
        .with_location(false)
        .with_threads(false)
        .with_filter(filter_fn(filter_of(config)));
    let subscriber = tracing_subscriber::registry()
        .with(spans)
        .with(log_layer(config, io::stderr)?);
    subscriber.try_init()?;
    opentelemetry::global::set_text_map_propagator(TraceContextPropagator::new());
    opentelemetry::global::set_tracer_provider(provider.clone());
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
    provider: SdkTracerProvider,
}

impl Telemetry {
    /// Flushes, for at most 5 s. Last in `main`, after all roles have ended.
    pub async fn shutdown(self) {
        let flush =
            tokio::task::spawn_blocking(move || self.provider.shutdown_with_timeout(FLUSH_TIMEOUT));
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

/// Returns the filter that selects spans for OpenTelemetry.
///
/// If no collector is configured, spans of calls, retries and commits are excluded: nothing would
/// export them, and those of requests are enough for the ids in answers, logs and calls.
fn filter_of(config: &TelemetryConfig) -> fn(&Metadata<'_>) -> bool {
    match config.endpoint {
        Some(_) => is_traced,
        None => |metadata| is_traced(metadata) && !WAITING_SPANS.contains(&metadata.name()),
    }
}

fn log_layer<S, W>(
    config: &TelemetryConfig,
    writer: W,
) -> Result<Box<dyn Layer<S> + Send + Sync>, ParseError>
where
    S: tracing::Subscriber + for<'span> tracing_subscriber::registry::LookupSpan<'span>,
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

fn provider(role: &str, config: &TelemetryConfig) -> Result<SdkTracerProvider, ExporterBuildError> {
    let name = config
        .service_name
        .clone()
        .unwrap_or_else(|| format!("cstore-{role}"));
    let resource = Resource::builder()
        .with_service_name(name)
        .with_attribute(KeyValue::new(SERVICE_VERSION, env!("CARGO_PKG_VERSION")))
        .build();
    let builder = SdkTracerProvider::builder()
        .with_resource(resource)
        .with_sampler(config.sampler.sampler());
    let Some(endpoint) = &config.endpoint else {
        return Ok(builder.build());
    };
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
    Ok(builder.with_span_processor(processor).build())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use parking_lot::Mutex;
    use tracing_subscriber::Registry;

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

    /// Returns the lines that `act` logs under these variables.
    fn logged<const N: usize>(variables: [(&str, &str); N], act: impl FnOnce()) -> String {
        let mut env = Env::new(&variables);
        let config = TelemetryConfig::from_env(&mut env);
        env.finish().unwrap();
        let provider = provider("test", &config).unwrap();
        let spans = tracing_opentelemetry::layer()
            .with_tracer(provider.tracer("test"))
            .with_filter(filter_fn(filter_of(&config)));
        let lines = Lines::default();
        let sink = lines.clone();
        let log = log_layer(&config, move || sink.clone()).unwrap();
        tracing::subscriber::with_default(Registry::default().with(spans).with(log), act);
        String::from_utf8(lines.0.lock().clone()).unwrap()
    }

    #[test]
    fn a_log_line_inside_a_span_carries_its_trace_id_also_when_the_log_is_quiet() {
        let mut id = None;
        let text = logged([("LOG_LEVEL", "ERROR")], || {
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
            text.contains(&format!(" trace_id={id} span_id=")) && text.contains("role=\"master\""),
            "{text}"
        );
        assert_eq!(text.lines().count(), 1, "{text}");
    }

    #[test]
    fn two_requests_of_one_role_are_two_traces() {
        logged([], || {
            let _role = role_span("master").entered();
            let one = tracing::info_span!("request").in_scope(current_trace_id);
            let other = tracing::info_span!("request").in_scope(current_trace_id);
            assert_ne!(one.unwrap(), other.unwrap());
        });
    }

    #[test]
    fn a_json_line_carries_the_ids_as_fields() {
        let text = logged([("LOG_FORMAT", "json")], || {
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

    #[test]
    fn debug_shows_our_frames_and_not_the_transport_below() {
        let text = logged([("LOG_LEVEL", "debug")], || {
            tracing::debug!(target: "cstore_wire", "ours");
            tracing::debug!(target: "h2::codec", "theirs");
            tracing::debug!(target: "sled::pagecache", "theirs");
        });
        assert!(text.contains("ours") && !text.contains("theirs"), "{text}");
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
        let layer = tracing_opentelemetry::layer().with_tracer(provider.tracer("test"));
        tracing::subscriber::with_default(Registry::default().with(layer), || {
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
