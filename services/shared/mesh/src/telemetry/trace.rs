//! W3C trace context in the headers of HTTP requests and gRPC calls, both ways.

use std::task::{Context, Poll};

use cstore_node::telemetry::continue_trace;
use http::{HeaderMap, Request};
use opentelemetry::Context as TraceContext;
use opentelemetry::propagation::Extractor;
use opentelemetry_http::HeaderInjector;
use tonic::Code;
use tower::{Layer, Service};
use tracing::Span;

use crate::limits::{LONG_TRACE_STATE_MEMBER, MAX_TRACE_STATE};

const TRACE_STATE: &str = "tracestate";

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
    continue_trace(&span, context_from(request.headers()));
    span
}

/// Returns the trace context that a request carries, with a trace state that every inner call can
/// carry on.
pub fn context_from(headers: &HeaderMap) -> TraceContext {
    let carried = CarriedContext {
        headers,
        state: trace_state(headers),
    };
    opentelemetry::global::get_text_map_propagator(|propagator| propagator.extract(&carried))
}

/// The headers of a request, with the trace state in its place.
struct CarriedContext<'a> {
    headers: &'a HeaderMap,
    state: Option<String>,
}

impl Extractor for CarriedContext<'_> {
    fn get(&self, key: &str) -> Option<&str> {
        if key.eq_ignore_ascii_case(TRACE_STATE) {
            return self.state.as_deref();
        }
        self.headers.get(key).and_then(|value| value.to_str().ok())
    }

    fn keys(&self) -> Vec<&str> {
        self.headers.keys().map(http::HeaderName::as_str).collect()
    }
}

/// Joins the lines of `tracestate` (W3C Trace Context §3.3.1.1) and cuts whole members until at most
/// [`MAX_TRACE_STATE`] bytes are left: long members first, then from the end (§3.3.1.5). A longer
/// trace state would not fit the headers of a call to the master. `None` if the request has no trace
/// state, or one that is not ASCII.
fn trace_state(headers: &HeaderMap) -> Option<String> {
    let mut members: Vec<&str> = Vec::new();
    for line in headers.get_all(TRACE_STATE) {
        let line = line.to_str().ok()?;
        let given = line.split(',').map(str::trim);
        members.extend(given.filter(|member| !member.is_empty()));
    }
    let length = |members: &[&str]| members.iter().map(|member| member.len() + 1).sum::<usize>();
    if length(&members) > MAX_TRACE_STATE + 1 {
        members.retain(|member| member.len() <= LONG_TRACE_STATE_MEMBER);
    }
    let mut kept = 0;
    let n_fitting = members.iter().take_while(|member| {
        kept += member.len() + 1;
        kept <= MAX_TRACE_STATE + 1
    });
    let n_fitting = n_fitting.count();
    members.truncate(n_fitting);
    (!members.is_empty()).then(|| members.join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn state_of(lines: &[&str]) -> Option<String> {
        let mut headers = HeaderMap::new();
        for line in lines {
            headers.append(TRACE_STATE, line.parse().unwrap());
        }
        trace_state(&headers)
    }

    #[test]
    fn lines_are_joined_and_what_fits_stays_as_it_is() {
        assert_eq!(state_of(&[]), None);
        assert_eq!(state_of(&["", " ,, "]), None);
        assert_eq!(state_of(&["a=1,b=2"]).as_deref(), Some("a=1,b=2"));
        assert_eq!(
            state_of(&["a=1", " b=2 ,", "c=3"]).as_deref(),
            Some("a=1,b=2,c=3")
        );
        let full = format!("a={}", "x".repeat(MAX_TRACE_STATE - 2));
        assert_eq!(state_of(&[&full]).as_deref(), Some(full.as_str()));
    }

    #[test]
    fn too_much_is_cut_in_whole_members_long_ones_first() {
        let long = format!("long={}", "x".repeat(300));
        let short: Vec<String> = (0..60).map(|n| format!("m{n:02}=0123456789")).collect();
        let mut all = vec![long.as_str()];
        all.extend(short.iter().map(String::as_str));
        let kept = state_of(&[&all.join(",")]).unwrap();
        assert!(kept.len() <= MAX_TRACE_STATE, "{}", kept.len());
        assert!(kept.len() > MAX_TRACE_STATE - 15, "{}", kept.len());
        assert_eq!(kept, short.join(",")[..kept.len()]);
        // 32 members of 256 + 250 characters, which the standard allows.
        let member = format!("{}={}", "k".repeat(256), "v".repeat(250));
        assert_eq!(state_of(&[&vec![member; 32].join(",")]), None);
    }
}
