//! The command line. Settings of the roles are flags by [`crate::settings`], and variables of the
//! environment.

pub(crate) mod files;

use std::path::PathBuf;

use clap::{Parser, Subcommand, ValueEnum};
use cstore_gateway::tokens::Rights;
use cstore_node::{ByteSize, HostPort};
use cstore_types::{SessionId, StoreUuid, Tenant, TenantError};

use crate::exit::STATUSES;
use crate::limits::{MAX_DEV_NODES, MAX_TOKEN_LIFE};
use crate::paths::DATA;
use crate::settings::{OfAllRoles, OfGateway, OfMaster, OfStorage, OfWorker, Settings};

/// Distributed, deduplicating, content-addressed object store.
#[derive(Debug, Parser)]
#[command(name = "cstore", version, after_help = STATUSES)]
pub(crate) struct Args {
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Runs all roles in one process, for real use: requests need API tokens, and the first start
    /// makes one.
    Serve(Serve),
    /// Runs all roles in one process, to try and to develop: on 127.0.0.1, without tokens.
    Dev(Dev),
    /// Serves the REST interface over HTTP: the only public role.
    Gateway(Settings<OfGateway>),
    /// Keeps names, upload sessions, members and the placement of blocks.
    Master(Settings<OfMaster>),
    /// Moves data between gRPC streams and storage nodes.
    Worker(Settings<OfWorker>),
    /// Stores blocks on one virtual disk of fixed capacity.
    Storage(Settings<OfStorage>),
    /// Uploads files, folders or stdin.
    Put(files::Put),
    /// Downloads a file or a folder, and resumes an interrupted download.
    Get(files::Get),
    /// Lists names.
    Ls(files::Ls),
    /// Prints size, ETag, type, time and metadata of a file.
    Stat(files::Stat),
    /// Removes files.
    Rm(files::Rm),
    /// Gives a file a second name; no byte is copied.
    Cp(files::Name),
    /// Renames a file.
    Mv(files::Name),
    /// Prints the space that files use: their sizes, their distinct blocks, the blocks that other
    /// files use too, and what a removal would free.
    Du(files::Du),
    /// Reports whether a role is ready: ends with 0, or with 6 and the reasons.
    Health {
        /// Admin port of the role, host:port [default: CSTORE_ADMIN_PORT on this machine]
        #[arg(long)]
        addr: Option<String>,
    },
    /// Tests a running installation as a client of its gateway (CSTORE_URL, CSTORE_TOKEN).
    Smoke(Smoke),
    /// Commands for operators.
    Admin {
        #[command(subcommand)]
        command: Admin,
    },
    /// Prints the script by which a shell completes commands and flags.
    Completions {
        /// The shell
        shell: Shell,
    },
    /// Prints the manual page of the program or of one command (roff).
    Man {
        /// The command, such as put, or admin token
        command: Vec<String>,
    },
}

impl Command {
    /// Returns true if failures are reported as JSON.
    pub(crate) fn json(&self) -> bool {
        match self {
            Self::Admin {
                command:
                    Admin::Gc { json, .. }
                    | Admin::Limits { json }
                    | Admin::Inspect { json, .. }
                    | Admin::Rescue { json, .. }
                    | Admin::Hold {
                        command: Hold::List { json },
                        ..
                    }
                    | Admin::Kept {
                        command: Kept::List { json },
                        ..
                    },
            } => *json,
            _ => self.door().is_some_and(|door| door.json),
        }
    }

    /// Returns the gateway options of a command over files; `None` for other commands.
    pub(crate) fn door(&self) -> Option<&files::Door> {
        match self {
            Self::Put(options) => Some(&options.door),
            Self::Get(options) => Some(&options.door),
            Self::Ls(options) => Some(&options.door),
            Self::Stat(options) => Some(&options.door),
            Self::Rm(options) => Some(&options.door),
            Self::Cp(options) | Self::Mv(options) => Some(&options.door),
            Self::Du(options) => Some(&options.door),
            _ => None,
        }
    }
}

