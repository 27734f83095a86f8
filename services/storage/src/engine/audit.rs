//! Audit: whether this disk holds the reference sets that files rest on.
//!
//! The node asks the master for its committed sessions, page by page, and compares them with its
//! sets. A session that has none here has lost them: a set is durable before its session commits,
//! and is released only by an answer after the one that called the session committed.
//!
//! ```text
//! begin ─▶ cursor ─ report ─▶ master ─ page ─▶ take ─▶ settle ─▶ ... ─▶ the last page ends the round
//! ```
//! Lost sets are a doubt, unless another doubt that hides sets is open already, or a person has accepted
//! what took them (`doubts.rs`). A round that finds none ends the doubt.

use std::sync::Arc;

use cstore_types::SessionId;
use parking_lot::Mutex;

use super::doubts::LostSets;
use super::format::UNCOUNTED;
use super::hold::Hold;
use super::index::SharedIndex;
use crate::limits::INDEX_STEP;

/// A page of committed sessions that rest on sets of this disk.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct AuditPage {
    pub sessions: Vec<SessionId>,
    /// Cursor of the next page.
    pub last: Option<SessionId>,
    /// Nothing follows.
    pub is_last: bool,
}

/// Outcome of a page.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Audited {
    /// Sessions of the page that have no set here.
    pub lost: Vec<SessionId>,
    /// Finding for [`Audit::settle`]; `None` if nothing follows from the page.
    pub finding: Option<LostSets>,
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
        *self.round.lock() = Round {
            accepts: self.hold.accepts(),
            ..Round::default()
        };
    }

    /// Returns true if a person has accepted a doubt since the round began: the loss is to be
    /// counted soon.
    pub fn is_outdated(&self) -> bool {
        self.round.lock().accepts != self.hold.accepts()
    }

    /// Returns the session behind which the next page begins.
    pub fn cursor(&self) -> Option<SessionId> {
        self.round.lock().after
    }

    /// Compares a page that answers [`Self::cursor`]. Does not block.
    pub fn take(&self, page: &AuditPage) -> Audited {
        let mut lost = Vec::new();
        for chunk in page.sessions.chunks(INDEX_STEP) {
            let index = self.index.lock();
            lost.extend(chunk.iter().filter(|session| !index.holds_sets(**session)));
        }

        let mut round = self.round.lock();
        round.after = page.last.or(round.after);
        let n_lost = u32::try_from(lost.len()).unwrap_or(u32::MAX);
        round.n_lost = round.n_lost.saturating_add(n_lost).min(UNCOUNTED - 1);
        round.first_lost = round.first_lost.or_else(|| lost.first().copied());
        let finding = LostSets {
            count: round.n_lost,
            first: round.first_lost,
            is_whole: page.is_last,
        };
        let is_news = page.is_last || !lost.is_empty();
        Audited {
            lost,
            finding: is_news.then_some(finding),
        }
    }

    /// Enters or ends the doubt that follows from a page. Blocks the thread. Several callers at once
    /// are safe, in any order.
    pub fn settle(&self, finding: &LostSets) {
        self.hold.note_lost(finding);
    }
}
