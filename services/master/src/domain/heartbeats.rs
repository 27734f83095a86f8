//! Heartbeats: how a member stays one, and what is taken from its reports.

use cstore_types::epoch::SeenSeals;
use cstore_types::history::Point;
use cstore_types::{NodeId, StoreUuid};
use parking_lot::MutexGuard;
use tokio::time::Instant;

use super::history::Telling;
use super::membership::{DiskReport, DoubtReport, Inner, Membership, Node, NodeRole, NodeState};
use super::seals::Told;
use crate::store::keys::StoreRecord;

/// A heartbeat, checked.
#[derive(Debug)]
pub(crate) struct Heartbeat {
    pub(crate) id: NodeId,
    pub(crate) role: NodeRole,
    pub(crate) ready: bool,
    pub(crate) reason: String,
    pub(crate) disk: Option<DiskReport>,
    pub(crate) told: Told,
    pub(crate) noted: Option<Point>,
    pub(crate) doubts: Vec<DoubtReport>,
    /// The last heartbeat of a worker that stops cleanly.
    pub(crate) leaving: bool,
    /// Largest body that a worker takes in one call; 0 if it did not say.
    pub(crate) max_small_bytes: u64,
}

/// Outcome of a heartbeat.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HeartbeatOutcome {
    /// The node is not known, or not with this disk: it has to register.
    RegisterAgain,
    /// The node is no member any more, as it asked for.
    Left,
    /// The lease is renewed.
    Renewed {
        /// The disk is older than what the master has seen of it.
        suspect: bool,
        /// Newest seals of the disk on which files rest; `None` for a worker.
        seen: Option<SeenSeals>,
        /// The master's history, by which a storage node decides whether to obey this master.
        telling: Telling,
        /// Doubts that a person accepted and that the node has not accepted yet.
        accepting: Vec<u32>,
    },
}

/// The fields of a node that are part of the cluster view.
type Seen = (NodeState, String, Vec<DoubtReport>, u64);

impl Node {
    /// Takes what a heartbeat tells. `record` is that of the disk, for a storage node.
    fn take(&mut self, beat: Heartbeat, record: Option<&StoreRecord>) {
        self.last_seen = Instant::now();
        self.ready = beat.ready;
        self.reason = beat.reason;
        self.doubts = beat.doubts;
        self.max_small_bytes = beat.max_small_bytes;
        if let (Some(disk), Some(record)) = (beat.disk, record) {
            self.disk = Some(disk);
            self.told = beat.told;
            self.noted = beat.noted;
            self.suspect = match &self.told {
                // Only a restart can bring an older disk: a heartbeat that a commit overtook proves
                // nothing.
                Told::Nothing | Told::Sequence => {
                    self.suspect && disk.seal_seq < record.seen.newest.seq
                }
                // Seals in the current epoch of the disk count as held.
                Told::Epochs(_) => self.is_older_than(&record.seen) || self.is_in_doubt(),
            };
        }

        let open = |number: &u32| {
            let mut doubts = self.doubts.iter();
            doubts.any(|doubt| doubt.number == *number && !doubt.accepted)
        };
        self.accepting.retain(|number, _| open(number));
    }

    /// Returns true if a heartbeat is of the open of the disk that has registered. One of the
    /// process before may come late, and tells of what that one had.
    fn is_same_open(&self, beat: &Heartbeat, record: Option<&StoreRecord>) -> bool {
        let Some(disk) = &beat.disk else {
            return true;
        };
        let registered: Option<StoreUuid> = self.disk.as_ref().map(|disk| disk.store);
        let is_its_disk = record.is_some_and(|record| record.node == beat.id);
        is_its_disk && registered == Some(disk.store) && self.told.is_same_open(&beat.told)
    }
}

impl Membership {
    /// Renews a lease.
    pub(crate) fn heartbeat(&self, beat: Heartbeat) -> HeartbeatOutcome {
        let store = beat.disk.as_ref().map(|disk| disk.store);
        let record = store.and_then(|store| self.context.derived.store(store));
        let history = store.map(|_| self.context.store.history());
        let mut inner = self.inner.lock();
        if beat.leaving && beat.role == NodeRole::Worker {
            return self.leave(inner, &beat);
        }

        let known = inner.nodes.get_mut(&beat.id);
        let known = known.filter(|node| node.role == beat.role);
        let Some(node) = known.filter(|node| node.is_same_open(&beat, record.as_ref())) else {
            return HeartbeatOutcome::RegisterAgain;
        };
        let seen_of = |node: &Node| -> Seen {
            let state = node.state(self.lease());
            let (reason, doubts) = (node.reason.clone(), node.doubts.clone());
            (state, reason, doubts, node.max_small_bytes)
        };
        let before = seen_of(node);
        let (id, noted) = (beat.id.clone(), beat.noted);
        node.take(beat, record.as_ref());
        node.last_seen_ms = self.context.clock.now_ms();
        let (suspect, after) = (node.suspect, seen_of(node));
        let accepting = node.accepting.keys().copied().collect();
        let telling = store
            .zip(history)
            .map(|(store, history)| self.judge_history(&mut inner, &history, (&id, store), noted));
        drop(inner);

        if before != after {
            self.context.derived.changed();
        }
        HeartbeatOutcome::Renewed {
            suspect,
            seen: record.map(|record| record.seen),
            telling: telling.unwrap_or_default(),
            accepting,
        }
    }

    fn leave(&self, mut inner: MutexGuard<'_, Inner>, beat: &Heartbeat) -> HeartbeatOutcome {
        let known = inner.nodes.get(&beat.id);
        if known.is_some_and(|node| node.role == beat.role) {
            inner.nodes.remove(&beat.id);
            tracing::info!(node = %beat.id, "worker has left");
        }
        drop(inner);
        self.context.derived.changed();
        HeartbeatOutcome::Left
    }
}
