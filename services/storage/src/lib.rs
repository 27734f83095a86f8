//! The storage node: one virtual disk of fixed capacity behind the framed protocol.
//!
//! * [`engine`]: blocks, reference sets, space. Knows no socket.
//! * `server`: the frames of `cstore-wire` on top of it.
//! * `membership`: what heartbeats report and take from the answers; nothing dials this node but
//!   workers.
//! * `releaser`, `roll_call`, `sweeper`: the work that heartbeats ask for, each a task of its own.
//! * [`inspect`](fn@inspect): what lies on a disk, for people.

mod config;
pub mod engine;
mod inspect;
pub mod limits;
mod membership;
mod metrics;
mod releaser;
mod roll_call;
mod run;
mod server;
mod sweeper;
mod trace;

pub use config::{Config, LARGEST_FS_SIZE, MIN_FS_SIZE};
pub use cstore_log::limits::LIMITS as LOG_LIMITS;
pub use cstore_wire::limits::LIMITS as WIRE_LIMITS;
pub use engine::{EngineError, OpenError};
pub use inspect::{DiskInspection, InspectError, inspect, is_disk};
pub use run::{RunError, run, run_over};
