//! The program under test as processes on loopback, and the resources that they used.

use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use cstore_integration_tests::http::Client;
use cstore_testkit::Port;

/// Clock ticks per second of /proc (USER_HZ on Linux).
const TICKS: f64 = 100.0;

pub(crate) struct Servers {
    pub(crate) gateway: String,
    children: Vec<Child>,
    admin: Vec<String>,
    _dir: tempfile::TempDir,
    _ports: Vec<Port>,
}

/// Resources that the servers used so far.
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    pub(crate) syncs: f64,
}

impl Usage {
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            syncs: self.syncs - before.syncs,
        }
    }
}

impl Servers {
    pub(crate) fn start(setup: &str) -> Self {
        Self::start_with(setup, &[])
    }

    /// Like [`Self::start`], with more variables for all processes.
    pub(crate) fn start_with(setup: &str, env: &[(&str, &str)]) -> Self {
        let dir = tempfile::tempdir_in(std::env::current_dir().unwrap().join("target")).unwrap();
        let reserved: Vec<Port> = (0..8).map(|_| Port::reserve()).collect();
        let ports: Vec<u16> = reserved.iter().map(Port::number).collect();
        let secret = dir.path().join("cluster-secret");
        let generated = cstore_types::ClusterSecret::generate().unwrap();
        std::fs::write(&secret, generated.expose()).unwrap();
        use std::os::unix::fs::PermissionsExt;
        std::fs::set_permissions(&secret, std::fs::Permissions::from_mode(0o600)).unwrap();
        let spawn = |role: &str, admin: u16| {
            let log = std::fs::File::create(dir.path().join(format!("{role}.log"))).unwrap();
            Command::new(std::env::current_exe().unwrap())
                .args(["cstore", role])
                .env("CSTORE_DATA_DIR", dir.path())
                .env("CSTORE_CLUSTER_SECRET_FILE", &secret)
                .env("GATEWAY_PORT", ports[0].to_string())
                .env("MASTER_PORT", ports[1].to_string())
                .env("STORAGE_PORT", ports[2].to_string())
                .env("WORKER_PORT", ports[3].to_string())
                .env("CSTORE_MASTER_ADDR", format!("127.0.0.1:{}", ports[1]))
                .env("CSTORE_ADMIN_PORT", admin.to_string())
                .env("CSTORE_ANONYMOUS", "TRUE")
                .env("FS_SIZE", "40GiB")
                .env("LOG_LEVEL", "WARN")
                .envs(env.iter().copied())
                .stdout(Stdio::null())
                .stderr(log)
                .spawn()
                .unwrap()
        };
        let (children, admin) = match setup {
            "dev" => (vec![spawn("dev", ports[4])], vec![ports[4]]),
            "four" => {
                let roles = ["master", "storage", "worker", "gateway"];
                (
                    roles
                        .iter()
                        .zip(&ports[4..])
                        .map(|(role, port)| spawn(role, *port))
                        .collect(),
                    ports[4..6].to_vec(),
                )
            }
            other => panic!("BENCH_SETUPS may name dev and four, found {other}"),
        };
        let admin = admin
            .iter()
            .map(|port| format!("127.0.0.1:{port}"))
            .collect();
        let servers = Self {
            gateway: format!("127.0.0.1:{}", ports[0]),
            children,
            admin,
            _dir: dir,
            _ports: reserved,
        };
        servers.wait();
        servers
    }

    fn wait(&self) {
        let end = Instant::now() + Duration::from_secs(30);
        loop {
            assert!(
                Instant::now() < end,
                "the servers were not ready within 30 s"
            );
            if let Ok(mut client) = Client::connect(&self.gateway) {
                let answer = client.call("PUT", "/api/files/probe?overwrite=true", "", b"probe");
                if answer.is_ok_and(|answer| matches!(answer.status, 200 | 201)) {
                    return;
                }
            }
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    pub(crate) fn usage(&self) -> Usage {
        let cpu = |child: &Child| {
            let stat = std::fs::read_to_string(format!("/proc/{}/stat", child.id())).unwrap();
            let fields: Vec<&str> = stat
                .rsplit(')')
                .next()
                .unwrap()
                .split_whitespace()
                .collect();
            fields[11..13]
                .iter()
                .map(|ticks| ticks.parse::<f64>().unwrap())
                .sum::<f64>()
                / TICKS
        };
        let syncs = |addr: &String| {
            let text = Client::connect(addr)
                .unwrap()
                .call("GET", "/metrics", "", b"")
                .unwrap()
                .text();
            let frames = text
                .lines()
                .filter(|line| line.starts_with("cstore_") && line.contains("_log_frames"));
            frames
                .filter_map(|line| line.split(' ').nth(1)?.parse::<f64>().ok())
                .sum::<f64>()
        };
        Usage {
            cpu_seconds: self.children.iter().map(cpu).sum(),
            syncs: self.admin.iter().map(syncs).sum(),
        }
    }

    /// Returns the sum of the servers' peaks of resident memory, in MB of 1,000,000 bytes.
    pub(crate) fn peak_rss_mb(&self) -> f64 {
        let peak = |child: &Child| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let line = status
                .lines()
                .find(|line| line.starts_with("VmHWM"))
                .unwrap_or("VmHWM: 0");
            line.split_whitespace()
                .nth(1)
                .unwrap_or("0")
                .parse::<f64>()
                .unwrap_or(0.0)
                * 1_024.0
                / 1e6
        };
        self.children.iter().map(peak).sum()
    }
}

impl Drop for Servers {
    fn drop(&mut self) {
        for child in &mut self.children {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}
