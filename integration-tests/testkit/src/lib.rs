//! Helpers that the tests of several crates share.
//!
//! | module | contents |
//! |---|---|
//! | [`mod@seed`] | the seed and the number of cases of random tests, from the environment |
//! | [`wait`] | waits for a condition, with the one generous deadline of all tests |
//! | [`content`] | random bytes from a seed |
//! | [`port`] | reservation of TCP ports, and an address at which nobody listens |
//! | [`cluster`] | secret and ids of the cluster of tests |
//! | `engine` (feature) | engines of a storage node over disks in memory |
//! | `fake` (feature `services`) | masters, workers and storage nodes whose replies a test scripts |
//!
//! Unit tests inside a crate may use only what does not mention types of that crate: the kit is
//! compiled against the crate without its tests, and types of the two are not the same.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::missing_panics_doc,
    reason = "a helper of a test fails as the test does"
)]

pub mod cluster;
pub mod content;
#[cfg(feature = "engine")]
pub mod engine;
#[cfg(feature = "services")]
pub mod fake;
pub mod folder;
pub mod port;
pub mod seed;
pub mod wait;

pub use cluster::{CLUSTER, DEDUP_KEY, INTERVAL, SECRET, secret, session};
pub use content::random;
pub use port::{Port, nobody};
pub use seed::{cases, seed, seed_and_cases};
pub use wait::{PATIENCE, until, until_blocking, until_within};
