//! Turns of changes that count the names of one session.
//!
//! All names of a session change one record, which counts them: two copies of one file conflict,
//! although their names differ. Without turns each round of many copies lets one through and makes
//! all others decide again, until some have no tries left. A turn is no lock on data: what a batch
//! requires decides, and changes that take no turn stay correct.

use std::sync::Arc;

use cstore_types::SessionId;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::limits::SESSION_TURNS;

/// The turns of all sessions. Sessions that share one wait for each other without need.
#[derive(Debug)]
pub(super) struct SessionTurns(Vec<Arc<Mutex<()>>>);

/// A turn. The next change of the session gets it when it is dropped.
#[derive(Debug)]
pub(super) struct Turn {
    index: usize,
    _guard: OwnedMutexGuard<()>,
}

impl Default for SessionTurns {
    fn default() -> Self {
        Self((0..SESSION_TURNS).map(|_| Arc::default()).collect())
    }
}

impl SessionTurns {
    /// Makes `turn` one of `session`, waiting for it in the order of the calls. Another turn that
    /// `turn` holds is given back first, so that no two changes wait for each other.
    pub(super) async fn take(&self, turn: &mut Option<Turn>, session: SessionId) {
        let hash = session.as_bytes().iter().fold(0_usize, |hash, byte| {
            hash.wrapping_mul(31).wrapping_add(usize::from(*byte))
        });
        let index = hash % self.0.len().max(1);
        if turn.as_ref().is_some_and(|turn| turn.index == index) {
            return;
        }
        drop(turn.take());
        if let Some(mutex) = self.0.get(index) {
            *turn = Some(Turn {
                index,
                _guard: mutex.clone().lock_owned().await,
            });
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::FutureExt;

    #[tokio::test]
    async fn a_session_has_one_turn_at_a_time_and_another_session_has_its_own() {
        let turns = SessionTurns::default();
        let [one, other] = [[1; 16], [2; 16]].map(SessionId::from_bytes);
        let (mut first, mut second, mut third) = (None, None, None);
        turns.take(&mut first, one).await;
        // A change that decides again keeps its turn.
        turns.take(&mut first, one).await;
        assert!(turns.take(&mut second, one).now_or_never().is_none());
        turns.take(&mut third, other).await;
        assert!(first.is_some() && second.is_none() && third.is_some());
        // A change that finds another session gives its turn back.
        drop(third);
        turns.take(&mut first, other).await;
        turns.take(&mut second, one).await;
        assert!(second.is_some());
    }
}
