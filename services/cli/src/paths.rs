//! Paths that a command picks by itself, and what sets them.
//!
//! A command that picks `./data` in the wrong folder finds no tokens and another secret, so the path
//! is printed once.

use std::io::Write;
use std::path::{Path, PathBuf};

use cstore_node::Source;

/// Variable of the folder with all data.
pub(crate) const DATA: &str = "CSTORE_DATA_DIR";
/// Variable of the file with the secret of the cluster.
pub(crate) const SECRET: &str = "CSTORE_CLUSTER_SECRET_FILE";
/// Variable of the file with the API tokens.
pub(crate) const TOKENS: &str = "CSTORE_API_TOKENS_FILE";

/// A path that a variable sets, or else the data folder.
#[derive(Debug)]
pub(crate) struct PickedPath {
    what: &'static str,
    path: PathBuf,
    variable: &'static str,
    flag: &'static str,
    is_set: bool,
    is_data_set: bool,
}

impl PickedPath {
    pub(crate) fn new(
        what: &'static str,
        path: &Path,
        variable: &'static str,
        flag: &'static str,
        source: &dyn Source,
    ) -> Self {
        let is_set = |name| source.get(name).is_some_and(|value| !value.is_empty());
        Self {
            what,
            path: path.to_path_buf(),
            variable,
            flag,
            is_set: is_set(variable),
            is_data_set: is_set(DATA),
        }
    }

    /// Describes the path of the cluster secret.
    pub(crate) fn secret(path: &Path, flag: &'static str, source: &dyn Source) -> Self {
        Self::new("cluster secret", path, SECRET, flag, source)
    }

    /// Describes the path of the API tokens.
    pub(crate) fn tokens(path: &Path, flag: &'static str, source: &dyn Source) -> Self {
        Self::new("API tokens", path, TOKENS, flag, source)
    }

    /// Describes the data folder.
    pub(crate) fn data(path: &Path, flag: &'static str, source: &dyn Source) -> Self {
        Self::new("data folder", path, DATA, flag, source)
    }

    /// Logs the path, unless its variable or flag is set.
    pub(crate) fn log(&self) {
        if !self.is_set {
            tracing::info!("{}", self.line());
        }
    }

    /// Prints the path on stderr, unless a variable or flag says where it is.
    pub(crate) fn tell(&self) {
        if !self.is_set && !self.is_data_set {
            // A closed stderr changes nothing.
            let _ = writeln!(std::io::stderr().lock(), "{}", self.line());
        }
    }

    fn line(&self) -> String {
        let flag = match self.flag {
            "" => String::new(),
            flag => format!(" or {flag}"),
        };
        format!(
            "{}: {}, by default; {}{flag} sets another",
            self.what,
            self.path.display(),
            self.variable
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_picked_path_is_said_with_what_sets_it() {
        let unset: [(&str, &str); 0] = [];
        let path = Path::new("./data/cluster-secret");
        let picked = PickedPath::secret(path, "", &unset);
        assert_eq!(
            picked.line(),
            "cluster secret: ./data/cluster-secret, by default; CSTORE_CLUSTER_SECRET_FILE sets another"
        );
        let picked = PickedPath::data(Path::new("./data"), "--data", &unset);
        assert!(
            picked
                .line()
                .ends_with("; CSTORE_DATA_DIR or --data sets another")
        );
        assert!(!picked.is_set && !picked.is_data_set);
        let set = [(SECRET, "x"), (DATA, "")];
        let picked = PickedPath::secret(path, "", &set);
        assert!(picked.is_set && !picked.is_data_set);
    }
}
