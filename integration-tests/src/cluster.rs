//! A cluster of real processes on free ports, data in a temporary folder.

use std::collections::BTreeMap;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::Duration;

use cstore_proto::{Caller, Signer};
use cstore_testkit::{Port, until_blocking};
use cstore_types::ClusterSecret;
use parking_lot::Mutex;

use crate::http::{Answer, Client};

/// Name of the file with the cluster secret.
const SECRET_FILE: &str = "cluster-secret";

/// How a cluster is made.
#[derive(Debug)]
pub struct Builder {
    program: PathBuf,
    workers: usize,
    storages: usize,
    dev: bool,
    folder: Option<tempfile::TempDir>,
    env: BTreeMap<String, String>,
    env_of: Vec<(String, String, String)>,
    open_files: Option<u64>,
}

/// Running processes.
#[derive(Debug)]
pub struct Cluster {
    pub(crate) program: PathBuf,
    dir: tempfile::TempDir,
    pub(crate) env: BTreeMap<String, String>,
    roles: BTreeMap<String, BTreeMap<String, String>>,
    open_files: Option<u64>,
    children: Mutex<BTreeMap<String, Child>>,
    /// Kept from other tests also while no process listens on them.
    _ports: Vec<Port>,
    /// host:port of the gateway.
    pub gateway: String,
    /// host:port of the master.
    pub master: String,
}

/// Writes a new cluster secret, readable by its owner only.
fn write_secret(path: &Path) {
    let text = ClusterSecret::generate().expect("the system has random numbers");
    std::fs::write(path, text.expose()).expect("the secret can be written");
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600))
        .expect("its mode can be set");
}

impl Builder {
    /// Workers as processes of their own.
    #[must_use]
    pub fn workers(mut self, workers: usize) -> Self {
        self.workers = workers;
        self
    }

    /// Storage nodes as processes of their own.
    #[must_use]
    pub fn storages(mut self, storages: usize) -> Self {
        self.storages = storages;
        self
    }

    /// All roles in one process.
    #[must_use]
    pub fn dev(mut self) -> Self {
        self.dev = true;
        self
    }

    /// Starts on a data folder that is there already, with the cluster secret in it.
    #[must_use]
    pub fn folder(mut self, folder: tempfile::TempDir) -> Self {
        self.folder = Some(folder);
        self
    }

    /// A variable of all processes.
    #[must_use]
    pub fn env(mut self, key: &str, value: &str) -> Self {
        self.env.insert(key.to_owned(), value.to_owned());
        self
    }

    /// A variable of one process.
    #[must_use]
    pub fn env_of(mut self, name: &str, key: &str, value: &str) -> Self {
        self.env_of
            .push((name.to_owned(), key.to_owned(), value.to_owned()));
        self
    }

    /// Hard limit of open files of each process, as `ulimit -Hn` sets it.
    #[must_use]
    pub fn open_files(mut self, limit: u64) -> Self {
        self.open_files = Some(limit);
        self
    }

    /// Starts everything and waits until an upload would succeed.
    ///
    /// # Panics
    /// When that does not happen in time.
    pub fn start(self) -> Cluster {
        let cluster = self.start_unready();
        cluster.wait_ready();
        cluster
    }

