//! The program as a process: what it says and how it ends when it is started wrongly.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does"
)]

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::process::{Command, Output};

use cstore_testkit::{SECRET, nobody};

/// Runs the program with these variables and no others.
fn cstore(args: &[&str], variables: &[(&str, &str)]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cstore"));
    command
        .args(args)
        .env_clear()
        .envs(variables.iter().copied())
        .output()
        .unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_version_is_told() {
    let output = cstore(&["--version"], &[]);
    assert_eq!(output.status.code(), Some(0));
    assert_eq!(
        output.stdout,
        format!("cstore {}\n", env!("CARGO_PKG_VERSION")).as_bytes()
    );
}

#[test]
fn wrong_arguments_end_with_64() {
    for args in [
        &["frobnicate"][..],
        &[],
        &["dev", "--workers", "0"],
        &["dev", "--storages", "99"],
    ] {
        assert_eq!(cstore(args, &[]).status.code(), Some(64), "{args:?}");
    }
}

#[test]
fn all_mistakes_are_told_at_once_and_nothing_is_touched() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().join("data");
    let variables = [
        ("CSTORE_DATA_DIR", data.to_str().unwrap()),
        ("GATEWAY_PORT", "http"),
        ("WORKER_PORT", "70000"),
        ("LOG_LEVEL", "LOUD"),
        ("CSTORE_ANONYMOUS", "maybe"),
        ("CSTORE_IDLE_TIMEOUT_MS", "-1"),
    ];
    let output = cstore(&["dev"], &variables);
    assert_eq!(output.status.code(), Some(64));
    let told = stderr(&output);
    for (variable, value) in &variables[1..] {
        assert_eq!(
            told.matches(&format!("{variable}: found {value:?}"))
                .count(),
            1,
            "{variable} in {told}"
        );
    }
    assert!(!data.try_exists().unwrap());
}

#[test]
fn a_role_without_its_secret_refuses_to_start() {
    let dir = tempfile::tempdir().unwrap();
    let data = dir.path().to_str().unwrap();
    for role in ["gateway", "master", "worker", "storage"] {
        let output = cstore(&[role], &[("CSTORE_DATA_DIR", data)]);
        assert_eq!(output.status.code(), Some(64), "{role}");
        assert!(
            stderr(&output).contains("CSTORE_CLUSTER_SECRET_FILE"),
            "{role}: {}",
            stderr(&output)
        );
    }
    let secret = dir.path().join("cluster-secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o666)).unwrap();
    let output = cstore(&["gateway"], &[("CSTORE_DATA_DIR", data)]);
    assert!(
        output.status.code() == Some(64) && stderr(&output).contains("chmod 600"),
        "{}",
        stderr(&output)
    );
}

#[test]
fn a_taken_port_is_named_with_its_variable() {
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let dir = tempfile::tempdir().unwrap();
    let variables = [
        ("CSTORE_DATA_DIR", dir.path().to_str().unwrap()),
        ("GATEWAY_PORT", port.as_str()),
        ("MASTER_PORT", "0"),
        ("WORKER_PORT", "0"),
        ("STORAGE_PORT", "0"),
    ];
    let output = cstore(&["dev"], &variables);
    assert_eq!(output.status.code(), Some(64));
    let told = stderr(&output);
    assert!(
        told.contains(&port) && told.contains("GATEWAY_PORT"),
        "{told}"
    );
}

#[test]
fn the_bearer_is_derived_from_the_secret_and_is_not_the_secret() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("cluster-secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let output = cstore(
        &["admin", "bearer"],
        &[("CSTORE_CLUSTER_SECRET_FILE", secret.to_str().unwrap())],
    );
    let bearer = String::from_utf8(output.stdout).unwrap();
    let parts: Vec<&str> = bearer.trim().split('.').collect();
    assert!(parts[0] == "operator" && parts[2].len() == 64, "{bearer}");
    assert!(!bearer.contains(SECRET));
    let variables = [("CSTORE_CLUSTER_SECRET_FILE", secret.to_str().unwrap())];
    let lasting = |ttl: &str| {
        let output = cstore(&["admin", "bearer", "--ttl", ttl], &variables);
        String::from_utf8(output.stdout)
            .unwrap()
            .split('.')
            .nth(1)
            .and_then(|text| text.parse::<u64>().ok())
    };
    assert!(
        lasting("7d") > lasting("90m"),
        "it lives as long as it is told to"
    );
    assert_eq!(lasting("31d"), None);
}

