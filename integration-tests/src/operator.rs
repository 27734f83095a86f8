//! Actions of an operator on a cluster: commands of `cstore admin`.

use std::process::{Command, Output};

use cstore_testkit::until_blocking;

use crate::cluster::Cluster;
use crate::http::Client;

impl Cluster {
    /// Runs an admin command of the program, with the environment of the cluster.
    ///
    /// # Panics
    /// When it cannot be run or does not end well.
    pub fn admin_command(&self, args: &[&str]) -> String {
        let output = self.admin_output(args);
        assert!(
            output.status.success(),
            "{args:?}: {}",
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8(output.stdout).expect("it prints text")
    }

    /// Runs `cstore admin` with the settings of the cluster, however it ends.
    ///
    /// # Panics
    /// When the program cannot be run.
    pub fn admin_output(&self, args: &[&str]) -> Output {
        let mut command = Command::new(&self.program);
        command.arg("admin").args(args).env_clear().envs(&self.env);
        command.output().expect("the program runs")
    }

    /// Waits until the master refuses the disk of a storage node, because the node had another one.
    /// Returns the parts that its admin port shows as not ready.
    ///
    /// # Panics
    /// When that does not happen.
    pub fn await_refused_disk(&self, name: &str) -> String {
        until_blocking("the refusal of a disk", || {
            let mut client = Client::connect(&self.admin_addr(name)).ok()?;
            let parts = client.call("GET", "/ready", "", b"").ok()?.text();
            parts.contains("cstore admin node replace").then_some(parts)
        })
    }

    /// Gives up the disk that a storage node had, with the command that the refusal of its new disk
    /// names.
    ///
    /// # Panics
    /// When the command is not named or fails for ever.
    pub fn replace_disk(&self, name: &str) {
        let refusal = self.await_refused_disk(name);
        let (_, rest) = refusal.split_once("--lost ").expect("a command is named");
        let lost: String = rest.chars().take_while(char::is_ascii_hexdigit).collect();
        // The lease of the process that had the disk must have ended.
        until_blocking("the old disk to be given up", || {
            let output = self.admin_output(&["node", "replace", name, "--lost", &lost]);
            output.status.success().then_some(())
        });
    }
}
