//! Members: workers and storage nodes, their health, the placement map.
//!
//! Leases and health live in memory only. The stores that ever registered and the frozen map are
//! durable, and are read from the derived state.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use cstore_types::epoch::{SealPoint, SeenSeals};
use cstore_types::history::Point;
use cstore_types::{
    ErrorCode, Fault, MapVersion, NodeId, Placement, PlacementNode, SealSeq, StoreUuid, error_chain,
};
use parking_lot::Mutex;
use tokio::sync::RwLock;
use tokio::time::Instant;

use super::Context;
use super::history::{CONTEST, MASTER, Telling};
use super::seals::Told;
use crate::limits::{FORGET_WORKER, MAX_NODES, MIN_UPLOAD_SPACE};
use crate::store::Batch;
use crate::store::keys;

/// The role of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeRole {
    Worker,
    Storage,
}

/// The state of a member.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum NodeState {
    /// Takes work.
    Ready,
    /// Was heard of and takes no work.
    NotReady,
    /// Was not heard of within its lease.
    Lost,
    /// Its disk is older than what the master has seen of it.
    Suspect,
}

impl NodeState {
    const fn as_str(self) -> &'static str {
        match self {
            Self::Ready => "ready",
            Self::NotReady => "not ready",
            Self::Lost => "lost",
            Self::Suspect => "suspect",
        }
    }
}

/// Bytes and blocks of one disk, or of all.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct DiskTotals {
    pub(crate) capacity_bytes: u64,
    /// Bytes that could still be written.
    pub(crate) free_bytes: u64,
    /// Payload of distinct live blocks.
    pub(crate) unique_bytes: u64,
    /// Live blocks with their overhead.
    pub(crate) physical_bytes: u64,
    /// Size of the segment files; 0 from a node that does not report it.
    pub(crate) allocated_bytes: u64,
    /// Distinct live blocks.
    pub(crate) blocks: u64,
}

impl std::ops::AddAssign<&Self> for DiskTotals {
    /// Adds another disk. Saturates: the numbers come from peers.
    fn add_assign(&mut self, other: &Self) {
        self.capacity_bytes = self.capacity_bytes.saturating_add(other.capacity_bytes);
        self.free_bytes = self.free_bytes.saturating_add(other.free_bytes);
        self.unique_bytes = self.unique_bytes.saturating_add(other.unique_bytes);
        self.physical_bytes = self.physical_bytes.saturating_add(other.physical_bytes);
        self.allocated_bytes = self.allocated_bytes.saturating_add(other.allocated_bytes);
        self.blocks = self.blocks.saturating_add(other.blocks);
    }
}

/// The report of a storage node about its disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DiskReport {
    pub(crate) store: StoreUuid,
    pub(crate) seal_seq: SealSeq,
    pub(crate) totals: DiskTotals,
    /// `None` if the node cannot tell its file system.
    pub(crate) room: Option<SharedRoom>,
}

/// Room of the file system of a disk. Disks of one file system share it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct SharedRoom {
    /// Equal for disks of one file system.
    pub(crate) file_system: u64,
    /// Free bytes of the file system.
    pub(crate) free_bytes: u64,
    /// Part of the disk's free bytes that is not allocated yet, and comes out of `free_bytes`.
    pub(crate) growth_bytes: u64,
}

/// A reason why references may be hidden on a disk, as its node tells it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct DoubtReport {
    /// The number by which it is accepted.
    pub(crate) number: u32,
    pub(crate) kind: String,
    pub(crate) detail: String,
    pub(crate) accepted: bool,
    /// The seal that is not on a disk that is older than it should be.
    pub(crate) seal: Option<SealPoint>,
}

