//! Every tower decision of the gRPC plane.
//!
//! ```text
//! client, typed ([`MasterClient`])          server ([`GrpcServer::serve_over`])
//!   observe   span, final outcome             trace        span, continues the caller's trace
//!   deadline  all attempts together           served       counts, refused calls too
//!   retry     idempotent only, budget         credentials  who calls, and whether he may
//!   attempt   time-out, count                 patience     the caller's grpc-timeout
//! ── below: any gRPC client ──────────        rescue, load shed, one limit, panic catch
//!   balance   two draws, least pending
//!   gate      SERVING by health watch, not ejected
//!   endpoint  credentials, trace headers, connection by [`Dial`], remade with back-off
//! ```
//! Streams take the lower half only: nothing but the pipeline knows what of them was acknowledged.
//!
//! On top of the client, [`member`] is a role's life as a member of the cluster: registration, heartbeats, the view.

#![warn(missing_docs)]

mod client;
mod clients;
mod endpoints;
mod jitter;
pub mod member;
mod sabotage;
mod server;
mod telemetry;
mod transport;

pub use client::call::{CallBounds, Unary};
pub use clients::master::MasterClient;
pub use clients::worker::{Attempts, TransferClient, WorkerClients};
pub use endpoints::discovery::{Class, Discovery, Endpoints};
pub use endpoints::manager::Keeper;
#[cfg(feature = "faulty")]
pub use jitter::seed_chance;
pub use sabotage::Sabotage;
pub use server::stack::{GrpcServer, HealthHandle, MAX_MESSAGE_BYTES, ServerOptions};
pub use telemetry::exemplar;
pub use telemetry::metrics::{MeshMetrics, RoleMetrics};
pub use transport::channel::{ClientOptions, GrpcChannel, MeshError, Service};
pub use transport::dial::{BoxIo, Dial, Io, RoleIo, Target, secured_incoming, tcp_incoming};
pub use transport::tls::{Protocol, Tls, TlsError};