/// Payloads that an inspection reads.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Payloads {
    All,
    Sample,
    None,
}

/// A shell that can be helped.
#[derive(Debug, Clone, Copy, ValueEnum)]
pub(crate) enum Shell {
    Bash,
    Zsh,
    Fish,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Serve {
    /// Address to listen on for clients, host:port, instead of --listen-host and --gateway-port
    #[arg(long, value_name = "HOST:PORT", conflicts_with_all = ["CSTORE_LISTEN_HOST", "GATEWAY_PORT"])]
    pub(crate) listen: Option<HostPort>,
    #[command(flatten)]
    pub(crate) settings: Settings<OfAllRoles>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Dev {
    /// Number of workers
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_DEV_NODES)))]
    pub(crate) workers: u16,
    /// Number of storage nodes; fixed at the first start, because blocks are spread over them
    /// [default: 1, later that of the first start]
    #[arg(long, value_parser = clap::value_parser!(u16).range(1..=i64::from(MAX_DEV_NODES)))]
    pub(crate) storages: Option<u16>,
    #[command(flatten)]
    pub(crate) settings: Settings<OfAllRoles>,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Smoke {
    /// The gateway [default: CSTORE_URL, or http://127.0.0.1:8000]
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// Longest wait for the gateway
    #[arg(long, default_value = "30s")]
    pub(crate) wait: humantime::Duration,
    /// Uploads, reads and deletes for a while, then reads back the acknowledged files
    #[arg(long, conflicts_with = "check")]
    pub(crate) load: bool,
    /// Reads back the files of a load with --keep
    #[arg(long)]
    pub(crate) check: bool,
    /// Names begin with this [default: smoke- and a random number]
    #[arg(long)]
    pub(crate) prefix: Option<String>,
    /// Duration of the load
    #[arg(long = "for", default_value = "30s", requires = "load")]
    pub(crate) duration: humantime::Duration,
    /// Clients at a time
    #[arg(long, default_value_t = 8, value_parser = clap::builder::RangedU64ValueParser::<usize>::new().range(1..=256))]
    pub(crate) clients: usize,
    /// Largest file of the load
    #[arg(long, default_value = "1MiB")]
    pub(crate) size_max: ByteSize,
    /// Requests per second of all clients of the load together [default: no bound]
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) rate: Option<u32>,
    /// Keeps the files of the load
    #[arg(long)]
    pub(crate) keep: bool,
    /// File with the names that were acknowledged: written by --load --keep, demanded by --check
    #[arg(long)]
    pub(crate) names: Option<PathBuf>,
    /// Files that --check must find
    #[arg(long, requires = "check")]
    pub(crate) expect: Option<usize>,
    /// Longest wait for the system when files are read back
    #[arg(long, default_value = "120s")]
    pub(crate) settle: humantime::Duration,
    /// Fails if one request of the load fails
    #[arg(long)]
    pub(crate) strict: bool,
    /// Prints the result of the load as one line of JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, clap::Args)]
pub(crate) struct Certs {
    /// Folder of the CA (ca.pem, ca-key.pem); each node gets a folder below it
    #[arg(long)]
    pub(crate) out: PathBuf,
    /// Certificate of a CA that is kept elsewhere, PEM [default: ca.pem in --out, created if it
    /// is missing]
    #[arg(long, requires = "ca_key")]
    pub(crate) ca: Option<PathBuf>,
    /// Its key, PEM (PKCS#8)
    #[arg(long, requires = "ca")]
    pub(crate) ca_key: Option<PathBuf>,
    /// Name of the node
    #[arg(long)]
    pub(crate) node: String,
    /// Names and addresses under which others dial the node, separated by commas
    #[arg(long, value_delimiter = ',', required = true)]
    pub(crate) host: Vec<String>,
    /// Days that the node's certificate is valid
    #[arg(long, default_value_t = 365, value_parser = clap::value_parser!(u16).range(1..=3650))]
    pub(crate) days: u16,
    /// Replaces an existing certificate
    #[arg(long)]
    pub(crate) force: bool,
}

