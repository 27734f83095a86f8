//! A collector of traces that keeps them: what the processes under test export, as trees.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use cstore_testkit::until_blocking;
use opentelemetry_proto::tonic::collector::trace::v1::trace_service_server::{
    TraceService, TraceServiceServer,
};
use opentelemetry_proto::tonic::collector::trace::v1::{
    ExportTraceServiceRequest, ExportTraceServiceResponse,
};
use opentelemetry_proto::tonic::common::v1::any_value::Value;
use opentelemetry_proto::tonic::common::v1::{AnyValue, KeyValue};
use parking_lot::Mutex;
use tokio::net::TcpListener;
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status};

/// One span as it was exported. Ids in hex; a root has an empty parent.
#[derive(Debug, Clone)]
pub struct Span {
    /// `service.name` of the process.
    pub service: String,
    /// Its name.
    pub name: String,
    /// internal, server, client, producer or consumer.
    pub kind: &'static str,
    /// 32 digits.
    pub trace: String,
    /// 16 digits.
    pub id: String,
    /// 16 digits, or none.
    pub parent: String,
    /// True if the span's status is ERROR.
    pub is_error: bool,
    /// Attributes as text.
    pub attributes: BTreeMap<String, String>,
    /// Spans that it links to.
    pub links: Vec<String>,
    /// Nanoseconds since 1970.
    pub start: u64,
    /// Nanoseconds.
    pub took: u64,
}

/// All spans of one trace.
#[derive(Debug, Clone)]
pub struct Trace(pub Vec<Span>);

impl Trace {
    /// The spans of this name.
    pub fn named(&self, name: &str) -> Vec<&Span> {
        self.0.iter().filter(|span| span.name == name).collect()
    }

    /// The only span of this name and kind.
    ///
    /// # Panics
    /// When there is none, or more.
    pub fn one(&self, name: &str, kind: &str) -> &Span {
        let found: Vec<_> = self
            .named(name)
            .into_iter()
            .filter(|span| span.kind == kind)
            .collect();
        assert_eq!(
            found.len(),
            1,
            "{kind} spans named {name} in\n{}",
            self.tree()
        );
        found[0]
    }

    /// The span that is the parent of this one.
    pub fn parent(&self, span: &Span) -> Option<&Span> {
        self.0.iter().find(|other| other.id == span.parent)
    }

    /// Names of the processes.
    pub fn services(&self) -> BTreeSet<&str> {
        self.0.iter().map(|span| span.service.as_str()).collect()
    }

    /// Spans whose parent never came.
    pub fn orphans(&self) -> Vec<&Span> {
        self.0
            .iter()
            .filter(|span| !span.parent.is_empty() && self.parent(span).is_none())
            .collect()
    }

    /// Returns `true` if the root and the parent of every other span have been exported.
    ///
    /// Each process exports its spans from the leaves to the root, so leaves of other processes may
    /// still be missing.
    pub fn is_whole(&self) -> bool {
        self.0.iter().any(|span| span.parent.is_empty()) && self.orphans().is_empty()
    }

    /// Returns the spans as indented lines, in the order of their beginnings.
    pub fn tree(&self) -> String {
        let mut lines = String::new();
        let roots: Vec<&Span> = self
            .0
            .iter()
            .filter(|span| self.parent(span).is_none())
            .collect();
        self.branch(roots, 0, &mut lines);
        lines
    }

    fn branch(&self, mut spans: Vec<&Span>, depth: usize, lines: &mut String) {
        spans.sort_by_key(|span| span.start);
        for span in spans {
            let told = span
                .attributes
                .iter()
                .filter(|(key, _)| key.starts_with("cstore."));
            let told: Vec<String> = told
                .map(|(key, value)| format!("{}={value}", key.trim_start_matches("cstore.")))
                .collect();
            let name = format!("{}{} ({})", "  ".repeat(depth), span.name, span.kind);
            let error = if span.is_error { " ERROR" } else { "" };
            let links = match span.links.len() {
                0 => String::new(),
                count => format!(" +{count} linked"),
            };
            let ms = Duration::from_nanos(span.took).as_secs_f64() * 1_000.0;
            lines.push_str(&format!(
                "{name:<58} {:<16} {ms:>9.3} ms  {}{links}{error}\n",
                span.service,
                told.join(" ")
            ));
            let children = self
                .0
                .iter()
                .filter(|child| child.parent == span.id)
                .collect();
            self.branch(children, depth + 1, lines);
        }
    }
}

