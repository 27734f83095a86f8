//! One binary for all tests over the real program.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::too_many_lines,
    clippy::disallowed_types,
    reason = "a test may fail loudly and tells one story"
)]

mod bad_input;
mod chart;
mod compose;
mod costs;
mod credentials;
mod crowd;
mod damage;
mod data_folders;
mod doors;
mod drain;
mod few_descriptors;
mod files;
mod forms;
mod full_disk;
mod full_fs;
mod hold;
mod jaeger;
mod kills;
mod limits;
mod logs;
mod many_kills;
mod matrix;
mod members;
mod metadata;
mod metrics;
mod monitoring;
mod network;
mod openapi;
mod page;
mod prototype;
mod read_only_fs;
mod runbook;
mod scale;
mod settings;
mod shell;
mod smoke;
mod space;
mod start;
mod stress;
mod tenants;
mod tidy;
mod tls;
mod traces;
mod usage;
mod walk;

/// The program under test.
const PROGRAM: &str = env!("CARGO_BIN_EXE_cstore-under-test");

/// The program that measures opens.
const SCALE_BENCH: &str = env!("CARGO_BIN_EXE_scale-bench");

/// Seed of tests that are given none by `CSTORE_SEED`.
const SEED: u64 = 20_261_123;
