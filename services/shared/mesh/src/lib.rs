//! Every tower decision of the gRPC plane.
//!
//! Client, outermost first: span · deadline · retry (typed, in [`MasterClient`]) │ credentials and trace headers ·
//! tonic channel (connect timeout, keepalive, windows). Server: see [`GrpcServer::serve`].
//! Streams take the lower half only: nothing but the pipeline knows what of them was acknowledged.

#![warn(missing_docs)]

mod auth;
mod channel;
mod master_client;
mod rescue;
mod retry;
mod server;
mod trace;
mod worker_clients;

pub use channel::{ClientOptions, GrpcChannel, MeshError, channel};
pub use master_client::MasterClient;
pub use retry::RetryPolicy;
pub use server::{GrpcServer, HealthHandle, MAX_MESSAGE_BYTES, ServerOptions};
pub use worker_clients::{TransferClient, WorkerClients};
