//! `cstore smoke` tells a good system from one that lost something.

use std::process::{Command, Output};

use cstore_integration_tests::cluster::Cluster;
use cstore_testkit::until_blocking;

use crate::PROGRAM;

fn smoke(cluster: &Cluster, args: &[&str]) -> Output {
    let mut command = Command::new(PROGRAM);
    command
        .arg("smoke")
        .args(args)
        .env_clear()
        .env("CSTORE_URL", format!("http://{}", cluster.gateway));
    command.output().unwrap()
}

fn out(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

#[test]
fn a_round_passes_and_leaves_nothing_behind() {
    let cluster = Cluster::builder(PROGRAM).start();
    let output = smoke(&cluster, &[]);
    assert!(
        output.status.success() && out(&output).contains("smoke: all good"),
        "{}",
        out(&output)
    );
    assert_eq!(
        cluster.fetch("/api/files").json()["files"]
            .as_array()
            .unwrap()
            .len(),
        0
    );
    cluster.kill("gateway");
    let output = smoke(&cluster, &["--wait", "300ms"]);
    assert_eq!(output.status.code(), Some(6));
    assert!(
        out(&output).contains("not there after 300ms"),
        "{}",
        out(&output)
    );
}

#[test]
fn a_load_under_kills_counts_what_failed_and_loses_nothing() {
    let cluster = Cluster::builder(PROGRAM).start();
    let names = cluster.dir().join("names");
    let names = names.to_str().unwrap();
    let load = [
        "--load",
        "--for",
        "10s",
        "--clients",
        "4",
        "--keep",
        "--prefix",
        "kept",
        "--names",
        names,
        "--json",
    ];
    let output = std::thread::scope(|scope| {
        let load = scope.spawn(|| smoke(&cluster, &load));
        // The kills strike while the load runs, the one that no client can miss first.
        until_blocking("files of the load", || {
            let files = cluster.ask("GET", "/api/files?prefix=kept", b"").json();
            (files["files"].as_array()?.len() >= 8).then_some(())
        });
        for role in ["gateway", "worker-1", "storage-1", "master"] {
            cluster.restart(role);
            cluster.wait_ready();
        }
        load.join().unwrap()
    });
    assert!(output.status.success(), "{}", out(&output));
    let text = String::from_utf8(output.stdout.clone()).unwrap();
    let report: serde_json::Value = serde_json::from_str(text.lines().last().unwrap()).unwrap();
    assert!(
        report["failed"].as_u64() > Some(0),
        "the kills cost nothing, so this proves nothing: {report}"
    );
    assert!(
        report["acknowledged"].as_u64() > Some(20) && report["acknowledged"] == report["equal"],
        "{report}"
    );

    let check = [
        "--check", "--prefix", "kept", "--names", names, "--settle", "5s",
    ];
    assert!(smoke(&cluster, &check).status.success());
    // Now it is damaged, as nothing but a defect could.
    let text = std::fs::read_to_string(names).unwrap();
    let (gone, other) = (text.lines().next().unwrap(), text.lines().last().unwrap());
    assert_eq!(
        cluster
            .ask("DELETE", &format!("/api/files/{gone}"), b"")
            .status,
        204
    );
    assert_eq!(
        cluster
            .ask(
                "PUT",
                &format!("/api/files/{other}?overwrite=true"),
                b"other bytes"
            )
            .status,
        200
    );
    let output = smoke(&cluster, &check);
    assert_eq!(output.status.code(), Some(1));
    let told = out(&output);
    assert!(
        told.contains(&format!("{gone}: Missing")) && told.contains(&format!("{other}: Wrong")),
        "{told}"
    );
}

#[test]
fn what_makes_no_sense_is_refused() {
    let run = |args: &[&str]| {
        Command::new(PROGRAM)
            .arg("smoke")
            .args(args)
            .env_clear()
            .output()
            .unwrap()
    };
    for (args, words) in [
        (&["--check"][..], "--prefix"),
        (&["--url", "gateway:8000"], "http://127.0.0.1:8000"),
        (&["--load", "--check"], "cannot be used with"),
        (&["--load", "--clients", "0"], "1..=256"),
    ] {
        let output = run(args);
        assert_eq!(output.status.code(), Some(64), "{args:?}");
        assert!(out(&output).contains(words), "{args:?}: {}", out(&output));
    }
}
