//! Who is there: workers and storage nodes, their health, the placement map.
//!
//! Leases and health live in memory only; which disks ever registered and the frozen map are durable.

use std::collections::{BTreeMap, HashMap};
use std::time::Duration;

use bytes::Bytes;
use cstore_proto::v1;
use cstore_types::{ErrorCode, MapVersion, NodeId, Placement, PlacementNode, SealSeq, StoreUuid};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;

use crate::core::{Master, now_ms};
use crate::error::Refusal;
use crate::meta::keys::{self, StoreRecord};
use crate::meta::{Batch, MetaError, MetaStore};

/// Nodes of a role that may register.
const MAX_NODES: usize = 4_096;
/// A storage node with less room takes no uploads.
const MIN_FREE: u64 = 16 << 10;
const SCAN: usize = 1_000;
/// A worker that was lost for so long is forgotten: it keeps nothing, and under an orchestrator its name never comes
/// back. Storage nodes are remembered for ever, because blocks lie on them.
const FORGET_WORKER: Duration = Duration::from_secs(600);

/// A node that registered.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) role: v1::Role,
    pub(crate) addr: String,
    pub(crate) failure_domain: String,
    pub(crate) version: String,
    pub(crate) ready: bool,
    pub(crate) reason: String,
    pub(crate) suspect: bool,
    pub(crate) last_seen: Instant,
    pub(crate) last_seen_ms: i64,
    pub(crate) storage: Option<v1::StorageReport>,
}

impl Node {
    fn state(&self, lease: Duration) -> v1::NodeState {
        if self.last_seen.elapsed() > lease {
            v1::NodeState::Lost
        } else if self.suspect {
            v1::NodeState::Suspect
        } else if self.ready {
            v1::NodeState::Ready
        } else {
            v1::NodeState::NotReady
        }
    }

    fn store(&self) -> Option<StoreUuid> {
        StoreUuid::try_from(&self.storage.as_ref()?.store_uuid[..]).ok()
    }
}

#[derive(Debug, Default)]
struct Inner {
    nodes: BTreeMap<NodeId, Node>,
    stores: HashMap<StoreUuid, StoreRecord>,
    placement: Option<Placement>,
    turn: usize,
}

/// All members.
#[derive(Debug)]
pub(crate) struct Membership {
    inner: Mutex<Inner>,
    /// Counts changes that watchers should see.
    changes: watch::Sender<u64>,
}

impl Membership {
    pub(crate) async fn open(meta: &dyn MetaStore) -> Result<Self, Refusal> {
        let mut inner = Inner::default();
        if let Some(found) = meta.get(keys::PLACEMENT).await? {
            inner.placement = Some(keys::decode_placement(&found.value)?);
        }
        let mut after: Option<Vec<u8>> = None;
        loop {
            let page = meta.scan(&[keys::STORES], after.as_deref(), SCAN).await?;
            for (key, found) in &page {
                let store = StoreUuid::from_bytes(keys::uuid_of(key)?);
                inner.stores.insert(store, StoreRecord::decode(&found.value)?);
            }
            match page.into_iter().last() {
                Some((key, _)) => after = Some(key),
                None => break,
            }
        }
        Ok(Self { inner: Mutex::new(inner), changes: watch::Sender::new(0) })
    }

    pub(crate) fn watch(&self) -> watch::Receiver<u64> {
        self.changes.subscribe()
    }

    pub(crate) fn changed(&self) {
        self.changes.send_modify(|count| *count += 1);
    }

    pub(crate) fn placement(&self) -> Option<Placement> {
        self.inner.lock().placement.clone()
    }

    /// Every disk that ever registered.
    pub(crate) fn store_uuids(&self) -> Vec<StoreUuid> {
        self.inner.lock().stores.keys().copied().collect()
    }

    pub(crate) fn store_node(&self, store: StoreUuid) -> Option<NodeId> {
        self.inner.lock().stores.get(&store).map(|record| record.node.clone())
    }

