//! The alert rules and the dashboard that come with the program: of metrics that exist, and
//! understood by Prometheus.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use cstore_integration_tests::tools;
use serde_json::{Value, json};

use crate::metrics::{documented, family};

fn deployed(name: &str) -> PathBuf {
    PathBuf::from(format!("{}/../deploy/{name}", env!("CARGO_MANIFEST_DIR")))
}

/// Names of our metrics in a text.
fn names(text: &str) -> BTreeSet<&str> {
    let words = text.split(|c: char| !c.is_ascii_lowercase() && c != '_');
    words.filter(|word| word.starts_with("cstore_")).collect()
}

fn check_names(what: &str, text: &str) {
    let known = documented();
    for name in names(text) {
        assert!(
            family(&known, name).is_some(),
            "{what} names {name}, which docs/metrics.md does not know"
        );
    }
}

/// Expressions of all panels.
fn expressions(dashboard: &Value) -> Vec<String> {
    let panels = dashboard["panels"].as_array().unwrap().iter();
    let targets = panels
        .filter_map(|panel| panel["targets"].as_array())
        .flatten();
    targets
        .map(|target| target["expr"].as_str().unwrap().to_owned())
        .collect()
}

fn dashboard() -> Value {
    serde_json::from_slice(&std::fs::read(deployed("grafana/cstore.json")).unwrap()).unwrap()
}

#[test]
fn alerts_are_about_metrics_that_exist_and_say_what_to_do() {
    let text = std::fs::read_to_string(deployed("prometheus/alerts.yaml")).unwrap();
    check_names("alerts.yaml", &text);
    let count = |what: &str| {
        text.lines()
            .filter(|line| line.trim_start().starts_with(what))
            .count()
    };
    let alerts = count("- alert:");
    assert!(alerts >= 7, "only {alerts} alerts");
    for needed in ["expr:", "severity:", "summary:", "runbook:"] {
        assert_eq!(count(needed), alerts, "{needed}");
    }
    let proof = std::fs::read_to_string(deployed("prometheus/alerts_test.yaml")).unwrap();
    for alert in text
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("- alert: "))
    {
        assert!(
            proof.contains(&format!("alertname: {alert}")),
            "alerts_test.yaml does not try {alert}"
        );
    }
}

#[test]
fn panels_are_about_metrics_that_exist_and_say_what_they_show() {
    let dashboard = dashboard();
    let expressions = expressions(&dashboard);
    assert!(
        expressions.len() > 30,
        "only {} expressions",
        expressions.len()
    );
    for expression in &expressions {
        assert!(
            !names(expression).is_empty(),
            "{expression} is about nothing of ours"
        );
        check_names("cstore.json", expression);
    }
    let mut ids = BTreeSet::new();
    for panel in dashboard["panels"].as_array().unwrap() {
        assert!(
            ids.insert(panel["id"].as_u64().unwrap()),
            "two panels have one id"
        );
        let described =
            panel["type"] == "row" || !panel["description"].as_str().unwrap().is_empty();
        assert!(described, "{} does not say what it shows", panel["title"]);
    }
}

#[test]
fn prometheus_understands_alerts_and_panels_and_the_alerts_do_what_they_say() {
    let Some(promtool) = tools::find_or_skip("promtool", "alert rules") else {
        return;
    };
    let check = |arguments: &[&str], file: PathBuf| {
        let output = Command::new(&promtool)
            .args(arguments)
            .arg(file)
            .output()
            .unwrap();
        let said = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{arguments:?}: {}",
            String::from_utf8_lossy(&said)
        );
    };
    check(&["check", "rules"], deployed("prometheus/alerts.yaml"));
    check(&["test", "rules"], deployed("prometheus/alerts_test.yaml"));

    // A panel's expression is a rule's, but for the interval that Grafana puts in. JSON is YAML.
    let rule = |(n, expression): (usize, String)| json!({"record": format!("panel:{n}"), "expr": expression.replace("$__rate_interval", "5m")});
    let rules: Vec<Value> = expressions(&dashboard())
        .into_iter()
        .enumerate()
        .map(rule)
        .collect();
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("panels.yaml");
    std::fs::write(
        &file,
        json!({"groups": [{"name": "panels", "rules": rules}]}).to_string(),
    )
    .unwrap();
    check(&["check", "rules"], file);
}