/// Data folder of a command for operators, as the roles take it.
#[derive(Debug, clap::Args)]
pub(crate) struct DataFolder {
    /// Folder for all data, where the cluster secret and the API tokens are [default:
    /// CSTORE_DATA_DIR, or ./data]
    #[arg(
        id = "data_folder",
        long = "data-dir",
        visible_alias = "data",
        value_name = "DIR",
        global = true
    )]
    dir: Option<String>,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Admin {
    /// Prints a bearer for grpcurl, signed with the cluster secret.
    Bearer {
        /// Lifetime, such as 90m, 12h or 7d, at most 30d
        #[arg(long, default_value = "12h")]
        ttl: humantime::Duration,
        #[command(flatten)]
        data: DataFolder,
    },
    /// Makes, lists and revokes tokens of the REST API.
    Token {
        #[command(flatten)]
        data: DataFolder,
        #[command(subcommand)]
        command: Token,
    },
    /// Makes certificates for the inner ports: a CA, once, and one folder for each node.
    Certs(Certs),
    /// Prints how much space of storage nodes was reclaimed, and what compaction does.
    Gc {
        /// Admin ports of storage nodes, host:port, separated by commas; may be given several times
        /// [default: CSTORE_ADMIN_PORT on this machine, or 9103]
        #[arg(long = "addr", value_name = "ADDR", value_delimiter = ',')]
        addrs: Vec<String>,
        /// Prints one line of JSON a node
        #[arg(long)]
        json: bool,
        /// Prints again every two seconds, until interrupted
        #[arg(long)]
        watch: bool,
    },
    /// Lists and accepts doubts about storage disks: while a doubt is open, its disk frees nothing.
    Hold {
        #[command(flatten)]
        data: DataFolder,
        #[command(subcommand)]
        command: Hold,
    },
    /// Lists and drops uploads of an abandoned history of the metadata: their blocks stay until they
    /// are dropped.
    Kept {
        #[command(flatten)]
        data: DataFolder,
        #[command(subcommand)]
        command: Kept,
    },
    /// Decides about storage nodes that are away or have lost their disk.
    Node {
        #[command(flatten)]
        data: DataFolder,
        #[command(subcommand)]
        command: NodeCommand,
    },
    /// Prints the limits of all parts that are no settings, and what happens when they are met.
    Limits {
        /// Prints one line of JSON a limit
        #[arg(long)]
        json: bool,
    },
    /// Writes what is left of a master's metadata to a file from which another start can go on. The
    /// master must be stopped; its folder is not changed.
    Rescue {
        /// The folder of the master's CSTORE_DATA_DIR [default: CSTORE_DATA_DIR, or ./data]
        #[arg(long, visible_alias = "data-dir", value_name = "DIR")]
        data: Option<PathBuf>,
        /// The new file, which must not exist
        file: PathBuf,
        /// Prints one line of JSON for each damaged value that is left out, and one for the file
        #[arg(long)]
        json: bool,
    },
    /// Verifies the folder of a storage disk or of a master and prints what a start would do, without
    /// changing the folder.
    Inspect {
        /// The folder of a disk or of a master, or one that has such folders
        dir: PathBuf,
        /// Payloads that are read: of all blocks, of a sample of them, or of none
        #[arg(long, value_enum, default_value = "all")]
        payloads: Payloads,
        /// Prints one line of JSON a part
        #[arg(long)]
        json: bool,
    },
}

impl Admin {
    /// Returns the variable that `--data` stands for, if the flag is given.
    pub(crate) fn data_folder(&self) -> Vec<(&'static str, String)> {
        let folder = match self {
            Self::Bearer { data, .. }
            | Self::Token { data, .. }
            | Self::Hold { data, .. }
            | Self::Kept { data, .. }
            | Self::Node { data, .. } => data.dir.clone(),
            // The flag of a rescue is about the master's folder only.
            Self::Rescue { .. }
            | Self::Certs(_)
            | Self::Gc { .. }
            | Self::Limits { .. }
            | Self::Inspect { .. } => None,
        };
        folder.into_iter().map(|folder| (DATA, folder)).collect()
    }
}

