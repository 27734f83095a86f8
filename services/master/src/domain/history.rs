//! History: whether this master is the one that its storage nodes have obeyed.
//!
//! Each storage node remembers the newest place in the master's history by which it has gone, and
//! tells it. A master whose history does not contain that place is an older copy, or another one:
//! it is contested. It answers reads and writes nothing, so that the right master can come back. A
//! person may accept it, store by store; then it goes on as it is.
//!
//! An older copy learns that from a node that has heard more, so until every store was heard in
//! this life of the master, nothing is released and no upload is taken for abandoned.

use cstore_types::epoch::SeenSeals;
use cstore_types::history::{Life, Place, Point, place};
use cstore_types::{Fault, NodeId, SessionEra, StoreUuid};

use super::membership::{Inner, Membership, Node};
use crate::store::keys::{self, StoreRecord, StoreState};
use crate::store::{Batch, History, MetaError};

/// The word by which a storage node names the doubt that its master is not the right one.
pub(super) const MASTER: &str = "master";

/// The part of the master's history that a response to a storage node carries.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Telling {
    /// Place that the history has reached.
    pub(crate) head: Point,
    /// Lives that the node needs to judge what it has noted.
    pub(crate) lives: Vec<Life>,
    /// What the node has noted, if a person said that it is to go on with this master.
    pub(crate) accepted: Option<Point>,
}

/// Number by which a contest is accepted whose node lists no doubt, because its disk is not open.
pub(super) const CONTEST: u32 = u32::MAX;

impl Telling {
    /// Shows a history to a node that has noted `noted`. Called AFTER everything else that the
    /// answer rests on was read: a release that lies beyond the place that is told would not be
    /// known by it.
    pub(crate) fn show(&mut self, history: &History, noted: &Point) {
        self.head = history.head();
        self.lives = history.lives_since(noted);
    }

    /// Returns what a master that is read-only tells a node that has noted `noted`.
    ///
    /// A read-only history may be that of a copy, and another master will follow, so no node may move
    /// on to its head. If the history contains the point that the node has noted, the node gets that
    /// place: it takes the master for the right one, and notes nothing new. Otherwise it is told
    /// the head, and is in doubt about the master, as it would be after a start that writes.
    fn of_read_only(history: &History, noted: &Point, is_ours: bool) -> Self {
        Self {
            head: if is_ours { *noted } else { history.head() },
            lives: history.lives_since(noted),
            accepted: None,
        }
    }
}

/// Adds to `batch` that sessions have other ids from now on. What sessions of before have committed
/// in the history that is given up, this master does not know: they are kept.
pub(super) fn begin_era(batch: &mut Batch) -> Result<(), Fault> {
    let era = SessionEra::random().map_err(|error| Fault::from(MetaError::Random(error)))?;
    batch.put(keys::ERA.to_vec(), keys::encode_era(era));
    Ok(())
}

/// Returns the sentence about a history that is not the one that a node has obeyed.
fn contest(node: &NodeId, noted: &Point, head: &Point) -> String {
    format!(
        "the master is older than what node {node} has obeyed, or another one: the node has noted {noted}, \
         the master is at {head}. Put the newer folder of the master back; or go on with this one, without \
         what it lacks: cstore admin hold list, cstore admin hold accept NODE NUMBER; or give up the disk of a \
         node that does not return: cstore admin node replace NODE --lost STORE"
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
        let link_at = |position| self.context.store.link_at(position);
        let is_ours = place(&history.lives, history.position, link_at, &noted) == Place::Contains;

        let is_read_only = self.context.read_only().is_some();
        let accepted = accepted.filter(|_| !is_read_only);

        let sentence = (!is_ours && accepted.is_none()).then(|| contest(id, &noted, &head));
        self.note_contest(inner, id, sentence);
        if is_read_only {
            return Telling::of_read_only(history, &noted, is_ours);
        }
        let mut telling = Telling {
            accepted,
            ..Telling::default()
        };
        telling.show(history, &noted);
        telling
    }

    /// Notes that a node has obeyed another history, or that it has not.
    pub(super) fn note_contest(&self, inner: &mut Inner, id: &NodeId, sentence: Option<String>) {
        let was_contested = !inner.contests.is_empty();
        match sentence {
            Some(sentence) => drop(inner.contests.insert(id.clone(), sentence)),
            None => drop(inner.contests.remove(id)),
        }
        let is_contested = !inner.contests.is_empty();
        self.context
            .derived
            .contest(inner.contests.values().next().cloned());
        if was_contested != is_contested {
            tracing::warn!(node = %id, is_contested, "whether a node has obeyed another history of the master");
            self.context.derived.changed();
        }
    }

    /// Goes on with this master although a storage node has obeyed another history, on behalf of a
    /// person. The node is told, and notes this history from then on.
    ///
    /// # Errors
    /// Those of the store of metadata.
    pub(super) async fn accept_history(
        &self,
        id: &NodeId,
        store: StoreUuid,
        noted: Point,
    ) -> Result<(), Fault> {
        let key = keys::store_key(store);
        let mut batch = Batch::default();
        let record = match self.context.store.get(&key).await? {
            Some(current) => {
                batch.require_version(key.clone(), current.version);
                StoreRecord::decode(&current.value)?
            }
            // It registered after this copy was made.
            None => {
                batch.require_absent(key.clone());
                StoreRecord {
                    seen: SeenSeals::default(),
                    accepted: Point::default(),
                    state: StoreState::Up,
                    node: id.clone(),
                }
            }
        };
        let record = StoreRecord {
            accepted: noted,
            ..record
        };
        batch.put(key, record.encode());
        begin_era(&mut batch)?;
        match self.context.propose_contested(batch).await? {
            Some(_) => {
                tracing::warn!(%store, %noted, "the master is accepted by an operator");
                self.end_contest_over(store, noted);
                self.is_back(store).await;
                Ok(())
            }
            None => Err(MetaError::Conflict.into()),
        }
    }

    /// Ends the contest of the node of `store` that has noted `noted`: it may not be there to say
    /// so.
    fn end_contest_over(&self, store: StoreUuid, noted: Point) {
        let mut inner = self.inner.lock();
        let is_its = |node: &Node| {
            let has_store = node.disk.as_ref().is_some_and(|disk| disk.store == store);
            has_store && node.noted == Some(noted)
        };
        let ids: Vec<NodeId> = inner
            .nodes
            .iter()
            .filter(|(_, node)| is_its(node))
            .map(|(id, _)| id.clone())
            .collect();
        for id in ids {
            self.note_contest(&mut inner, &id, None);
        }
    }
}
