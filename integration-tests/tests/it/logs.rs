//! One format of logs over all roles.

use std::collections::{BTreeMap, BTreeSet};

use cstore_integration_tests::cluster::Cluster;
use cstore_testkit::random;
use serde_json::Value;

use crate::PROGRAM;

const LEVELS: [&str; 5] = ["ERROR", "WARN", "INFO", "DEBUG", "TRACE"];

fn is_hex(value: &Value, digits: usize) -> bool {
    value
        .as_str()
        .is_some_and(|text| text.len() == digits && text.bytes().all(|c| c.is_ascii_hexdigit()))
}

/// Checks a line, and answers its trace id.
fn check_line(role: &str, line: &str) -> Option<String> {
    let parsed = serde_json::from_str::<BTreeMap<String, Value>>(line);
    let fields =
        parsed.unwrap_or_else(|error| panic!("{role} logged what is no JSON ({error}): {line}"));
    for needed in ["timestamp", "level", "target", "message"] {
        assert!(
            fields.get(needed).is_some_and(Value::is_string),
            "{role} logged without {needed}: {line}"
        );
    }
    let level = fields["level"].as_str().unwrap();
    assert!(
        LEVELS.contains(&level) && level != "ERROR",
        "{role} logged {line}"
    );
    assert_eq!(
        fields.contains_key("trace_id"),
        fields.contains_key("span_id"),
        "{line}"
    );
    let id = fields.get("trace_id")?;
    assert!(is_hex(id, 32) && is_hex(&fields["span_id"], 16), "{line}");
    id.as_str().map(str::to_owned)
}

#[test]
fn every_line_of_a_cluster_is_json_and_requests_are_found_by_their_trace() {
    let cluster = Cluster::builder(PROGRAM)
        .env("LOG_FORMAT", "json")
        .env("LOG_LEVEL", "debug")
        .start();
    let body = random(1_000_000, 3);
    let put = cluster.ask("PUT", "/api/files/logged", &body);
    assert_eq!(put.status, 201, "{}", put.text());
    assert!(cluster.fetch("/api/files/logged").body == body);
    assert_eq!(cluster.ask("GET", "/api/files/none", b"").status, 404);
    cluster.restart("storage-2");
    cluster.restart("master");
    cluster.wait_ready();
    for role in cluster.roles() {
        assert!(cluster.stop(&role).success(), "{role}");
    }
    let wanted = put.json()["trace_id"].as_str().unwrap().to_owned();
    let mut told = BTreeSet::new();
    for role in cluster.roles() {
        let log = cluster.log(&role);
        assert!(log.lines().count() > 5, "{role} logged {log}");
        let ids: BTreeSet<String> = log
            .lines()
            .filter_map(|line| check_line(&role, line))
            .collect();
        if ids.contains(&wanted) {
            told.insert(role.split('-').next().unwrap().to_owned());
        }
    }
    let all = ["gateway", "master", "storage", "worker"].map(str::to_owned);
    assert_eq!(
        told,
        all.into(),
        "roles that logged something of the upload"
    );
}
