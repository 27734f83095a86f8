//! Selections: the sessions that some files share, and which of them would end if the files were
//! removed.

use std::collections::HashMap;

use cstore_types::limits::MAX_USAGE_SESSIONS;
use cstore_types::{Fault, FileName, SessionId, SessionUsage, Tenant};

use super::Namespace;
use crate::limits::SCANNED_NAMES;
use crate::store::keys::{self, FileRecord, SessionRecord};

/// A choice of files.
#[derive(Debug, Clone)]
pub(crate) enum Selection {
    Name(FileName),
    Prefix(String),
}

/// The use of sessions by the selected files.
#[derive(Debug, Default)]
pub(crate) struct SelectionUsage {
    pub(crate) files: u64,
    pub(crate) logical_bytes: u64,
    /// Sessions of the files; one ends if all its names are among the files.
    pub(crate) sessions: Vec<SessionUsage>,
    /// Names outside of the selection that share its sessions.
    pub(crate) other_names: u64,
}

impl Namespace {
    /// Returns what the selected files are made of.
    ///
    /// # Errors
    /// `not_found` for one name; `invalid_argument` when a prefix has more than 4,096 files.
    pub(crate) async fn select_files(
        &self,
        tenant: &Tenant,
        selection: &Selection,
    ) -> Result<SelectionUsage, Fault> {
        let files = match selection {
            Selection::Name(name) => vec![self.must_find(tenant, name).await?.record],
            Selection::Prefix(prefix) => self.files_under(tenant, prefix).await?,
        };
        let mut found = SelectionUsage {
            files: files.len() as u64,
            logical_bytes: files.iter().map(|file| file.meta.size).sum(),
            ..SelectionUsage::default()
        };
        let mut names: HashMap<SessionId, u32> = HashMap::new();
        for file in &files {
            *names.entry(file.session).or_default() += 1;
        }
        for (session, among) in names {
            let record = self
                .context()
                .store
                .get(&keys::session_key(session))
                .await?;
            // A session that has ended since holds nothing.
            let Some(record) = record else { continue };
            if let SessionRecord::Committed(committed) = SessionRecord::decode(&record.value)? {
                found.sessions.push(SessionUsage {
                    session,
                    ends: among >= committed.names,
                });
                found.other_names += u64::from(committed.names.saturating_sub(among));
            }
        }
        Ok(found)
    }

    async fn files_under(&self, tenant: &Tenant, prefix: &str) -> Result<Vec<FileRecord>, Fault> {
        let mut range = keys::names_prefix(tenant);
        range.extend(prefix.as_bytes());
        let mut files = Vec::new();
        let mut after = None;
        loop {
            let found = self
                .context()
                .store
                .scan(&range, after.as_deref(), SCANNED_NAMES)
                .await?;
            let complete = found.len() < SCANNED_NAMES;
            for (key, value) in found {
                files.push(FileRecord::decode(&value.value)?);
                after = Some(key);
            }
            if files.len() > MAX_USAGE_SESSIONS {
                let text = format!(
                    "more than {MAX_USAGE_SESSIONS} files begin with {prefix:?}; ask for a longer prefix"
                );
                return Err(Fault::invalid(text));
            }
            if complete {
                return Ok(files);
            }
        }
    }
}
