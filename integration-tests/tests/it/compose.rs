//! The image and Docker Compose as users run them: real containers, hardened, killed, cut off,
//! restarted, removed.

use std::net::TcpListener;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};

use cstore_integration_tests::http::{Answer, Client};
use cstore_integration_tests::tools;
use cstore_testkit::{random, until_blocking};
use serde_json::Value;

use crate::PROGRAM;

const SERVICES: [&str; 7] = [
    "gateway",
    "master",
    "storage-1",
    "storage-2",
    "storage-3",
    "worker-1",
    "worker-2",
];

fn skip(why: &str) {
    use std::io::Write;
    let _ = std::io::stdout().write_all(format!("\nSKIP compose: {why}\n").as_bytes());
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("..")
        .canonicalize()
        .unwrap()
}

/// One installation, of an image that was made for it.
struct Installation {
    image: String,
    project: String,
    dir: tempfile::TempDir,
    gateway: u16,
    master: u16,
}

impl Installation {
    /// `None`, told, where there is no engine, or nothing to make an image of.
    fn new() -> Option<Self> {
        let docker = tools::find_or_skip("docker", "compose")?;
        let runs = |args: &[&str]| {
            Command::new(&docker)
                .args(args)
                .output()
                .is_ok_and(|out| out.status.success())
        };
        if !runs(&["info"]) {
            skip("the Docker engine does not answer");
            return None;
        }
        if !runs(&["compose", "version"]) || !runs(&["buildx", "version"]) {
            skip("Docker has no Compose v2 or no buildx");
            return None;
        }
        let base = "debian:bookworm-slim";
        if !runs(&["image", "inspect", base]) && !runs(&["pull", "-q", base]) {
            skip("the base image debian:bookworm-slim cannot be had");
            return None;
        }
        static NUMBER: AtomicU32 = AtomicU32::new(0);
        let number = NUMBER.fetch_add(1, Ordering::Relaxed);
        let project = format!("cstore-test-{}-{number}", std::process::id());
        let ports = [(); 2].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [gateway, master] = ports.map(|port| port.local_addr().unwrap().port());
        let found = Self {
            image: format!("{project}:1"),
            project,
            dir: tempfile::tempdir().unwrap(),
            gateway,
            master,
        };
        found.build(&docker);
        // A program that was built against a newer C library does not run in there.
        if !runs(&["run", "--rm", &found.image, "--version"]) {
            skip("the program of this machine does not run in the base image");
            return None;
        }
        Some(found)
    }