    /// Starts everything.
    ///
    /// # Panics
    /// When a process cannot be started.
    pub fn start_unready(self) -> Cluster {
        let dir = self.folder.unwrap_or_else(|| {
            let dir = tempfile::tempdir().expect("a temporary folder can be made");
            write_secret(&dir.path().join(SECRET_FILE));
            dir
        });
        let secret = dir.path().join(SECRET_FILE);
        let mut ports = Vec::new();
        let mut free_port = || {
            let port = Port::reserve();
            let number = port.number();
            ports.push(port);
            number
        };
        let (gateway, master) = (free_port(), free_port());
        let mut env = BTreeMap::new();
        let mut set = |key: &str, value: String| env.insert(key.to_owned(), value);
        set("CSTORE_DATA_DIR", dir.path().display().to_string());
        set("CSTORE_CLUSTER_SECRET_FILE", secret.display().to_string());
        set("CSTORE_MASTER_ADDR", format!("127.0.0.1:{master}"));
        set("CSTORE_STORAGE_NODES", self.storages.to_string());
        set("CSTORE_ANONYMOUS", "TRUE".to_owned());
        set("CSTORE_ADMIN_PORT", "0".to_owned());
        set("CSTORE_HEARTBEAT_MS", "500".to_owned());
        set("CSTORE_RELEASE_DELAY_MS", "0".to_owned());
        set("CSTORE_RETRY_STEP", "20".to_owned());
        set("FS_SIZE", "256MiB".to_owned());
        set("GATEWAY_PORT", gateway.to_string());
        set("MASTER_PORT", master.to_string());
        env.extend(self.env);
        let mut roles = BTreeMap::new();
        if self.dev {
            let ports = [("STORAGE_PORT", free_port()), ("WORKER_PORT", free_port())];
            roles.insert(
                "dev".to_owned(),
                ports
                    .map(|(key, port)| (key.to_owned(), port.to_string()))
                    .into(),
            );
        } else {
            roles.insert("master".to_owned(), BTreeMap::new());
            roles.insert("gateway".to_owned(), BTreeMap::new());
            for (role, key, count) in [
                ("storage", "STORAGE_PORT", self.storages),
                ("worker", "WORKER_PORT", self.workers),
            ] {
                for n in 1..=count {
                    let name = format!("{role}-{n}");
                    let own = [
                        ("CSTORE_NODE_ID", name.clone()),
                        (key, free_port().to_string()),
                    ];
                    roles.insert(name, own.map(|(key, value)| (key.to_owned(), value)).into());
                }
            }
        }
        let mut cluster = Cluster {
            program: self.program,
            dir,
            env,
            children: Mutex::default(),
            _ports: ports,
            gateway: format!("127.0.0.1:{gateway}"),
            master: format!("127.0.0.1:{master}"),
            open_files: self.open_files,
            roles,
        };
        for (name, key, value) in self.env_of {
            cluster.set_env_of(&name, &key, &value);
        }
        for role in cluster.roles() {
            cluster.launch(&role);
        }
        cluster
    }
}

impl Cluster {
    /// Two workers and three storage nodes, each role a process of its own.
    pub fn builder(program: &str) -> Builder {
        Builder {
            program: program.into(),
            workers: 2,
            storages: 3,
            dev: false,
            folder: None,
            env: BTreeMap::new(),
            env_of: Vec::new(),
            open_files: None,
        }
    }

    /// One worker and one storage node, where a test needs to know which one it is.
    pub fn one_of_each(program: &str) -> Builder {
        Self::builder(program).workers(1).storages(1)
    }

    /// Names of the processes.
    pub fn roles(&self) -> Vec<String> {
        self.roles.keys().cloned().collect()
    }

