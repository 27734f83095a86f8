//! The release list: sessions whose reference sets storage nodes have to drop, as the metadata has
//! it.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use cstore_types::{SessionId, StoreUuid};
use parking_lot::Mutex;

use crate::store::Position;
use crate::store::keys::ReleaseRecord;

/// A release that some store has yet to acknowledge.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct PendingRelease {
    /// The position at which the record was written: a change of it has to require this version.
    pub(crate) version: Position,
    pub(crate) record: ReleaseRecord,
}

#[derive(Debug, Default)]
struct Inner {
    pending: BTreeMap<SessionId, PendingRelease>,
    /// The same, for each store by the time from which it may be handed out: what is due is a
    /// prefix.
    by_store: HashMap<StoreUuid, BTreeSet<(i64, SessionId)>>,
}

/// All pending releases.
#[derive(Debug, Default)]
pub(crate) struct ReleaseList {
    inner: Mutex<Inner>,
}

impl ReleaseList {
    /// Takes one change of a session's release record into account.
    pub(super) fn replace(&self, session: SessionId, new: Option<PendingRelease>) {
        let mut inner = self.inner.lock();
        if let Some(old) = inner.pending.remove(&session) {
            let entry = (old.record.not_before_ms, session);
            for store in &old.record.stores {
                let emptied = inner.by_store.get_mut(store).is_some_and(|due| {
                    due.remove(&entry);
                    due.is_empty()
                });
                if emptied {
                    inner.by_store.remove(store);
                }
            }
        }
        if let Some(new) = new {
            for store in &new.record.stores {
                let due = inner.by_store.entry(*store).or_default();
                due.insert((new.record.not_before_ms, session));
            }
            inner.pending.insert(session, new);
        }
    }

    /// Forgets all releases.
    pub(super) fn forget(&self) {
        *self.inner.lock() = Inner::default();
    }

    /// Returns up to `max` sessions that `store` has to release and whose time is at most
    /// `until_ms`, oldest first.
    pub(crate) fn due(&self, store: StoreUuid, until_ms: i64, max: usize) -> Vec<SessionId> {
        let inner = self.inner.lock();
        let Some(due) = inner.by_store.get(&store) else {
            return Vec::new();
        };
        due.iter()
            .take_while(|(from_ms, _)| *from_ms <= until_ms)
            .take(max)
            .map(|(_, session)| *session)
            .collect()
    }

    /// Returns the number of sessions whose space has not come back yet.
    pub(crate) fn len(&self) -> usize {
        self.inner.lock().pending.len()
    }

    pub(super) fn get(&self, session: SessionId) -> Option<PendingRelease> {
        self.inner.lock().pending.get(&session).cloned()
    }

    pub(super) fn waits_for(&self, session: SessionId, store: StoreUuid) -> bool {
        self.inner
            .lock()
            .pending
            .get(&session)
            .is_some_and(|release| release.record.stores.contains(&store))
    }

    /// Returns a copy of all releases, for comparisons in tests.
    #[cfg(test)]
    pub(super) fn snapshot(&self) -> BTreeMap<SessionId, PendingRelease> {
        self.inner.lock().pending.clone()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn release(version: Position, not_before_ms: i64, stores: &[u8]) -> Option<PendingRelease> {
        let stores = stores
            .iter()
            .map(|n| StoreUuid::from_bytes([*n; 16]))
            .collect();
        Some(PendingRelease {
            version,
            record: ReleaseRecord {
                not_before_ms,
                stores,
            },
        })
    }

    #[test]
    fn a_store_is_given_what_is_due_oldest_first_until_it_has_acknowledged() {
        let list = ReleaseList::default();
        let session = |n: u8| SessionId::from_bytes([n; 16]);
        let store = |n: u8| StoreUuid::from_bytes([n; 16]);
        list.replace(session(1), release(1, 30, &[1, 2]));
        list.replace(session(2), release(2, 10, &[1]));
        list.replace(session(3), release(3, 20, &[2]));

        assert_eq!(list.due(store(1), 9, 10), []);
        assert_eq!(list.due(store(1), 30, 10), [session(2), session(1)]);
        assert_eq!(list.due(store(1), 30, 1), [session(2)]);
        assert_eq!(list.due(store(3), i64::MAX, 10), []);

        list.replace(session(1), release(4, 30, &[2]));
        assert_eq!(list.due(store(1), 30, 10), [session(2)]);
        assert!(list.waits_for(session(1), store(2)) && !list.waits_for(session(1), store(1)));
        list.replace(session(1), None);
        assert_eq!(list.due(store(2), 30, 10), [session(3)]);
        assert_eq!(list.len(), 2);
    }
}
