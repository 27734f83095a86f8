//! The rules of the master, over a store, a clock and limits. Free of sockets, messages and the
//! environment.
//!
//! ```text
//! grpc ─▶ Namespace, Uploads, Releases, Membership ─ propose ─▶ store ─ observe ─▶ Derived
//!                       └────────────── read ◀─────────────────────┴──── read ◀─────┘
//! ```
//! A rule reads, decides, and proposes one batch that requires what it has read; on a conflict it
//! decides again. It does nothing after its batch: what follows from a change is derived from it by
//! [`Derived`], whether or not the caller still waits.

mod audit;
mod away;
mod derived;
mod disks;
mod heartbeats;
mod history;
mod listing;
mod membership;
mod namespace;
mod release_list;
mod releases;
mod seals;
mod selection;
#[cfg(test)]
mod tests;
mod turns;
mod uploads;
mod usage;

use std::sync::Arc;
use std::time::Duration;

use cstore_node::clock::Clock;
use cstore_types::history::Point;
use cstore_types::{Chunking, ClusterUuid, ErrorCode, Fault, Incarnation, TicketKey, error_chain};

pub(crate) use audit::{AuditPage, Audits};
pub(crate) use derived::Derived;
pub(crate) use heartbeats::{Heartbeat, HeartbeatOutcome};
pub(crate) use history::Telling;
pub(crate) use listing::{ListQuery, ListedFile};
pub(crate) use membership::{
    DiskReport, DiskTotals, DoubtReport, Membership, Node, NodeRole, NodeState, NodeView,
    Registered, SharedRoom,
};
pub(crate) use namespace::{CopyOrRename, Namespace};
pub(crate) use releases::{Releases, Verdict};
pub(crate) use seals::Told;
pub(crate) use selection::Selection;
pub(crate) use uploads::{Aborted, Commit, Seal, Uploads};
pub(crate) use usage::FileTotals;

use crate::store::keys::{self, ClusterRecord};
use crate::store::{Batch, MetaError, MetaStore, Position, ReadOnly};

/// Settings that the rules depend on.
#[derive(Debug, Clone)]
pub(crate) struct Limits {
    /// Cut of new files.
    pub(crate) chunking: Chunking,
    /// Storage nodes that must have registered before the placement map is frozen.
    pub(crate) storage_nodes: usize,
    /// Interval of heartbeats.
    pub(crate) heartbeat: Duration,
    /// Time after which a node that was not heard of is lost.
    pub(crate) lease: Duration,
    /// Time for which deleted blocks stay, for downloads that run.
    pub(crate) release_delay: Duration,
    /// Life of a ticket without progress.
    pub(crate) ticket_ttl: Duration,
}

/// Store, derived state, clock and limits that every rule works on. Clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Context {
    pub(crate) store: Arc<dyn MetaStore>,
    pub(crate) derived: Arc<Derived>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) limits: Arc<Limits>,
}

impl Context {
    /// Proposes a batch. Returns `None` if another change came first: read again and decide again.
    ///
    /// # Errors
    /// `metadata_older` as long as this master is contested, `unavailable` before it has heard a
    /// store; those of the store of metadata.
    async fn propose(&self, batch: Batch) -> Result<Option<Position>, Fault> {
        self.check_writable()?;
        self.check_uncontested()?;
        if self.derived.is_unheard() {
            let text = "no storage node was heard since the master started";
            return Err(Fault::new(ErrorCode::Unavailable, text));
        }
        self.propose_contested(batch).await
    }

    /// Returns the reason why this master only reads, if it does.
    pub(crate) fn read_only(&self) -> Option<Arc<ReadOnly>> {
        self.store.writer_state().borrow().read_only().cloned()
    }

    /// Checks that this master is not read-only. Whatever ends in a batch begins with this check,
    /// BEFORE it reads: what is read may lack changes, and a refusal by it could be wrong.
    ///
    /// # Errors
    /// `unavailable` with the damage and what to do.
    pub(crate) fn check_writable(&self) -> Result<(), Fault> {
        match self.read_only() {
            None => Ok(()),
            Some(why) => Err(MetaError::ReadOnly(why).into()),
        }
    }

    /// Checks that no storage node has obeyed another history than this master's. The text is for
    /// every client; operators are told more where they look.
    ///
    /// # Errors
    /// `metadata_older`.
    fn check_uncontested(&self) -> Result<(), Fault> {
        match self.derived.contested() {
            None => Ok(()),
            Some(_) => Err(Fault::new(
                ErrorCode::MetadataOlder,
                "the metadata may be an older copy of another one; nothing is written before an operator has looked",
            )),
        }
    }