    /// Takes a seal into account; whether it is the highest of its store so far.
    pub(crate) fn note_seal(&self, store: StoreUuid, seal_seq: SealSeq) -> bool {
        match self.inner.lock().stores.get_mut(&store) {
            Some(record) if record.seal_seq < seal_seq => {
                record.seal_seq = seal_seq;
                true
            }
            _ => false,
        }
    }

    /// Whether uploads can be taken now, and with which map.
    pub(crate) fn check_takes_uploads(&self, lease: Duration, wanted: usize) -> Result<MapVersion, Refusal> {
        if let Some(why) = self.waiting_for(lease, wanted) {
            return Err(Refusal::new(ErrorCode::Unavailable, why));
        }
        let inner = self.inner.lock();
        let Some(placement) = &inner.placement else {
            return Err(Refusal::new(ErrorCode::Unavailable, "placement map is not there"));
        };
        for node in placement.nodes() {
            let free = inner.nodes.get(&node.id).and_then(|node| node.storage.as_ref()).map(|r| r.free_bytes);
            if free.is_some_and(|free| free < MIN_FREE) {
                return Err(Refusal::new(ErrorCode::Full, format!("storage node {} is full", node.id)));
            }
        }
        Ok(placement.version())
    }

    /// What keeps the cluster from taking uploads.
    pub(crate) fn waiting_for(&self, lease: Duration, wanted: usize) -> Option<String> {
        let inner = self.inner.lock();
        let Some(placement) = &inner.placement else {
            let found = inner.nodes.values().filter(|node| node.role == v1::Role::Storage).count();
            return Some(format!("waiting for {wanted} storage nodes to register, {found} have"));
        };
        for node in placement.nodes() {
            let state = inner.nodes.get(&node.id).map_or(v1::NodeState::Lost, |node| node.state(lease));
            if state != v1::NodeState::Ready {
                return Some(format!("storage node {} is {}", node.id, word(state)));
            }
        }
        let worker =
            |node: &&Node| node.role == v1::Role::Worker && node.state(lease) == v1::NodeState::Ready;
        if inner.nodes.values().find(worker).is_none() {
            return Some("no worker is ready".to_owned());
        }
        None
    }

    /// The next healthy worker in turn.
    pub(crate) fn next_worker(&self, lease: Duration) -> Result<(NodeId, String), Refusal> {
        let mut inner = self.inner.lock();
        let turn = inner.turn;
        let healthy =
            |node: &Node| node.role == v1::Role::Worker && node.state(lease) == v1::NodeState::Ready;
        let workers: Vec<(&NodeId, &Node)> = inner.nodes.iter().filter(|(_, node)| healthy(node)).collect();
        let none = || Refusal::new(ErrorCode::Unavailable, "no worker is ready");
        let at = turn.checked_rem(workers.len()).ok_or_else(none)?;
        let (id, node) = workers.get(at).ok_or_else(none)?;
        let chosen = ((*id).clone(), node.addr.clone());
        inner.turn = turn.wrapping_add(1);
        Ok(chosen)
    }

    /// All nodes as callers see them.
    pub(crate) fn nodes(&self, lease: Duration) -> Vec<v1::Node> {
        let inner = self.inner.lock();
        let view = |(id, node): (&NodeId, &Node)| {
            let in_map = inner.placement.as_ref().is_some_and(|map| map.nodes().iter().any(|n| n.id == *id));
            let spare = node.role == v1::Role::Storage && inner.placement.is_some() && !in_map;
            let mut reason = node.reason.clone();
            if node.suspect {
                reason = "its disk is older than what the master has seen of it".to_owned();
            } else if spare && reason.is_empty() {
                reason = "it came after the placement map was frozen and holds no partition".to_owned();
            }
            let storage = node.storage.clone().unwrap_or_default();
            v1::Node {
                role: node.role.into(),
                node_id: id.to_string(),
                addr: node.addr.clone(),
                state: node.state(lease).into(),
                reason,
                last_seen_ms: node.last_seen_ms,
                version: node.version.clone(),
                in_map,
                store_uuid: storage.store_uuid,
                capacity_bytes: storage.capacity_bytes,
                free_bytes: storage.free_bytes,
            }
        };
        inner.nodes.iter().map(view).collect()
    }

