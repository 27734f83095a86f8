//! Every tower decision of the gRPC plane.
//!
//! ```text
//! client, typed ([`MasterClient`])          server ([`GrpcServer::serve_over`])
//!   observe   span, final outcome             trace        span, continues the caller's trace
//!   deadline  all attempts together           metrics      counts, refused calls too
//!   retry     idempotent only, budget         auth         who calls, and whether the caller may
//!   attempt   time-out, count                 timeout      the caller's grpc-timeout
//! ── below: any gRPC client ──────────        rescue, load shed, one limit, panic catch
//!   balance   two draws, fewest in flight
//!   health    SERVING by health watch, not ejected
//!   endpoint  credentials, trace headers, connection by [`Dial`], remade with back-off
//! ```
//! Streams take the lower half only: nothing but the pipeline knows what of them was acknowledged.
//!
//! Folders, from the top down. A file imports only from its own folder and from those below it:
//!
//! ```text
//! member       a role's life as a member of the cluster: registration, heartbeats, the view
//! clients      the master and the workers as their callers see them
//! client       layers of one call              server   layers of one served call
//! endpoints    which endpoint gets a call
//! transport    connections, TLS, the channel of one endpoint
//! telemetry · error · jitter
//! ```
//! `server` stands beside `client`: it needs `transport` only, and neither imports the other.

#![warn(missing_docs)]

mod client;
mod clients;
mod endpoints;
mod error;
mod jitter;
pub mod limits;
pub mod member;
mod server;
mod telemetry;
mod transport;

pub use client::call::{CallBounds, Unary};
pub use clients::master::MasterClient;
pub use clients::worker::{Attempts, TransferClient, WorkerClients};
pub use endpoints::discovery::{Class, Discovery, Endpoints};
pub use endpoints::manager::EndpointManager;
pub use endpoints::service::Service;
pub use error::MeshError;
#[cfg(feature = "simulated")]
pub use jitter::seed_chance;
pub use limits::MAX_MESSAGE_BYTES;
pub use server::accepted::Accepted;
pub use server::admission::Admission;
pub use server::stack::{GrpcServer, HealthHandle, ServerOptions};
pub use telemetry::exemplar;
pub use telemetry::metrics::{MeshMetrics, RoleMetrics};
pub use telemetry::trace::context_from;
pub use transport::channel::{ClientOptions, GrpcChannel};
pub use transport::dial::{Dial, secured_incoming, tcp_incoming};
pub use transport::io::{BoxIo, Io, Target};
pub use transport::local::{LocalServers, Publication};
pub use transport::role_io::RoleIo;
pub use transport::tls::protocol::Protocol;
pub use transport::tls::{Tls, TlsError};