/// A collector on a free port. It ends with its drop.
#[derive(Debug)]
pub struct Collector {
    /// `http://host:port`, for `OTEL_EXPORTER_OTLP_ENDPOINT`.
    pub endpoint: String,
    kept: Kept,
    _runtime: tokio::runtime::Runtime,
}

#[derive(Debug, Clone, Default)]
struct Kept(Arc<Mutex<Vec<Span>>>);

impl Collector {
    /// Listens.
    ///
    /// # Panics
    /// When the system has no port or thread left.
    pub fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a thread can be started");
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .expect("a port is free");
        let addr: SocketAddr = listener.local_addr().expect("a listener has an address");
        let kept = Kept::default();
        let service = TraceServiceServer::new(kept.clone());
        runtime.spawn(
            tonic::transport::Server::builder()
                .add_service(service)
                .serve_with_incoming(TcpIncoming::from(listener)),
        );
        Self {
            endpoint: format!("http://{addr}"),
            kept,
            _runtime: runtime,
        }
    }

    /// Everything that has come so far.
    pub fn all(&self) -> Vec<Span> {
        self.kept.0.lock().clone()
    }

    /// A trace, once it has all that `complete` asks for.
    ///
    /// # Panics
    /// When that does not come in time.
    pub fn trace(&self, id: &str, complete: impl Fn(&Trace) -> bool) -> Trace {
        let of = |id: &str| {
            Trace(
                self.all()
                    .into_iter()
                    .filter(|span| span.trace == id)
                    .collect(),
            )
        };
        let found = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| {
            until_blocking(&format!("trace {id}"), || Some(of(id)).filter(&complete))
        }));
        found.unwrap_or_else(|_| panic!("trace {id} is not complete:\n{}", of(id).tree()))
    }
}

#[tonic::async_trait]
impl TraceService for Kept {
    async fn export(
        &self,
        request: Request<ExportTraceServiceRequest>,
    ) -> Result<Response<ExportTraceServiceResponse>, Status> {
        let mut kept = self.0.lock();
        for resource in request.into_inner().resource_spans {
            let about = resource
                .resource
                .map(|resource| attributes(resource.attributes))
                .unwrap_or_default();
            let service = about.get("service.name").cloned().unwrap_or_default();
            for span in resource
                .scope_spans
                .into_iter()
                .flat_map(|scope| scope.spans)
            {
                kept.push(Span {
                    service: service.clone(),
                    kind: kind(span.kind),
                    trace: hex::encode(span.trace_id),
                    id: hex::encode(span.span_id),
                    parent: hex::encode(span.parent_span_id),
                    is_error: span.status.is_some_and(|status| status.code == 2),
                    attributes: attributes(span.attributes),
                    links: span
                        .links
                        .into_iter()
                        .map(|link| hex::encode(link.span_id))
                        .collect(),
                    start: span.start_time_unix_nano,
                    took: span
                        .end_time_unix_nano
                        .saturating_sub(span.start_time_unix_nano),
                    name: span.name,
                });
            }
        }
        Ok(Response::new(ExportTraceServiceResponse::default()))
    }
}

const fn kind(kind: i32) -> &'static str {
    match kind {
        1 => "internal",
        2 => "server",
        3 => "client",
        4 => "producer",
        5 => "consumer",
        _ => "unspecified",
    }
}

fn attributes(found: Vec<KeyValue>) -> BTreeMap<String, String> {
    let text = |value: Option<AnyValue>| match value.and_then(|value| value.value) {
        Some(Value::StringValue(text)) => text,
        Some(Value::BoolValue(value)) => value.to_string(),
        Some(Value::IntValue(value)) => value.to_string(),
        Some(Value::DoubleValue(value)) => value.to_string(),
        _ => String::new(),
    };
    found
        .into_iter()
        .map(|pair| (pair.key, text(pair.value)))
        .collect()
}
