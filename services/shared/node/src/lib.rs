//! Parts that every role needs: environment, telemetry, shutdown, admin port.
//!
//! A role is `pub async fn run(config, listeners, shutdown) -> Result<(), E>`: the caller parses
//! the environment ([`mod@env`]), binds the listeners ([`listen`]), starts telemetry and owns the
//! signal ([`shutdown`]). So the same role runs alone, beside others in one process, or inside a
//! test on free ports.

pub mod admin;
pub mod backoff;
pub mod blocking;
pub mod clock;
pub mod commit;
pub mod connections;
pub mod env;
mod exposition;
pub mod limits;
pub mod listen;
pub mod metrics;
pub mod shutdown;
pub mod size;
pub mod telemetry;

pub use backoff::{Backoff, retry_until};
pub use blocking::blocking;
pub use env::{ConfigErrors, EXIT_USAGE, Env, HostPort, ProcessEnv, Secret, Source};
pub use shutdown::{Shutdown, TaskGroup};
pub use size::ByteSize;
