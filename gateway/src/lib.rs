//! The gateway: the only public door, REST over HTTP. It holds no state: every answer is the master's or a worker's.
//!
//! ```text
//! client ── HTTP ──> server (bounds) ──> router (trace, metrics, auth, ready) ──> routes/* (one verb a file)
//!                                                                                  ├─> upload, download ──> worker
//!                                                                                  └─> master
//! ```
//! A request is refused as early as it can be judged; a body is read only when it will be used, and never held: a
//! slow worker slows the client. Errors have one shape, see `docs/errors.md`.

mod access;
mod app;
mod assets;
mod auth;
mod body;
mod cluster;
mod condition;
mod config;
mod date;
mod digest;
mod disposition;
mod door;
mod download;
mod error;
#[cfg(test)]
mod fuzz;
mod head;
mod held;
mod metadata;
mod metrics;
mod multipart;
mod name;
mod needle;
mod openapi;
mod origin;
mod pace;
mod problem;
mod query;
mod range;
mod router;
mod routes;
mod run;
mod server;
mod stall;
mod tickets;
mod timed_io;
pub mod tokens;
mod ui_url;
mod upload;

pub use access::{ROUTES, Route};
pub use config::{Config, tokens_file};
pub use run::{Error, run};
pub use ui_url::{InvalidUiUrl, UiUrl};
