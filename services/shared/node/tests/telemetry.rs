//! Telemetry is one per process, so its start has a test binary of its own.

use std::collections::HashMap;
use std::process::Command;

use cstore_node::Env;
use cstore_node::telemetry::{
    TelemetryConfig, TelemetryError, context_of, continue_trace, current_trace_id, init, role_span,
};
use opentelemetry::Context;
use opentelemetry::trace::TraceContextExt;

#[tokio::test]
async fn telemetry_starts_once_and_gives_ids_and_a_propagator_without_any_collector() {
    let config = TelemetryConfig::default();
    let telemetry = init("dev", &config).unwrap();
    assert!(matches!(
        init("dev", &config),
        Err(TelemetryError::Twice(_))
    ));

    let _role = role_span("gateway").entered();
    let _request = tracing::info_span!("request").entered();
    let id = current_trace_id().unwrap();
    let mut carrier = HashMap::new();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&Context::current(), &mut carrier);
    });
    let header = carrier.get("traceparent").unwrap();
    assert!(
        header.starts_with(&format!("00-{id}-")) && header.ends_with("-01"),
        "{header}"
    );

    // A span of a request that is served, and of what the request waits for.
    let served = tracing::debug_span!(target: "cstore_test", "grpc").entered();
    assert!(!served.is_disabled());
    let call = tracing::debug_span!(target: "cstore_test", "call").entered();
    assert!(call.is_disabled(), "nobody would get it");
    assert_eq!(current_trace_id().as_ref(), Some(&id));

    // Another role continues the trace under the header that came with the call.
    let parent = opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.extract_with_context(&Context::new(), &carrier)
    });
    let remote = tracing::debug_span!(target: "cstore_test", parent: None, "grpc");
    continue_trace(&remote, parent.clone());
    let (context, served_context) = (context_of(&remote), context_of(&served));
    let (remote_span, served_span, parent_span) =
        (context.span(), served_context.span(), parent.span());
    let ids = remote_span.span_context();
    assert_eq!(ids.trace_id().to_string(), id);
    assert!(ids.is_sampled());
    assert_ne!(ids.span_id(), parent_span.span_context().span_id());
    assert_ne!(ids.span_id(), served_span.span_context().span_id());

    telemetry.shutdown().await;
}

/// The process under test is this binary again: what the panic hook writes goes past the capture of
/// a test.
#[tokio::test]
async fn a_panic_is_a_line_of_the_log_like_all_others() {
    const CHILD: &str = "CSTORE_TEST_PANICS";
    if std::env::vars().any(|(key, _)| key == CHILD) {
        let config = TelemetryConfig::from_env(&mut Env::new(&[("LOG_FORMAT", "json")]));
        let _telemetry = init("dev", &config).unwrap();
        let _request = tracing::info_span!("request").entered();
        tracing::info!("before");
        let caught = std::panic::catch_unwind(|| panic!("on purpose"));
        assert!(caught.is_err());
        return;
    }
    let output = Command::new(std::env::current_exe().unwrap())
        .args([
            "--exact",
            "a_panic_is_a_line_of_the_log_like_all_others",
            "--nocapture",
        ])
        .env(CHILD, "1")
        .output()
        .unwrap();
    let log = String::from_utf8(output.stderr).unwrap();
    let lines: Vec<&str> = log.lines().collect();
    assert_eq!(lines.len(), 2, "{log}");
    let panicked = lines[1];
    for part in [
        "\"level\":\"ERROR\"",
        "\"panic\":\"on purpose\"",
        "telemetry.rs:",
        "\"trace_id\":\"",
    ] {
        assert!(
            panicked.starts_with('{') && panicked.contains(part),
            "{part} is missing in {panicked}"
        );
    }
}
