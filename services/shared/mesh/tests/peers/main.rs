//! The whole client stack against real servers of the real server stack: some well, some failing,
//! some gone.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

mod admission;
mod faults;
mod member;
mod membership;
mod peer;
