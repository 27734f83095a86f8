//! Clients of the services of C-Store: one file for each role that is called.

pub(crate) mod master;
pub(crate) mod worker;
