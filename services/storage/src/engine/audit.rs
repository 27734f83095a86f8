//! Audit: whether this disk holds the reference sets that files rest on.
//!
//! The node asks the master for its committed sessions, page by page, and compares them with its
//! sets. A session that has none here has lost them: a set is durable before its session commits,
//! and is released only by an answer after the one that called the session committed.
//!
//! ```text
//! begin ─▶ cursor ─ report ─▶ master ─ page ─▶ take ─▶ settle ─▶ ... ─▶ the last page ends the round
//! ```
//! Lost sets are a doubt, unless another doubt that hides sets is open already, or follows from what a
//! person has accepted. A round that finds none ends the doubt.

use std::sync::Arc;

use cstore_types::SessionId;
use parking_lot::Mutex;

use super::format::{Doubt, DoubtKind};
use super::hold::{Finding, Hold};
use super::index::SharedIndex;

/// A page of committed sessions that rest on sets of this disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditPage {
    pub sessions: Vec<SessionId>,
    /// Cursor of the next page.
    pub last: Option<SessionId>,
    /// Nothing follows.
    pub is_last: bool,
}

/// Compares the sets of a disk with the committed sessions. Clones share everything.
#[derive(Debug, Clone)]
pub struct Audit {
    index: SharedIndex,
    hold: Hold,
    round: Arc<Mutex<Round>>,
}

/// The round that goes on, or the last one.
#[derive(Debug, Clone, Copy, Default)]
struct Round {
    /// Session behind which the next page begins.
    after: Option<SessionId>,
    n_lost: u32,
    first_lost: Option<SessionId>,
    /// Accepts of a person before the round began.
    accepts: u32,
    /// Accepts of a person whose losses were counted by an earlier round.
    settled: u32,
}

impl Audit {
    pub(super) fn new(index: SharedIndex, hold: Hold) -> Self {
        Self {
            index,
            hold,
            round: Arc::default(),
        }
    }

    /// Begins a round.
    pub fn begin(&self) {
        let mut round = self.round.lock();
        *round = Round {
            accepts: self.hold.accepts(),
            settled: round.settled,
            ..Round::default()
        };
    }

    /// Returns true if a person has accepted a doubt since the round began: it has to begin again,
    /// as what it found may follow from that.
    pub fn is_outdated(&self) -> bool {
        self.round.lock().accepts != self.hold.accepts()
    }

    /// Returns the session behind which the next page begins.
    pub fn cursor(&self) -> Option<SessionId> {
        self.round.lock().after
    }

    /// Compares a page that answers [`Self::cursor`]. Returns the sessions that have no set here;
    /// if there are some, and after the last page, [`Self::settle`] has to follow. Does not block.
    pub fn take(&self, page: &AuditPage) -> Vec<SessionId> {
        let mut lost = page.sessions.clone();
        let index = self.index.lock();
        lost.retain(|session| !index.holds_sets(*session));
        drop(index);

        let mut round = self.round.lock();
        round.after = page.last.or(round.after);
        let n_lost = u32::try_from(lost.len()).unwrap_or(u32::MAX);
        round.n_lost = round.n_lost.saturating_add(n_lost);
        round.first_lost = round.first_lost.or_else(|| lost.first().copied());
        lost
    }

    /// Draws the conclusion from what the round has found, at its end if it `is_last`. Blocks the
    /// thread.
    pub fn settle(&self, is_last: bool) {
        let round = *self.round.lock();
        let doubts = self.hold.doubts();
        if doubts.iter().any(hides_sets) {
            return;
        }

        let known = doubts
            .iter()
            .find(|doubt| doubt.kind == DoubtKind::LostSets);
        let Some(first) = round.first_lost else {
            if is_last {
                self.hold.close(|doubt| doubt.kind == DoubtKind::LostSets);
                self.round.lock().settled = round.accepts;
            }
            return;
        };
        let finding = Finding {
            count: round.n_lost,
            aux: *first.as_bytes(),
            ..Finding::new(DoubtKind::LostSets)
        };

        let is_accepted = known.is_some_and(|known| known.accepted && round.n_lost <= known.count);
        let was_lost_before = || {
            known.is_none()
                && doubts
                    .iter()
                    .any(|doubt| doubt.accepted && may_lose_sets(doubt))
        };
        let is_explained = round.accepts != round.settled || was_lost_before();
        match is_accepted || is_explained {
            // How many they are is known at the end.
            true if is_last => self.hold.list_accepted(finding),
            true => {}
            false => drop(self.hold.enter(finding)),
        }
        if is_last {
            self.round.lock().settled = round.accepts;
        }
    }
}

/// Returns true if a doubt holds the disk because of which sets may not be seen.
fn hides_sets(doubt: &Doubt) -> bool {
    !doubt.accepted && may_lose_sets(doubt)
}

fn may_lose_sets(doubt: &Doubt) -> bool {
    match doubt.kind {
        DoubtKind::Missing
        | DoubtKind::Short
        | DoubtKind::Damaged
        | DoubtKind::Foreign
        | DoubtKind::Inventory
        | DoubtKind::Superblock
        | DoubtKind::StoreOlder
        | DoubtKind::Master => true,
        // A damaged set is known by its session.
        DoubtKind::Absent | DoubtKind::Set | DoubtKind::LostSets => false,
    }
}
