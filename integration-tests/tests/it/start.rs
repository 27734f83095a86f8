//! Starts: every mistake at once, status 64, nothing touched; and what `cstore serve` prints.

use std::io::{BufRead, BufReader, ErrorKind, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, ChildStdout, Command, Stdio};

use cstore_testkit::until_blocking;

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
fn a_misspelt_setting_is_refused_by_every_role_with_the_nearest_name() {
    for role in ["serve", "dev", "gateway", "master", "worker", "storage"] {
        let output = Command::new(PROGRAM)
            .arg(role)
            .env_clear()
            .env("CSTORE_DATADIR", "x")
            .env("GATEWAY_PORT", "eighty")
            .output()
            .unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{role}: {said}");
        assert!(
            said.contains("the nearest is CSTORE_DATA_DIR"),
            "{role}: {said}"
        );
    }
}

#[test]
fn i13_dev_without_tokens_is_reached_from_this_machine_only() {
    let dir = tempfile::tempdir().unwrap();
    let output = Command::new(PROGRAM)
        .args(["dev", "--listen-host", "0.0.0.0", "--data"])
        .arg(dir.path())
        .env_clear()
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(64), "{said}");
    assert!(
        said.contains("CSTORE_LISTEN_HOST: found \"0.0.0.0\""),
        "{said}"
    );
}

/// A `cstore serve` that is ended when it is dropped.
struct Serving {
    child: Child,
    lines: std::io::Lines<BufReader<ChildStdout>>,
}

impl Serving {
    /// Starts it on free ports; its data are in `dir`.
    fn start(dir: &Path) -> Self {
        let mut child = Command::new(PROGRAM)
            .args([
                "serve",
                "--listen",
                "127.0.0.1:0",
                "--admin-port",
                "0",
                "--data",
            ])
            .arg(dir)
            .env_clear()
            .envs(["MASTER_PORT", "STORAGE_PORT", "WORKER_PORT"].map(|key| (key, "0")))
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        Self { child, lines }
    }

    fn line(&mut self) -> String {
        self.lines.next().unwrap().unwrap().trim().to_owned()
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Returns the status of a PUT of a small file.
fn put(addr: &str, token: Option<&str>) -> u16 {
    let mut stream = TcpStream::connect(addr).unwrap();
    let bearer = token
        .map(|token| format!("Authorization: Bearer {token}\r\n"))
        .unwrap_or_default();
    let head = format!("PUT /api/files/a?overwrite=true HTTP/1.1\r\nHost: {addr}\r\n{bearer}");
    let request = format!("{head}Content-Length: 2\r\nConnection: close\r\n\r\nhi");
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

#[test]
fn i13_serve_demands_a_token_and_prints_the_first_one_once() {
    let dir = tempfile::tempdir().unwrap();
    let addr_of = |line: &str| {
        let (_, rest) = line.split_once("C-Store is ready at http://").unwrap();
        rest.split([',', ';']).next().unwrap().to_owned()
    };

    let mut serving = Serving::start(dir.path());
    assert!(serving.line().starts_with("The first API token"));
    let token = serving.line();
    assert!(token.starts_with("cst_"), "{token}");
    let addr = addr_of(&serving.line());
    assert_eq!(put(&addr, None), 401);
    // On a busy machine a heartbeat may be late.
    let status = until_blocking("an answer other than busy", || {
        Some(put(&addr, Some(&token))).filter(|status| *status != 503)
    });
    assert_eq!(status, 201);
    drop(serving);

    // After a kill the token is still valid, and no second token is made.
    let mut serving = Serving::start(dir.path());
    let addr = addr_of(&serving.line());
    let status = until_blocking("an answer other than busy", || {
        Some(put(&addr, Some(&token))).filter(|status| *status != 503)
    });
    assert_eq!(status, 200);
    drop(serving);

    // After the last token was revoked the next start makes no new one.
    let tokens = dir.path().join("api-tokens");
    let text = std::fs::read_to_string(&tokens).unwrap();
    let kept: String = text.lines().filter(|line| line.starts_with('#')).collect();
    std::fs::write(&tokens, format!("{kept}\n")).unwrap();
    let mut serving = Serving::start(dir.path());
    let addr = addr_of(&serving.line());
    assert_eq!(put(&addr, Some(&token)), 401);
}

#[test]
fn the_unit_of_systemd_is_valid() {
    let unit = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/systemd/cstore.service");
    let unit = std::fs::read_to_string(unit).unwrap();
    let dir = tempfile::tempdir().unwrap();
    let copy = dir.path().join("cstore.service");
    let unit = unit.replace("/usr/local/bin/cstore", PROGRAM);
    std::fs::write(&copy, unit).unwrap();
    let verified = Command::new("systemd-analyze")
        .arg("verify")
        .arg(&copy)
        .output();
    match verified {
        Err(error) if error.kind() == ErrorKind::NotFound => {
            println!("SKIP the unit of systemd: systemd-analyze is not on this machine");
        }
        verified => {
            let verified = verified.unwrap();
            let told = String::from_utf8_lossy(&verified.stderr);
            assert!(verified.status.success() && told.is_empty(), "{told}");
        }
    }
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
