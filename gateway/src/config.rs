//! Configuration of a gateway.

use std::path::PathBuf;
use std::time::Duration;

use cstore_mesh::{LocalServers, Tls};
use cstore_node::{Env, HostPort};

use crate::ui_url::UiUrl;

/// Settings of a gateway, read once at its start.
#[derive(Debug, Clone)]
pub struct Config {
    /// `CSTORE_LISTEN_HOST`
    pub listen_host: String,
    /// `GATEWAY_PORT`
    pub port: u16,
    /// `CSTORE_MASTER_ADDR`
    pub master_addr: HostPort,
    /// `CSTORE_ANONYMOUS`: requests without a token come in, as the default tenant.
    pub anonymous: bool,
    /// `CSTORE_API_TOKENS_FILE`: the API tokens, by their hashes.
    pub tokens_file: PathBuf,
    /// `CSTORE_MAX_CONNECTIONS`: of clients at a time. Beyond it those without a request make room;
    /// when all are busy, more wait in the kernel's queue.
    pub max_connections: usize,
    /// `CSTORE_MAX_CONNECTIONS_PER_ADDRESS`: of one client address; more are refused when all of
    /// these are busy.
    pub max_connections_per_address: usize,
    /// `CSTORE_MIN_RATE`: bytes per second that a client must send or take while it is waited for;
    /// 0 demands nothing.
    pub min_rate: u64,
    /// `CSTORE_HEADER_TIMEOUT_MS`: for the head of a request, from the first byte or the end of the
    /// answer before.
    pub header_timeout: Duration,
    /// `CSTORE_IDLE_TIMEOUT_MS`: a body, either way, that makes no progress for this long is given
    /// up.
    pub idle_timeout: Duration,
    /// `CSTORE_DRAIN_TIMEOUT_MS`: for requests that run when the gateway stops.
    pub drain_timeout: Duration,
    /// `CSTORE_RETRY_STEP`: step of the back-off towards the master.
    pub retry_step: Duration,
    /// `CSTORE_JAEGER_UI_URL`: where the web page links traces to.
    pub jaeger_ui: Option<UiUrl>,
    /// Certificates, when the inner ports speak TLS. Not from this environment: read once for the
    /// whole process.
    pub tls: Option<Tls>,
    /// Roles of the same process, which are called without sockets. None outside of `cstore dev`.
    pub local: LocalServers,
}

impl Config {
    /// Returns true if only this machine can reach the gateway.
    pub(crate) fn is_local(&self) -> bool {
        cstore_node::listen::is_loopback(&self.listen_host)
    }

    /// Reads the variables; mistakes stay in `env` until its `finish`.
    pub fn from_env(env: &mut Env<'_>) -> Self {
        let seconds = Duration::from_secs;
        let bounds = Duration::from_millis(100)..=seconds(3_600);
        let connections = env.number("CSTORE_MAX_CONNECTIONS", 1_024, 1..=65_536);
        let per_address = env.number("CSTORE_MAX_CONNECTIONS_PER_ADDRESS", 512, 1..=65_536);
        Self {
            listen_host: env.string("CSTORE_LISTEN_HOST", "127.0.0.1"),
            port: env.port("GATEWAY_PORT", 8_000),
            master_addr: env.host_port("CSTORE_MASTER_ADDR", HostPort::new("127.0.0.1", 4_100)),
            tokens_file: tokens_file(env),
            anonymous: env.boolean("CSTORE_ANONYMOUS", false),
            max_connections: usize::try_from(connections).unwrap_or(1_024),
            max_connections_per_address: usize::try_from(per_address).unwrap_or(512),
            min_rate: env.number("CSTORE_MIN_RATE", 1_024, 0..=1 << 20),
            header_timeout: env.duration_ms(
                "CSTORE_HEADER_TIMEOUT_MS",
                seconds(10),
                bounds.clone(),
            ),
            idle_timeout: env.duration_ms("CSTORE_IDLE_TIMEOUT_MS", seconds(60), bounds),
            drain_timeout: cstore_node::shutdown::drain_timeout(env),
            retry_step: env.duration_ms(
                "CSTORE_RETRY_STEP",
                cstore_node::limits::DEFAULT_RETRY_STEP,
                Duration::from_millis(1)..=seconds(60),
            ),
            jaeger_ui: env.optional(
                "CSTORE_JAEGER_UI_URL",
                "an http or https URL without user, query and fragment",
            ),
            tls: None,
            local: LocalServers::default(),
        }
    }
}

/// Where the API tokens are: `CSTORE_API_TOKENS_FILE`, or `api-tokens` in `CSTORE_DATA_DIR`.
pub fn tokens_file(env: &mut Env<'_>) -> PathBuf {
    let data = env.path("CSTORE_DATA_DIR", "./data");
    env.optional_path("CSTORE_API_TOKENS_FILE")
        .unwrap_or_else(|| data.join("api-tokens"))
}
