//! Values, their documents, and what the program makes of them.

use std::collections::BTreeSet;
use std::process::Command;

use serde_json::Value;

use super::{MATRIX, chart, documents, helm, list, of_kind, pod_spec, render, role};
use crate::PROGRAM;

/// Dotted paths of all values that are no maps, or maps that people fill.
fn paths(prefix: &str, value: &Value, found: &mut BTreeSet<String>) {
    match value.as_object() {
        Some(map)
            if !map.is_empty()
                && !prefix.ends_with("SecurityContext")
                && !prefix.ends_with("resources") =>
        {
            for (key, value) in map {
                let path = if prefix.is_empty() {
                    key.clone()
                } else {
                    format!("{prefix}.{key}")
                };
                paths(&path, value, found);
            }
        }
        _ => {
            found.insert(prefix.to_owned());
        }
    }
}

#[test]
fn the_table_of_values_is_complete() {
    let text = std::fs::read_to_string(chart().join("values.yaml")).unwrap();
    let mut all = BTreeSet::new();
    paths("", &documents(&text)[0], &mut all);
    assert!(all.len() > 80, "only {} values", all.len());
    let readme = std::fs::read_to_string(chart().join("README.md")).unwrap();
    let told: BTreeSet<String> = readme
        .lines()
        .filter_map(|line| line.strip_prefix("| `")?.split_once('`'))
        .flat_map(|(name, _)| expand(name))
        .collect();
    let missing: Vec<_> = all.difference(&told).collect();
    let gone: Vec<_> = told.difference(&all).collect();
    assert!(
        missing.is_empty() && gone.is_empty(),
        "README.md lacks {missing:?} and names {gone:?}"
    );
}

/// `ROLE.drain.delaySeconds` stands for all four roles.
fn expand(name: &str) -> Vec<String> {
    match name.strip_prefix("ROLE.") {
        Some(rest) => ["gateway", "worker", "master", "storage"]
            .map(|role| format!("{role}.{rest}"))
            .into(),
        None => vec![name.to_owned()],
    }
}

#[test]
fn rules_dashboard_and_collector_are_those_of_the_program() {
    for (copy, original) in [
        ("files/alerts.yaml", "deploy/prometheus/alerts.yaml"),
        ("files/cstore.json", "deploy/grafana/cstore.json"),
        ("files/jaeger.yaml", "deploy/jaeger/config.yaml"),
    ] {
        let original = std::fs::read(chart().join("../..").join(original)).unwrap();
        assert!(
            std::fs::read(chart().join(copy)).unwrap() == original,
            "helm/cstore/{copy} is old: copy it again"
        );
    }
    let program = env!("CARGO_PKG_VERSION");
    let chart = std::fs::read_to_string(chart().join("Chart.yaml")).unwrap();
    assert!(
        chart.contains(&format!("appVersion: {program}\n")),
        "the chart is not of version {program}"
    );
}

/// The program itself reads what each container would get: it may only miss the secret, which is
/// not here.
#[test]
fn the_program_takes_the_environment_of_every_container() {
    let Some(helm) = helm("environment") else {
        return;
    };
    let known = std::fs::read_to_string(chart().join("../../docs/configuration.md")).unwrap();
    for (name, args) in MATRIX {
        for object in render(&helm, args) {
            let component = role(&object).to_owned();
            if !["gateway", "master", "worker", "storage"].contains(&component.as_str()) {
                continue;
            }
            let Some(pod) = pod_spec(&object) else {
                continue;
            };
            let container = list(pod, "containers").next().unwrap();
            let mut command = Command::new(PROGRAM);
            command
                .args(
                    container["args"]
                        .as_array()
                        .unwrap()
                        .iter()
                        .map(|arg| arg.as_str().unwrap()),
                )
                .env_clear();
            for one in list(container, "env") {
                let (key, value) = (
                    one["name"].as_str().unwrap(),
                    one["value"].as_str().unwrap_or_default(),
                );
                if key.starts_with("POD_") {
                    continue;
                }
                assert!(
                    known.contains(&format!("`{key}`")),
                    "{name}: {key} is not in docs/configuration.md"
                );
                // Certificates are signed when the pod starts.
                if key != "CSTORE_TLS_DIR" {
                    command.env(
                        key,
                        value
                            .replace("$(POD_NAME)", "store-0")
                            .replace("$(POD_IP)", "10.0.0.1"),
                    );
                }
            }
            let output = command
                .env("CSTORE_CLUSTER_SECRET_FILE", "/nowhere/secret")
                .output()
                .unwrap();
            let told = String::from_utf8_lossy(&output.stderr);
            assert_eq!(output.status.code(), Some(64), "{name} {component}: {told}");
            assert!(
                told.starts_with("cstore: there is no cluster secret at /nowhere/secret")
                    && told.lines().count() == 1,
                "{name} {component}: {told}"
            );
        }
    }
}

