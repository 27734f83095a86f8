//! Everything that the master keeps in memory because of what is in its metadata: one fold over
//! changes.
//!
//! [`Derived::observe`] is the only way in. The open feeds it every key, the store's writer every
//! change of every batch. So the memory equals what a restart would derive, also when the request
//! that made a change is gone.
//!
//! | key | derived |
//! |---|---|
//! | `n` name | usage of its tenant |
//! | `s` session | its activity ends; files published; what is kept |
//! | `l` release | the release list |
//! | `t` store | known stores, their nodes and newest seals |
//! | `e` era | how ids of new sessions begin |
//! | `m` placement | the placement map; watchers are told |

use std::collections::{BTreeMap, HashMap};
use std::ops::Bound;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use cstore_types::{NodeId, Placement, SessionEra, SessionId, StoreUuid};
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio::time::Instant;

use super::release_list::{PendingRelease, ReleaseList};
use super::usage::Usage;
use crate::limits::MAX_OPEN_SESSIONS;
use crate::store::keys::{self, FileRecord, ReleaseRecord, SessionRecord, StoreRecord};
use crate::store::{Batch, Change, DamageKind, MetaError, Observer, Position, Versioned};

/// State derived from the metadata.
#[derive(Debug, Default)]
pub(crate) struct Derived {
    pub(crate) usage: Usage,
    pub(crate) releases: ReleaseList,
    pub(crate) activity: SessionActivity,
    stores: Mutex<HashMap<StoreUuid, StoreRecord>>,
    placement: Mutex<Option<Placement>>,
    /// Sessions that are kept, with the positions of their records.
    kept: Mutex<BTreeMap<SessionId, Position>>,
    /// Era of new sessions, with the position of its record.
    era: Mutex<Option<(SessionEra, Position)>>,
    published_files: AtomicU64,
    changes: ViewChanges,
    /// Why this master writes nothing: somebody has obeyed another history. Not derived from the
    /// metadata, but from what nodes have told this life of the master.
    contest: Mutex<Option<Arc<str>>>,
    /// Some storage node was heard in this life of the master.
    has_heard: AtomicBool,
}

/// Counts the changes that those who watch the cluster should see, and wakes them in the order in
/// which they wait.
///
/// Not a `tokio::sync::watch`: it wakes in random order, so that two runs of one simulation would
/// differ.
#[derive(Debug, Default)]
struct ViewChanges {
    count: AtomicU64,
    counted: Notify,
}

/// A watcher of the cluster's view.
#[derive(Debug)]
pub(crate) struct ViewWatch {
    derived: Arc<Derived>,
    /// The count that was seen last; `None` before the first view.
    seen: Option<u64>,
}

impl ViewWatch {
    /// Waits for a change that this watcher has not seen; the first call returns at once. Cancel
    /// safe.
    pub(crate) async fn changed(&mut self) {
        let changes = &self.derived.changes;
        loop {
            // Registered BEFORE the count is read: otherwise a change between the two would be
            // missed.
            let counted = changes.counted.notified();
            tokio::pin!(counted);
            counted.as_mut().enable();
            let count = changes.count.load(Ordering::Acquire);
            if self.seen.replace(count) != Some(count) {
                return;
            }
            counted.await;
        }
    }
}

impl Derived {
    /// Returns a watcher of the cluster's view.
    pub(crate) fn watch(self: &Arc<Self>) -> ViewWatch {
        ViewWatch {
            derived: self.clone(),
            seen: None,
        }
    }

    /// Tells the watchers that the view has changed.
    pub(crate) fn changed(&self) {
        self.changes.count.fetch_add(1, Ordering::Release);
        self.changes.counted.notify_waiters();
    }

    /// Notes that a storage node was heard, and why this master may write nothing, or that it may.
    pub(super) fn contest(&self, why: Option<String>) {
        *self.contest.lock() = why.map(Arc::from);
        self.has_heard.store(true, Ordering::Release);
    }

    /// Returns why this master may write nothing.
    pub(crate) fn contested(&self) -> Option<Arc<str>> {
        self.contest.lock().clone()
    }

    /// Returns true if this master knows stores and has heard none of them yet: it may be an older
    /// copy, which must not write before it was judged.
    pub(super) fn is_unheard(&self) -> bool {
        !self.has_heard.load(Ordering::Acquire) && !self.stores.lock().is_empty()
    }

    pub(crate) fn placement(&self) -> Option<Placement> {
        self.placement.lock().clone()
    }

