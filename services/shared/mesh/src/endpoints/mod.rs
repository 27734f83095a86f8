//! The endpoints of one service behind one channel.

pub(crate) mod balance;
pub(crate) mod discovery;
pub(crate) mod endpoint;
pub(crate) mod manager;
pub(crate) mod outlier;
