//! Disks of storage nodes: which one a node may come with, what is in doubt on it, and what a
//! person decides about it.

use cstore_types::epoch::SeenSeals;
use cstore_types::history::Point;
use cstore_types::{ErrorCode, Fault, NodeId, StoreUuid};

use super::history::{CONTEST, MASTER, begin_era};
use super::membership::{DoubtReport, Inner, Membership, NodeState};
use super::releases::Releases;
use crate::limits::MAX_DECISIONS;
use crate::store::keys::{self, StoreRecord, StoreState};
use crate::store::{Batch, MetaError};

impl Membership {
    /// Makes `store` known as a store of `id`. Returns its newest seal that the master has seen.
    ///
    /// One that is not open yet is only checked: it may not be formatted either, and a process that
    /// dies before it is comes back with another uuid.
    pub(super) async fn register_store(
        &self,
        id: &NodeId,
        store: StoreUuid,
        is_open: bool,
    ) -> Result<SeenSeals, Fault> {
        for _ in 0..MAX_DECISIONS {
            match self.context.derived.store(store) {
                Some(record) if record.node == *id => return Ok(record.seen),
                Some(record) => {
                    let text = format!("store {store} belongs to node {}", record.node);
                    return Err(Fault::new(ErrorCode::PermissionDenied, text));
                }
                None => {}
            }
            if let Some(known) = self.context.derived.stores_of(id).first() {
                return Err(other_store(id, *known, store));
            }
            // Nothing that is served lies on a disk that is not known, and an empty one would be
            // formatted.
            self.context.check_writable()?;
            if !is_open {
                return Ok(SeenSeals::default());
            }
            let record = StoreRecord {
                seen: SeenSeals::default(),
                accepted: Point::default(),
                state: StoreState::Up,
                node: id.clone(),
            };
            let mut batch = Batch::default();
            batch.require_absent(keys::store_key(store));
            batch.put(keys::store_key(store), record.encode());
            self.context.propose(batch).await?;
        }
        Err(MetaError::Conflict.into())
    }

    /// Gives up a disk of a storage node for good, on behalf of a person: nobody waits for its
    /// releases any more, and the node may come with another disk. Returns how many sessions were
    /// waiting for it. Repeating it after a failure is safe.
    ///
    /// # Errors
    /// `invalid_argument` if it is no store of the node, with those that are; `precondition_failed`
    /// while the node is there with it; those of the store of metadata.
    pub(crate) async fn give_up_store(
        &self,
        releases: &Releases,
        id: &NodeId,
        store: StoreUuid,
    ) -> Result<u64, Fault> {
        self.context.check_writable()?;
        let known = self.context.derived.stores_of(id);
        if !known.contains(&store) {
            let known: Vec<String> = known.iter().map(StoreUuid::to_string).collect();
            let text = format!(
                "store {store} is no disk of node {id}; its disks are: {}",
                known.join(", ")
            );
            return Err(Fault::new(ErrorCode::InvalidArgument, text));
        }
        let is_there = self.inner.lock().nodes.get(id).is_some_and(|node| {
            let has_it = node.disk.as_ref().is_some_and(|disk| disk.store == store);
            has_it && node.state(self.lease()) != NodeState::Lost
        });
        if is_there {
            let text = format!("node {id} is there with store {store}; stop it first");
            return Err(Fault::new(ErrorCode::PreconditionFailed, text));
        }

        let mut ended = 0;
        loop {
            let waiting = releases.of_store(store);
            if waiting.is_empty() {
                break;
            }
            ended += waiting.len() as u64;
            releases.give_up(store, &waiting).await?;
        }
        let mut batch = Batch::default();
        batch.delete(keys::store_key(store));
        // Also while the disk contests this master: giving it up ends that. It may have done so in an
        // earlier life only, and what the other history has committed on other disks must stay.
        begin_era(&mut batch)?;
        self.context.propose_contested(batch).await?;
        let mut inner = self.inner.lock();
        self.note_contest(&mut inner, id, None);
        drop(inner);
        tracing::warn!(node = %id, %store, "disk is given up by an operator");
        Ok(ended)
    }

    /// Accepts a doubt of a storage node on behalf of a person: the node is told at its next
    /// heartbeat. A doubt about this master is accepted by the master itself.
    ///
    /// # Errors
    /// `not_found` if the node is not known; `invalid_argument` if it has no open doubt of this
    /// number, which names those that it has.
    pub(crate) async fn accept_doubt(&self, id: &NodeId, number: u32) -> Result<(), Fault> {
        self.context.check_writable()?;
        match self.note_accept(id, number)? {
            Some((store, noted)) => self.accept_history(id, store, noted).await,
            None => Ok(()),
        }
    }

    /// Notes that the node is to be told of an accept. Returns its disk and what it has noted if
    /// the doubt is about this master.
    fn note_accept(&self, id: &NodeId, number: u32) -> Result<Option<(StoreUuid, Point)>, Fault> {
        let mut inner = self.inner.lock();
        let Inner {
            nodes, contests, ..
        } = &mut *inner;
        let node = nodes
            .get_mut(id)
            .ok_or_else(|| Fault::new(ErrorCode::NotFound, format!("node {id} is not known")))?;
        let is_contested = contests.contains_key(id);
        let doubts = node.doubts.iter().filter(|doubt| !doubt.accepted);
        let mut open: Vec<u32> = doubts.map(|doubt| doubt.number).collect();
        let says_so = node.doubts.iter().any(|doubt| doubt.kind == MASTER);
        open.extend((is_contested && !says_so).then_some(CONTEST));
        if !open.contains(&number) {
            let text = format!("node {id} has no open doubt {number}; open are {open:?}");
            return Err(Fault::new(ErrorCode::InvalidArgument, text));
        }
        tracing::warn!(node = %id, number, "doubt is accepted by an operator");
        let is_about_master = |doubt: &DoubtReport| doubt.number == number && doubt.kind == MASTER;
        if number != CONTEST && !node.doubts.iter().any(is_about_master) {
            let mut doubts = node.doubts.iter();
            let accepted = doubts.find(|doubt| doubt.number == number);
            node.accepting
                .extend(accepted.map(|doubt| (number, doubt.clone())));
            return Ok(None);
        }
        let noted = node.disk.as_ref().map(|disk| disk.store).zip(node.noted);
        noted.map(Some).ok_or_else(|| {
            let text = format!("node {id} has not told what it has noted of the master");
            Fault::new(ErrorCode::Unavailable, text)
        })
    }
}

/// Makes the refusal of a disk that is not the one that a node had: a volume that is not mounted,
/// or the disk of somebody else.
fn other_store(id: &NodeId, known: StoreUuid, found: StoreUuid) -> Fault {
    let text = format!(
        "node {id} has store {known} and comes with store {found}, which is empty or another disk; \
         attach the right volume. If {known} is lost for good: cstore admin node replace {id} --lost {known}"
    );
    Fault::new(ErrorCode::PermissionDenied, text)
}
