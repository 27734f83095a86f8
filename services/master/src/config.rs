//! Configuration of the master from the environment.

use std::path::PathBuf;
use std::time::Duration;

use cstore_mesh::{LocalServers, Tls};
use cstore_node::env::Env;
use cstore_node::size::ByteSize;
use cstore_types::Chunking;
use cstore_types::limits::{MAX_BLOCK_BYTES, MAX_STORAGE_NODES, MIN_BLOCK_SIZE};

use crate::domain::Limits;

/// The master's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// `<CSTORE_DATA_DIR>/master`.
    pub dir: PathBuf,
    /// BLOCK_SIZE: how new files are cut.
    pub chunking: Chunking,
    /// CSTORE_STORAGE_NODES: the placement map is frozen when so many have registered.
    pub storage_nodes: usize,
    /// CSTORE_HEARTBEAT_MS.
    pub heartbeat: Duration,
    /// CSTORE_RELEASE_DELAY_MS: deleted blocks stay so long, for downloads that run.
    pub release_delay: Duration,
    /// CSTORE_TICKET_TTL_MS.
    pub ticket_ttl: Duration,
    /// CSTORE_SNAPSHOT_BYTES: log after which a snapshot is written; more if the last snapshot was
    /// larger.
    pub snapshot_bytes: ByteSize,
    /// CSTORE_MAX_CONNECTIONS.
    pub max_connections: u64,
    /// CSTORE_REFLECTION.
    pub reflection: bool,
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
        let ms = Duration::from_millis;
        let block_size = env.bytes(
            "BLOCK_SIZE",
            ByteSize::from_kib(64),
            ByteSize::new(MIN_BLOCK_SIZE as u64)..=ByteSize::new(MAX_BLOCK_BYTES as u64),
        );
        let storage_nodes = env.number("CSTORE_STORAGE_NODES", 1, 1..=MAX_STORAGE_NODES as u64);
        Self {
            dir: env.path("CSTORE_DATA_DIR", "./data").join("master"),
            chunking: Chunking::fixed(block_size.bytes()).unwrap_or(Chunking::Fixed(64 << 10)),
            storage_nodes: usize::try_from(storage_nodes).unwrap_or(1),
            heartbeat: env.duration_ms("CSTORE_HEARTBEAT_MS", ms(1_000), ms(10)..=ms(60_000)),
            release_delay: env.duration_ms(
                "CSTORE_RELEASE_DELAY_MS",
                ms(60_000),
                ms(0)..=ms(86_400_000),
            ),
            ticket_ttl: env.duration_ms(
                "CSTORE_TICKET_TTL_MS",
                ms(3_600_000),
                ms(1_000)..=ms(604_800_000),
            ),
            snapshot_bytes: env.bytes(
                "CSTORE_SNAPSHOT_BYTES",
                ByteSize::from_mib(64),
                ByteSize::from_kib(64)..=ByteSize::from_gib(16),
            ),
            max_connections: env.number("CSTORE_MAX_CONNECTIONS", 1_024, 1..=65_536),
            reflection: env.boolean("CSTORE_REFLECTION", true),
            drain_timeout: cstore_node::shutdown::drain_timeout(env),
            tls: None,
            local: LocalServers::default(),
        }
    }

    /// Returns the settings that the rules depend on.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            chunking: self.chunking,
            storage_nodes: self.storage_nodes,
            heartbeat: self.heartbeat,
            lease: self.lease(),
            release_delay: self.release_delay,
            ticket_ttl: self.ticket_ttl,
        }
    }

    /// Heartbeats that may be missed before a node is lost.
    pub fn lease(&self) -> Duration {
        self.heartbeat * 5
    }
}
