//! Rules for every pod: no root, no rights, bounded, probed, and with no secret in sight.

use serde_json::{Value, json};

use super::{MATRIX, helm, list, of_kind, pod_spec, render, role};

fn each_pod(mut look: impl FnMut(&str, &Value, &Value), test: &str) {
    let Some(helm) = helm(test) else { return };
    let mut seen = 0;
    for (name, args) in MATRIX {
        for object in render(&helm, args) {
            if let Some(pod) = pod_spec(&object) {
                look(name, &object, pod);
                seen += 1;
            }
        }
    }
    assert!(seen > 4 * MATRIX.len(), "only {seen} pods");
}

fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    list(pod, "initContainers").chain(list(pod, "containers"))
}

#[test]
fn every_pod_is_restricted() {
    each_pod(
        |name, object, pod| {
            let what = format!("{name}: {}", role(object));
            let security = &pod["securityContext"];
            assert_eq!(security["runAsNonRoot"], true, "{what}");
            assert!(security["runAsUser"].as_u64() > Some(0), "{what}");
            assert_eq!(security["fsGroupChangePolicy"], "OnRootMismatch", "{what}");
            assert_eq!(
                security["seccompProfile"]["type"], "RuntimeDefault",
                "{what}"
            );
            assert_eq!(pod["automountServiceAccountToken"], false, "{what}");
            for forbidden in ["hostNetwork", "hostPID", "hostIPC"] {
                assert!(pod[forbidden].is_null(), "{what}: {forbidden}");
            }
            for container in containers(pod) {
                let own = &container["securityContext"];
                assert_eq!(own["allowPrivilegeEscalation"], false, "{what}");
                assert_eq!(own["readOnlyRootFilesystem"], true, "{what}");
                assert_eq!(own["capabilities"]["drop"], json!(["ALL"]), "{what}");
            }
            assert!(
                list(pod, "volumes").all(|volume| volume["hostPath"].is_null()),
                "{what}"
            );
        },
        "restricted",
    );
}

#[test]
fn every_container_has_bounds_and_every_lasting_one_has_probes() {
    each_pod(
        |name, object, pod| {
            for container in containers(pod) {
                let what = format!("{name}: {} {}", role(object), container["name"]);
                assert!(
                    container["resources"]["requests"]["memory"].is_string(),
                    "{what}"
                );
                assert!(
                    container["resources"]["limits"]["memory"].is_string(),
                    "{what}"
                );
                assert!(
                    !container["image"].as_str().unwrap().ends_with(":latest"),
                    "{what}"
                );
            }
            if object["kind"] == "Pod" {
                return;
            }
            for container in list(pod, "containers") {
                for probe in ["startupProbe", "livenessProbe", "readinessProbe"] {
                    assert!(
                        container[probe]["httpGet"]["port"].is_string(),
                        "{name}: {} {probe}",
                        role(object)
                    );
                }
                let (live, ready) = (&container["livenessProbe"], &container["readinessProbe"]);
                if role(object) != "jaeger" {
                    assert_eq!(
                        (&live["httpGet"]["path"], &ready["httpGet"]["path"]),
                        (&json!("/live"), &json!("/ready"))
                    );
                }
            }
        },
        "probes",
    );
}

#[test]
fn the_grace_is_longer_than_the_drain() {
    each_pod(
        |name, object, pod| {
            let env = |key: &str| -> Option<u64> {
                let container = list(pod, "containers").next()?;
                let found = list(container, "env").find(|one| one["name"] == key)?;
                found["value"].as_str()?.strip_suffix('s')?.parse().ok()
            };
            if let (Some(delay), Some(drain)) =
                (env("CSTORE_DRAIN_DELAY_MS"), env("CSTORE_DRAIN_TIMEOUT_MS"))
            {
                let grace = pod["terminationGracePeriodSeconds"].as_u64().unwrap();
                assert!(
                    grace >= delay + drain + 10,
                    "{name}: {} has {grace} s",
                    role(object)
                );
            }
        },
        "grace",
    );
}

#[test]
fn secrets_are_mounted_and_the_key_of_the_ca_only_where_it_signs() {
    each_pod(
        |name, object, pod| {
            let what = format!("{name}: {}", role(object));
            for container in list(pod, "containers") {
                assert!(
                    list(container, "volumeMounts").all(|mount| mount["name"] != "ca"),
                    "{what}"
                );
                let text = container["args"].to_string() + &container["env"].to_string();
                assert!(
                    !text.contains("cst_") && !text.contains("PRIVATE"),
                    "{what}"
                );
            }
            for volume in list(pod, "volumes").filter(|volume| volume["secret"].is_object()) {
                assert_eq!(
                    volume["secret"]["defaultMode"], 288,
                    "{what}: 0440, in a way that all versions of YAML read alike"
                );
            }
        },
        "secrets",
    );
}

#[test]
fn budgets_let_one_pod_go_and_updates_take_none_before_its_successor() {
    let Some(helm) = helm("budgets") else { return };
    for (name, args) in MATRIX {
        let all = render(&helm, args);
        for budget in of_kind(&all, "PodDisruptionBudget") {
            assert_eq!(
                budget["spec"]["maxUnavailable"],
                1,
                "{name}: {}",
                role(budget)
            );
            assert!(
                budget["spec"]["minAvailable"].is_null(),
                "{name}: it could block a drain for ever"
            );
        }
        for deployment in of_kind(&all, "Deployment")
            .into_iter()
            .filter(|one| role(one) != "jaeger")
        {
            assert_eq!(
                deployment["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"], 0,
                "{name}"
            );
        }
        for set in of_kind(&all, "StatefulSet") {
            let policy = &set["spec"]["persistentVolumeClaimRetentionPolicy"];
            assert_eq!(
                (&policy["whenDeleted"], &policy["whenScaled"]),
                (&json!("Retain"), &json!("Retain")),
                "{name}"
            );
        }
    }
}