#[test]
fn health_of_a_role_that_is_not_there_is_6() {
    let (free, _held) = nobody();
    assert_eq!(
        cstore(&["health", "--addr", &free], &[]).status.code(),
        Some(6)
    );
    assert_eq!(
        cstore(&["health", "--addr", "nowhere"], &[]).status.code(),
        Some(64)
    );
}

#[test]
fn i13_a_token_is_printed_once_and_neither_kept_nor_listed() {
    let dir = tempfile::tempdir().unwrap();
    let variables = [("CSTORE_DATA_DIR", dir.path().to_str().unwrap())];
    let create = [
        "admin",
        "token",
        "create",
        "--tenant",
        "acme",
        "--rights",
        "read",
        "--expires",
        "30d",
    ];
    let made = cstore(&create, &variables);
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let token = String::from_utf8(made.stdout.clone()).unwrap();
    let (id, secret) = token
        .trim()
        .strip_prefix("cst_")
        .unwrap()
        .split_once('_')
        .unwrap();
    assert_eq!(secret.len(), 43);
    let file = std::fs::read_to_string(dir.path().join("api-tokens")).unwrap();
    let listed = cstore(&["admin", "token", "list"], &variables);
    let shown = String::from_utf8(listed.stdout).unwrap();
    assert!(
        shown.starts_with(&format!("{id}  acme  read  expires 2")),
        "{shown}"
    );
    for text in [&file, &shown, &stderr(&made)] {
        assert!(text.contains(id) && !text.contains(secret), "{text}");
    }
    let revoke = ["admin", "token", "revoke", id];
    assert_eq!(cstore(&revoke, &variables).status.code(), Some(0));
    let again = cstore(&revoke, &variables);
    assert_eq!(again.status.code(), Some(3));
    assert!(stderr(&again).contains("there is no token"));
    // In a wrong folder nothing is listed, revoked or made.
    let nowhere = dir.path().join("nowhere");
    let elsewhere = [("CSTORE_DATA_DIR", nowhere.to_str().unwrap())];
    for command in [&["admin", "token", "list"][..], &revoke] {
        let refused = cstore(command, &elsewhere);
        assert_eq!(refused.status.code(), Some(3), "{command:?}");
        assert!(stderr(&refused).contains("there is no token file"));
    }
    assert!(!nowhere.try_exists().unwrap());
    assert!(
        cstore(&["admin", "token", "list"], &variables)
            .stdout
            .is_empty()
    );
    for wrong in [
        &["--tenant", "ACME"][..],
        &["--tenant", ""],
        &[],
        &["--tenant", "a", "--rights", "fly"],
    ] {
        let output = cstore(&[&["admin", "token", "create"], wrong].concat(), &variables);
        assert_eq!(output.status.code(), Some(64), "{wrong:?}");
    }
}

/// A port that answers every request with this body, as the admin port of a role does.
fn port_with(body: &'static str) -> String {
    use std::io::{Read, Write};
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let _ = stream.read(&mut [0; 1_024]);
            let _ = write!(stream, "HTTP/1.0 200 OK\r\n\r\n{body}");
        }
    });
    addr
}

const METRICS: &str = "cstore_storage_capacity_bytes 1\ncstore_storage_allocated_bytes 1\n\
    cstore_storage_free_bytes 1\ncstore_storage_physical_bytes 1\ncstore_storage_dead_bytes 1\n\
    cstore_storage_winnable_bytes 1\ncstore_storage_releases_total 1\ncstore_storage_compacted_files_total 1\n\
    cstore_storage_retired_files_total 1\ncstore_storage_moved_records_total 1\n\
    cstore_storage_moved_bytes_total 1\ncstore_storage_pinned_files 1\n";

