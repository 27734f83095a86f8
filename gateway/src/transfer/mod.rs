//! File bytes between a client and a worker.

pub(crate) mod download;
pub(crate) mod upload;