    /// The image of deploy/Dockerfile, with the program under test.
    fn build(&self, docker: &Path) {
        let context = self.dir.path().join("context");
        std::fs::create_dir_all(context.join("dist")).unwrap();
        let program = context.join("dist/cstore");
        std::fs::copy(PROGRAM, &program).unwrap();
        // Debug information is large. If strip is missing, the image is only larger.
        let _ = Command::new("strip").arg(&program).output();
        let output = Command::new(docker)
            .args([
                "buildx",
                "build",
                "--load",
                "--build-arg",
                "BIN_STAGE=prebuilt",
                "-t",
                &self.image,
                "-f",
            ])
            .arg(root().join("deploy/Dockerfile"))
            .arg(&context)
            .output()
            .unwrap();
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    fn compose(&self, args: &[&str]) -> Output {
        let mut command = Command::new(root().join("deploy/compose.sh"));
        command
            .args(args)
            .env("COMPOSE_PROJECT_NAME", &self.project)
            .env("CSTORE_IMAGE", &self.image);
        command
            .env("CSTORE_SECRETS_DIR", self.dir.path().join("secrets"))
            .env("FS_SIZE", "256MiB");
        command
            .env("GATEWAY_PORT", self.gateway.to_string())
            .env("MASTER_PORT", self.master.to_string());
        command.env("CSTORE_HEARTBEAT_MS", "200").output().unwrap()
    }

    fn well(&self, args: &[&str]) -> String {
        let output = self.compose(args);
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{args:?}: {out} {err}");
        out.into_owned()
    }

    fn container(&self, service: &str) -> String {
        format!("{}-{service}-1", self.project)
    }

    fn inspect(&self, service: &str) -> Value {
        let all: Value =
            serde_json::from_str(&docker(&["inspect", &self.container(service)])).unwrap();
        all[0].clone()
    }

    fn ask(&self, method: &str, path: &str, body: &[u8]) -> std::io::Result<Answer> {
        Client::connect(&format!("127.0.0.1:{}", self.gateway))?.call(method, path, "", body)
    }

    fn put(&self, name: &str, body: &[u8]) {
        until_blocking(&format!("{name} to be taken"), || {
            let path = format!("/api/files/{name}?overwrite=true");
            self.ask("PUT", &path, body)
                .ok()
                .filter(|answer| matches!(answer.status, 200 | 201))
        });
    }

    fn same(&self, name: &str, body: &[u8]) {
        until_blocking(&format!("{name} to come back"), || {
            let found = self.ask("GET", &format!("/api/files/{name}"), b"").ok()?;
            assert_ne!(found.status, 404, "{name} is lost");
            (found.status == 200).then(|| assert!(found.body == body, "{name} came back different"))
        });
    }

    fn await_health(&self, service: &str) {
        until_blocking(&format!("{service} to be healthy"), || {
            (self.inspect(service)["State"]["Health"]["Status"] == "healthy").then_some(())
        });
    }
}

impl Drop for Installation {
    fn drop(&mut self) {
        if std::thread::panicking() {
            eprintln!(
                "{}",
                String::from_utf8_lossy(&self.compose(&["logs", "--tail", "15"]).stdout)
            );
        }
        self.compose(&["down", "--volumes", "--remove-orphans", "-t", "5"]);
        let _ = Command::new("docker")
            .args(["image", "rm", "-f", &self.image])
            .output();
    }
}

fn docker(args: &[&str]) -> String {
    let output = Command::new("docker").args(args).output().unwrap();
    assert!(
        output.status.success(),
        "{args:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).unwrap()
}

fn is_hardened(found: &Value, service: &str) {
    let host = &found["HostConfig"];
    assert_eq!(host["ReadonlyRootfs"], true, "{service}");
    assert_eq!(host["CapDrop"], serde_json::json!(["ALL"]), "{service}");
    assert_eq!(host["Privileged"], false, "{service}");
    assert!(
        host["SecurityOpt"]
            .to_string()
            .contains("no-new-privileges"),
        "{service}"
    );
    assert!(
        host["Memory"].as_u64() > Some(0) && host["PidsLimit"].as_u64() > Some(0),
        "{service}"
    );
    assert_eq!(
        found["Config"]["User"], "10001:10001",
        "{service}: a number, and not root"
    );
    for (port, bindings) in host["PortBindings"].as_object().into_iter().flatten() {
        for binding in bindings.as_array().unwrap() {
            assert_eq!(
                binding["HostIp"], "127.0.0.1",
                "{service} publishes {port} to the world"
            );
        }
    }
    let environment = found["Config"]["Env"].to_string();
    assert!(
        !environment.contains("SECRET=") && !environment.contains("cst_"),
        "{service}: {environment}"
    );
    for mount in found["Mounts"].as_array().unwrap() {
        let writable = mount["RW"] == true;
        assert!(
            !writable || mount["Destination"] == "/data",
            "{service} may write {}",
            mount["Destination"]
        );
    }
}

/// kill -9 of its process from outside, which the engine answers with a restart.
fn kill_process(found: &Value, service: &str) {
    let pid = found["State"]["Pid"]
        .as_i64()
        .and_then(|pid| i32::try_from(pid).ok())
        .unwrap();
    let pid =
        rustix::process::Pid::from_raw(pid).unwrap_or_else(|| panic!("{service} does not run"));
    rustix::process::kill_process(pid, rustix::process::Signal::KILL).unwrap();
}

#[test]
fn a_system_of_containers_is_hardened_and_loses_nothing() {
    let Some(system) = Installation::new() else {
        return;
    };
    let begun = system.well(&["up"]);
    assert!(
        begun.contains("made ") && begun.contains("ready at http://127.0.0.1:"),
        "{begun}"
    );
    let secret = system.dir.path().join("secrets/cluster-secret");
    assert_eq!(
        std::fs::metadata(&secret).unwrap().permissions().mode() & 0o777,
        0o640
    );
    for service in SERVICES {
        is_hardened(&system.inspect(service), service);
    }
    assert!(
        system.well(&["up"]).starts_with("compose: ready"),
        "the second time makes no secret"
    );
    let body = random(3_000_000, 1);
    system.put("kept", &body);

    // The process of each container ends at once, as one that the kernel killed.
    let mut may_signal = true;
    for service in SERVICES {
        let found = system.inspect(service);
        if found["State"]["Pid"].as_i64() == Some(0) || rustix::process::geteuid().as_raw() != 0 {
            may_signal = false;
            break;
        }
        kill_process(&found, service);
        until_blocking(&format!("{service} to be started again"), || {
            system.inspect(service)["RestartCount"]
                .as_u64()
                .filter(|count| *count > 0)
        });
        system.await_health(service);
        system.same("kept", &body);
        system.put(&format!("after-{service}"), service.as_bytes());
    }
    if !may_signal {
        skip("kill -9 of the containers' processes needs root");
    }

    // A storage node is cut off and comes back, by its name.
    let network = format!("{}_internal", system.project);
    docker(&[
        "network",
        "disconnect",
        "-f",
        &network,
        &system.container("storage-2"),
    ]);
    until_blocking("uploads to be refused", || {
        system
            .ask("PUT", "/api/files/cut?overwrite=true", &body)
            .ok()
            .filter(|answer| answer.status == 503)
    });
    docker(&[
        "network",
        "connect",
        "--alias",
        "storage-2",
        &network,
        &system.container("storage-2"),
    ]);
    system.put("healed", &body);
    system.same("kept", &body);

    system.well(&["restart"]);
    system.same("kept", &body);
    system.well(&["down"]);
    assert_eq!(
        docker(&["ps", "-aq", "--filter", &format!("name={}", system.project)]),
        ""
    );
    system.well(&["up"]);
    system.same("kept", &body);
    for service in SERVICES.into_iter().filter(|_| may_signal) {
        system.same(&format!("after-{service}"), service.as_bytes());
    }

    let told = Command::new(root().join("deploy/compose.sh"))
        .arg("reset")
        .envs([
            ("COMPOSE_PROJECT_NAME", system.project.as_str()),
            ("FORCE", "1"),
            ("CSTORE_IMAGE", &system.image),
        ])
        .env("CSTORE_SECRETS_DIR", system.dir.path().join("secrets"))
        .output()
        .unwrap();
    assert!(
        String::from_utf8_lossy(&told.stdout).contains("removed the containers"),
        "{told:?}"
    );
    let filter = format!("name={}", system.project);
    for what in ["volume", "network"] {
        assert_eq!(
            docker(&[what, "ls", "-q", "--filter", &filter]),
            "",
            "{what}"
        );
    }
    assert!(!secret.try_exists().unwrap());
    let again = system.compose(&["reset"]);
    assert!(
        String::from_utf8_lossy(&again.stdout).contains("nothing to remove"),
        "{again:?}"
    );
}

/// A container that is removed with its volume when it is dropped.
struct Container {
    name: String,
    port: u16,
}

impl Container {
    fn start(name: &str, image: &str) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        drop(listener);
        let (publish, volume) = (format!("127.0.0.1:{port}:8000"), format!("{name}:/data"));
        docker(&[
            "run", "-d", "--name", name, "-p", &publish, "-v", &volume, image,
        ]);
        let name = name.to_owned();
        Self { name, port }
    }

    /// Waits until the program is ready, and returns what it has printed on stdout.
    fn ready(&self) -> String {
        until_blocking("C-Store to be ready in the container", || {
            Some(docker(&["logs", &self.name])).filter(|told| told.contains("C-Store is ready"))
        })
    }

    fn request(&self, method: &str, token: Option<&str>, body: &[u8]) -> Answer {
        let mut client = Client::connect(&format!("127.0.0.1:{}", self.port)).unwrap();
        let bearer = token.map(|token| format!("authorization: Bearer {token}\r\n"));
        let headers = bearer.unwrap_or_default();
        client.call(method, "/api/files/a", &headers, body).unwrap()
    }

    fn remove(&self) {
        docker(&["rm", "-f", &self.name]);
    }
}

impl Drop for Container {
    fn drop(&mut self) {
        let remove = |args: &[&str]| drop(Command::new("docker").args(args).output());
        remove(&["rm", "-f", &self.name]);
        remove(&["volume", "rm", "-f", &self.name]);
    }
}

#[test]
fn i13_the_image_serves_by_default_with_a_token_and_keeps_its_volume() {
    let Some(system) = Installation::new() else {
        return;
    };
    let name = format!("{}-alone", system.project);
    let container = Container::start(&name, &system.image);
    let told = container.ready();
    let token = told
        .split_whitespace()
        .find(|word| word.starts_with("cst_"))
        .unwrap();
    let body = random(100_000, 2);
    assert_eq!(container.request("PUT", None, &body).status, 401);
    // While other containers start beside it, a heartbeat may be late.
    let put = until_blocking("an answer other than busy", || {
        Some(container.request("PUT", Some(token), &body)).filter(|put| put.status != 503)
    });
    assert_eq!(put.status, 201, "{}", String::from_utf8_lossy(&put.body));

    container.remove();
    let container = Container::start(&name, &system.image);
    let told = container.ready();
    assert!(!told.contains("cst_"), "{told}");
    let got = container.request("GET", Some(token), b"");
    assert!(got.status == 200 && got.body == body);
}

#[test]
fn a_wrong_setting_ends_the_start_and_is_told() {
    let Some(system) = Installation::new() else {
        return;
    };
    let mut command = Command::new(root().join("deploy/compose.sh"));
    command
        .arg("up")
        .env("COMPOSE_PROJECT_NAME", format!("{}-wrong", system.project));
    command
        .env("CSTORE_IMAGE", &system.image)
        .env("CSTORE_SECRETS_DIR", system.dir.path().join("secrets"));
    command
        .env("GATEWAY_PORT", system.gateway.to_string())
        .env("MASTER_PORT", system.master.to_string());
    command.env("BLOCK_SIZE", "big");
    let output = command.output().unwrap();
    let told = String::from_utf8_lossy(&output.stderr).into_owned();
    command.env_remove("BLOCK_SIZE");
    let mut away = Command::new(root().join("deploy/compose.sh"));
    away.arg("down")
        .arg("--volumes")
        .env("COMPOSE_PROJECT_NAME", format!("{}-wrong", system.project));
    assert!(away.output().unwrap().status.success());
    assert!(!output.status.success());
    assert!(
        told.contains("-- master is ") && told.contains("BLOCK_SIZE: found \"big\", allowed is"),
        "{told}"
    );
}

#[test]
fn the_dockerfile_is_clean() {
    let Some(hadolint) = tools::find_or_skip("hadolint", "compose::hadolint") else {
        return;
    };
    let output = Command::new(hadolint)
        .arg(root().join("deploy/Dockerfile"))
        .output()
        .unwrap();
    assert!(
        output.status.success(),
        "{}",
        String::from_utf8_lossy(&output.stdout)
    );
}