    /// Returns true if this master may write: it is not known to be an older copy.
    pub(crate) fn may_write(&self) -> bool {
        self.read_only().is_none()
            && self.derived.contested().is_none()
            && !self.derived.is_unheard()
    }

    /// Returns true if the history of this master has the place `point`.
    fn contains(&self, point: &Point) -> bool {
        self.store.contains(point)
    }

    /// Proposes a batch that a person has asked for, also if this master is contested.
    async fn propose_contested(&self, batch: Batch) -> Result<Option<Position>, Fault> {
        match self.store.commit(batch).await {
            Ok(position) => Ok(Some(position)),
            Err(MetaError::Conflict) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

/// The identity of the metadata and the place that it has reached: part of every answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct MasterState {
    pub(crate) cluster: ClusterUuid,
    pub(crate) incarnation: Incarnation,
    /// Place in the history; its position is that of the last batch.
    pub(crate) head: Point,
}

/// All rules of one master.
#[derive(Debug)]
pub(crate) struct Master {
    pub(crate) context: Context,
    pub(crate) identity: ClusterRecord,
    pub(crate) ticket_key: TicketKey,
    pub(crate) namespace: Namespace,
    pub(crate) uploads: Uploads,
    pub(crate) releases: Releases,
    pub(crate) audits: Audits,
    pub(crate) members: Membership,
}

impl Master {
    /// Reads the cluster's identity, or makes it in an empty store, and puts the rules together.
    ///
    /// # Errors
    /// Of the store.
    pub(crate) async fn open(context: Context, ticket_key: TicketKey) -> Result<Self, Fault> {
        let identity = identity(&*context.store).await?;
        let members = Membership::new(context.clone());
        let releases = Releases::new(context.clone());
        let namespace = Namespace::new(context.clone());
        let uploads = Uploads::new(
            context.clone(),
            identity.clone(),
            namespace.clone(),
            releases.clone(),
            members.clone(),
        );
        let audits = Audits::new(context.clone(), releases.clone());
        Ok(Self {
            audits,
            context,
            identity,
            ticket_key,
            namespace,
            uploads,
            releases,
            members,
        })
    }

    /// Returns the state for an answer. Call it AFTER everything that the answer rests on was read;
    /// otherwise the answer could show a change that lies beyond its position.
    pub(crate) fn state(&self) -> MasterState {
        MasterState {
            cluster: self.identity.cluster,
            incarnation: self.identity.incarnation,
            head: self.context.store.head(),
        }
    }

    /// Returns the reason why no metadata can be written now.
    pub(crate) fn not_writable(&self) -> Option<String> {
        let state = self.context.store.writer_state().borrow().clone();
        if let Some(why) = state.read_only() {
            return Some(why.to_string());
        }
        let blocked = state
            .reason()
            .map(|why| format!("metadata cannot be written: {}", error_chain(why)));
        let contested = || self.context.derived.contested();
        blocked.or_else(|| contested().map(|why| why.to_string()))
    }

    /// Returns what keeps the cluster from taking uploads.
    pub(crate) fn waiting_for(&self) -> Option<String> {
        self.not_writable().or_else(|| self.members.waiting_for())
    }
}

async fn identity(store: &dyn MetaStore) -> Result<ClusterRecord, MetaError> {
    if let Some(found) = store.get(keys::CLUSTER).await? {
        return Ok(ClusterRecord::decode(&found.value)?);
    }
    let record = ClusterRecord::random().map_err(MetaError::Random)?;
    let mut batch = Batch::default();
    batch.require_absent(keys::CLUSTER.to_vec());
    batch.put(keys::CLUSTER.to_vec(), record.encode());
    store.commit(batch).await?;
    tracing::info!(cluster = %record.cluster, "cluster formatted");
    Ok(record)
}

impl From<MetaError> for Fault {
    fn from(error: MetaError) -> Self {
        let code = match &error {
            MetaError::Conflict | MetaError::Busy => ErrorCode::Overloaded,
            MetaError::Full => ErrorCode::Full,
            MetaError::Damaged(_) => ErrorCode::DataLoss,
            MetaError::Io { .. }
            | MetaError::Log(_)
            | MetaError::Index(_)
            | MetaError::Random(_)
            | MetaError::Closed
            | MetaError::ReadOnly(_) => ErrorCode::Unavailable,
        };
        Self::from_error(code, error)
    }
}

impl From<crate::store::DamageKind> for Fault {
    fn from(kind: crate::store::DamageKind) -> Self {
        MetaError::from(kind).into()
    }
}

/// Converts a duration of the settings to milliseconds for stored times.
fn millis(duration: Duration) -> i64 {
    i64::try_from(duration.as_millis()).unwrap_or(i64::MAX)
}
