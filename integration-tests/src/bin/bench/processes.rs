//! The processes of one contestant, and the resources that they used.

use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Child;
use std::time::{Duration, Instant};

use cstore_integration_tests::http;
use cstore_testkit::Port;

/// Clock ticks per second of /proc (USER_HZ on Linux).
pub(crate) const TICKS: f64 = 100.0;
/// Longest time until a server takes an upload.
const START: Duration = Duration::from_secs(60);
/// Time between two looks at a server that starts.
const PAUSE: Duration = Duration::from_millis(50);

/// Running servers of one contestant.
pub(crate) struct Servers {
    pub(crate) name: String,
    /// First line that the program printed about its version.
    pub(crate) version: String,
    /// The program, for a reader of the results.
    pub(crate) program: String,
    /// host:port that takes the requests.
    pub(crate) addr: String,
    /// Path before the name of a file.
    pub(crate) folder: String,
    /// Query of uploads, with its question mark.
    pub(crate) put_query: &'static str,
    pub(crate) children: Vec<Child>,
    /// Admin ports whose metrics count syncs. Empty if the contestant has none.
    pub(crate) admin: Vec<String>,
    pub(crate) dir: tempfile::TempDir,
    /// Kept from other programs as long as the servers run.
    pub(crate) ports: Vec<Port>,
}

/// Resources that the servers used since their start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    pub(crate) cpu_seconds: f64,
    /// Syncs of logs. `None` if the contestant does not count them.
    pub(crate) syncs: Option<f64>,
}

impl Usage {
    pub(crate) fn since(&self, before: &Self) -> Self {
        Self {
            cpu_seconds: self.cpu_seconds - before.cpu_seconds,
            syncs: self.syncs.zip(before.syncs).map(|(now, then)| now - then),
        }
    }
}

/// Returns the folder of all data of a run. All contestants are on its file system.
pub(crate) fn data_folder() -> PathBuf {
    let folder = std::env::current_dir().unwrap().join("target/bench");
    std::fs::create_dir_all(&folder).unwrap();
    folder
}

/// Returns the processor time of a process in seconds, in steps of 10 ms.
pub(crate) fn cpu_seconds(pid: u32) -> f64 {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).unwrap();
    // The name of the program, in parentheses, may have spaces.
    let fields = stat.rsplit(')').next().unwrap().split_whitespace();
    let ticks = fields
        .skip(11)
        .take(2)
        .map(|ticks| ticks.parse::<f64>().unwrap());
    ticks.sum::<f64>() / TICKS
}

impl Servers {
    /// Waits until an upload succeeds. `prepare` comes before each try and may make a bucket.
    ///
    /// # Panics
    /// If that takes longer than [`START`], or a process ends.
    pub(crate) fn wait(&mut self, prepare: impl Fn()) {
        let end = Instant::now() + START;
        let target = format!("{}probe{}", self.folder, self.put_query);
        loop {
            for child in &mut self.children {
                let ended = child.try_wait().unwrap();
                assert!(ended.is_none(), "{} has ended: {}", self.name, self.logs());
            }
            assert!(
                Instant::now() < end,
                "{} took no upload within {START:?}: {}",
                self.name,
                self.logs()
            );
            prepare();
            if put(&self.addr, &target, b"probe").is_some_and(|status| (200..300).contains(&status))
            {
                return;
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Returns the ends of the logs, for a message.
    fn logs(&self) -> String {
        let is_log = |path: &Path| path.extension().is_some_and(|extension| extension == "log");
        let mut text = String::new();
        for entry in std::fs::read_dir(self.dir.path()).unwrap() {
            let path = entry.unwrap().path();
            if is_log(&path) {
                let log = std::fs::read_to_string(&path).unwrap_or_default();
                let lines: Vec<&str> = log.lines().collect();
                let tail = &lines[lines.len().saturating_sub(5)..];
                text += &format!("\n{}: {}", path.display(), tail.join("\n"));
            }
        }
        text
    }

    pub(crate) fn usage(&self) -> Usage {
        let cpu_seconds = self.children.iter().map(|child| cpu_seconds(child.id()));
        Usage {
            cpu_seconds: cpu_seconds.sum(),
            syncs: self.syncs(),
        }
    }

    fn syncs(&self) -> Option<f64> {
        let mut sum = None;
        for addr in &self.admin {
            let mut client = http::Client::connect(addr).unwrap();
            let text = client.call("GET", "/metrics", "", b"").unwrap().text();
            let samples = text
                .lines()
                .filter(|line| line.starts_with("cstore_") && line.contains("_log_frames"))
                .filter_map(|line| line.split(' ').nth(1)?.parse::<f64>().ok());
            sum = Some(sum.unwrap_or(0.0) + samples.sum::<f64>());
        }
        sum
    }

    /// Returns the sum of the processes' peaks of resident memory, in MB of 1,000,000 bytes.
    pub(crate) fn peak_rss_mb(&self) -> f64 {
        self.sum_of_status("VmHWM:")
    }

    /// Returns the sum of the processes' resident memory now, in MB of 1,000,000 bytes.
    pub(crate) fn rss_mb(&self) -> f64 {
        self.sum_of_status("VmRSS:")
    }

    fn sum_of_status(&self, field: &str) -> f64 {
        let value = |child: &Child| {
            let status = std::fs::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
            let line = status.lines().find(|line| line.starts_with(field));
            let kib: f64 = line
                .and_then(|line| line.split_whitespace().nth(1)?.parse().ok())
                .unwrap();
            kib * 1_024.0 / 1e6
        };
        self.children.iter().map(value).sum()
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

/// Uploads a body and returns the status. `None` if there was no reply.
pub(crate) fn put(addr: &str, target: &str, body: &[u8]) -> Option<u16> {
    let stream = TcpStream::connect(addr).ok()?;
    let mut client = http::Client::over(stream, START).ok()?;
    let reply = client.call("PUT", target, "", body).ok()?;
    Some(reply.status)
}
