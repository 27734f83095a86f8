//! Starts that cannot be: every mistake at once, status 64, nothing touched.

use std::net::TcpListener;
use std::process::Command;

use crate::PROGRAM;

#[test]
fn i10_every_mistake_of_the_configuration_is_said_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .arg("dev")
        .env_clear()
        .env("CSTORE_DATA_DIR", dir.path())
        .env("GATEWAY_PORT", "eighty")
        .env("FS_SIZE", "1MiB")
        .env("BLOCK_SIZE", "8MiB")
        .env("FRESH_START", "maybe")
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    for variable in ["GATEWAY_PORT", "FS_SIZE", "BLOCK_SIZE", "FRESH_START"] {
        assert!(said.contains(variable), "{variable} is missing in: {said}");
    }
    assert!(
        !dir.path().join("master").try_exists().unwrap(),
        "nothing was made"
    );
}

#[test]
fn a_taken_port_names_its_variable() {
    let dir = tempfile::tempdir().unwrap();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let port = taken.local_addr().unwrap().port().to_string();
    let output = Command::new(PROGRAM)
        .arg("dev")
        .env_clear()
        .env("CSTORE_DATA_DIR", dir.path())
        .env("GATEWAY_PORT", &port)
        .envs(["MASTER_PORT", "STORAGE_PORT", "WORKER_PORT"].map(|key| (key, "0")))
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("GATEWAY_PORT") && said.contains(&port),
        "{said}"
    );
}

#[test]
fn i13_a_role_without_the_secret_does_not_start() {
    let dir = tempfile::tempdir().unwrap();
    for role in ["gateway", "master", "worker", "storage"] {
        let output = Command::new(PROGRAM)
            .arg(role)
            .env_clear()
            .env("CSTORE_DATA_DIR", dir.path())
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{role}: {said}");
        assert!(said.contains("secret"), "{role}: {said}");
    }
}
