//! Mistakes of users against the real program: the exit status and the message of each. The test
//! prints them as a table, with `--nocapture`.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does"
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use cstore_testkit::{SECRET, nobody};

use crate::files::fake::{Fake, Reply};

/// Alert of TLS 1.2 and later: unexpected message.
const TLS_ALERT: &[u8] = &[0x15, 3, 3, 0, 2, 2, 10];

/// A mistake, and what has to come of it.
struct Mistake {
    /// The command line, with variables before it, as a user types it.
    line: String,
    status: i32,
    /// A part of the message that tells what helps.
    told: &'static str,
}

/// Runs a line of words: variables, `cstore`, arguments. Single quotes around a word are taken off.
fn run(line: &str, dir: &Path) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cstore"));
    command.env_clear().current_dir(dir).stdin(Stdio::null());
    let mut words = line.split(' ').map(|word| word.trim_matches('\''));
    for word in words.by_ref() {
        match word.split_once('=') {
            Some((variable, value)) => command.env(variable, value),
            None => break,
        };
    }
    command.args(words).output().unwrap()
}

/// A port that sends these bytes to each connection, until the test process ends.
fn port_with(answer: &'static [u8]) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            // Bytes that are not read would make the end of the connection a reset.
            let _ = stream.read(&mut [0; 4_096]);
            let _ = stream.write_all(answer);
        }
    });
    addr
}

/// An address at which connections are never established, because its queue of connections is full.
struct BlackHole {
    addr: String,
    _listener: TcpListener,
    _queued: [TcpStream; 2],
}

impl BlackHole {
    fn dig() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        let listening = async {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
            socket.listen(1).unwrap().into_std().unwrap()
        };
        let listener = runtime.block_on(listening);
        let addr = listener.local_addr().unwrap().to_string();
        let queued = [(); 2].map(|()| TcpStream::connect(&addr).unwrap());
        Self {
            addr,
            _listener: listener,
            _queued: queued,
        }
    }
}

/// A running `cstore serve` with ports of its own.
struct Served {
    child: Child,
    gateway: String,
    master: String,
}

