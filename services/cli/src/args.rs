//! The command line. Settings are variables of the environment; flags are for what one types by hand.

use std::path::PathBuf;

use clap::{Parser, Subcommand};

/// Most nodes of one kind in one process.
pub(crate) const MAX_NODES: u16 = 16;

/// Distributed, deduplicating, content-addressed object store.
#[derive(Debug, Parser)]
#[command(name = "cstore", version, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// All roles in one process on 127.0.0.1, data in ./data.
    Dev(Dev),
    /// The public door: REST over HTTP.
    Gateway,
    /// Names, upload sessions, membership, placement.
    Master,
    /// Moves data between gRPC streams and storage nodes.
    Worker,
    /// One virtual disk of fixed capacity.
    Storage,
    /// Ends with 0 when a role is ready, else with 1 and the reasons.
    Health {
        /// Admin port of the role, host:port [default: CSTORE_ADMIN_PORT on this machine]
        #[arg(long)]
        addr: Option<String>,
    },
    /// For operators.
    Admin {
        #[command(subcommand)]
        command: Admin,
    },
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    /// How many workers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    pub(crate) workers: u16,
    /// How many storage nodes; fixed at the first start, because blocks are spread over them [default: 1, later as found]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_NODES)))]
    pub(crate) storages: Option<u16>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Certs {
    /// Folder of the CA (ca.pem, ca-key.pem); each node gets a folder below it
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Name of the node
    #[arg(long)]
    pub(crate) node: String,
    /// Names and addresses under which others dial the node, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) host: Vec<String>,
    /// Days that the node's certificate is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(crate) days: u16,
    /// Replace a certificate that is there
    #[arg(long)]
    pub(crate) force: bool,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Prints the bearer token of the gRPC plane, derived from the cluster secret.
    Bearer,
    /// Makes certificates for the inner ports: a CA, once, and one folder for each node.
    Certs(Certs),
    /// Says what a storage directory holds, without changing it.
    Inspect {
        /// The directory of one storage node
        dir: PathBuf,
    },
}
