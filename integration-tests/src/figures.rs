//! Figures of the processes of a cluster: metrics and memory.

use cstore_testkit::until_blocking;

use crate::cluster::Cluster;
use crate::http::Client;

impl Cluster {
    /// Adds up the samples of a process's metrics whose lines begin with `begin`; 0 if no line
    /// does.
    ///
    /// # Panics
    /// When the admin port does not answer.
    pub fn metric(&self, name: &str, begin: &str) -> f64 {
        let mut client =
            Client::connect(&self.admin_addr(name)).expect("the admin port takes connections");
        let text = client
            .call("GET", "/metrics", "", b"")
            .expect("the admin port answers")
            .text();
        let samples = text.lines().filter(|line| line.starts_with(begin));
        samples
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum()
    }

    /// Waits until `count` uploads run in the workers: until then an upload whose client has begun
    /// to send may still be unknown to everybody but the gateway.
    ///
    /// # Panics
    /// When they do not reach the workers in time.
    pub fn wait_uploads_in_flight(&self, count: u32) {
        until_blocking(&format!("{count} uploads in flight"), || {
            let workers = self
                .roles()
                .into_iter()
                .filter(|role| role.starts_with("worker"));
            let running = |worker: String| self.metric(&worker, "cstore_worker_uploads_in_flight ");
            (workers.map(running).sum::<f64>() >= f64::from(count)).then_some(())
        });
    }

    /// Peak resident memory of a process in bytes.
    ///
    /// # Panics
    /// When it is not running.
    pub fn peak_memory(&self, name: &str) -> u64 {
        let pid = self.pid(name);
        let status =
            std::fs::read_to_string(format!("/proc/{pid}/status")).expect("the process runs");
        let line = status
            .lines()
            .find(|line| line.starts_with("VmHWM:"))
            .expect("Linux tells the peak");
        let kib: u64 = line
            .split_whitespace()
            .nth(1)
            .and_then(|kib| kib.parse().ok())
            .expect("a number of KiB");
        kib << 10
    }
}
