//! What some files are made of: the sessions behind their names, and which of them would end with these names.

use std::collections::HashMap;

use cstore_types::limits::MAX_USAGE_SESSIONS;
use cstore_types::{ErrorCode, FileName, SessionId, Tenant};

use crate::core::Master;
use crate::error::Refusal;
use crate::meta::keys::{self, FileRecord, SessionRecord};

const SCAN: usize = 256;

/// Which files are meant.
#[derive(Debug, Clone)]
pub(crate) enum Selection {
    Name(FileName),
    Prefix(String),
}

/// The files that were meant.
#[derive(Debug, Default)]
pub(crate) struct Selected {
    pub(crate) files: u64,
    pub(crate) logical_bytes: u64,
    /// Each with whether all its names are among the files.
    pub(crate) sessions: Vec<(SessionId, bool)>,
    /// Names outside of the selection that share its sessions.
    pub(crate) other_names: u64,
}

impl Master {
    /// # Errors
    /// `not_found` for one name; `invalid_argument` when a prefix has more than 4,096 files.
    pub(crate) async fn select_files(
        &self,
        tenant: &Tenant,
        selection: &Selection,
    ) -> Result<Selected, Refusal> {
        let files = match selection {
            Selection::Name(name) => vec![self.must_find(tenant, name).await?.0],
            Selection::Prefix(prefix) => self.files_under(tenant, prefix).await?,
        };
        let mut found = Selected {
            files: files.len() as u64,
            logical_bytes: files.iter().map(|file| file.size).sum(),
            ..Selected::default()
        };
        let mut names: HashMap<SessionId, u32> = HashMap::new();
        for file in &files {
            *names.entry(file.session).or_default() += 1;
        }
        for (session, among) in names {
            let record = self.meta.get(&keys::session_key(session)).await?;
            // One that has ended meanwhile holds nothing.
            let Some(record) = record else { continue };
            if let SessionRecord::Committed { names, .. } = SessionRecord::decode(&record.value)? {
                found.sessions.push((session, among >= names));
                found.other_names += u64::from(names.saturating_sub(among));
            }
        }
        Ok(found)
    }

    async fn files_under(&self, tenant: &Tenant, prefix: &str) -> Result<Vec<FileRecord>, Refusal> {
        let mut range = keys::names_prefix(tenant);
        range.extend(prefix.as_bytes());
        let (mut files, mut after) = (Vec::new(), None);
        loop {
            let found = self.meta.scan(&range, after.as_deref(), SCAN).await?;
            let complete = found.len() < SCAN;
            for (key, value) in found {
                files.push(FileRecord::decode(&value.value)?);
                after = Some(key);
            }
            if files.len() > MAX_USAGE_SESSIONS {
                let text = format!(
                    "more than {MAX_USAGE_SESSIONS} files begin with {prefix:?}; ask for a longer prefix"
                );
                return Err(Refusal::new(ErrorCode::InvalidArgument, text));
            }
            if complete {
                return Ok(files);
            }
        }
    }
}