    /// The folder of all data.
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    /// Sets a variable of one process for its next start.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn set_env_of(&mut self, name: &str, key: &str, value: &str) {
        let own = self
            .roles
            .get_mut(name)
            .expect("the process is part of the cluster");
        own.insert(key.to_owned(), value.to_owned());
    }

    /// Sets a variable of all processes for their next start.
    pub fn set_env(&mut self, key: &str, value: &str) {
        self.env.insert(key.to_owned(), value.to_owned());
    }

    /// The secret of the cluster.
    ///
    /// # Panics
    /// When it cannot be read.
    pub fn secret(&self) -> ClusterSecret {
        let text =
            std::fs::read_to_string(self.dir().join(SECRET_FILE)).expect("the secret is there");
        ClusterSecret::parse(&text).expect("the secret is valid")
    }

    /// An operator's bearer of the gRPC plane.
    ///
    /// # Panics
    /// When the secret cannot be read.
    pub fn bearer(&self) -> String {
        Signer::new(&self.secret(), Caller::Operator).for_ttl(Duration::from_secs(3_600))
    }

    /// Process ids of what runs.
    pub fn pids(&self) -> Vec<u32> {
        self.children.lock().values().map(Child::id).collect()
    }

    /// Process id of one.
    ///
    /// # Panics
    /// When it is not running.
    pub fn pid(&self, name: &str) -> u32 {
        self.children
            .lock()
            .get(name)
            .expect("the process runs")
            .id()
    }

    /// Address of a node, host:port.
    ///
    /// # Panics
    /// When there is no such node.
    pub fn addr(&self, name: &str) -> String {
        let own = self
            .roles
            .get(name)
            .expect("the node is part of the cluster");
        let port = own
            .iter()
            .find(|(key, _)| key.ends_with("_PORT"))
            .expect("the node has a port");
        format!("127.0.0.1:{}", port.1)
    }

    /// Address of a process's admin port in this life, as it said at its start.
    ///
    /// # Panics
    /// When it has not said it in time.
    pub fn admin_addr(&self, name: &str) -> String {
        until_blocking(&format!("admin port of {name}"), || {
            let log = self.log(name);
            let line = log
                .lines()
                .rev()
                .find(|line| line.contains("admin port is open"))?;
            let at = line.find("127.0.0.1:")?;
            let end = line[at..]
                .find([' ', '"'])
                .map_or(line.len(), |length| at + length);
            Some(line[at..end].to_owned())
        })
    }

    /// Starts a process that is not running.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn launch(&self, name: &str) {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.dir().join(format!("{name}.log")))
            .expect("the log can be opened");
        let child = self
            .command(name)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .expect("the program starts");
        self.children.lock().insert(name.to_owned(), child);
    }

    /// The command line and environment of a process.
    ///
    /// # Panics
    /// When there is no such process.
    pub fn command(&self, name: &str) -> Command {
        let mut command = match self.open_files {
            None => Command::new(&self.program),
            // A process cannot raise the hard limit, and the shell gives its place to the program.
            Some(limit) => {
                let mut shell = Command::new("/bin/sh");
                let script = format!("ulimit -n {limit} && exec \"$0\" \"$@\"");
                shell.args(["-c", &script]).arg(&self.program);
                shell
            }
        };
        command.arg(name.split('-').next().unwrap_or(name));
        command.env_clear().envs(&self.env).envs(&self.roles[name]);
        command
    }

    /// SIGKILL, and waits for the end.
    ///
    /// # Panics
    /// When it is not running.
    pub fn kill(&self, name: &str) {
        let mut child = self.take(name);
        child.kill().expect("the process can be killed");
        child.wait().expect("the process ends");
    }

    /// SIGTERM, and waits for the end.
    ///
    /// # Panics
    /// When it is not running or does not end in time.
    pub fn stop(&self, name: &str) -> ExitStatus {
        self.tell_to_stop(name);
        self.await_end(name)
    }

    /// SIGTERM only.
    ///
    /// # Panics
    /// When it is not running.
    pub fn tell_to_stop(&self, name: &str) {
        let id = self
            .children
            .lock()
            .get(name)
            .expect("the process runs")
            .id();
        let pid = i32::try_from(id)
            .ok()
            .and_then(rustix::process::Pid::from_raw)
            .expect("a pid");
        rustix::process::kill_process(pid, rustix::process::Signal::TERM)
            .expect("the process can be told");
    }

    /// Waits for the end of a process that was told to stop.
    ///
    /// # Panics
    /// When it does not end in time.
    pub fn await_end(&self, name: &str) -> ExitStatus {
        let mut child = self.take(name);
        until_blocking(&format!("end of {name}"), || {
            child.try_wait().expect("the process can be asked")
        })
    }

    /// Returns how a process ended by itself; `None` while it runs.
    ///
    /// # Panics
    /// When it was never started, or was killed or stopped.
    pub fn ended(&self, name: &str) -> Option<ExitStatus> {
        let mut children = self.children.lock();
        let child = children.get_mut(name).expect("the process was started");
        child.try_wait().expect("the process can be asked")
    }

    fn take(&self, name: &str) -> Child {
        self.children.lock().remove(name).expect("the process runs")
    }

    /// kill -9 and start again.
    pub fn restart(&self, name: &str) {
        self.kill(name);
        self.launch(name);
    }

    /// Waits until the master calls every running worker and storage node ready, and an upload and
    /// its download succeed, which is removed again. Either alone says less: an upload needs only
    /// some of the nodes, and its ticket may be older than a master that was started again and
    /// knows no node yet.
    ///
    /// # Panics
    /// When a process has ended, or that does not happen in time.
    pub fn wait_ready(&self) {
        until_blocking("all nodes to be ready, and an upload", || {
            for (name, child) in self.children.lock().iter() {
                let status = std::fs::read_to_string(format!("/proc/{}/stat", child.id()))
                    .unwrap_or_default();
                assert!(
                    !status.is_empty() && !status.contains(") Z "),
                    "{name} has ended"
                );
            }

            let seen = self
                .call("GET", "/api/cluster", b"")
                .ok()
                .filter(|seen| seen.status == 200)?
                .json();
            let nodes = seen["nodes"].as_array()?;
            let is_ready = |id: &String| {
                nodes
                    .iter()
                    .any(|node| node["node_id"] == **id && node["state"] == "ready")
            };
            self.children
                .lock()
                .keys()
                .filter(|name| name.contains('-'))
                .all(is_ready)
                .then_some(())?;

            let put = self
                .call("PUT", "/api/files/.ready?overwrite=true", b"ready")
                .ok()?;
            let got = self.call("GET", "/api/files/.ready", b"").ok()?;
            let deleted = || self.call("DELETE", "/api/files/.ready", b"").ok();
            (put.status < 300 && got.status == 200)
                .then(deleted)?
                .filter(|answer| answer.status == 204)
        });
    }

    /// One request over a connection of its own.
    ///
    /// # Errors
    /// The connection's.
    pub fn call(&self, method: &str, path: &str, body: &[u8]) -> io::Result<Answer> {
        Client::connect(&self.gateway)?.call(method, path, "", body)
    }

    /// Like [`Self::call`], for a connection that must not fail.
    ///
    /// # Panics
    /// If the connection fails.
    pub fn ask(&self, method: &str, path: &str, body: &[u8]) -> Answer {
        self.call(method, path, body)
            .unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// GET of a path by a client that does what 503 asks for: it tries again.
    ///
    /// # Panics
    /// When nothing else is answered in time.
    pub fn fetch(&self, path: &str) -> Answer {
        until_blocking(&format!("an answer to GET {path}"), || {
            self.call("GET", path, b"")
                .ok()
                .filter(|answer| answer.status != 503)
        })
    }

    /// Returns the log of a process.
    ///
    /// # Panics
    /// When its log cannot be read.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.dir().join(format!("{name}.log"))).expect("the log is there")
    }

    /// Fails on an ERROR line that is not allowed: it means that a person must look.
    ///
    /// # Panics
    /// On such a line.
    pub fn audit(&self, allowed: &[&str]) {
        for name in self.roles() {
            for line in self
                .log(&name)
                .lines()
                .filter(|line| line.contains(" ERROR ") || line.contains("panicked"))
            {
                assert!(
                    allowed.iter().any(|text| line.contains(text)),
                    "{name} logged: {line}"
                );
            }
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        for child in self.children.get_mut().values_mut() {
            let _ = child.kill();
            let _ = child.wait();
        }
        if std::thread::panicking() {
            for name in self.roles() {
                let log = self.log(&name);
                let tail: Vec<&str> = log.lines().rev().take(25).collect();
                eprintln!(
                    "--- {name}\n{}",
                    tail.into_iter().rev().collect::<Vec<_>>().join("\n")
                );
            }
        }
    }
}