    /// Forgets workers that have been lost for long.
    pub(crate) fn forget_workers(&self, lease: Duration) {
        self.inner.lock().nodes.retain(|id, node| {
            let keep = node.role != v1::Role::Worker || node.last_seen.elapsed() <= lease + FORGET_WORKER;
            if !keep {
                tracing::info!(node = %id, "forgetting a worker that has been lost for long");
            }
            keep
        });
    }

    /// Sums over the storage nodes of the map.
    pub(crate) fn storage_totals(&self) -> v1::StorageReport {
        let inner = self.inner.lock();
        let mut sum = v1::StorageReport::default();
        for report in inner.nodes.values().filter_map(|node| node.storage.as_ref()) {
            sum.capacity_bytes += report.capacity_bytes;
            sum.free_bytes += report.free_bytes;
            sum.unique_bytes += report.unique_bytes;
            sum.physical_bytes += report.physical_bytes;
            sum.blocks += report.blocks;
        }
        sum
    }
}

const fn word(state: v1::NodeState) -> &'static str {
    match state {
        v1::NodeState::Unspecified => "unknown",
        v1::NodeState::Ready => "ready",
        v1::NodeState::NotReady => "not ready",
        v1::NodeState::Lost => "lost",
        v1::NodeState::Suspect => "suspect",
    }
}

/// A heartbeat, checked.
#[derive(Debug)]
pub(crate) struct Beat {
    pub(crate) id: NodeId,
    pub(crate) role: v1::Role,
    pub(crate) ready: bool,
    pub(crate) reason: String,
    pub(crate) storage: Option<v1::StorageReport>,
    /// Of a worker: its last one.
    pub(crate) leaving: bool,
}

impl Master {
    /// Takes a node in. A storage node that re-formatted its disk comes with another store; one store under two names
    /// is refused.
    pub(crate) async fn register(&self, id: NodeId, mut node: Node) -> Result<(), Refusal> {
        if let (Some(store), Some(report)) = (node.store(), &node.storage) {
            self.register_store(&id, store).await?;
            let seen = self.members.inner.lock().stores.get(&store).map(|record| record.seal_seq);
            node.suspect = seen.is_some_and(|seen| SealSeq(report.seal_seq) < seen);
        }
        {
            let mut inner = self.members.inner.lock();
            if inner.nodes.len() >= MAX_NODES && !inner.nodes.contains_key(&id) {
                return Err(Refusal::new(ErrorCode::Overloaded, "too many nodes have registered"));
            }
            let known = inner.nodes.get(&id).map(|known| known.role);
            let owns_disk = inner.stores.values().any(|record| record.node == id);
            if known.is_some_and(|known| known != node.role) || (owns_disk && node.role != v1::Role::Storage)
            {
                let text = format!("node {id} is known in another role");
                return Err(Refusal::new(ErrorCode::PermissionDenied, text));
            }
            inner.nodes.insert(id, node);
        }
        self.freeze_map().await?;
        self.members.changed();
        Ok(())
    }

    async fn register_store(&self, id: &NodeId, store: StoreUuid) -> Result<(), Refusal> {
        match self.members.store_node(store) {
            Some(node) if node == *id => return Ok(()),
            Some(node) => {
                let text = format!("store {store} belongs to node {node}");
                return Err(Refusal::new(ErrorCode::PermissionDenied, text));
            }
            None => {}
        }
        let known = self.members.inner.lock().stores.values().any(|record| record.node == *id);
        if known {
            tracing::warn!(node = %id, %store, "storage node comes with a disk that was formatted anew");
        }
        let record = StoreRecord { seal_seq: SealSeq(0), node: id.clone() };
        let mut batch = Batch::default();
        batch.put(keys::store_key(store), record.encode());
        self.meta.commit(batch).await?;
        self.members.inner.lock().stores.entry(store).or_insert(record);
        Ok(())
    }

