//! The gateway: the only public part, REST over HTTP. It holds no state: every answer is the
//! master's or a worker's.
//!
//! ```text
//! client ── HTTP ──> listener (bounds) ──> api::router (trace, metrics, auth, ready) ──> api::* (one verb a file)
//!                                                                                         ├─> transfer ──> worker
//!                                                                                         └─> master
//! ```
//! Folders and files, from the top down. A file imports only from its own folder and from those
//! below it:
//!
//! ```text
//! run                   puts one gateway together
//! api · listener        the REST surface · the sockets under it; neither imports the other
//! transfer              bytes between a client and a worker
//! app                   what all requests share
//! auth · cluster        who may do what · the view of the cluster and tickets in stock
//! http                  bodies and headers of requests
//! config · metrics · error · problem · ui_url
//! ```
//! A request is refused as early as it can be judged; a body is read only when it will be used, and
//! never held: a slow worker slows the client. Errors have one shape, see `docs/errors.md`.

mod api;
mod app;
mod auth;
mod cluster;
mod config;
mod error;
mod http;
pub mod limits;
mod listener;
mod metrics;
mod problem;
mod run;
mod transfer;
mod ui_url;

pub use auth::route_rights::{ROUTES, Route};
pub use auth::tokens;
pub use config::{Config, tokens_file};
pub use run::{Error, run};
pub use ui_url::{InvalidUiUrl, UiUrl};
