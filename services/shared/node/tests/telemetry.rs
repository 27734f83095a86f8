//! Telemetry is one per process, so its start has a test binary of its own.

use std::collections::HashMap;

use cstore_node::telemetry::{TelemetryConfig, TelemetryError, current_trace_id, init, role_span};
use opentelemetry::Context;

#[tokio::test]
async fn telemetry_starts_once_and_gives_ids_and_a_propagator_without_any_collector() {
    let config = TelemetryConfig::default();
    let telemetry = init("dev", &config).unwrap();
    assert!(matches!(init("dev", &config), Err(TelemetryError::Twice(_))));

    let _role = role_span("gateway").entered();
    let _request = tracing::info_span!("request").entered();
    let id = current_trace_id().unwrap();
    let mut carrier = HashMap::new();
    opentelemetry::global::get_text_map_propagator(|propagator| {
        propagator.inject_context(&Context::current(), &mut carrier);
    });
    let header = carrier.get("traceparent").unwrap();
    assert!(header.starts_with(&format!("00-{id}-")) && header.ends_with("-01"), "{header}");

    telemetry.shutdown().await;
}