    /// Returns every store that ever registered.
    pub(crate) fn store_uuids(&self) -> Vec<StoreUuid> {
        let mut stores: Vec<StoreUuid> = self.stores.lock().keys().copied().collect();
        stores.sort_unstable();
        stores
    }

    pub(crate) fn store(&self, store: StoreUuid) -> Option<StoreRecord> {
        self.stores.lock().get(&store).cloned()
    }

    /// Returns the stores of `node`, in order.
    pub(crate) fn stores_of(&self, node: &NodeId) -> Vec<StoreUuid> {
        let stores = self.stores.lock();
        let own = stores.iter().filter(|(_, record)| record.node == *node);
        let mut own: Vec<StoreUuid> = own.map(|(store, _)| *store).collect();
        own.sort_unstable();
        own
    }

    /// Returns the era of new sessions; `None` before a person has accepted this master.
    pub(crate) fn era(&self) -> Option<SessionEra> {
        self.era.lock().map(|(era, _)| era)
    }

    /// Returns true if a session may have committed in another history of the metadata: a person
    /// has accepted this master, and the session was begun before, or elsewhere. `batch` is refused
    /// if another era has begun until it is written.
    pub(super) fn is_of_other_era(&self, session: SessionId, batch: &mut Batch) -> bool {
        let era = *self.era.lock();
        match era {
            None => batch.require_absent(keys::ERA.to_vec()),
            Some((_, version)) => batch.require_version(keys::ERA.to_vec(), version),
        }
        era.is_some_and(|(era, _)| !era.is_of(session))
    }

    /// Returns the number of sessions that are kept.
    pub(crate) fn n_kept(&self) -> u64 {
        self.kept.lock().len() as u64
    }

    /// Returns the number of open sessions of another era, and the time until the first of them is kept.
    /// A session is kept once it was silent for `ttl`.
    ///
    /// Only sessions that a storage node has reported in this life of the master are counted.
    pub(crate) fn undecided(&self, ttl: Duration) -> (u64, Duration) {
        let era = *self.era.lock();
        let Some((era, _)) = era else {
            return (0, Duration::ZERO);
        };
        let open = self.activity.open.lock();
        let others = open.iter().filter(|(session, _)| !era.is_of(**session));
        let left: Vec<Duration> = others
            .map(|(_, last)| ttl.saturating_sub(last.elapsed()))
            .collect();
        let first = left.iter().min().copied();
        (left.len() as u64, first.unwrap_or_default())
    }

    /// Returns up to `max` kept sessions after `after`, in order.
    pub(crate) fn kept_after(&self, after: Option<SessionId>, max: usize) -> Vec<SessionId> {
        let from = after.map_or(Bound::Unbounded, Bound::Excluded);
        let kept = self.kept.lock();
        let page = kept.range((from, Bound::Unbounded)).take(max);
        page.map(|(session, _)| *session).collect()
    }

    /// Returns the position of the record of a session that is kept.
    pub(super) fn kept(&self, session: SessionId) -> Option<Position> {
        self.kept.lock().get(&session).copied()
    }

    /// Returns the sessions that published a file since the oldest one that is still there.
    pub(crate) fn published_files(&self) -> u64 {
        self.published_files.load(Ordering::Relaxed)
    }

    fn observe_name(&self, change: Change<'_>) -> Result<(), DamageKind> {
        let size = |value: &Versioned| FileRecord::size_of(&value.value);
        let old = change.old.map(size).transpose()?;
        let new = change.new.map(size).transpose()?;
        self.usage.replace(&keys::tenant_of(change.key)?, old, new);
        Ok(())
    }

