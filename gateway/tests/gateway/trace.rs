//! The trace of a request: taken over from the client, answered in header and body. A process has
//! one telemetry, so no other test of this binary may start it, and none may depend on whether it
//! runs.

use std::collections::BTreeMap;

use cstore_node::Env;
use cstore_node::telemetry::{self, TelemetryConfig};

use crate::{http, setup};

#[tokio::test]
async fn a_trace_that_a_client_began_goes_on_and_every_answer_names_its_own() {
    let no_variables: BTreeMap<String, String> = BTreeMap::new();
    let config = TelemetryConfig::from_env(&mut Env::new(&no_variables));
    let telemetry = telemetry::init("gateway", &config).unwrap();
    let setup = setup::start().await;
    let trace = "4bf92f3577b34da6a3ce929d0e0e4736";
    let request = format!(
        "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\ntraceparent: 00-{trace}-00f067aa0ba902b7-01\r\n\r\nx"
    );
    let answer = http::send(setup.addr, &request).await;
    assert_eq!(
        (answer.status, answer.header("x-cstore-trace-id")),
        (201, Some(trace))
    );
    assert_eq!(answer.json()["trace_id"].as_str(), Some(trace));
    let refused = http::send(setup.addr, &request).await;
    assert_eq!(refused.json()["error"]["trace_id"].as_str(), Some(trace));

    let untraced = || http::send(setup.addr, "GET /api/stats HTTP/1.1\r\nHost: x\r\n\r\n");
    let (first, second) = (untraced().await, untraced().await);
    let (first, second) = (
        first.header("x-cstore-trace-id").unwrap(),
        second.header("x-cstore-trace-id").unwrap(),
    );
    assert!(
        first.len() == 32 && first.bytes().any(|byte| byte != b'0'),
        "{first}"
    );
    assert_ne!(first, second);
    setup.shutdown.trigger();
    setup.done.await.unwrap().unwrap();
    telemetry.shutdown().await;
}
