//! The worker: a stateless data mover between gRPC streams and storage frames.
//!
//! * `upload`, `blocks`, `chunker`, `digests`: bytes on their way in.
//! * `download`, `fetch`, `recipe_walk`: bytes on their way out.
//! * `hashing`: ids of blocks, of all uploads together.
//! * `budget`: what all streams may hold.
//! * `session`: what the master is asked for an upload.
//! * `cluster`: identity, placement, connections.
//!
//! A worker never releases anything; it only unpins. What it holds for one stream is bounded, and
//! for all streams too.

mod blocks;
mod budget;
mod chunker;
mod cluster;
mod config;
mod digests;
mod download;
mod error;
mod explain;
mod fetch;
mod grpc;
mod hashing;
pub mod limits;
mod membership;
mod metrics;
mod recipe_walk;
mod run;
mod session;
#[cfg(test)]
mod tests;
mod trace;
mod upload;

pub use config::Config;
pub use run::{RunError, run, run_over};
