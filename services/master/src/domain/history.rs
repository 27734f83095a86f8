//! History: whether this master is the one that its storage nodes have obeyed.
//!
//! Each storage node remembers the newest place in the master's history by which it has gone, and
//! tells it. A master whose history does not contain that place is an older copy, or another one: it
//! is contested. It answers reads and writes nothing, so that the right master can come back. A
//! person may accept it, store by store; then it goes on as it is.
//!
//! An older copy learns that from a node that has heard more, so until every store was heard in this
//! life of the master, nothing is released and no upload is taken for abandoned.

use cstore_types::history::{Life, Place, Point, place};
use cstore_types::{ErrorCode, Fault, NodeId, StoreUuid};

use super::membership::{Inner, Membership, NodeRole};
use super::seals::Told;
use crate::store::keys::{self, StoreRecord};
use crate::store::{Batch, History, MetaError};

/// The word by which a storage node names the doubt that its master is not the right one.
pub(super) const MASTER: &str = "master";

/// What an answer tells a storage node of the master's history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Telling {
    /// Place that the history has reached.
    pub(crate) head: Point,
    /// Lives that the node needs to judge what it has noted.
    pub(crate) lives: Vec<Life>,
    /// What the node has noted, if a person said that it is to go on with this master.
    pub(crate) accepted: Option<Point>,
}

/// Returns the sentence about a history that is not the one that a node has obeyed.
fn contest(node: &NodeId, noted: &Point, head: &Point) -> String {
    format!(
        "the master is older than what node {node} has obeyed, or another one: the node has noted {noted}, \
         the master is at {head}. Put the newer folder of the master back; or go on with this one, without \
         what it lacks: cstore admin hold list, cstore admin hold accept NODE NUMBER"
    )
}

impl Membership {
    /// Judges this master by what a storage node has noted, and returns what the answer tells the
    /// node. `store` is the disk of the node.
    pub(super) fn judge_history(
        &self,
        inner: &mut Inner,
        history: &History,
        (id, store): (&NodeId, StoreUuid),
        noted: Option<Point>,
    ) -> Telling {
        let head = history.head();
        let noted = noted.unwrap_or_default();
        let record = self.context.derived.store(store);
        let accepted = record
            .map(|record| record.accepted)
            .filter(|accepted| !accepted.is_origin() && *accepted == noted);
        let is_ours = place(&history.lives, history.position, |_| None, &noted) == Place::Contains;

        let was_contested = !inner.contests.is_empty();
        match is_ours || accepted.is_some() {
            true => drop(inner.contests.remove(id)),
            false => drop(
                inner
                    .contests
                    .insert(id.clone(), contest(id, &noted, &head)),
            ),
        }
        if was_contested == inner.contests.is_empty() {
            tracing::warn!(node = %id, %noted, %head, contested = !was_contested, "another history of the master is known");
            self.context.derived.changed();
        }
        let first = inner.contests.values().next().cloned();
        self.context.derived.contest(first);
        Telling {
            head,
            lives: history.lives_since(&noted),
            accepted,
        }
    }

    /// Returns true if releases may be told and uploads be taken for abandoned: every store was heard
    /// in this life of the master, and none has obeyed another history.
    pub(crate) fn may_release(&self) -> bool {
        if self.context.derived.contested().is_some() {
            return false;
        }
        let mut inner = self.inner.lock();
        if !inner.has_heard_all {
            let is_heard = |store: &StoreUuid| {
                inner.nodes.values().any(|node| {
                    let has_store = node.disk.as_ref().is_some_and(|disk| disk.store == *store);
                    has_store && node.role == NodeRole::Storage && node.told != Told::Nothing
                })
            };
            inner.has_heard_all = self.context.derived.store_uuids().iter().all(is_heard);
        }
        inner.has_heard_all
    }

    /// Goes on with this master although a storage node has obeyed another history, on behalf of a
    /// person. The node is told, and notes this history from then on.
    ///
    /// # Errors
    /// Those of the store of metadata.
    pub(super) async fn accept_history(&self, store: StoreUuid, noted: Point) -> Result<(), Fault> {
        let key = keys::store_key(store);
        let Some(current) = self.context.store.get(&key).await? else {
            let text = format!("store {store} is not registered");
            return Err(Fault::new(ErrorCode::NotFound, text));
        };
        let record = StoreRecord {
            accepted: noted,
            ..StoreRecord::decode(&current.value)?
        };
        let mut batch = Batch::default();
        batch.require_version(key.clone(), current.version);
        batch.put(key, record.encode());
        match self.context.propose_contested(batch).await? {
            Some(_) => {
                tracing::warn!(%store, %noted, "the master is accepted by an operator");
                Ok(())
            }
            None => Err(MetaError::Conflict.into()),
        }
    }
}
