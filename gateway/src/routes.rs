//! One verb a file: each reads its request, asks the master or a worker, and writes its answer.

pub(crate) mod answer;
pub(crate) mod cluster;
pub(crate) mod copy;
pub(crate) mod delete;
pub(crate) mod get;
pub(crate) mod index;
pub(crate) mod list;
pub(crate) mod page;
pub(crate) mod put;
pub(crate) mod stats;
pub(crate) mod upload;
pub(crate) mod usage;

/// Where files are by name.
pub(crate) const FILES: &str = "/api/files/";
/// The same files, to be saved by a browser.
pub(crate) const DOWNLOAD: &str = "/api/download/";
