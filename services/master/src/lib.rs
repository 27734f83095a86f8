//! The master: names, upload sessions, membership, placement. It never sees file bytes.
//!
//! * `meta`: the metadata engine. Its log is the truth, sled its index.
//! * `namespace`, `listing`, `uploads`, `releases`, `membership`: the rules, free of sockets.
//! * `grpc`: the doors; they only translate.
//!
//! Truth about sessions: a session is committed, tombstoned, or neither; a tombstoned one never becomes committed, and
//! a release is handed out only after its tombstone is durable.

mod config;
mod core;
mod error;
mod grpc;
mod listing;
mod membership;
mod meta;
mod metrics;
mod namespace;
mod releases;
mod run;
mod selection;
mod uploads;

pub use config::{Config, Sabotage};
pub use error::Refusal;
pub use meta::MetaError;
pub use run::{RunError, run, run_over};
