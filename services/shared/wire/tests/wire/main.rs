//! The protocol at both of its ends.

mod connection;
mod fuzz;
mod golden;
mod protocol;
mod server;
mod silence;
