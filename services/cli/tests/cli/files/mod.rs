//! The commands over files, as processes in front of a gateway that does what it should not.

#![allow(
    clippy::unwrap_used,
    reason = "a helper of a test fails as the test does"
)]

pub(crate) mod fake;
mod get;
mod globs;
mod mistakes;
mod others;
mod parts;
mod put;
mod question;
mod run;
