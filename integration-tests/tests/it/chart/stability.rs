//! Fields that cannot be changed in a cluster do not change between versions, nor by values that
//! may change.

use std::collections::BTreeMap;
use std::process::Command;

use serde_json::{Value, json};

use super::{MATRIX, chart, helm, list, of_kind, render, render_chart};

/// Fields that the API server refuses to change, by kind and name.
fn immutable(all: &[Value]) -> BTreeMap<String, Value> {
    let mut found = BTreeMap::new();
    for one in all {
        let spec = &one["spec"];
        let fixed = match one["kind"].as_str().unwrap() {
            "Deployment" => json!({"selector": spec["selector"]}),
            "StatefulSet" => json!({
                "selector": spec["selector"],
                "serviceName": spec["serviceName"],
                "podManagementPolicy": spec["podManagementPolicy"],
                "volumeClaimTemplates": spec["volumeClaimTemplates"],
            }),
            "Service" => json!({"clusterIP": spec["clusterIP"]}),
            "Secret" => json!({"type": one["type"]}),
            _ => continue,
        };
        found.insert(
            format!("{} {}", one["kind"], one["metadata"]["name"]),
            fixed,
        );
    }
    found
}

#[test]
fn nothing_immutable_differs_between_two_versions() {
    let Some(helm) = helm("versions") else { return };
    let dir = tempfile::tempdir().unwrap();
    let next = dir.path().join("cstore");
    assert!(
        Command::new("cp")
            .arg("-r")
            .arg(chart())
            .arg(&next)
            .status()
            .unwrap()
            .success()
    );
    let path = next.join("Chart.yaml");
    let text = std::fs::read_to_string(&path).unwrap();
    let text = text
        .replace("version: 0.1.0", "version: 9.9.9")
        .replace("appVersion: 0.1.0", "appVersion: 9.9.9");
    assert_eq!(text.matches("9.9.9").count(), 2);
    std::fs::write(&path, text).unwrap();
    for (name, args) in MATRIX {
        let (now, then) = (
            immutable(&render(&helm, args)),
            immutable(&render_chart(&helm, &next, args)),
        );
        assert!(now.len() > 6, "{name}");
        assert_eq!(now, then, "{name}");
    }
}

#[test]
fn values_that_may_change_touch_nothing_immutable() {
    let Some(helm) = helm("changes") else { return };
    let before = immutable(&render(&helm, &[]));
    for change in [
        "storage.capacity=17GiB",
        "gateway.replicas=5,worker.replicas=7",
        "log.level=DEBUG,image.tag=other",
        "tls.enabled=false",
        "gateway.podLabels.a=b,storage.podLabels.c=d,master.podAnnotations.e=f",
        "ports.admin=19100,ports.storage=14000",
        "blockSize=128KiB,worker.memoryBudget=512MiB",
    ] {
        let mut after = immutable(&render(&helm, &["--set", change]));
        // Switched off, it is gone; that is no change of it.
        let same = |name: &String, _: &mut Value| before.contains_key(name);
        after.retain(same);
        let before: BTreeMap<_, _> = before
            .iter()
            .filter(|(name, _)| after.contains_key(*name))
            .collect();
        assert_eq!(before, after.iter().collect(), "{change}");
    }
}

#[test]
fn selectors_and_claims_name_no_version() {
    let Some(helm) = helm("selectors") else {
        return;
    };
    let all = render(&helm, &[]);
    for object in of_kind(&all, "StatefulSet")
        .into_iter()
        .chain(of_kind(&all, "Deployment"))
    {
        let mut places = vec![
            &object["spec"]["selector"],
            &object["spec"]["template"]["metadata"]["labels"],
        ];
        places.extend(list(&object["spec"], "volumeClaimTemplates"));
        for place in places {
            let text = place.to_string();
            assert!(
                !text.contains("version\":\"0") && !text.contains("helm.sh/chart"),
                "{}: {text}",
                object["kind"]
            );
        }
    }
}
