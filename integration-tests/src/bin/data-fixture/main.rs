//! `make data-fixture L=LABEL`: packs data folders of today's program as fixtures of the tests.
//!
//! Run it BEFORE a change of a format on disk, with a label that names the formats, so that a test
//! can show that the new program still opens the old folders. A fixture that is there is never
//! overwritten.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_methods,
    reason = "a tool prints, and may fail loudly"
)]

use std::collections::BTreeMap;
use std::process::ExitCode;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::data_folder::{Manifest, folder, pack, path_of};
use cstore_testkit::{random, until_blocking};

/// Tenant with files of its own.
const TENANT: &str = "acme";

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    // Started by itself as one of the servers: the program is linked in, so nothing else is built.
    if args.get(1).is_none_or(|arg| arg != "make") {
        return cstore::main_with(args, &cstore_node::ProcessEnv::snapshot());
    }
    let Some(label) = args
        .get(2)
        .and_then(|label| label.to_str())
        .filter(|label| !label.is_empty())
    else {
        println!(
            "usage: data-fixture make LABEL, where LABEL names the formats, as 0.1.0-log1-disk2-meta1"
        );
        return ExitCode::from(64);
    };
    make(&format!("{label}-dev-stopped"), true, 1, "64MiB", false);
    make(&format!("{label}-dev-killed"), true, 1, "64MiB", true);
    // So little log before a snapshot that the folder has a snapshot and a log beyond it.
    make(
        &format!("{label}-cluster-stopped"),
        false,
        3,
        "64KiB",
        false,
    );
    ExitCode::SUCCESS
}

/// Runs a cluster, fills it, ends it and packs its folder.
fn make(label: &str, dev: bool, storages: usize, snapshot_bytes: &str, kill: bool) {
    // Blocks so small that a file of some KiB has a recipe of two levels.
    let env = [
        ("BLOCK_SIZE", "256"),
        ("FS_SIZE", "6MiB"),
        ("CSTORE_SNAPSHOT_BYTES", snapshot_bytes),
    ];
    let env: BTreeMap<String, String> = env
        .map(|(key, value)| (key.to_owned(), value.to_owned()))
        .into();
    let mut manifest = Manifest {
        dev,
        storages,
        env,
        tokens: BTreeMap::new(),
        files: Vec::new(),
        absent: Vec::new(),
    };
    let program = std::env::current_exe().unwrap();
    let cluster = manifest.builder(&program.to_string_lossy()).start();
    fill(&cluster, &mut manifest);
    manifest.verify(&cluster);

    // Roles that need others stop first: gateway, workers, storage nodes, master.
    let mut roles = cluster.roles();
    let order = ["dev", "gateway", "worker", "storage", "master"];
    roles.sort_by_key(|role| order.iter().position(|prefix| role.starts_with(prefix)));
    for role in roles {
        if kill {
            cluster.kill(&role);
        } else {
            assert!(cluster.stop(&role).success(), "{role} stopped cleanly");
        }
    }
    let archive = folder().join(format!("{label}.tar.gz"));
    pack(cluster.dir(), &archive).unwrap();
    let text = serde_json::to_string_pretty(&manifest).unwrap() + "\n";
    std::fs::write(folder().join(format!("{label}.json")), text).unwrap();
    println!(
        "{}: {} bytes",
        archive.display(),
        archive.metadata().unwrap().len()
    );
}

