//! The table of settings.

use super::Setting;

/// Commands that read a setting, as a set of bits. `dev` and `serve` read all.
pub(super) type Readers = u8;
const GATEWAY: Readers = 1;
const MASTER: Readers = 2;
const WORKER: Readers = 4;
const STORAGE: Readers = 8;
const ALL: Readers = GATEWAY | MASTER | WORKER | STORAGE;

const fn setting(
    variable: &'static str,
    flag: &'static str,
    default: &'static str,
    readers: Readers,
    meaning: &'static str,
) -> Setting {
    Setting {
        variable,
        flag,
        default,
        readers,
        meaning,
    }
}

/// Settings of the roles, in the order of their help.
#[rustfmt::skip]
pub(super) const SETTINGS: &[Setting] = &[
    setting("GATEWAY_PORT", "gateway-port", "8000", GATEWAY, "Port of the REST interface, HTTP/1.1 and HTTP/2 without TLS; 0 for a free one"),
    setting("MASTER_PORT", "master-port", "4100", MASTER, "Port of the master, gRPC; 0 for a free one"),
    setting("WORKER_PORT", "worker-port", "5000", WORKER, "Port of a worker, gRPC; 0 for a free one"),
    setting("STORAGE_PORT", "storage-port", "4000", STORAGE, "Port of a storage node, frames; 0 for a free one"),
    setting("CSTORE_ADMIN_PORT", "admin-port", "9100, of a master 9101, a worker 9102, a storage node 9103", ALL, "Port of /live, /ready and /metrics; 0 for a free one"),
    setting("CSTORE_LISTEN_HOST", "listen-host", "127.0.0.1", ALL, "Address to listen on; 0.0.0.0 for all interfaces"),
    setting("CSTORE_ADVERTISE_HOST", "advertise-host", "127.0.0.1", WORKER | STORAGE, "Name or address under which other machines reach the node"),
    setting("CSTORE_MASTER_ADDR", "master-addr", "127.0.0.1:4100", GATEWAY | WORKER | STORAGE, "Address of the master, host:port"),
    setting("CSTORE_NODE_ID", "node-id", "that of the only disk in the data folder, or a new one", WORKER | STORAGE, "Name of the node; must not change during its life"),
    setting("CSTORE_DATA_DIR", "data-dir", "./data", ALL, "Folder for all data"),
    setting("CSTORE_CLUSTER_SECRET_FILE", "cluster-secret-file", "cluster-secret in the data folder", ALL, "File with the secret of the cluster, mode 0600"),
    setting("CSTORE_TLS_DIR", "tls-dir", "", ALL, "Folder with ca.pem, cert.pem and key.pem, for TLS on the inner ports"),
    setting("CSTORE_TLS_CLIENT_AUTH", "tls-client-auth", "TRUE", ALL, "With TLS, whether callers need a certificate of the same CA"),
    setting("CSTORE_ANONYMOUS", "anonymous", "FALSE, but TRUE for dev unless CSTORE_API_TOKENS_FILE is set", GATEWAY, "Whether requests without a token are served, as the default tenant"),
    setting("CSTORE_API_TOKENS_FILE", "api-tokens-file", "api-tokens in the data folder", GATEWAY, "File with the hashes of API tokens; must not be readable by all users"),
    setting("CSTORE_MAX_CONNECTIONS", "max-connections", "1024", ALL, "Most connections at a time, as far as the limit of open files allows"),
    setting("CSTORE_MAX_CONNECTIONS_PER_ADDRESS", "max-connections-per-address", "512", GATEWAY, "Most connections of one client address; behind a proxy all clients have its address"),
    setting("CSTORE_MIN_RATE", "min-rate", "1024", GATEWAY, "Least rate of a client in bytes a second, measured over 30 s of waiting for it; 0 for none"),
    setting("CSTORE_HEADER_TIMEOUT_MS", "header-timeout-ms", "10000", GATEWAY, "Time for the head of a request"),
    setting("CSTORE_IDLE_TIMEOUT_MS", "idle-timeout-ms", "60000", GATEWAY, "Longest time without progress of a body, in either direction"),
    setting("CSTORE_JAEGER_UI_URL", "jaeger-ui-url", "", GATEWAY, "Address of Jaeger for people, such as http://127.0.0.1:16686; the web page links to it"),
    setting("CSTORE_DRAIN_DELAY_MS", "drain-delay-ms", "0", ALL, "At a stop: time for which a role serves on and reports that it is not ready, before it drains; not for dev and serve"),
    setting("CSTORE_DRAIN_TIMEOUT_MS", "drain-timeout-ms", "10000", ALL, "At a stop: time for running requests and streams to end"),
    setting("CSTORE_RETRY_STEP", "retry-step", "250", GATEWAY | WORKER | STORAGE, "Step of the linear back-off for calls to other roles, in milliseconds"),
    setting("CSTORE_MEMORY_BUDGET", "memory-budget", "256MiB", WORKER, "Bytes of uploads and downloads in memory"),
    setting("CSTORE_STORAGE_NODES", "storage-nodes", "1", MASTER, "Number of storage nodes that blocks are spread over, fixed by the first start; not for dev and serve"),
    setting("BLOCK_SIZE", "block-size", "64KiB", MASTER | STORAGE, "Size of the blocks of new files"),
    setting("CSTORE_HEARTBEAT_MS", "heartbeat-ms", "1000", MASTER, "Interval of heartbeats; a node is lost after five"),
    setting("CSTORE_RELEASE_DELAY_MS", "release-delay-ms", "60000", MASTER, "Time from a removal to the release of its space"),
    setting("CSTORE_TICKET_TTL_MS", "ticket-ttl-ms", "3600000", MASTER, "Time after which an upload without progress ends"),
    setting("CSTORE_SNAPSHOT_BYTES", "snapshot-bytes", "64MiB", MASTER, "Bytes of the log between two snapshots of the metadata"),
    setting("FS_SIZE", "fs-size", "10GiB, for serve the size of the file system", STORAGE, "Capacity of the disk of a storage node"),
    setting("FRESH_START", "fresh-start", "FALSE", STORAGE, "Whether a disk that holds no data is formatted anew"),
    setting("CSTORE_FRESH_START_ERASE", "fresh-start-erase", "", STORAGE, "Uuid of a store that FRESH_START may erase although it holds data"),
    setting("CSTORE_REFLECTION", "reflection", "TRUE", MASTER | WORKER, "Whether gRPC reflection is served, without a bearer"),
    setting("CSTORE_FAILURE_DOMAIN", "failure-domain", "the node itself", STORAGE, "Name of the group of nodes that fail together"),
    setting("LOG_LEVEL", "log-level", "INFO", ALL, "ERROR, WARN, INFO, DEBUG, TRACE, or filter directives; DEBUG shows frames"),
    setting("LOG_FORMAT", "log-format", "text", ALL, "Format of the log, text or json"),
    setting("OTEL_EXPORTER_OTLP_ENDPOINT", "otel-exporter-otlp-endpoint", "", ALL, "Collector of traces, OTLP over gRPC"),
    setting("OTEL_SERVICE_NAME", "otel-service-name", "cstore- and the role", ALL, "Name of the service in traces"),
    setting("OTEL_TRACES_SAMPLER", "otel-traces-sampler", "parentbased_always_on", ALL, "Sampler of traces"),
    setting("OTEL_TRACES_SAMPLER_ARG", "otel-traces-sampler-arg", "", ALL, "Argument of the sampler"),
];

