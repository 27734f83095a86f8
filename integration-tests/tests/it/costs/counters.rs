//! Counters of a running cluster that are read between batches: syncs and allocations.

use std::io::Read;
use std::os::unix::net::UnixStream;
use std::path::PathBuf;

use cstore_integration_tests::cluster::{Builder, Cluster};

use super::bounds::{ALLOCATED, ALLOCATIONS, MASTER_SYNCS, STORAGE_SYNCS};

/// Variable that names the socket of a process (`cstore-under-test`).
const SOCKET: &str = "COUNTED_ALLOCATIONS_SOCKET";

/// Folder of the sockets at which the processes serve their counts of allocations.
pub(crate) struct Counters {
    dir: tempfile::TempDir,
}

impl Counters {
    pub(crate) fn new() -> Self {
        Self {
            dir: tempfile::tempdir().unwrap(),
        }
    }

    fn socket(&self, role: &str) -> PathBuf {
        self.dir.path().join(role)
    }

    /// Gives each of the processes of a cluster its socket.
    pub(crate) fn serve(&self, builder: Builder, roles: &[&str]) -> Builder {
        roles.iter().fold(builder, |builder, role| {
            builder.env_of(role, SOCKET, self.socket(role).to_str().unwrap())
        })
    }

    /// Returns the sums over all processes. A scrape of the metrics allocates, so it comes first:
    /// two reads have the requests, and one scrape, between their counts of allocations.
    pub(crate) fn read(&self, cluster: &Cluster) -> [(&'static str, f64); 4] {
        let roles = cluster.roles();
        let syncs = |begin: &str| roles.iter().map(|role| cluster.metric(role, begin)).sum();
        let storage = syncs("cstore_storage_log_frames_total ");
        let master = syncs("cstore_master_log_frames ");

        let (mut allocations, mut bytes) = (0.0, 0.0);
        for role in &roles {
            let mut line = String::new();
            let mut stream = UnixStream::connect(self.socket(role)).unwrap();
            stream.read_to_string(&mut line).unwrap();
            let (count, sum) = line.trim_end().split_once(' ').unwrap();
            allocations += count.parse::<f64>().unwrap();
            bytes += sum.parse::<f64>().unwrap();
        }
        [
            (STORAGE_SYNCS, storage),
            (MASTER_SYNCS, master),
            (ALLOCATIONS, allocations),
            (ALLOCATED, bytes / 1_024.0),
        ]
    }
}