/// Generated secrets are such as the program takes, and new each time.
#[test]
fn generated_secrets_are_strong_and_usable() {
    let Some(helm) = helm("secrets") else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut seen = BTreeSet::new();
    for turn in 0..3 {
        let all = render(&helm, &[]);
        let secrets = of_kind(&all, "Secret");
        assert_eq!(secrets.len(), 2);
        for secret in &secrets {
            let notes = &secret["metadata"]["annotations"];
            assert_eq!(notes["helm.sh/resource-policy"], "keep");
            assert_eq!(
                notes["helm.sh/hook"], "pre-install,pre-upgrade",
                "no rollback may bring back revoked tokens"
            );
        }
        let data = |key: &str| {
            let value = secrets
                .iter()
                .find_map(|secret| secret["data"][key].as_str())
                .unwrap();
            assert!(seen.insert(value.to_owned()), "{key} came twice");
            let path = dir.path().join(format!("{key}-{turn}"));
            decode(value, &path);
            path
        };
        let mut data = data;
        let (secret, token, tokens) = (
            data("cluster-secret"),
            data("api-token"),
            data("api-tokens"),
        );
        let (cert, key) = (data("tls.crt"), data("tls.key"));
        let run = |args: &[&str], secret: &std::path::Path| {
            let output = Command::new(PROGRAM)
                .args(args)
                .env_clear()
                .env("CSTORE_CLUSTER_SECRET_FILE", secret)
                .output();
            let output = output.unwrap();
            assert!(
                output.status.success(),
                "{args:?}: {}",
                String::from_utf8_lossy(&output.stderr)
            );
            String::from_utf8(output.stdout).unwrap()
        };
        run(&["admin", "bearer"], &secret);
        let listed = run(
            &["admin", "token", "list", "--file", tokens.to_str().unwrap()],
            &secret,
        );
        let token = std::fs::read_to_string(token).unwrap();
        let id = token
            .strip_prefix("cst_")
            .unwrap()
            .split_once('_')
            .unwrap()
            .0
            .to_owned();
        assert!(
            listed.contains(&id) && listed.contains("default"),
            "{listed}"
        );
        let (cert, key, out) = (
            cert.to_str().unwrap(),
            key.to_str().unwrap(),
            dir.path().to_str().unwrap(),
        );
        run(
            &[
                "admin", "certs", "--ca", cert, "--ca-key", key, "--out", out, "--node", "a",
                "--host", "10.0.0.1", "--force",
            ],
            &secret,
        );
    }
}

fn decode(base64: &str, to: &std::path::Path) {
    use std::os::unix::fs::PermissionsExt;
    let output = Command::new("base64")
        .arg("-d")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn();
    let mut child = output.unwrap();
    std::io::Write::write_all(&mut child.stdin.take().unwrap(), base64.as_bytes()).unwrap();
    std::fs::write(to, child.wait_with_output().unwrap().stdout).unwrap();
    std::fs::set_permissions(to, std::fs::Permissions::from_mode(0o600)).unwrap();
}
