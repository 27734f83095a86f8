//! The sockets of clients: accepted, bounded in number and in time, served as HTTP/1.1 or HTTP/2.

pub(crate) mod linger;
pub(crate) mod server;
mod slot_body;
mod stall;
mod timed_io;
mod unread_body;
