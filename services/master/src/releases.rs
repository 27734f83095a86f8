//! The release list: sessions whose reference sets storage nodes have to drop.
//!
//! An entry is written in the transaction that writes the tombstone, so a release that is handed out can never be
//! followed by a commit. It ends when every store has acknowledged.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use cstore_types::{SessionId, StoreUuid};
use parking_lot::Mutex;
use tokio::time::Instant;

use crate::core::{Master, now_ms};
use crate::error::Refusal;
use crate::meta::keys::{self, ReleaseRecord, SessionRecord};
use crate::meta::{Batch, MetaStore};
use crate::namespace::Effect;

/// Sessions that one answer releases at most.
const MAX_RELEASES: usize = 1_000;
/// Open sessions that are remembered; reports of more are answered "open" without a clock.
const MAX_OPEN: usize = 100_000;
/// A node this full gets releases at once.
const HIGH_PRESSURE: u32 = 80;
const SCAN: usize = 1_000;

/// What is to be released, and which open sessions were heard of.
#[derive(Debug, Default)]
pub(crate) struct Releases {
    pending: Mutex<BTreeMap<SessionId, ReleaseRecord>>,
    /// When a session without verdict was first reported, or last made progress, in this life of the master.
    open: Mutex<HashMap<SessionId, Instant>>,
    /// One change of the list at a time.
    changing: tokio::sync::Mutex<()>,
}

impl Releases {
    pub(crate) async fn open(meta: &dyn MetaStore) -> Result<Self, Refusal> {
        let releases = Self::default();
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = meta.scan(&[keys::RELEASES], after.as_deref(), SCAN).await?;
            for (key, found) in &page {
                let session = SessionId::from_bytes(keys::uuid_of(key)?);
                releases.insert(session, ReleaseRecord::decode(&found.value)?);
            }
            match page.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => return Ok(releases),
            }
        }
    }

    pub(crate) fn insert(&self, session: SessionId, release: ReleaseRecord) {
        if !release.stores.is_empty() {
            self.pending.lock().insert(session, release);
        }
    }

    pub(crate) fn len(&self) -> usize {
        self.pending.lock().len()
    }

    /// Sessions that `store` is to release now.
    pub(crate) fn due(&self, store: StoreUuid, pressure: u32) -> Vec<SessionId> {
        let now = now_ms();
        let due = |release: &ReleaseRecord| {
            release.stores.contains(&store) && (pressure >= HIGH_PRESSURE || now >= release.not_before_ms)
        };
        let pending = self.pending.lock();
        pending
            .iter()
            .filter(|(_, release)| due(release))
            .map(|(session, _)| *session)
            .take(MAX_RELEASES)
            .collect()
    }

    fn waits_for(&self, session: SessionId, store: StoreUuid) -> bool {
        self.pending.lock().get(&session).is_some_and(|release| release.stores.contains(&store))
    }

    /// Uploads that are running: their tickets do not expire meanwhile.
    pub(crate) fn progress(&self, sessions: impl Iterator<Item = SessionId>) {
        let mut open = self.open.lock();
        for session in sessions {
            if open.len() < MAX_OPEN || open.contains_key(&session) {
                open.insert(session, Instant::now());
            }
        }
    }

    /// Whether a session made progress within `within`.
    pub(crate) fn is_active(&self, session: SessionId, within: Duration) -> bool {
        self.open.lock().get(&session).is_some_and(|last| last.elapsed() < within)
    }

    pub(crate) fn forget(&self, session: SessionId) {
        self.open.lock().remove(&session);
    }

    /// Whether an open session has been silent for longer than a ticket lives. The first report starts the clock.
    fn is_abandoned(&self, session: SessionId, ttl: Duration) -> bool {
        let mut open = self.open.lock();
        if open.len() >= MAX_OPEN && !open.contains_key(&session) {
            open.retain(|_, last| last.elapsed() < ttl);
            return false;
        }
        open.entry(session).or_insert_with(Instant::now).elapsed() >= ttl
    }
}

impl Master {
    /// A store has durably dropped these.
    pub(crate) async fn acknowledge_releases(
        &self,
        store: StoreUuid,
        sessions: &[SessionId],
    ) -> Result<(), Refusal> {
        let _one = self.releases.changing.lock().await;
        let mut batch = Batch::default();
        let mut left = Vec::new();
        for session in sessions.iter().filter(|session| self.releases.waits_for(**session, store)) {
            let Some(mut release) = self.releases.pending.lock().get(session).cloned() else { continue };
            release.stores.retain(|waiting| *waiting != store);
            if release.stores.is_empty() {
                batch.delete(keys::release_key(*session));
            } else {
                batch.put(keys::release_key(*session), release.encode());
            }
            left.push((*session, release));
        }
        if left.is_empty() {
            return Ok(());
        }
        self.meta.commit(batch).await?;
        let mut pending = self.releases.pending.lock();
        for (session, release) in left {
            if release.stores.is_empty() {
                pending.remove(&session);
            } else {
                pending.insert(session, release);
            }
        }
        Ok(())
    }

    /// What became of a session that a store holds sets of. An abandoned one is tombstoned here first; a dead one
    /// whose release this store had acknowledged is put on the list again.
    pub(crate) async fn judge(
        &self,
        store: StoreUuid,
        session: SessionId,
    ) -> Result<Option<SessionRecord>, Refusal> {
        let found = self.meta.get(&keys::session_key(session)).await?;
        let record = found.map(|found| SessionRecord::decode(&found.value)).transpose()?;
        match record {
            Some(SessionRecord::Tombstoned) => {
                if !self.releases.waits_for(session, store) {
                    self.release_again(store, session).await?;
                }
                Ok(Some(SessionRecord::Tombstoned))
            }
            Some(committed) => {
                self.releases.forget(session);
                Ok(Some(committed))
            }
            None if self.releases.is_abandoned(session, self.config.ticket_ttl) => {
                tracing::info!(%session, "abandoned upload is ended");
                self.tombstone(session).await?;
                Ok(None)
            }
            None => Ok(None),
        }
    }

    async fn release_again(&self, store: StoreUuid, session: SessionId) -> Result<(), Refusal> {
        let _one = self.releases.changing.lock().await;
        let mut release = self
            .releases
            .pending
            .lock()
            .get(&session)
            .cloned()
            .unwrap_or(ReleaseRecord { not_before_ms: 0, stores: Vec::new() });
        release.stores.push(store);
        let mut batch = Batch::default();
        batch.put(keys::release_key(session), release.encode());
        self.meta.commit(batch).await?;
        self.releases.insert(session, release);
        Ok(())
    }

    /// Ends a session that is neither committed nor ended. Answers whether it is ended now; false: it had committed.
    pub(crate) async fn tombstone(&self, session: SessionId) -> Result<bool, Refusal> {
        for _ in 0..crate::core::MAX_TRIES {
            let key = keys::session_key(session);
            if let Some(found) = self.meta.get(&key).await? {
                return Ok(SessionRecord::decode(&found.value)? == SessionRecord::Tombstoned);
            }
            let release = ReleaseRecord { not_before_ms: 0, stores: self.members.store_uuids() };
            let mut batch = Batch::default();
            batch.require_absent(key);
            crate::namespace::end_session(&mut batch, session, &release);
            let effect = Effect { removed: None, released: Some((session, release)) };
            if self.commit(batch, effect).await?.is_some() {
                self.releases.forget(session);
                return Ok(true);
            }
        }
        Err(crate::meta::MetaError::Conflict.into())
    }
}