    fn observe_session(&self, change: Change<'_>) -> Result<(), DamageKind> {
        let session = SessionId::from_bytes(keys::uuid_of(change.key)?);
        let is_kept = |value: &Versioned| SessionRecord::is_kept(&value.value);
        match change.new {
            Some(new) if is_kept(new)? => drop(self.kept.lock().insert(session, new.version)),
            _ => drop(self.kept.lock().remove(&session)),
        }
        let Some(new) = change.new else { return Ok(()) };
        self.activity.forget(session);
        if change.old.is_none() && SessionRecord::has_committed(&new.value)? {
            self.published_files.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn observe_release(&self, change: Change<'_>) -> Result<(), DamageKind> {
        let session = SessionId::from_bytes(keys::uuid_of(change.key)?);
        let pending = |new: &Versioned| {
            let record = ReleaseRecord::decode(&new.value)?;
            Ok::<_, DamageKind>(PendingRelease {
                version: new.version,
                record,
            })
        };
        self.releases
            .replace(session, change.new.map(pending).transpose()?);
        Ok(())
    }

    fn observe_store(&self, change: Change<'_>) -> Result<(), DamageKind> {
        let store = StoreUuid::from_bytes(keys::uuid_of(change.key)?);
        match change.new {
            Some(new) => drop(
                self.stores
                    .lock()
                    .insert(store, StoreRecord::decode(&new.value)?),
            ),
            None => drop(self.stores.lock().remove(&store)),
        }
        Ok(())
    }

    fn observe_era(&self, change: Change<'_>) -> Result<(), DamageKind> {
        let era = change
            .new
            .map(|new| Ok::<_, DamageKind>((keys::decode_era(&new.value)?, new.version)));
        *self.era.lock() = era.transpose()?;
        Ok(())
    }

    fn observe_placement(&self, change: Change<'_>) -> Result<(), DamageKind> {
        let placement = change
            .new
            .map(|new| keys::decode_placement(&new.value))
            .transpose()?;
        *self.placement.lock() = placement;
        self.changed();
        Ok(())
    }
}

impl Observer for Derived {
    fn follows(&self, key: &[u8]) -> bool {
        let tag = key.first().copied();
        key == keys::PLACEMENT
            || key == keys::ERA
            || matches!(
                tag,
                Some(keys::NAMES | keys::SESSIONS | keys::RELEASES | keys::STORES)
            )
    }

    fn observe(&self, change: Change<'_>) -> Result<(), MetaError> {
        let observed = match change.key.first().copied() {
            Some(keys::NAMES) => self.observe_name(change),
            Some(keys::SESSIONS) => self.observe_session(change),
            Some(keys::RELEASES) => self.observe_release(change),
            Some(keys::STORES) => self.observe_store(change),
            _ if change.key == keys::ERA => self.observe_era(change),
            _ if change.key == keys::PLACEMENT => self.observe_placement(change),
            _ => Ok(()),
        };
        observed.map_err(MetaError::Damaged)
    }

    fn forget(&self) {
        self.usage.forget();
        self.releases.forget();
        self.stores.lock().clear();
        *self.placement.lock() = None;
        self.kept.lock().clear();
        *self.era.lock() = None;
        self.published_files.store(0, Ordering::Relaxed);
    }
}

/// When open sessions were last known to be alive, in this life of the master.
#[derive(Debug, Default)]
pub(crate) struct SessionActivity {
    /// When a session without a verdict was first reported, or last made progress.
    open: Mutex<HashMap<SessionId, Instant>>,
}

impl SessionActivity {
    /// Notes that uploads are running: their tickets do not expire while they make progress.
    pub(crate) fn progress(&self, sessions: impl Iterator<Item = SessionId>) {
        let mut open = self.open.lock();
        for session in sessions {
            if open.len() < MAX_OPEN_SESSIONS || open.contains_key(&session) {
                open.insert(session, Instant::now());
            }
        }
    }

    /// Returns true if a session made progress within `within`.
    pub(crate) fn is_active(&self, session: SessionId, within: Duration) -> bool {
        self.open
            .lock()
            .get(&session)
            .is_some_and(|last| last.elapsed() < within)
    }

    /// Returns true if an open session has been silent for at least `ttl`. The first call for a
    /// session starts its clock.
    pub(super) fn is_abandoned(&self, session: SessionId, ttl: Duration) -> bool {
        let mut open = self.open.lock();
        if open.len() >= MAX_OPEN_SESSIONS && !open.contains_key(&session) {
            open.retain(|_, last| last.elapsed() < ttl);
            return false;
        }
        open.entry(session).or_insert_with(Instant::now).elapsed() >= ttl
    }

    pub(super) fn forget(&self, session: SessionId) {
        self.open.lock().remove(&session);
    }
}

/// A comparable copy of everything durable that is derived.
#[cfg(test)]
#[derive(Debug, PartialEq)]
pub(super) struct Folded {
    usage: BTreeMap<String, super::FileTotals>,
    releases: BTreeMap<SessionId, PendingRelease>,
    stores: BTreeMap<StoreUuid, StoreRecord>,
    placement: Option<Placement>,
    kept: BTreeMap<SessionId, Position>,
    era: Option<SessionEra>,
}

#[cfg(test)]
impl Derived {
    pub(super) fn folded(&self) -> Folded {
        Folded {
            usage: self.usage.snapshot(),
            releases: self.releases.snapshot(),
            stores: self.stores.lock().clone().into_iter().collect(),
            placement: self.placement(),
            kept: self.kept.lock().clone(),
            era: self.era(),
        }
    }
}
