//! Pins: blocks that must stay while an upload may still refer to them.

use std::collections::{HashMap, HashSet};

use cstore_types::{BlockId, SessionId};

use crate::limits::MAX_PINS;

/// The pins of one session.
#[derive(Debug, Default)]
struct Pins {
    ids: HashSet<BlockId>,
    /// Number of the sweep before which the session last pinned something.
    sweep: u64,
}

/// The pins of all sessions.
#[derive(Debug, Default)]
pub(super) struct PinTable {
    sessions: HashMap<SessionId, Pins>,
    /// Ids over all sessions.
    n_ids: usize,
    /// Sweeps so far.
    sweep: u64,
}

impl PinTable {
    /// Adds a pin, and notes that the session is active. Returns false if the session pins the
    /// block already, or the limit is reached.
    pub(super) fn add(&mut self, session: SessionId, id: BlockId) -> bool {
        let pins = self.sessions.entry(session).or_default();
        pins.sweep = self.sweep;

        let is_new = self.n_ids < MAX_PINS && pins.ids.insert(id);
        self.n_ids += usize::from(is_new);
        is_new
    }

    /// Removes the pins of a session and returns them.
    pub(super) fn remove(&mut self, session: SessionId) -> HashSet<BlockId> {
        let ids = self.sessions.remove(&session).unwrap_or_default().ids;
        self.n_ids = self.n_ids.saturating_sub(ids.len());
        ids
    }

    /// Begins a sweep. Returns the sessions that pinned nothing since the sweep before the last
    /// one.
    pub(super) fn begin_sweep(&mut self) -> Vec<SessionId> {
        self.sweep += 1;
        let is_silent = |pins: &Pins| pins.sweep + 1 < self.sweep;
        self.sessions
            .iter()
            .filter(|(_, pins)| is_silent(pins))
            .map(|(session, _)| *session)
            .collect()
    }
}