/// Variables of clients, which may be set beside those of the roles.
pub(super) const OF_CLIENTS: &[&str] = &["CSTORE_URL", "CSTORE_TOKEN"];

/// Variables of Docker Compose, of the Makefile and of the tests, which may be set beside those of
/// the roles.
pub(super) const OTHERS: &[&str] = &[
    "CSTORE_IMAGE",
    "CSTORE_MEM_LIMIT",
    "CSTORE_SECRETS_DIR",
    "CSTORE_SECRETS_GID",
    "CSTORE_PULL_POLICY",
    "CSTORE_ENV_FILE",
    "CSTORE_TOOLS",
    "CSTORE_SEED",
    "CSTORE_CASES",
    "CSTORE_KILLS",
    "CSTORE_DAMAGE",
    "CSTORE_FULL_FS",
    "CSTORE_AXE",
    "CSTORE_BROWSER",
    "CSTORE_BROWSER_BYTES",
    "CSTORE_WRITE_FIXTURES",
];

impl super::Role {
    pub(super) const fn reader(self) -> Readers {
        match self {
            Self::Gateway => GATEWAY,
            Self::Master => MASTER,
            Self::Worker => WORKER,
            Self::Storage => STORAGE,
        }
    }
}

pub(super) const EVERY_ROLE: Readers = ALL;
