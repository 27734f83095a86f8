//! It renders, with both major versions of helm, to what Kubernetes of many versions takes.

use std::io::Write;
use std::process::Command;

use cstore_integration_tests::tools;

use super::{MATRIX, chart, helm, render, template};

#[test]
fn lint_is_strict_and_has_nothing_to_say() {
    let Some(helm) = helm("lint") else { return };
    for values in ["values.yaml", "values-dev.yaml", "values-ha.yaml"] {
        let output = Command::new(&helm)
            .args(["lint", "--strict", ".", "-f", values])
            .current_dir(chart())
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{values}: {}",
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

#[test]
fn helm_3_and_helm_4_render_the_same() {
    let Some(helm) = helm("helm_3_and_4") else {
        return;
    };
    let Some(other) = tools::find_or_skip("helm3", "chart::helm_3_and_4") else {
        return;
    };
    // Without what is random, which is new each time: the next one shows that it is.
    let given = [
        "--set",
        "secrets.existingSecret=mine,tls.existingSecret=my-ca",
    ];
    for (name, args) in MATRIX.iter().filter(|(name, _)| *name != "cert-manager") {
        let args: Vec<&str> = args.iter().copied().chain(given).collect();
        assert_eq!(render(&helm, &args), render(&other, &args), "{name}");
    }
}

#[test]
fn every_manifest_is_valid_for_kubernetes_1_27_to_1_36() {
    let Some(helm) = helm("valid") else { return };
    let Some(validate) = tools::find_or_skip("kubernetes-validate", "chart::valid") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let mut files = Vec::new();
    for (name, args) in MATRIX {
        // Kinds of other projects have no schema there; what they hold is checked elsewhere.
        let output = template(&helm, &chart(), args);
        let text = String::from_utf8(output.stdout).unwrap();
        let foreign = ["cert-manager.io/", "monitoring.coreos.com/"];
        let own: Vec<&str> = text
            .split("\n---")
            .filter(|one| !foreign.iter().any(|group| one.contains(group)))
            .collect();
        let path = dir.path().join(format!("{}.yaml", name.replace(' ', "-")));
        std::fs::File::create(&path)
            .unwrap()
            .write_all(own.join("\n---").as_bytes())
            .unwrap();
        files.push(path);
    }
    for minor in 27..=36 {
        let output = Command::new(&validate)
            .args(["--strict", "-k", &format!("1.{minor}")])
            .args(&files)
            .output()
            .unwrap();
        let told = String::from_utf8_lossy(&output.stdout);
        let errors: Vec<&str> = told
            .lines()
            .filter(|line| !line.starts_with("INFO"))
            .collect();
        assert!(
            output.status.success(),
            "1.{minor}: {errors:?} {}",
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(
            told.lines().filter(|line| line.contains("passed")).count() > 100,
            "1.{minor}: too little was looked at"
        );
    }
}

#[test]
fn a_broken_manifest_would_be_seen() {
    let Some(validate) = tools::find_or_skip("kubernetes-validate", "chart::broken") else {
        return;
    };
    let mut file = tempfile::NamedTempFile::new().unwrap();
    let text =
        "apiVersion: v1\nkind: Service\nmetadata: {name: a}\nspec: {ports: [{prot: 1, port: 1}]}\n";
    file.write_all(text.as_bytes()).unwrap();
    let output = Command::new(validate)
        .args(["--strict", "-k", "1.34"])
        .arg(file.path())
        .output()
        .unwrap();
    assert!(!output.status.success());
}
