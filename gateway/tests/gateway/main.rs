//! The gateway over real sockets, before a master and a worker that are fakes in this process.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does"
)]

mod answers;
mod h2;
mod hostile;
mod http;
mod page;
mod patience;
mod rest;
mod setup;
mod trace;
mod uploads;
