//! The token file as a gateway follows it: read again when it changes, kept as it was while it is
//! broken.

use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::SystemTime;

use cstore_node::Shutdown;
use parking_lot::{Mutex, RwLock};

use crate::auth::tokens::entry::Entry;
use crate::auth::tokens::error::TokenFileError;
use crate::auth::tokens::set::{Refused, TokenSet};
use crate::auth::tokens::token::Token;
use crate::limits::{MAX_TOKENS_BYTES, TOKENS_INTERVAL};

/// The text of a token file, if nobody else can read or change it.
///
/// # Errors
/// [`TokenFileError`].
pub fn read(path: &Path) -> Result<String, TokenFileError> {
    let file = File::open(path)?;
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Err(io::Error::new(ErrorKind::InvalidInput, "it is not a file").into());
    }
    let mode = metadata.permissions().mode() & 0o777;
    // A group may read it, as with secrets that an orchestrator mounts; the world may not.
    if mode & 0o027 != 0 {
        return Err(TokenFileError::Mode(mode));
    }
    let mut text = String::new();
    file.take(MAX_TOKENS_BYTES + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TOKENS_BYTES {
        return Err(TokenFileError::TooLarge);
    }
    Ok(text)
}

/// Attributes that tell two states of a file apart. A changed mode counts: it may be what was
/// wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Stamp {
    inode: u64,
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl From<Metadata> for Stamp {
    fn from(found: Metadata) -> Self {
        Self {
            inode: found.ino(),
            size: found.size(),
            modified: (found.mtime(), found.mtime_nsec()),
            changed: (found.ctime(), found.ctime_nsec()),
        }
    }
}

/// The tokens of one file, as they were when it could last be read.
#[derive(Debug)]
pub(crate) struct TokenFile {
    path: PathBuf,
    tokens: RwLock<TokenSet>,
    /// State of the file at the last look. `None` if there was no file.
    seen: Mutex<Option<Stamp>>,
}

impl TokenFile {
    /// Reads the file. A missing file has no tokens yet.
    ///
    /// # Errors
    /// [`TokenFileError`] when it is there and cannot be used: a start is the time to say so.
    pub(crate) fn open(path: PathBuf) -> Result<Self, TokenFileError> {
        let seen = stamp(&path)?;
        let tokens = match seen {
            Some(_) => TokenSet::parse(&read(&path)?)?,
            None => TokenSet::default(),
        };
        tracing::info!(path = %path.display(), tokens = tokens.len(), "API tokens");
        Ok(Self {
            path,
            tokens: RwLock::new(tokens),
            seen: Mutex::new(seen),
        })
    }

    /// Returns the entry of a token that is valid now.
    pub(crate) fn find(&self, token: &Token) -> Result<Entry, Refused> {
        self.tokens.read().find(token, SystemTime::now()).cloned()
    }

    /// Returns true if the file has no token, valid or not.
    pub(crate) fn is_empty(&self) -> bool {
        self.tokens.read().len() == 0
    }

    /// Follows the file until the shutdown.
    pub(crate) async fn follow(self: Arc<Self>, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(TOKENS_INTERVAL);
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                _ = ticks.tick() => {}
            }
            let this = self.clone();
            // A file system may hang; that must not hold up requests.
            if let Err(error) = tokio::task::spawn_blocking(move || this.refresh()).await {
                tracing::error!(%error, "the token file is not followed any more");
                return;
            }
        }
    }

    /// Reads the file if it has changed. What is wrong with one state of it is said once.
    fn refresh(&self) {
        let mut seen = self.seen.lock();
        let keep = |why: &dyn std::fmt::Display| {
            tracing::warn!(path = %self.path.display(), %why, "API tokens stay as they were");
        };
        let found = match stamp(&self.path) {
            Ok(found) if found == *seen => return,
            Ok(found) => found,
            // Not a state of the file: looked at again, and said at DEBUG lest it is said twice a
            // second.
            Err(error) => return tracing::debug!(%error, "the token file cannot be looked at"),
        };
        *seen = found;
        if found.is_none() {
            return keep(&"the file is gone");
        }
        match read(&self.path).and_then(|text| TokenSet::parse(&text)) {
            Ok(tokens) => {
                tracing::info!(tokens = tokens.len(), "API tokens were read again");
                *self.tokens.write() = tokens;
            }
            Err(error) => keep(&error),
        }
    }
}

fn stamp(path: &Path) -> io::Result<Option<Stamp>> {
    match std::fs::metadata(path) {
        Ok(found) => Ok(Some(found.into())),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tokens::rights::Rights;
    use cstore_types::Tenant;

    fn write(path: &Path, text: &str, mode: u32) {
        // Replaces the file as an editor or `cstore admin token` does: a new file under the old
        // name.
        let draft = path.with_extension("draft");
        std::fs::write(&draft, text).unwrap();
        std::fs::set_permissions(&draft, std::fs::Permissions::from_mode(mode)).unwrap();
        std::fs::rename(draft, path).unwrap();
    }

    #[test]
    fn i13_the_file_is_read_again_when_it_changes_and_kept_while_it_is_broken() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-tokens");
        let file = TokenFile::open(path.clone()).unwrap();
        let token = Token::generate().unwrap();
        assert!(file.find(&token).is_err(), "no file, no tokens");
        let line = Entry::new(&token, Tenant::default(), Rights::ALL, None)
            .unwrap()
            .to_string();

        write(&path, &line, 0o600);
        file.refresh();
        assert!(file.find(&token).is_ok());
        for (text, mode) in [
            ("nonsense", 0o600),
            ("", 0o644),
            ("", 0o620),
            (&*"#".repeat(5 << 20), 0o600),
        ] {
            write(&path, text, mode);
            file.refresh();
            assert!(file.find(&token).is_ok(), "{mode:o}");
        }
        std::fs::remove_file(&path).unwrap();
        file.refresh();
        assert!(file.find(&token).is_ok());
        write(&path, "# none", 0o640);
        file.refresh();
        assert!(file.find(&token).is_err(), "revoked");
        // A mode that is put right is noticed, although nothing was written.
        write(&path, &line, 0o604);
        file.refresh();
        assert!(file.find(&token).is_err());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        file.refresh();
        assert!(file.find(&token).is_ok());
    }

    #[test]
    fn a_broken_file_at_the_start_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("api-tokens");
        write(&path, "nonsense", 0o600);
        assert!(matches!(
            TokenFile::open(path.clone()),
            Err(TokenFileError::Line { line: 1, .. })
        ));
        write(&path, "", 0o604);
        assert!(matches!(
            TokenFile::open(path),
            Err(TokenFileError::Mode(0o604))
        ));
        assert!(TokenFile::open(dir.path().to_path_buf()).is_err());
    }
}
