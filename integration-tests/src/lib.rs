//! Cluster harness, fault proxy and end-to-end tests: the real program as real processes on
//! loopback.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::disallowed_types,
    clippy::missing_panics_doc,
    reason = "a test harness may fail loudly and needs the wall clock"
)]

pub mod browser;
pub mod cluster;
pub mod data_folder;
mod figures;
pub mod grpc;
pub mod http;
pub mod mesh;
mod operator;
pub mod otlp;
pub mod proxy;
pub mod small_fs;
pub mod tools;