/// A member as it registered and was last heard of.
#[derive(Debug, Clone)]
pub(crate) struct Node {
    pub(crate) role: NodeRole,
    /// host:port where it serves.
    pub(crate) addr: String,
    /// Empty if the node is a failure domain of its own.
    pub(crate) failure_domain: String,
    /// Version of the node's program.
    pub(crate) version: String,
    pub(crate) ready: bool,
    /// Reason why the node is not ready.
    pub(crate) reason: String,
    pub(crate) suspect: bool,
    pub(crate) last_seen: Instant,
    /// The same as Unix time, for people.
    pub(crate) last_seen_ms: i64,
    /// Report on the disk. Storage nodes only.
    pub(crate) disk: Option<DiskReport>,
    /// What is known of the sequences of its disk.
    pub(crate) told: Told,
    /// Version of the protocol that a storage node speaks; 0 if it reported none.
    pub(crate) protocol: u32,
    /// Newest place in the master's history that a storage node has obeyed.
    pub(crate) noted: Option<Point>,
    /// Newest seal of the disk that a commit has relied on in this life of the master.
    pub(crate) newest_held: SealPoint,
    /// Largest body that a worker takes in one call; 0 if it has not said.
    pub(crate) max_small_bytes: u64,
    /// Doubts about the disk's content, accepted ones among them.
    pub(crate) doubts: Vec<DoubtReport>,
    /// Doubts that a person accepted since, by their numbers, until the node says that it has.
    pub(crate) accepting: BTreeMap<u32, DoubtReport>,
}

impl Node {
    /// Returns true if a node whose disk is older than it should be takes uploads all the same: it
    /// frees nothing, and its seals raise nothing that the master has seen.
    fn takes_uploads(&self) -> bool {
        self.ready && matches!(self.told, Told::Epochs(_))
    }

    pub(super) fn state(&self, lease: Duration) -> NodeState {
        if self.last_seen.elapsed() > lease {
            NodeState::Lost
        } else if self.suspect {
            NodeState::Suspect
        } else if self.ready {
            NodeState::Ready
        } else {
            NodeState::NotReady
        }
    }
}

/// A member as callers see it.
#[derive(Debug, Clone)]
pub(crate) struct NodeView {
    pub(crate) id: NodeId,
    pub(crate) node: Node,
    pub(crate) state: NodeState,
    /// Reason why the node is not ready, or holds no data.
    pub(crate) reason: String,
    /// True if the node has partitions. Storage nodes only.
    pub(crate) in_map: bool,
}

/// A worker that was chosen for an upload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ChosenWorker {
    pub(crate) id: NodeId,
    pub(crate) addr: String,
}

/// The master's response to a registration.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Registered {
    /// Newest seals of the disk on which files rest; `None` for a worker.
    pub(crate) seen: Option<SeenSeals>,
    pub(crate) telling: Telling,
}

#[derive(Debug, Default)]
pub(super) struct Inner {
    pub(super) nodes: BTreeMap<NodeId, Node>,
    /// Counts the workers that were chosen, for their rotation.
    turn: usize,
    /// Storage nodes that have obeyed another history than this master's, with a sentence about it.
    pub(super) contests: BTreeMap<NodeId, String>,
    /// Every store was heard in this life of the master.
    pub(super) has_heard_all: bool,
}

/// The rules of membership.
#[derive(Debug, Clone)]
pub(crate) struct Membership {
    pub(super) context: Context,
    pub(super) inner: Arc<Mutex<Inner>>,
    /// Read by commits while they rely on what disks have told, written by a disk that registers.
    pub(super) told: Arc<RwLock<()>>,
}

impl Membership {
    pub(crate) fn new(context: Context) -> Self {
        Self {
            context,
            inner: Arc::default(),
            told: Arc::default(),
        }
    }

    pub(super) fn lease(&self) -> Duration {
        self.context.limits.lease
    }

