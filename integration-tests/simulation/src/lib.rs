//! The cluster on a simulated network, clock and disk: faults from a seed, then a time to heal, and
//! what must hold.
//!
//! Real: master (doors, rules, log, index), workers, storage nodes (frames, engine, log), the mesh
//! on both sides and HTTP/2. Simulated: the network (turmoil: delays, partitions that lose segments
//! for good, answers that are lost, links that hold everything back), the clock of each node,
//! crashes and restarts, the disks under both logs (a crash keeps or tears what was not synced).
//! Modelled: the gateway, by a `client` that does what it does with the same mesh; the disk takes
//! no time, and a commit is done when it is asked for. See `docs/simulation.md`.
//!
//! The invariants are checked in `book`: it keeps requests and answers, and derives what readers
//! may see.

mod book;
mod client;
mod cluster;
mod faults;
mod io;
mod run;

pub use cluster::Setup;
pub use run::{Outcome, run};
