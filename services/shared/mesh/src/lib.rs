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

mod attempt;
mod auth;
mod balance;
mod call;
mod chance;
mod channel;
mod deadline;
mod dial;
mod discovery;
mod endpoint;
pub mod exemplar;
mod keeper;
mod master_client;
pub mod member;
mod methods;
mod metrics;
mod observe;
mod outlier;
mod patience;
mod rescue;
mod retry;
mod sabotage;
mod served;
mod server;
mod stream;
mod tls;
mod trace;
mod worker_clients;

pub use call::{CallBounds, Unary};
#[cfg(feature = "faulty")]
pub use chance::seed_chance;
pub use channel::{ClientOptions, GrpcChannel, MeshError, Service};
pub use dial::{BoxIo, Dial, Io, RoleIo, Target, secured_incoming, tcp_incoming};
pub use discovery::{Class, Discovery, Endpoints};
pub use keeper::Keeper;
pub use master_client::MasterClient;
pub use metrics::{MeshMetrics, RoleMetrics};
pub use sabotage::Sabotage;
pub use server::{GrpcServer, HealthHandle, MAX_MESSAGE_BYTES, ServerOptions};
pub use tls::{Protocol, Tls, TlsError};
pub use worker_clients::{Attempts, TransferClient, WorkerClients};