    /// Returns the version of the map that uploads use.
    ///
    /// # Errors
    /// `unavailable` or `full` if an upload could not succeed now.
    pub(crate) fn check_takes_uploads(&self) -> Result<MapVersion, Fault> {
        if let Some(why) = self.waiting_for() {
            return Err(Fault::new(ErrorCode::Unavailable, why));
        }
        let Some(placement) = self.context.derived.placement() else {
            return Err(Fault::new(
                ErrorCode::Unavailable,
                "placement map is not there",
            ));
        };
        let inner = self.inner.lock();
        for node in placement.nodes() {
            let disk = inner
                .nodes
                .get(&node.id)
                .and_then(|node| node.disk.as_ref());
            if disk.is_some_and(|disk| disk.totals.free_bytes < MIN_UPLOAD_SPACE) {
                return Err(Fault::new(
                    ErrorCode::Full,
                    format!("storage node {} is full", node.id),
                ));
            }
        }
        Ok(placement.version())
    }

    /// Returns what keeps the members from taking uploads.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        let placement = self.context.derived.placement();
        let inner = self.inner.lock();
        let Some(placement) = placement else {
            let found = inner
                .nodes
                .values()
                .filter(|node| node.role == NodeRole::Storage)
                .count();
            let wanted = self.context.limits.storage_nodes;
            return Some(format!(
                "waiting for {wanted} storage nodes to register, {found} have"
            ));
        };
        for node in placement.nodes() {
            let member = inner.nodes.get(&node.id);
            let state = member.map_or(NodeState::Lost, |node| node.state(self.lease()));
            // A disk in doubt takes uploads: its node says whether it is ready.
            let is_ready = state == NodeState::Ready
                || (state == NodeState::Suspect && member.is_some_and(Node::takes_uploads));
            if is_ready {
                continue;
            }

            // The reason is of the last heartbeat: a lost node may have ended since for another one.
            let reason =
                member.filter(|node| state == NodeState::NotReady && !node.reason.is_empty());
            let reason = reason.map(|node| format!(": {}", node.reason));
            return Some(format!(
                "storage node {} is {}{}",
                node.id,
                state.as_str(),
                reason.unwrap_or_default()
            ));
        }
        if !inner.nodes.values().any(|node| self.is_ready_worker(node)) {
            return Some("no worker is ready".to_owned());
        }
        None
    }

    fn is_ready_worker(&self, node: &Node) -> bool {
        node.role == NodeRole::Worker && node.state(self.lease()) == NodeState::Ready
    }

    /// Returns the next ready worker in turn.
    ///
    /// # Errors
    /// `unavailable` if none is ready.
    pub(super) fn next_worker(&self) -> Result<ChosenWorker, Fault> {
        let mut inner = self.inner.lock();
        let ready: Vec<ChosenWorker> = inner
            .nodes
            .iter()
            .filter(|(_, node)| self.is_ready_worker(node))
            .map(|(id, node)| ChosenWorker {
                id: id.clone(),
                addr: node.addr.clone(),
            })
            .collect();
        let chosen = inner
            .turn
            .checked_rem(ready.len())
            .and_then(|i| ready.into_iter().nth(i));
        inner.turn = inner.turn.wrapping_add(1);
        chosen.ok_or_else(|| Fault::new(ErrorCode::Unavailable, "no worker is ready"))
    }

    /// Returns all members, in order of their ids.
    pub(crate) fn nodes(&self) -> Vec<NodeView> {
        let placement = self.context.derived.placement();
        let inner = self.inner.lock();
        let view = |(id, node): (&NodeId, &Node)| {
            let in_map = placement
                .as_ref()
                .is_some_and(|map| map.nodes().iter().any(|n| n.id == *id));
            let is_spare = node.role == NodeRole::Storage && placement.is_some() && !in_map;
            let reason = if node.suspect {
                "its disk is older than what the master has seen of it".to_owned()
            } else if is_spare && node.reason.is_empty() {
                "it came after the placement map was frozen and holds no partition".to_owned()
            } else {
                node.reason.clone()
            };
            let mut node = node.clone();
            let says_so = node.doubts.iter().any(|doubt| doubt.kind == MASTER);
            if let Some(contest) = inner.contests.get(id).filter(|_| !says_so) {
                node.doubts.push(DoubtReport {
                    number: CONTEST,
                    kind: MASTER.to_owned(),
                    detail: contest.clone(),
                    accepted: false,
                    seal: None,
                });
            }
            NodeView {
                id: id.clone(),
                state: node.state(self.lease()),
                node,
                reason,
                in_map,
            }
        };
        inner.nodes.iter().map(view).collect()
    }

    /// Forgets workers that have been lost for long, and storage nodes that never had a disk. One
    /// that contests this master stays: only by its name a person can decide about it.
    pub(crate) fn forget_workers(&self) {
        let derived = &self.context.derived;
        let mut inner = self.inner.lock();
        let Inner {
            nodes, contests, ..
        } = &mut *inner;
        nodes.retain(|id, node| {
            let has_disk = node.role == NodeRole::Storage && !derived.stores_of(id).is_empty();
            let keep = has_disk
                || contests.contains_key(id)
                || node.last_seen.elapsed() <= self.lease() + FORGET_WORKER;
            if !keep {
                tracing::info!(node = %id, "forgetting a node without a disk that has been lost for long");
            }
            keep
        });
    }

    /// Returns the sums over all storage nodes. Room that disks share is counted once.
    pub(crate) fn storage_totals(&self) -> DiskTotals {
        let inner = self.inner.lock();
        let mut sum = DiskTotals::default();
        let mut shared: HashMap<u64, (u64, u64)> = HashMap::new();
        for disk in inner.nodes.values().filter_map(|node| node.disk.as_ref()) {
            sum += &disk.totals;
            if let Some(room) = &disk.room {
                let (growth, free) = shared.entry(room.file_system).or_default();
                *growth = growth.saturating_add(room.growth_bytes);
                // Reports are of different ages. Take the largest value: an older report may have
                // measured before another disk grew.
                *free = room.free_bytes.max(*free);
            }
        }
        for (growth, free) in shared.into_values() {
            let counted_twice = growth.saturating_sub(free);
            sum.free_bytes = sum.free_bytes.saturating_sub(counted_twice);
            sum.capacity_bytes = sum.capacity_bytes.saturating_sub(counted_twice);
        }
        sum
    }

    /// Takes a node in. Returns the newest seal of its disk on which a file rests, and what it
    /// needs to judge this master.
    ///
    /// # Errors
    /// `permission_denied` if the store belongs to another node, the node has another store, is
    /// known in another role or is in use at another address; `overloaded` if too many nodes are
    /// known; those of the store of metadata.
    pub(crate) async fn register(&self, id: NodeId, mut node: Node) -> Result<Registered, Fault> {
        self.check_takeover(&id, &node)?;
        let mut seen = None;
        let is_open = node.told != Told::Nothing;
        let opened = node.disk.as_ref().map(|disk| disk.store);
        let opened = opened.filter(|_| is_open);
        if let Some(disk) = &node.disk {
            seen = Some(self.register_store(&id, disk.store, is_open).await?);
        }
        // Commits that rely on what the disk has told before must be durable: they are a part of
        // what the disk is judged by.
        let telling = self.told.write().await;
        if let (Some(disk), Some(seen)) = (&node.disk, &mut seen) {
            if let Some(record) = self.context.derived.store(disk.store) {
                *seen = record.seen;
            }
            node.suspect = node.is_older_than(seen) || node.is_in_doubt();
        }
        let mut registered = Registered {
            seen,
            telling: Telling::default(),
        };
        let history = self.context.store.history();
        let owns_store = !self.context.derived.stores_of(&id).is_empty();
        {
            let mut inner = self.inner.lock();
            let known = inner.nodes.get(&id).map(|known| known.role);
            if inner.nodes.len() >= MAX_NODES && known.is_none() {
                return Err(Fault::new(
                    ErrorCode::Overloaded,
                    "too many nodes have registered",
                ));
            }
            let other_role = known.is_some_and(|known| known != node.role);
            if other_role || (owns_store && node.role != NodeRole::Storage) {
                let text = format!("node {id} is known in another role");
                return Err(Fault::new(ErrorCode::PermissionDenied, text));
            }
            let store = node.disk.as_ref().map(|disk| disk.store);
            let noted = node.noted;
            let has_store = |known: &&Node| {
                known.disk.as_ref().map(|disk| disk.store) == store && store.is_some()
            };
            if let Some(before) = inner.nodes.get(&id).filter(has_store) {
                // A person's word outlives the process that it was meant for.
                node.accepting.clone_from(&before.accepting);
                // Keep an accept only for the doubt that the person has seen: a disk that took no
                // writes could not keep its numbers, and the next start may give them to others.
                if is_open {
                    let doubts = &node.doubts;
                    node.accepting.retain(|_, seen| doubts.contains(seen));
                }
                if before.told.is_same_open(&node.told) {
                    node.newest_held = before.newest_held;
                }
            }
            inner.nodes.insert(id.clone(), node);
            if let Some(store) = store {
                registered.telling = self.judge_history(&mut inner, &history, (&id, store), noted);
            }
        }
        drop(telling);
        if let Some(store) = opened {
            self.is_back(store).await;
        }
        if let Err(fault) = self.freeze_map().await {
            // The next registration tries again; a contested master takes its nodes in, so that
            // they can be asked about.
            tracing::warn!(error = %error_chain(&fault), "placement map is not frozen yet");
        }
        self.context.derived.changed();
        Ok(registered)
    }

    /// Checks that nobody else uses the name of a node: two processes of one name would take each
    /// other's place for ever. A name is free when its lease has ended.
    fn check_takeover(&self, id: &NodeId, node: &Node) -> Result<(), Fault> {
        let inner = self.inner.lock();
        let known = inner.nodes.get(id);
        let is_live = |known: &&Node| known.state(self.lease()) != NodeState::Lost;
        match known
            .filter(is_live)
            .filter(|known| known.addr != node.addr)
        {
            Some(known) => {
                let text = format!(
                    "node id {id} is in use at {}, and a process at {} asks for it; give one of them \
                     another CSTORE_NODE_ID, or wait {:?} after the first one has ended",
                    known.addr,
                    node.addr,
                    self.lease()
                );
                Err(Fault::new(ErrorCode::PermissionDenied, text))
            }
            None => Ok(()),
        }
    }

    /// Freezes the map once enough storage nodes have registered. It is durable before anybody sees
    /// it.
    async fn freeze_map(&self) -> Result<(), Fault> {
        if self.context.derived.placement().is_some() || self.context.read_only().is_some() {
            return Ok(());
        }
        let storages = self.first_storages();
        if storages.len() < self.context.limits.storage_nodes {
            return Ok(());
        }
        let placement = Placement::new(MapVersion(1), storages)
            .map_err(|error| Fault::from_error(ErrorCode::Internal, error))?;
        let mut batch = Batch::default();
        batch.require_absent(keys::PLACEMENT.to_vec());
        batch.put(keys::PLACEMENT.to_vec(), keys::encode_placement(&placement));
        // On a conflict another registration has frozen it.
        if self.context.propose(batch).await?.is_some() {
            tracing::info!(nodes = placement.nodes().len(), "placement map is frozen");
        }
        Ok(())
    }

    fn first_storages(&self) -> Vec<PlacementNode> {
        let inner = self.inner.lock();
        let storages = inner
            .nodes
            .iter()
            .filter(|(_, node)| node.role == NodeRole::Storage)
            // A node without an open disk may never register under this name again.
            .filter(|(_, node)| node.told != Told::Nothing)
            .filter(|(_, node)| node.state(self.lease()) != NodeState::Lost);
        let as_placed = |(id, node): (&NodeId, &Node)| PlacementNode {
            id: id.clone(),
            failure_domain: match node.failure_domain.as_str() {
                "" => id.to_string(),
                domain => domain.to_owned(),
            },
        };
        storages
            .map(as_placed)
            .take(self.context.limits.storage_nodes)
            .collect()
    }
}
