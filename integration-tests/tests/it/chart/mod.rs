//! The chart without a cluster: rendered by helm, judged here and by the schemas of Kubernetes.

mod network;
mod policy;
mod refusals;
mod render;
mod stability;
mod values;

use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use cstore_integration_tests::tools;
use serde_json::Value;

/// Sets of values that people install with, and what each adds to the command line.
const MATRIX: &[(&str, &[&str])] = &[
    ("default", &[]),
    ("dev", &["-f", "values-dev.yaml"]),
    ("ha", &["-f", "values-ha.yaml"]),
    ("without tls", &["--set", "tls.enabled=false"]),
    (
        "given secrets",
        &[
            "--set",
            "secrets.existingSecret=mine,tls.existingSecret=my-ca",
        ],
    ),
    (
        "cert-manager",
        &[
            "--set",
            "tls.certManager.enabled=true,tls.certManager.issuerRef.name=root",
            "--api-versions",
            "cert-manager.io/v1",
        ],
    ),
    ("jaeger", &["--set", "jaeger.enabled=true"]),
    (
        "scaling",
        &[
            "--set",
            "gateway.autoscaling.enabled=true,worker.autoscaling.enabled=true",
        ],
    ),
    (
        "no policies",
        &[
            "--set",
            "networkPolicy.enabled=false,gateway.pdb.enabled=false",
        ],
    ),
    (
        "ingress",
        &[
            "--set",
            "gateway.ingress.enabled=true,gateway.ingress.host=s.example,gateway.ingress.tlsSecret=t",
        ],
    ),
    (
        "monitoring",
        &[
            "--set",
            "metrics.podMonitor.enabled=true,metrics.rules.enabled=true,metrics.dashboard.enabled=true",
            "--api-versions",
            "monitoring.coreos.com/v1",
        ],
    ),
    (
        "other ports",
        &[
            "--set",
            "ports.gateway=18000,ports.master=14100,ports.worker=15000,ports.storage=14000,ports.admin=19100",
        ],
    ),
    (
        "from anywhere",
        &[
            "--set",
            "networkPolicy.gatewayFrom[0].namespaceSelector.matchLabels.a=b,networkPolicy.metricsFrom=null",
        ],
    ),
];

fn chart() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../helm/cstore")
}

fn helm(test: &str) -> Option<PathBuf> {
    tools::find_or_skip("helm", &format!("chart::{test}"))
}

fn template(helm: &Path, chart: &Path, args: &[&str]) -> Output {
    let mut command = Command::new(helm);
    command
        .args(["template", "store", ".", "--namespace", "space"])
        .args(args)
        .current_dir(chart);
    command.output().unwrap()
}

/// Returns the objects that would be installed.
fn render(helm: &Path, args: &[&str]) -> Vec<Value> {
    render_chart(helm, &chart(), args)
}

fn render_chart(helm: &Path, chart: &Path, args: &[&str]) -> Vec<Value> {
    let output = template(helm, chart, args);
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    documents(std::str::from_utf8(&output.stdout).unwrap())
}

fn documents(text: &str) -> Vec<Value> {
    let all: Vec<Value> = serde_saphyr::from_multiple(text).unwrap();
    all.into_iter().filter(|one| !one.is_null()).collect()
}

fn of_kind<'a>(all: &'a [Value], kind: &str) -> Vec<&'a Value> {
    all.iter().filter(|one| one["kind"] == kind).collect()
}

/// The pod of whatever makes pods.
fn pod_spec(object: &Value) -> Option<&Value> {
    match object["kind"].as_str()? {
        "Deployment" | "StatefulSet" => object.pointer("/spec/template/spec"),
        "Pod" => object.get("spec"),
        _ => None,
    }
}

fn list<'a>(value: &'a Value, key: &str) -> impl Iterator<Item = &'a Value> {
    value[key].as_array().into_iter().flatten()
}

fn role(object: &Value) -> &str {
    object
        .pointer("/metadata/labels/app.kubernetes.io~1component")
        .and_then(Value::as_str)
        .unwrap_or_default()
}
