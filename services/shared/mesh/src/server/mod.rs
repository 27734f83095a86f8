//! The server stack: one file for each layer of ours, put together in `stack`.

pub(crate) mod accepted;
pub(crate) mod admission;
pub(crate) mod auth;
pub(crate) mod busy;
pub(crate) mod metrics;
pub(crate) mod rescue;
pub(crate) mod stack;
pub(crate) mod timeout;
