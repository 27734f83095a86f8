//! Configuration of a storage node from the environment.

use std::path::{Path, PathBuf};
use std::time::Duration;

use cstore_mesh::{LocalServers, Tls};
use cstore_node::env::{Env, HostPort};
use cstore_node::limits::DEFAULT_RETRY_STEP;
use cstore_node::size::ByteSize;
use cstore_types::limits::{MAX_BLOCK_BYTES, MIN_BLOCK_SIZE};
use cstore_types::{NodeId, StoreUuid};

use crate::engine::{INVENTORY_FILE, SEGMENTS_DIR, SUPERBLOCK_FILE};
use crate::limits::MAX_OPEN_SEGMENTS;

/// Smallest disk that holds a few segments and its reserve.
pub const MIN_FS_SIZE: ByteSize = ByteSize::from_mib(6);

/// Largest disk.
pub const LARGEST_FS_SIZE: ByteSize = ByteSize::from_gib(64 << 10);

/// A storage node's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the disk: `<CSTORE_DATA_DIR>/<node id>`.
    pub disk: PathBuf,
    /// CSTORE_NODE_ID, or the name of the only disk in CSTORE_DATA_DIR, or a new one.
    pub node: NodeId,
    /// The name is a new one: nobody has set one, and there is no disk.
    pub has_new_name: bool,
    /// CSTORE_MASTER_ADDR.
    pub master: HostPort,
    /// CSTORE_ADVERTISE_HOST: where workers reach this node; the port is that of the listener.
    pub advertise_host: String,
    /// CSTORE_FAILURE_DOMAIN: what fails together with this node; empty means the node itself.
    pub failure_domain: String,
    /// FS_SIZE.
    pub capacity: ByteSize,
    /// FS_SIZE is not set.
    pub is_capacity_default: bool,
    /// BLOCK_SIZE, recorded at format.
    pub block_size: ByteSize,
    /// FRESH_START.
    pub fresh_start: bool,
    /// CSTORE_FRESH_START_ERASE.
    pub erase: Option<StoreUuid>,
    /// CSTORE_RETRY_STEP.
    pub retry_step: Duration,
    /// CSTORE_MAX_CONNECTIONS.
    pub max_connections: u64,
    /// Segments that are kept open at a time. Not from this environment: a share of the descriptors
    /// of the process.
    pub open_files: usize,
    /// `CSTORE_DRAIN_TIMEOUT_MS`: for what runs when the role stops.
    pub drain_timeout: Duration,
    /// Certificates, when the inner ports speak TLS. Not from this environment: read once for the
    /// whole process.
    pub tls: Option<Tls>,
    /// Roles of the same process, which are called without sockets. None outside of `cstore dev`.
    pub local: LocalServers,
}

impl Config {
    /// Reads the environment; mistakes are collected in `env`.
    pub fn from_env(env: &mut Env<'_>) -> Self {
        let data_dir = env.path("CSTORE_DATA_DIR", "./data");
        let known = env.node_id().or_else(|| name_of_disk(&data_dir, env));
        let has_new_name = known.is_none();
        let capacity = env.bytes(
            "FS_SIZE",
            ByteSize::from_gib(10),
            MIN_FS_SIZE..=LARGEST_FS_SIZE,
        );
        let node = known.unwrap_or_else(|| env.random_node_id("storage"));
        Self {
            disk: data_dir.join(node.as_str()),
            master: env.host_port("CSTORE_MASTER_ADDR", HostPort::new("127.0.0.1", 4_100)),
            advertise_host: env.string("CSTORE_ADVERTISE_HOST", "127.0.0.1"),
            failure_domain: env.string("CSTORE_FAILURE_DOMAIN", ""),
            capacity,
            is_capacity_default: env.is_default("FS_SIZE"),
            block_size: env.bytes(
                "BLOCK_SIZE",
                ByteSize::from_kib(64),
                ByteSize::new(MIN_BLOCK_SIZE as u64)..=ByteSize::new(MAX_BLOCK_BYTES as u64),
            ),
            fresh_start: env.boolean("FRESH_START", false),
            erase: env.optional(
                "CSTORE_FRESH_START_ERASE",
                "the store uuid, 32 hexadecimal digits",
            ),
            retry_step: env.duration_ms(
                "CSTORE_RETRY_STEP",
                DEFAULT_RETRY_STEP,
                Duration::from_millis(1)..=Duration::from_secs(60),
            ),
            max_connections: env.number("CSTORE_MAX_CONNECTIONS", 1_024, 1..=65_536),
            open_files: MAX_OPEN_SEGMENTS,
            drain_timeout: cstore_node::shutdown::drain_timeout(env),
            tls: None,
            local: LocalServers::default(),
            node,
            has_new_name,
        }
    }
}

