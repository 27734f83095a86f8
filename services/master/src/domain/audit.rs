//! Audits: whether each disk holds the reference sets that files rest on.
//!
//! A set that is gone is otherwise noticed only when somebody reads the file. The disk asks for the
//! committed sessions page by page and compares them with its sets, because only there the answer
//! does not race: a set is durable before its session commits, and released only by a later answer.

use cstore_types::limits::MAX_REPORTED_SESSIONS;
use cstore_types::{Fault, SessionId, StoreUuid};

use super::{Context, Releases, Verdict};
use crate::limits::{AUDITED_SESSIONS, MAX_LOGGED_ABSENT};
use crate::store::keys::{self, SessionRecord};

/// A page of committed sessions.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct AuditPage {
    /// Committed sessions whose reference sets the disk must hold.
    pub(crate) sessions: Vec<SessionId>,
    /// The last session that was looked at.
    pub(crate) last: Option<SessionId>,
    /// No session follows.
    pub(crate) is_last: bool,
}

/// The master's side of audits.
#[derive(Debug, Clone)]
pub(crate) struct Audits {
    context: Context,
    releases: Releases,
}

impl Audits {
    pub(crate) fn new(context: Context, releases: Releases) -> Self {
        Self { context, releases }
    }

    /// Returns the committed sessions after `after` of which `store` must hold sets. The page may
    /// be empty although others follow.
    ///
    /// # Errors
    /// The error of the metadata store.
    pub(crate) async fn page(
        &self,
        store: StoreUuid,
        after: Option<SessionId>,
    ) -> Result<AuditPage, Fault> {
        let after = after.map(keys::session_key);
        let scan = self
            .context
            .store
            .scan(&[keys::SESSIONS], after.as_deref(), AUDITED_SESSIONS);
        let found = scan.await?;
        let mut page = AuditPage {
            is_last: found.len() < AUDITED_SESSIONS,
            ..AuditPage::default()
        };
        for (key, value) in found {
            let session = SessionId::from_bytes(keys::uuid_of(&key)?);
            page.last = Some(session);
            if let SessionRecord::Committed(committed) = SessionRecord::decode(&value.value)?
                && committed.stores.contains(&store)
            {
                page.sessions.push(session);
            }
        }
        Ok(page)
    }

    /// Logs the name of each file that has lost its reference set on a disk. Sessions that are not
    /// committed any more are skipped.
    pub(crate) async fn log_absent(&self, store: StoreUuid, absent: &[SessionId]) {
        for session in absent.iter().take(MAX_LOGGED_ABSENT) {
            if let Ok(Verdict::Committed(committed)) = self.releases.verdict(*session).await {
                let name = &committed.name;
                tracing::error!(%store, %session, %name, "a disk has lost the reference set of a file");
            }
        }
    }
}

const _: () = assert!(AUDITED_SESSIONS <= MAX_REPORTED_SESSIONS);
