//! The protocol at both of its ends.

mod budget;
mod connection;
mod fuzz;
mod golden;
mod local;
mod protocol;
mod server;
mod silence;
