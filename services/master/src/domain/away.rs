//! Stores that are away: space comes back only after each store was heard in this life of the
//! master, because one of them may have heard a newer one. A person may excuse a node that stays
//! away.

use cstore_types::{ErrorCode, Fault, NodeId, StoreUuid, error_chain};

use super::history::begin_era;
use super::membership::{Inner, Membership, NodeRole, NodeState};
use super::seals::Told;
use crate::limits::MAX_DECISIONS;
use crate::store::keys::{self, StoreRecord, StoreState};
use crate::store::{Batch, MetaError};

impl Membership {
    /// Returns true if releases may be told and uploads be taken for abandoned: every store was
    /// heard in this life of the master or is excused, and none has obeyed another history.
    pub(crate) fn may_release(&self) -> bool {
        if self.context.read_only().is_some() {
            return false;
        }
        let mut inner = self.inner.lock();
        inner.has_heard_all |= self.unheard(&inner).is_empty();
        inner.has_heard_all && inner.contests.is_empty()
    }

    /// Returns what keeps space from coming back; `None` if nothing does.
    pub(crate) fn releases_wait_for(&self) -> Option<String> {
        if self.context.read_only().is_some() {
            return Some("an operator, because this master is read-only".to_owned());
        }
        let inner = self.inner.lock();
        if !inner.contests.is_empty() {
            return Some("an operator, because this master may be an older copy".to_owned());
        }
        if inner.has_heard_all {
            return None;
        }
        let unheard = self.unheard(&inner);
        let (node, store) = unheard.first()?;
        let more = match unheard.len() {
            1 => String::new(),
            others => format!(" and {} more", others - 1),
        };
        Some(format!(
            "store {store} of node {node}{more}, not heard since the master started; if it stays away: cstore admin \
             node away {node}"
        ))
    }

    /// Returns the number of stores that space waits for.
    pub(crate) fn unheard_stores(&self) -> usize {
        let inner = self.inner.lock();
        match inner.has_heard_all {
            true => 0,
            false => self.unheard(&inner).len(),
        }
    }

    /// Returns the stores that were not heard in this life of the master and are not excused.
    fn unheard(&self, inner: &Inner) -> Vec<(NodeId, StoreUuid)> {
        let is_heard = |store: &StoreUuid| {
            inner.nodes.values().any(|node| {
                let has_store = node.disk.as_ref().is_some_and(|disk| disk.store == *store);
                has_store && node.role == NodeRole::Storage && node.told != Told::Nothing
            })
        };
        let derived = &self.context.derived;
        let known = derived.store_uuids().into_iter();
        known
            .filter(|store| !is_heard(store))
            .filter_map(|store| derived.store(store).map(|record| (record, store)))
            .filter(|(record, _)| record.state == StoreState::Up)
            .map(|(record, store)| (record.node, store))
            .collect()
    }

    /// Lets space come back although the stores of a node are not heard, on behalf of a person,
    /// until the node comes back.
    ///
    /// # Errors
    /// `invalid_argument` if the node has no store; `precondition_failed` while it is there; those
    /// of the store of metadata.
    pub(crate) async fn excuse(&self, id: &NodeId) -> Result<(), Fault> {
        self.context.check_writable()?;
        let stores = self.context.derived.stores_of(id);
        if stores.is_empty() {
            let text = format!("node {id} is no storage node with a disk that the master knows");
            return Err(Fault::new(ErrorCode::InvalidArgument, text));
        }
        // A node whose disk does not open registers all the same, and space waits for it.
        let is_there = |inner: &Inner| {
            let node = inner.nodes.get(id);
            let node = node.filter(|node| node.told != Told::Nothing);
            node.is_some_and(|node| node.state(self.lease()) != NodeState::Lost)
        };
        if is_there(&self.inner.lock()) {
            let text = format!("node {id} is there; nothing waits for it");
            return Err(Fault::new(ErrorCode::PreconditionFailed, text));
        }
        for store in stores {
            self.set_state(store, StoreState::Away).await?;
            // The node may have registered while the batch was committed.
            let is_back = is_there(&self.inner.lock());
            if is_back {
                self.is_back(store).await;
            }
        }
        tracing::warn!(node = %id, "an operator excuses a node that stays away: space comes back without it");
        self.context.derived.changed();
        Ok(())
    }

    /// Ends what a person has said of a store that is back. A failure is logged: the next
    /// registration tries again.
    pub(super) async fn is_back(&self, store: StoreUuid) {
        let record = self.context.derived.store(store);
        if record.is_none_or(|record| record.state == StoreState::Up)
            || self.context.read_only().is_some()
        {
            return;
        }
        match self.set_state(store, StoreState::Up).await {
            Ok(()) => tracing::info!(%store, "an excused store is back"),
            Err(fault) => {
                tracing::warn!(%store, error = %error_chain(&fault), "an excused store is back and stays excused");
            }
        }
    }

    async fn set_state(&self, store: StoreUuid, state: StoreState) -> Result<(), Fault> {
        let key = keys::store_key(store);
        for _ in 0..MAX_DECISIONS {
            let Some(current) = self.context.store.get(&key).await? else {
                return Ok(());
            };
            let record = StoreRecord::decode(&current.value)?;
            if record.state == state {
                return Ok(());
            }
            let mut batch = Batch::default();
            batch.require_version(key.clone(), current.version);
            batch.put(key.clone(), StoreRecord { state, ..record }.encode());
            if state == StoreState::Away {
                // The store may have obeyed a newer history, and what that has committed on others
                // must stay.
                begin_era(&mut batch)?;
            }
            if self.context.propose(batch).await?.is_some() {
                return Ok(());
            }
        }
        Err(MetaError::Conflict.into())
    }
}