#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Lets space be reclaimed although a storage node has not reported since the master started,
    /// until the node is back.
    Away {
        /// The storage node
        node: String,
    },
    /// Abandons the disk of a storage node for good, so that the node may come with another one. The
    /// blocks on it are lost.
    Replace {
        /// The storage node
        node: String,
        /// Uuid of the lost disk, as the refusal of the new disk names it
        #[arg(long, value_name = "UUID")]
        lost: StoreUuid,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Hold {
    /// Prints the doubts of all storage nodes, accepted ones among them.
    List {
        /// Prints one line of JSON a doubt
        #[arg(long)]
        json: bool,
    },
    /// Continues without the missing data, for good. Files that need these data stay damaged.
    Accept {
        /// The storage node
        node: String,
        /// The number of the doubt, as `cstore admin hold list` shows it
        number: u32,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Kept {
    /// Prints the uploads that are kept: storage nodes hold blocks of them, and this master knows no
    /// file of them.
    List {
        /// Prints one line of JSON an upload
        #[arg(long)]
        json: bool,
    },
    /// Frees the blocks of uploads, for good.
    Drop {
        /// The uploads, as `cstore admin kept list` shows them
        #[arg(value_name = "UPLOAD", required_unless_present = "all")]
        uploads: Vec<SessionId>,
        /// Drops all uploads that are kept now
        #[arg(long, conflicts_with = "uploads")]
        all: bool,
    },
}

#[derive(Debug, Subcommand)]
pub(crate) enum Token {
    /// Makes a token, prints it once and keeps its hash.
    Create {
        #[command(flatten)]
        options: NewToken,
        /// The token file [default: CSTORE_API_TOKENS_FILE, or api-tokens in CSTORE_DATA_DIR]
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Lists tokens: id, tenant, rights and expiry.
    List {
        /// The token file [default: CSTORE_API_TOKENS_FILE, or api-tokens in CSTORE_DATA_DIR]
        #[arg(long)]
        file: Option<PathBuf>,
    },
    /// Removes a token from the file; gateways follow within a second.
    Revoke {
        /// The token's id, the part behind cst_
        id: String,
        /// The token file [default: CSTORE_API_TOKENS_FILE, or api-tokens in CSTORE_DATA_DIR]
        #[arg(long)]
        file: Option<PathBuf>,
    },
}

/// What a new token is good for.
#[derive(Debug, clap::Args)]
pub(crate) struct NewToken {
    /// Tenant whose names the token opens: 1 to 64 of a-z, 0-9 and -; `default` is the tenant of
    /// requests without a token
    #[arg(long, value_parser = tenant)]
    pub(crate) tenant: Tenant,
    /// Rights of the token: read, write, delete
    #[arg(long, default_value = "read,write,delete")]
    pub(crate) rights: Rights,
    /// Lifetime, such as 12h or 30d, at most 100 years [default: for ever]
    #[arg(long, value_parser = life)]
    pub(crate) expires: Option<humantime::Duration>,
}

/// A life that ends at a time which can be written down.
fn life(text: &str) -> Result<humantime::Duration, String> {
    let life: humantime::Duration =
        text.parse()
            .map_err(|_: humantime::DurationError| match text {
                "never" | "none" | "0" => {
                    "leave --expires away: a token without it lives for ever".to_owned()
                }
                _ => "allowed are times with a unit, such as 12h or 30d".to_owned(),
            })?;
    if *life > MAX_TOKEN_LIFE {
        return Err("allowed is at most 100y; without --expires a token lives for ever".to_owned());
    }
    Ok(life)
}

fn tenant(text: &str) -> Result<Tenant, TenantError> {
    if text.is_empty() {
        Err(TenantError)
    } else {
        Tenant::new(text)
    }
}
