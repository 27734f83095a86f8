//! The master: names, upload sessions, membership, placement. It never sees file bytes.
//!
//! * `store`: the metadata. Its log is the truth, sled its index, one writer applies every change.
//! * `domain`: the rules, free of sockets and messages, and the state that is derived from the
//!   metadata.
//! * `grpc`: the services; they only translate.
//!
//! # Invariants
//! * A session is open, committed, or ended; an ended one never commits (again).
//! * A release is handed out only after the tombstone of its session is durable.
//! * Memory that depends on metadata is derived by one fold over its changes (`domain::Derived`),
//!   never by a request.

mod config;
mod domain;
mod grpc;
mod inspect;
pub mod limits;
mod metrics;
mod rescue;
mod run;
mod store;

pub use config::Config;
pub use inspect::{InspectError, MetadataInspection, inspect, is_metadata};
pub use rescue::{RescueError, Rescued, rescue};
pub use run::{RunError, Simulated, run, run_over};
pub use store::MetaError;
