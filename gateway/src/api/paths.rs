//! Paths under which files are found by name.

/// Prefix of a file by its name.
pub(crate) const FILES: &str = "/api/files/";
/// Prefix of a file that a browser is asked to save.
pub(crate) const DOWNLOAD: &str = "/api/download/";