    /// Freezes the map once enough storage nodes have registered, durably before anybody sees it.
    async fn freeze_map(&self) -> Result<(), Refusal> {
        let placement = {
            let inner = self.members.inner.lock();
            let storages: Vec<PlacementNode> = inner
                .nodes
                .iter()
                .filter(|(_, node)| node.role == v1::Role::Storage)
                .map(|(id, node)| PlacementNode {
                    id: id.clone(),
                    failure_domain: match node.failure_domain.as_str() {
                        "" => id.to_string(),
                        domain => domain.to_owned(),
                    },
                })
                .take(self.config.storage_nodes)
                .collect();
            if inner.placement.is_some() || storages.len() < self.config.storage_nodes {
                return Ok(());
            }
            let internal =
                |error: cstore_types::PlacementError| Refusal::new(ErrorCode::Internal, error.to_string());
            Placement::new(MapVersion(1), storages).map_err(internal)?
        };
        let mut batch = Batch::default();
        batch.require_absent(keys::PLACEMENT.to_vec());
        batch.put(keys::PLACEMENT.to_vec(), keys::encode_placement(&placement));
        match self.meta.commit(batch).await {
            Ok(_) => {
                tracing::info!(nodes = placement.nodes().len(), "placement map is frozen");
                self.members.inner.lock().placement = Some(placement);
                Ok(())
            }
            Err(MetaError::Conflict) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Renews a lease. `None`: the node has to register first. Otherwise whether its disk is suspect.
    pub(crate) fn heartbeat(&self, beat: Beat) -> Option<bool> {
        let mut inner = self.members.inner.lock();
        if beat.leaving && beat.role == v1::Role::Worker {
            let left = inner.nodes.get(&beat.id).is_some_and(|node| node.role == beat.role);
            if left {
                inner.nodes.remove(&beat.id);
                tracing::info!(node = %beat.id, "worker has left");
            }
            drop(inner);
            self.members.changed();
            return Some(false);
        }
        let Inner { nodes, stores, .. } = &mut *inner;
        let node = nodes.get_mut(&beat.id).filter(|node| node.role == beat.role)?;
        let before = (node.state(self.config.lease()), node.reason.clone());
        node.last_seen = Instant::now();
        node.last_seen_ms = now_ms();
        node.ready = beat.ready;
        node.reason = beat.reason;
        if let Some(report) = beat.storage {
            let store = StoreUuid::try_from(&report.store_uuid[..]).ok()?;
            let seen = stores.get(&store)?;
            // Only a restart can bring an older disk: a beat that a commit overtook proves nothing.
            node.suspect = node.suspect && SealSeq(report.seal_seq) < seen.seal_seq;
            let report = v1::StorageReport { released: Vec::new(), unconfirmed: Vec::new(), ..report };
            node.storage =
                Some(v1::StorageReport { store_uuid: Bytes::copy_from_slice(store.as_bytes()), ..report });
        }
        let suspect = node.suspect;
        let after = (node.state(self.config.lease()), node.reason.clone());
        drop(inner);
        if before != after {
            self.members.changed();
        }
        Some(suspect)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: v1::Role) -> Node {
        Node {
            role,
            addr: "127.0.0.1:1".to_owned(),
            failure_domain: String::new(),
            version: String::new(),
            ready: true,
            reason: String::new(),
            suspect: false,
            last_seen: Instant::now(),
            last_seen_ms: 0,
            storage: None,
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_worker_that_is_lost_for_long_is_forgotten_and_a_storage_node_never() {
        let members = Membership { inner: Mutex::default(), changes: watch::Sender::new(0) };
        let lease = Duration::from_secs(5);
        let names = |members: &Membership| -> Vec<String> {
            members.nodes(lease).into_iter().map(|node| node.node_id).collect()
        };
        for (name, role) in [("old", v1::Role::Worker), ("storage-1", v1::Role::Storage)] {
            members.inner.lock().nodes.insert(NodeId::new(name).unwrap(), node(role));
        }
        tokio::time::advance(FORGET_WORKER).await;
        members.inner.lock().nodes.insert(NodeId::new("young").unwrap(), node(v1::Role::Worker));
        members.forget_workers(lease);
        assert_eq!(names(&members), ["old", "storage-1", "young"]);
        tokio::time::advance(lease * 2).await;
        members.forget_workers(lease);
        assert_eq!(names(&members), ["storage-1", "young"]);
    }
}