/// Writes files of every kind that the formats tell apart, and describes them in the manifest.
fn fill(cluster: &Cluster, manifest: &mut Manifest) {
    let token = cluster.admin_command(&["token", "create", "--tenant", TENANT]);
    manifest
        .tokens
        .insert(TENANT.to_owned(), token.trim().to_owned());
    // The gateway looks at the token file from time to time.
    until_blocking("the token is valid", || {
        let answer = manifest.ask(cluster, TENANT, "GET", "/api/files", "", b"");
        (answer.status == 200).then_some(())
    });

    let noted =
        "content-type: text/plain\r\nx-cstore-meta-author: J. Doe\r\nx-cstore-meta-empty: \r\n";
    let mut kept = vec![
        ("", "empty", 0, 1),
        ("", "small", 100, 2),
        ("", "one block", 256, 3),
        // More than 100 blocks, so that the recipe has a leaf.
        ("", "folder/large", 40_000, 4),
        ("", "folder/ä/ß", 5_000, 5),
        // The blocks of another file.
        ("", "same content", 5_000, 5),
        // A name that both tenants have.
        (TENANT, "small", 300, 6),
        (TENANT, "folder/of acme", 3_000, 7),
    ];
    for (n, (tenant, name, size, seed)) in kept.iter().enumerate() {
        // Every other file has a content type and metadata of its own.
        put(
            cluster,
            manifest,
            tenant,
            name,
            *size,
            *seed,
            if n % 2 == 1 { noted } else { "" },
        );
    }
    let many: Vec<String> = (0..20).map(|n| format!("many/{n:02}")).collect();
    for (n, name) in many.iter().enumerate() {
        put(cluster, manifest, "", name, 30 + n, 100 + n as u64, "");
        kept.push(("", name, 30 + n, 100 + n as u64));
    }

    // Replaces files that have long metadata by files without any. The long metadata makes the
    // master write a snapshot.
    let value = "x".repeat(1_000);
    let long: String = (1..=3)
        .map(|n| format!("x-cstore-meta-long-{n}: {value}\r\n"))
        .collect();
    for seed in 1..20 {
        put(cluster, manifest, "", "overwritten", 2_000, seed, &long);
    }
    put(cluster, manifest, "", "overwritten", 1_500, 21, "");
    kept.push(("", "overwritten", 1_500, 21));

    // Names of one session: two that are left, one whose original is gone, and a rename.
    post(cluster, manifest, "folder/large", "copy", "copy of large");
    kept.push(("", "copy of large", 40_000, 4));
    put(cluster, manifest, "", "original", 1_000, 30, noted);
    post(cluster, manifest, "original", "copy", "copy of the deleted");
    kept.push(("", "copy of the deleted", 1_000, 30));
    put(cluster, manifest, "", "before", 700, 31, "");
    post(cluster, manifest, "before", "rename", "after");
    kept.push(("", "after", 700, 31));

    // Deleted: small, large, and of another tenant.
    put(cluster, manifest, "", "deleted", 200, 40, "");
    put(cluster, manifest, "", "folder/deleted", 30_000, 41, noted);
    put(cluster, manifest, TENANT, "deleted", 200, 42, "");
    for (tenant, name) in [
        ("", "deleted"),
        ("", "folder/deleted"),
        ("", "original"),
        (TENANT, "deleted"),
    ] {
        let answer = manifest.ask(cluster, tenant, "DELETE", &path_of(name), "", b"");
        assert_eq!(answer.status, 204, "{name}: {}", answer.text());
        manifest.absent.push((tenant.to_owned(), name.to_owned()));
    }
    for name in ["before", "folder/of acme", ".ready"] {
        manifest.absent.push((String::new(), name.to_owned()));
    }

    for (tenant, name, _, seed) in kept {
        let file = manifest.described(cluster, tenant, name, seed);
        manifest.files.push(file);
    }
}

/// Uploads random content under a name, over what is there.
fn put(
    cluster: &Cluster,
    manifest: &Manifest,
    tenant: &str,
    name: &str,
    size: usize,
    seed: u64,
    headers: &str,
) {
    let path = path_of(name) + "?overwrite=true";
    let answer = manifest.ask(cluster, tenant, "PUT", &path, headers, &random(size, seed));
    assert!(
        matches!(answer.status, 200 | 201),
        "{name}: {}",
        answer.text()
    );
}

/// Copies or renames a file of no tenant.
fn post(cluster: &Cluster, manifest: &Manifest, name: &str, verb: &str, to: &str) {
    let body = format!(r#"{{"to":"{to}"}}"#);
    let path = format!("{}:{verb}", path_of(name));
    let headers = "content-type: application/json\r\n";
    let answer = manifest.ask(cluster, "", "POST", &path, headers, body.as_bytes());
    assert!(
        matches!(answer.status, 200 | 201),
        "{name} to {to}: {}",
        answer.text()
    );
}
