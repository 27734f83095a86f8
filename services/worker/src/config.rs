//! Configuration of a worker from the environment.

use std::time::Duration;

use cstore_mesh::{LocalServers, Tls};
use cstore_node::env::{Env, HostPort};
use cstore_node::limits::DEFAULT_RETRY_STEP;
use cstore_node::size::ByteSize;
use cstore_types::NodeId;

/// A worker's settings.
#[derive(Debug, Clone)]
pub struct Config {
    /// CSTORE_NODE_ID, or a new name for this process: two workers never share one by default.
    pub node: NodeId,
    /// CSTORE_MASTER_ADDR.
    pub master: HostPort,
    /// CSTORE_ADVERTISE_HOST: where gateways reach this worker; the port is that of the listener.
    pub advertise_host: String,
    /// CSTORE_RETRY_STEP.
    pub retry_step: Duration,
    /// CSTORE_MEMORY_BUDGET: bytes that all streams together may hold.
    pub memory_budget: ByteSize,
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
        let node = env.node_id();
        Self {
            node: node.unwrap_or_else(|| env.random_node_id("worker")),
            master: env.host_port("CSTORE_MASTER_ADDR", HostPort::new("127.0.0.1", 4_100)),
            advertise_host: env.string("CSTORE_ADVERTISE_HOST", "127.0.0.1"),
            retry_step: env.duration_ms(
                "CSTORE_RETRY_STEP",
                DEFAULT_RETRY_STEP,
                ms(1)..=ms(60_000),
            ),
            memory_budget: env.bytes(
                "CSTORE_MEMORY_BUDGET",
                ByteSize::from_mib(256),
                ByteSize::from_mib(16)..=ByteSize::from_gib(1_024),
            ),
            max_connections: env.number("CSTORE_MAX_CONNECTIONS", 1_024, 1..=65_536),
            reflection: env.boolean("CSTORE_REFLECTION", true),
            drain_timeout: cstore_node::shutdown::drain_timeout(env),
            tls: None,
            local: LocalServers::default(),
        }
    }
}