#[test]
fn a_reader_that_goes_away_ends_operators_commands_in_silence_and_a_full_disk_does_not() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("cluster-secret");
    std::fs::write(&secret, format!("{SECRET}\n")).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let variables = [("CSTORE_DATA_DIR", dir.path().to_str().unwrap())];
    let made = cstore(
        &["admin", "token", "create", "--tenant", "acme"],
        &variables,
    );
    assert_eq!(made.status.code(), Some(0), "{}", stderr(&made));
    let (ready, metrics) = (port_with("[]"), port_with(METRICS));
    let folder = dir.path().join("disk");
    std::fs::create_dir(&folder).unwrap();
    std::fs::write(folder.join("superblock.bin"), [7; 16_384]).unwrap();
    let disk = folder.to_str().unwrap();
    for args in [
        &["admin", "bearer"][..],
        &["admin", "token", "list"],
        &["admin", "token", "create", "--tenant", "acme"],
        &["admin", "inspect", disk],
        &["health", "--addr", &ready],
        &["admin", "gc", "--addr", &metrics],
        &["admin", "gc", "--watch", "--addr", &metrics],
    ] {
        let start = |stdout: std::process::Stdio| {
            let mut command = Command::new(env!("CARGO_BIN_EXE_cstore"));
            command
                .args(args)
                .env_clear()
                .envs(variables)
                .stdout(stdout)
                .output()
                .unwrap()
        };
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let output = start(writer.into());
        assert_eq!(
            (output.status.code(), stderr(&output).as_str()),
            (Some(141), ""),
            "{args:?}"
        );
        let full = std::fs::OpenOptions::new()
            .write(true)
            .open("/dev/full")
            .unwrap();
        assert_eq!(start(full.into()).status.code(), Some(1), "{args:?}");
    }
}

#[test]
fn a_storage_node_that_is_away_does_not_hide_the_others() {
    let metrics = port_with(METRICS);
    let (free, _held) = nobody();
    let output = cstore(
        &["admin", "gc", "--json", "--addr", &free, "--addr", &metrics],
        &[],
    );
    assert_eq!(output.status.code(), Some(2), "{}", stderr(&output));
    assert_eq!(
        String::from_utf8(output.stdout.clone())
            .unwrap()
            .lines()
            .count(),
        1
    );
    let told: Vec<serde_json::Value> = stderr(&output)
        .lines()
        .map(|line| serde_json::from_str(line).unwrap())
        .collect();
    assert!(
        told[0]["error"]["message"]
            .as_str()
            .unwrap()
            .contains(&free),
        "{told:?}"
    );
    assert_eq!(
        (told.len(), &told[1]["error"]["code"]),
        (2, &"partial".into())
    );
    let alone = cstore(&["admin", "gc", "--addr", &free], &[]);
    assert_eq!(
        (alone.status.code(), stderr(&alone).lines().count()),
        (Some(6), 1)
    );
    let wrong = cstore(&["admin", "gc", "--addr", "nowhere"], &[]);
    assert!(
        wrong.status.code() == Some(64) && stderr(&wrong).contains("found \"nowhere\""),
        "{}",
        stderr(&wrong)
    );
    // By default it is the storage node of this machine, where a variable may say another port.
    let (_, port) = metrics.rsplit_once(':').unwrap();
    assert_eq!(
        cstore(&["admin", "gc"], &[("CSTORE_ADMIN_PORT", port)])
            .status
            .code(),
        Some(0)
    );
}

#[test]
fn a_token_cannot_be_told_to_outlive_the_calendar() {
    let dir = tempfile::tempdir().unwrap();
    let variables = [("CSTORE_DATA_DIR", dir.path().to_str().unwrap())];
    let create = |life: &str| {
        cstore(
            &[
                "admin",
                "token",
                "create",
                "--tenant",
                "acme",
                "--expires",
                life,
            ],
            &variables,
        )
    };
    for life in ["10000y", "101y", "36526d", "soon"] {
        let output = create(life);
        assert_eq!(
            output.status.code(),
            Some(64),
            "{life}: {}",
            stderr(&output)
        );
    }
    assert!(stderr(&create("10000y")).contains("at most 100y"));
    assert_eq!(create("100y").status.code(), Some(0));
}

#[test]
fn an_admin_port_that_is_not_there_is_told_with_the_reason_of_dev() {
    let (free, _held) = nobody();
    let addr = free.to_string();
    for args in [
        &["health", "--addr", &addr][..],
        &["admin", "gc", "--addr", &addr],
    ] {
        let output = cstore(args, &[]);
        assert_eq!(output.status.code(), Some(6), "{args:?}");
        let hint = "`cstore dev` goes without an admin port if 9100 is taken";
        assert!(
            stderr(&output).contains(hint),
            "{args:?}: {}",
            stderr(&output)
        );
    }
}

#[test]
fn a_token_that_never_expires_has_no_flag_for_it() {
    let args = [
        "admin",
        "token",
        "create",
        "--tenant",
        "a",
        "--rights",
        "read",
        "--expires",
        "never",
    ];
    let output = cstore(&args, &[]);
    assert!(
        output.status.code() == Some(64) && stderr(&output).contains("leave --expires away"),
        "{}",
        stderr(&output)
    );
}