impl Served {
    fn start(data: &Path) -> Self {
        let mut command = Command::new(env!("CARGO_BIN_EXE_cstore"));
        command.arg("serve").env_clear().envs(free_ports(data));
        let command = command.stdout(Stdio::piped()).stderr(Stdio::null());
        let mut child = command.spawn().unwrap();
        let mut lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut line_with = |text: &str| {
            let line = lines.find_map(|line| line.ok().filter(|line| line.contains(text)));
            line.unwrap()
        };
        let address_after = |line: &str, before: &str| {
            let (_, rest) = line.split_once(before).unwrap();
            let address = rest.trim_start().split([',', ';', ' ']).next().unwrap();
            address.to_owned()
        };
        let gateway = address_after(&line_with("is ready at http://"), "http://");
        let master = address_after(&line_with("grpcurl"), "admin bearer)\"");
        Self {
            child,
            gateway,
            master,
        }
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Variables of a process with all roles that takes free ports.
fn free_ports(data: &Path) -> Vec<(&'static str, String)> {
    let mut variables = vec![
        ("CSTORE_DATA_DIR", data.to_str().unwrap().to_owned()),
        ("FS_SIZE", "1GiB".to_owned()),
    ];
    for port in [
        "GATEWAY_PORT",
        "MASTER_PORT",
        "WORKER_PORT",
        "STORAGE_PORT",
        "CSTORE_ADMIN_PORT",
    ] {
        variables.push((port, "0".to_owned()));
    }
    variables
}

fn mistake(line: impl Into<String>, status: i32, told: &'static str) -> Mistake {
    Mistake {
        line: line.into(),
        status,
        told,
    }
}

/// Mistakes in names and arguments, before a gateway that has no such file.
fn of_names(url: &str) -> Vec<Mistake> {
    let cases = [
        (
            "stat s3://b/a",
            64,
            "this is an S3 URL; names have no scheme and are like b/a",
        ),
        (
            "get /abs/a.jpg",
            64,
            "names have no leading /; the name is \"abs/a.jpg\"",
        ),
        (
            "get docs/",
            64,
            "is a folder: `put`, `get` and `rm` take folders with --recursive",
        ),
        (
            "put a.jpg",
            64,
            "<DEST>: the new name, or a folder with a trailing /",
        ),
        ("put nosuch.jpg docs/", 1, "nosuch.jpg: No such file"),
        ("get nosuch x/", 3, "there is no file \"nosuch\""),
        (
            "ls nosuch/",
            3,
            "there is no name that begins with \"nosuch/\"",
        ),
        ("ls 'many/*'", 3, "many/*: no name matches this pattern"),
        ("rm 'many/*'", 3, "many/*: no name matches this pattern"),
        ("rm '*'", 64, "if all of them shall go, add --all"),
        (
            "rm -r ''",
            64,
            "an empty name, perhaps of an empty variable",
        ),
        // "$UNSET/" is this.
        (
            "rm -r /",
            64,
            "perhaps of an empty variable as in \"$DIR/\"",
        ),
        ("putt a b", 64, "'put'"),
        ("rm --recusive a", 64, "'--recursive'"),
        (
            "ls --token-file open",
            64,
            "others can use it; run: chmod 600",
        ),
    ];
    cases
        .into_iter()
        .map(|(args, status, told)| {
            mistake(format!("CSTORE_URL={url} cstore {args}"), status, told)
        })
        .collect()
}

/// Mistakes in addresses: each port speaks another protocol than the one that is needed.
fn of_urls(served: &Served, hole: &BlackHole, free: &str) -> Vec<Mistake> {
    let (gateway, master) = (&served.gateway, &served.master);
    let tls = port_with(TLS_ALERT);
    let web =
        port_with(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\nconnection: close\r\n\r\n");
    let admin = port_with(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\nconnection: close\r\n\r\n[]");
    let silent = port_with(b"");
    let wants = "CSTORE_URL or --url wants the gateway's port, 8000 by default";
    vec![
        mistake(
            format!("CSTORE_URL=http://{} cstore ls --retries 0", hole.addr),
            6,
            "no connection within 5 s: nothing responds at this address; is a firewall in between?",
        ),
        mistake(
            format!("CSTORE_URL=http://{free} cstore ls --retries 0"),
            6,
            "is it running? CSTORE_URL or --url",
        ),
        mistake(
            format!("CSTORE_URL=https://{gateway} cstore ls"),
            1,
            "is its URL http:// and not https://?",
        ),
        mistake(
            format!("CSTORE_URL=http://{master} cstore ls"),
            1,
            "this port speaks gRPC, not HTTP, as the master's and the workers' do",
        ),
        mistake(
            format!("CSTORE_URL=http://{master} cstore get a b"),
            1,
            wants,
        ),
        mistake(
            format!("CSTORE_URL=http://{tls} cstore ls"),
            1,
            "this port speaks TLS: its URL is https://",
        ),
        mistake(
            format!("CSTORE_URL=http://{admin} cstore ls"),
            1,
            "this is the admin port of a role",
        ),
        mistake(
            format!("CSTORE_URL=http://{web} cstore ls"),
            1,
            "that is no C-Store gateway; CSTORE_URL",
        ),
        mistake(
            format!("CSTORE_URL=http://{silent} cstore ls --retries 0"),
            6,
            "storage nodes speak gRPC or frames",
        ),
        mistake(
            format!("CSTORE_URL={gateway} cstore ls"),
            64,
            "such as http://127.0.0.1:8000",
        ),
        mistake(
            format!("CSTORE_URL=http://{gateway} cstore ls"),
            5,
            "CSTORE_TOKEN",
        ),
    ]
}

/// Mistakes in addresses of the commands for operators.
fn of_addresses(served: &Served, free: &str) -> Vec<Mistake> {
    let (gateway, master) = (&served.gateway, &served.master);
    let tls = port_with(TLS_ALERT);
    vec![
        mistake(
            format!("cstore health --addr {gateway}"),
            1,
            "this is the REST port of a gateway; CSTORE_ADMIN_PORT or --addr",
        ),
        mistake(
            format!("cstore health --addr {master}"),
            1,
            "this port speaks gRPC",
        ),
        mistake(
            format!("cstore health --addr {tls}"),
            1,
            "this port speaks TLS",
        ),
        mistake(
            format!("cstore health --addr {free}"),
            6,
            "connection refused; is the role running",
        ),
        mistake(
            format!("cstore admin gc --addr {gateway}"),
            1,
            "this is the REST port of a gateway; CSTORE_ADMIN_PORT or --addr",
        ),
        mistake(
            format!("CSTORE_DATA_DIR=data CSTORE_MASTER_ADDR={gateway} cstore admin hold list"),
            1,
            "this is the REST port of a gateway; CSTORE_MASTER_ADDR wants the master's port",
        ),
        mistake(
            format!("CSTORE_DATA_DIR=data CSTORE_MASTER_ADDR={free} cstore admin hold list"),
            6,
            "CSTORE_MASTER_ADDR",
        ),
    ]
}

/// Mistakes in variables and folders of the roles.
fn of_starts(served: &Served, data: &Path) -> Vec<Mistake> {
    let ports: Vec<String> = free_ports(data)
        .iter()
        .map(|(variable, value)| format!("{variable}={value}"))
        .collect();
    let ports = ports.join(" ");
    let (_, taken) = served.gateway.rsplit_once(':').unwrap();
    let gateway = &served.gateway;
    vec![
        mistake(format!("{ports} cstore serve"), 64, "is in use by another"),
        mistake(
            format!(
                "CSTORE_DATA_DIR=new CSTORE_ADMIN_PORT=0 cstore serve --listen 127.0.0.1:{taken}"
            ),
            64,
            "GATEWAY_PORT",
        ),
        mistake("CSTORE_DATADIR=x cstore serve", 64, "CSTORE_DATA_DIR"),
        mistake(
            "CSTORE_URLL=x cstore ls",
            64,
            "CSTORE_URLL: there is no such setting; the nearest is CSTORE_URL",
        ),
        mistake(
            "CSTORE_DATADIR=x cstore admin bearer",
            64,
            "CSTORE_DATA_DIR",
        ),
        mistake("CSTORE_TOKEN=wrong cstore ls", 64, "CSTORE_TOKEN: allowed"),
        mistake(
            "cstore serve --listen 0.0.0.0:8000 --anonymous TRUE",
            64,
            "CSTORE_ANONYMOUS: found \"TRUE\", allowed is FALSE",
        ),
        mistake(
            "cstore admin hold list --data empty",
            64,
            "there is no cluster secret at empty/cluster-secret",
        ),
        mistake("GATEWAY_PROT=1 cstore serve", 64, "GATEWAY_PORT"),
        mistake("BLOCK_SIZE=1 cstore serve", 64, "BLOCK_SIZE: found \"1\""),
        mistake("cstore serve --listen 8000", 64, "host:port"),
        mistake(
            "CSTORE_LISTEN_HOST=0.0.0.0 cstore dev",
            64,
            "CSTORE_ANONYMOUS",
        ),
        mistake(
            format!("CSTORE_DATA_DIR={} cstore dev --storages 3", data.display()),
            64,
            "is spread over 1 storage node",
        ),
        mistake(
            format!("CSTORE_DATA_DIR=empty CSTORE_MASTER_ADDR={gateway} cstore gateway"),
            64,
            "there is no cluster secret at empty/cluster-secret",
        ),
        mistake(
            "CSTORE_CLUSTER_SECRET_FILE=open cstore worker",
            64,
            "run: chmod 600 open",
        ),
        mistake(
            "cstore admin token create --tenant a --expires never",
            64,
            "leave --expires away",
        ),
        mistake("cstore admin token create --tenant A", 64, "--tenant"),
        mistake("cstore admin inspect /nosuch", 3, "/nosuch"),
        mistake(
            "CSTORE_DATA_DIR=empty cstore admin rescue new",
            64,
            "empty/master",
        ),
        mistake(
            "CSTORE_DATA_DIR=empty cstore admin bearer",
            64,
            "there is no cluster secret at empty/cluster-secret; set CSTORE_DATA_DIR or --data",
        ),
    ]
}

#[test]
fn all_taken_ports_of_a_start_are_reported_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("cluster-secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let taken: Vec<TcpListener> = (0..5)
        .map(|_| TcpListener::bind("127.0.0.1:0").unwrap())
        .collect();
    let port_of = |at: usize| taken[at].local_addr().unwrap().port().to_string();
    let variables = [
        "GATEWAY_PORT",
        "WORKER_PORT",
        "MASTER_PORT",
        "STORAGE_PORT",
        "CSTORE_ADMIN_PORT",
    ];
    for (command, expected) in [
        ("serve", &variables[..]),
        ("dev", &variables),
        ("storage", &variables[3..]),
    ] {
        let mut process = Command::new(env!("CARGO_BIN_EXE_cstore"));
        process
            .arg(command)
            .env_clear()
            .env("CSTORE_DATA_DIR", dir.path());
        for (at, variable) in variables.iter().enumerate() {
            process.env(variable, port_of(at));
        }
        let output = process.output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(64), "{command}: {said}");
        for variable in expected {
            let line = format!("or set {variable} to another port");
            assert_eq!(
                said.matches(&line).count(),
                1,
                "{command} {variable}: {said}"
            );
        }
        let count = said.matches("is taken").count();
        assert_eq!(count, expected.len(), "{command}: {said}");
    }
}

#[test]
fn operators_name_the_data_folder_and_hear_of_a_new_token_file() {
    let dir = tempfile::tempdir().unwrap();
    let create = |line: &str| {
        let output = run(line, dir.path());
        assert_eq!(output.status.code(), Some(0), "{line}");
        String::from_utf8(output.stderr).unwrap()
    };
    let first = create("cstore admin token create --tenant a --data store");
    assert!(
        first
            .contains("store/api-tokens is a new token file; only a gateway with this data folder"),
        "{first}"
    );
    let second = create("cstore admin token --data-dir store create --tenant a");
    assert!(!second.contains("new token file"), "{second}");
    let listed = run("cstore admin token list --data store", dir.path());
    let listed = String::from_utf8(listed.stdout).unwrap();
    assert_eq!(listed.lines().count(), 2, "{listed}");
    let secret = dir.path().join("store/cluster-secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    assert_eq!(
        create("cstore admin bearer --data store"),
        "",
        "no path was picked"
    );
}

#[test]
fn a_role_whose_master_is_something_else_says_what_it_is() {
    let dir = tempfile::tempdir().unwrap();
    let secret = dir.path().join("cluster-secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let web = port_with(b"HTTP/1.1 404 Not Found\r\ncontent-length: 0\r\n\r\n");
    let mut command = Command::new(env!("CARGO_BIN_EXE_cstore"));
    command
        .arg("gateway")
        .env_clear()
        .envs(free_ports(dir.path()));
    command
        .env("CSTORE_MASTER_ADDR", &web)
        .stderr(Stdio::piped());
    let mut child = command.spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let line = lines.find_map(|line| line.ok().filter(|line| line.contains("leads to no master")));
    child.kill().unwrap();
    child.wait().unwrap();
    let line = line.unwrap();
    assert!(
        line.contains(&web) && line.contains("the HTTP port of another program"),
        "{line}"
    );
}

#[test]
fn each_mistake_has_its_status_and_says_what_helps() {
    let dir = tempfile::tempdir().unwrap();
    let open = dir.path().join("open");
    std::fs::write(&open, SECRET).unwrap();
    std::fs::set_permissions(&open, std::fs::Permissions::from_mode(0o644)).unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let served_data = dir.path().join("served");
    let served = Served::start(&served_data);
    // Commands for operators need a secret, and this is not that of the running system.
    let secret = dir.path().join("data/cluster-secret");
    std::fs::write(&secret, SECRET).unwrap();
    std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
    let empty = Fake::start(|request| {
        if request.path.starts_with("/api/files?") {
            Reply::new(200, r#"{"files":[],"prefixes":[]}"#)
        } else if request.method == "HEAD" {
            Reply::new(404, "")
        } else {
            Reply::problem(404, "not_found")
        }
    });

    let mut mistakes = of_names(&empty.url);
    let hole = BlackHole::dig();
    let (free, _held) = nobody();
    mistakes.extend(of_urls(&served, &hole, &free));
    mistakes.extend(of_addresses(&served, &free));
    mistakes.extend(of_starts(&served, &served_data));
    let mut wrong = Vec::new();
    println!("| mistake | exit code | message |\n|---|---|---|");
    for Mistake { line, status, told } in &mistakes {
        let output = run(line, dir.path());
        let said =
            String::from_utf8_lossy(&output.stderr).replace(dir.path().to_str().unwrap(), "DIR");
        let is_log = |text: &&str| text.contains("  INFO ");
        let message: Vec<&str> = said.lines().filter(|text| !is_log(text)).collect();
        let message = message.join("\n");
        let code = output.status.code();
        let line = line.replace(dir.path().to_str().unwrap(), "DIR");
        println!(
            "| `{line}` | {} | {} |",
            code.unwrap_or(-1),
            message.trim().replace('\n', "<br>")
        );
        if code != Some(*status) || !said.contains(told) {
            wrong.push(format!(
                "{line}: {code:?} instead of {status}, {told:?} in {said:?}"
            ));
        }
        // Logs have a time; of a mistake there is the message alone, and once.
        let first = said.lines().find(|line| line.starts_with("cstore: "));
        let count = first.map_or(0, |first| said.matches(&first["cstore: ".len()..]).count());
        if count > 1 {
            wrong.push(format!(
                "{line}: the message is printed {count} times: {said}"
            ));
        }
    }
    assert!(
        mistakes.len() >= 25 && wrong.is_empty(),
        "{}",
        wrong.join("\n")
    );
    assert_eq!(empty.count("DELETE"), 0, "nothing was removed");
}
