//! The roll call: sessions whose sets lie here and of which the master never said that they are
//! committed.
//!
//! The master judges them: a committed one is remembered here, an abandoned one comes back as a
//! release. With millions of sessions a selection takes a tenth of a second, so it is made on a
//! thread for it, once for each tick, and the heartbeat takes what is ready.

use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;

use cstore_node::shutdown::Shutdown;
use cstore_types::SessionId;
use cstore_types::limits::MAX_REPORTED_SESSIONS;
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::Engine;
use crate::limits::{FORGET_SELECTIONS, ROLL_CALL_LOOKUPS};

/// Sessions to ask the master about. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct RollCall(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    wanted: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// Sessions that the master called committed. They are not asked about again.
    /// A tree: pages of it can be visited, and growth moves no other entries.
    confirmed: BTreeSet<SessionId>,
    /// Sessions for the next report.
    selection: Vec<SessionId>,
}

impl RollCall {
    /// Takes the selection that is ready, and has the next one made. Some of its sessions may have
    /// been released since.
    pub(crate) fn take(&self) -> Vec<SessionId> {
        self.0.wanted.notify_one();
        std::mem::take(&mut self.0.state.lock().selection)
    }

    /// Remembers committed sessions.
    pub(crate) fn confirm(&self, sessions: impl IntoIterator<Item = SessionId>) {
        self.0.state.lock().confirmed.extend(sessions);
    }

    /// Forgets that sessions were committed: they are released. Sets that come back under their
    /// name are asked about.
    pub(crate) fn forget(&self, sessions: impl IntoIterator<Item = SessionId>) {
        let mut state = self.0.state.lock();
        for session in sessions {
            state.confirmed.remove(&session);
        }
    }

    /// Forgets all confirmations. Called when another master, or another copy of the metadata, is
    /// accepted: it may not know sessions that the previous one confirmed.
    pub(crate) fn forget_all(&self) {
        self.0.state.lock().confirmed.clear();
    }

    /// Makes a selection at the start and after each [`Self::take`], until the shutdown.
    pub(crate) async fn run(self, engine: Engine, shutdown: Shutdown) {
        let mut cursor = None;
        let mut n_selections = 0u64;
        loop {
            n_selections += 1;
            let forgets = n_selections.is_multiple_of(FORGET_SELECTIONS);
            let (roll_call, engine) = (self.clone(), engine.clone());
            let selecting = cstore_node::blocking(move || {
                let held = engine.holdings().sessions();
                if forgets {
                    roll_call.forget_absent(&held);
                }
                roll_call.select(held, cursor)
            });
            match selecting.await {
                Ok(last) => cursor = last,
                Err(error) => {
                    tracing::error!(%error, "sessions to ask the master about could not be selected")
                }
            }
            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                () = self.0.wanted.notified() => {}
            }
        }
    }

    /// Selects the sessions after `cursor`, in order and around the end. Returns the last one as
    /// the next cursor.
    fn select(&self, held: Vec<SessionId>, cursor: Option<SessionId>) -> Option<SessionId> {
        let mut open = Vec::new();
        for chunk in held.chunks(ROLL_CALL_LOOKUPS) {
            let state = self.0.state.lock();
            open.extend(
                chunk
                    .iter()
                    .filter(|session| !state.confirmed.contains(session)),
            );
        }
        open.sort_unstable();
        let start = cursor.map_or(0, |cursor| {
            open.partition_point(|session| *session <= cursor)
        });
        open.rotate_left(start);
        open.truncate(MAX_REPORTED_SESSIONS);
        let last = open.last().copied();
        self.0.state.lock().selection = open;
        last
    }

    /// Forgets confirmed sessions that are not in `held`.
    fn forget_absent(&self, held: &[SessionId]) {
        let held: HashSet<&SessionId> = held.iter().collect();
        let mut after = Bound::Unbounded;
        loop {
            let mut state = self.0.state.lock();
            let page = state.confirmed.range((after, Bound::Unbounded));
            let page: Vec<SessionId> = page.take(ROLL_CALL_LOOKUPS).copied().collect();
            for session in page.iter().filter(|session| !held.contains(session)) {
                state.confirmed.remove(session);
            }
            match page.last() {
                Some(last) => after = Bound::Excluded(*last),
                None => return,
            }
        }
    }
}

#[cfg(test)]
impl RollCall {
    /// Returns true if the master is not asked about the session any more.
    pub(crate) fn has_confirmed(&self, session: SessionId) -> bool {
        self.0.state.lock().confirmed.contains(&session)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn session(n: u64) -> SessionId {
        SessionId::from_bytes([[7; 8], n.to_be_bytes()].concat().try_into().unwrap())
    }

    fn sessions(range: std::ops::Range<u64>) -> Vec<SessionId> {
        range.map(session).collect()
    }

    #[test]
    fn a_selection_goes_around_in_bounded_steps_and_leaves_out_what_is_confirmed() {
        let roll_call = RollCall::default();
        roll_call.confirm([session(1)]);
        let held = || sessions(0..2_501).into_iter().rev().collect::<Vec<_>>();
        let mut cursor = None;
        let mut seen = Vec::new();
        for _ in 0..3 {
            cursor = roll_call.select(held(), cursor);
            let taken = roll_call.take();
            assert!(taken.len() <= MAX_REPORTED_SESSIONS);
            seen.extend(taken);
        }
        assert_eq!(seen.len(), 3_000, "it goes on at the beginning");
        let all: HashSet<SessionId> = seen.into_iter().collect();
        assert_eq!(all.len(), 2_500);
        assert!(!all.contains(&session(1)));
        assert!(roll_call.take().is_empty(), "a selection is reported once");
    }

    #[test]
    fn everything_is_asked_about_after_all_is_forgotten() {
        let roll_call = RollCall::default();
        roll_call.confirm(sessions(0..3));
        roll_call.select(sessions(0..3), None);
        assert_eq!(roll_call.take(), []);
        roll_call.forget_all();
        roll_call.select(sessions(0..3), None);
        assert_eq!(roll_call.take(), sessions(0..3));
    }

    #[test]
    fn released_and_absent_sessions_are_asked_about_when_they_come_back() {
        let roll_call = RollCall::default();
        roll_call.confirm(sessions(0..3));
        roll_call.forget([session(0)]);
        roll_call.forget_absent(&[session(1)]);
        roll_call.select(sessions(0..3), None);
        assert_eq!(roll_call.take(), [session(0), session(2)]);
    }
}
