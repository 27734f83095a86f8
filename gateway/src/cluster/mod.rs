//! The cluster as the gateway knows it: the master's view, and tickets in stock.

pub(crate) mod tickets;
pub(crate) mod view;
