//! Configuration of a storage node from the environment.

use std::path::PathBuf;
use std::time::Duration;

use cstore_mesh::Tls;
use cstore_node::env::{Env, HostPort};
use cstore_node::limits::DEFAULT_RETRY_STEP;
use cstore_node::size::ByteSize;
use cstore_types::limits::MAX_BLOCK_BYTES;
use cstore_types::{NodeId, StoreUuid};

/// Smallest disk that holds a few segments and its reserve.
pub const MIN_FS_SIZE: ByteSize = ByteSize::from_mib(6);

/// A storage node's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// Folder of the disk: `<CSTORE_DATA_DIR>/<node id>`.
    pub disk: PathBuf,
    /// CSTORE_NODE_ID.
    pub node: NodeId,
    /// CSTORE_MASTER_ADDR.
    pub master: HostPort,
    /// CSTORE_ADVERTISE_HOST: where workers reach this node; the port is that of the listener.
    pub advertise_host: String,
    /// CSTORE_FAILURE_DOMAIN: what fails together with this node; empty means the node itself.
    pub failure_domain: String,
    /// FS_SIZE.
    pub capacity: ByteSize,
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
    /// `CSTORE_DRAIN_TIMEOUT_MS`: for what runs when the role stops.
    pub drain_timeout: Duration,
    /// Certificates, when the inner ports speak TLS. Not from this environment: read once for the
    /// whole process.
    pub tls: Option<Tls>,
}

impl Config {
    /// Reads the environment; mistakes are collected in `env`.
    pub fn from_env(env: &mut Env<'_>) -> Self {
        let data_dir = env.path("CSTORE_DATA_DIR", "./data");
        let fallback = NodeId::new("storage-1").expect("the default follows the rule of node ids");
        let node = env.value(
            "CSTORE_NODE_ID",
            fallback,
            "1 to 64 characters of a-z, 0-9, '.', '-', '_'",
        );
        Self {
            disk: data_dir.join(node.as_str()),
            master: env.host_port("CSTORE_MASTER_ADDR", HostPort::new("127.0.0.1", 4_100)),
            advertise_host: env.string("CSTORE_ADVERTISE_HOST", "127.0.0.1"),
            failure_domain: env.string("CSTORE_FAILURE_DOMAIN", ""),
            capacity: env.bytes(
                "FS_SIZE",
                ByteSize::from_gib(10),
                MIN_FS_SIZE..=ByteSize::from_gib(64 << 10),
            ),
            block_size: env.bytes(
                "BLOCK_SIZE",
                ByteSize::from_kib(64),
                ByteSize::new(1)..=ByteSize::new(MAX_BLOCK_BYTES as u64),
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
            drain_timeout: cstore_node::shutdown::drain_timeout(env),
            tls: None,
            node,
        }
    }
}