/// Returns the name of a node that is not told one: that of the only disk that is here, so that a
/// restart finds it. Without a disk it gets a new one: two nodes never share one by default.
fn name_of_disk(data_dir: &Path, env: &mut Env<'_>) -> Option<NodeId> {
    let mut found = names_of_disks(data_dir);
    match (found.pop(), found.is_empty()) {
        (None, _) => None,
        (Some(only), true) => Some(only),
        (Some(one), false) => {
            let names: Vec<String> = found.iter().map(NodeId::to_string).collect();
            let folder = data_dir.display();
            env.refuse(
                "CSTORE_NODE_ID",
                &format!(
                    "set, because {folder} has disks of {}, {one}",
                    names.join(", ")
                ),
            );
            Some(one)
        }
    }
}

/// Returns the names of the disks in a folder, in order. A folder that cannot be read has none: the
/// open of the disk says what is wrong.
fn names_of_disks(data_dir: &Path) -> Vec<NodeId> {
    let entries = std::fs::read_dir(data_dir).into_iter().flatten().flatten();
    let has_disk = |folder: &Path| {
        // A disk is known without its superblock, too.
        let marks = [SUPERBLOCK_FILE, INVENTORY_FILE, SEGMENTS_DIR];
        let is_there = |mark| folder.join(mark).try_exists().unwrap_or(false);
        marks.into_iter().any(is_there)
    };
    let mut names: Vec<NodeId> = entries
        .filter(|entry| has_disk(&entry.path()))
        .filter_map(|entry| NodeId::new(entry.file_name().to_str()?).ok())
        .collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use std::collections::HashMap;

    use super::*;

    /// Reads a configuration with this data folder and name, if there is one.
    fn node(data_dir: &Path, name: Option<&str>) -> Result<NodeId, String> {
        let mut set = HashMap::from([(
            "CSTORE_DATA_DIR".to_owned(),
            data_dir.to_str().unwrap().to_owned(),
        )]);
        if let Some(name) = name {
            set.insert("CSTORE_NODE_ID".to_owned(), name.to_owned());
        }
        let mut env = Env::new(&set);
        let config = Config::from_env(&mut env);
        let finished = env.finish().map_err(|error| error.to_string());
        finished.map(|()| config.node)
    }

    #[test]
    fn i1_a_node_without_a_name_takes_that_of_its_disk_or_one_that_nobody_has() {
        let dir = tempfile::tempdir().unwrap();
        let (one, other) = (node(dir.path(), None), node(dir.path(), None));
        assert_ne!(one, other);
        assert!(one.unwrap().as_str().starts_with("storage-"));

        // A folder of something else is no disk.
        for folder in ["master", "storage-7"] {
            std::fs::create_dir(dir.path().join(folder)).unwrap();
        }
        std::fs::write(dir.path().join("storage-7").join(SUPERBLOCK_FILE), b"").unwrap();
        let id = |text| NodeId::new(text).unwrap();
        assert_eq!(node(dir.path(), None), Ok(id("storage-7")));
        assert_eq!(node(dir.path(), Some("storage-9")), Ok(id("storage-9")));

        std::fs::create_dir(dir.path().join("storage-8")).unwrap();
        std::fs::write(dir.path().join("storage-8").join(SUPERBLOCK_FILE), b"").unwrap();
        let refused = node(dir.path(), None).unwrap_err();
        for named in ["CSTORE_NODE_ID", "storage-7", "storage-8"] {
            assert!(refused.contains(named), "{refused}");
        }
        assert_eq!(node(dir.path(), Some("storage-8")), Ok(id("storage-8")));
    }
}
