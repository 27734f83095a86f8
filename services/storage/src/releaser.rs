//! Releases: sessions that the master wants dropped, on their way through the engine.
//!
//! ```text
//! heartbeat answer ─▶ Releases::offer ─▶ one batch ─▶ Releaser ─▶ engine, synced ─▶ released
//!        ▲                                                │                           │
//!        └── acknowledged ◀── next heartbeat ◀── trigger ─┴───────────────────────────┘
//! ```
//! Invariants
//! * One batch is in work at most. The master names a session in every answer until the node has
//!   acknowledged it, so an answer that comes while a batch is in work is dropped. The memory of
//!   both sides is bounded by that.
//! * A session is acknowledged AFTER its release is durable, and stays on the list until the master
//!   answered the very request that acknowledged it. If the node stops in between, the master names
//!   the session to its next life, and releasing a session without sets succeeds at once.
//! * A batch that has begun is never cut off. The release records may be durable then while the
//!   references are not counted down yet, and a clean stop would write the wrong counts down as the
//!   truth.
//!
//! The heartbeat that follows a batch is sent at once if the master has more to release, otherwise
//! 1,000 sessions for each interval would be the most that a node could release. Only a batch that
//! released something asks for it.

use std::collections::{BTreeSet, HashSet};
use std::future::Future;
use std::sync::Arc;

use cstore_mesh::member::HeartbeatTrigger;
use cstore_node::shutdown::Shutdown;
use cstore_types::SessionId;
use cstore_types::limits::{MAX_RELEASED_SESSIONS, MAX_REPORTED_SESSIONS};
use parking_lot::Mutex;
use tokio::sync::Notify;

use crate::engine::EngineError;
use crate::roll_call::RollCall;

/// Result for each session of a batch.
pub(crate) type ReleaseResults = Vec<(SessionId, Result<(), EngineError>)>;

/// Releases between the heartbeats and the releaser. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Releases(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    state: Mutex<State>,
    offered: Notify,
}

#[derive(Debug, Default)]
struct State {
    /// A batch that the releaser has not taken yet.
    batch: Option<Vec<SessionId>>,
    /// Sessions of the batch that waits or is in work. Empty if the releaser is idle.
    in_work: HashSet<SessionId>,
    /// The master has named, or may have, sessions beyond those in work.
    more_wait: bool,
    /// Sessions that are durably released and whose acknowledgement the master has not answered
    /// yet.
    released: BTreeSet<SessionId>,
}

impl Releases {
    /// Returns the sessions that the next heartbeat acknowledges.
    pub(crate) fn to_acknowledge(&self) -> Vec<SessionId> {
        self.0
            .state
            .lock()
            .released
            .iter()
            .take(MAX_REPORTED_SESSIONS)
            .copied()
            .collect()
    }

    /// Takes sessions off the list. MUST be called with the sessions of a request that the master
    /// answered.
    pub(crate) fn acknowledged(&self, sessions: &[SessionId]) {
        let mut state = self.0.state.lock();
        for session in sessions {
            state.released.remove(session);
        }
    }

    /// Hands the sessions that an answer named over to the releaser, and returns at once.
    ///
    /// Sessions that are in work or wait for their acknowledgement are not taken again. If a batch
    /// is in work, nothing is taken: the master names the rest in a later answer.
    pub(crate) fn offer(&self, named: &[SessionId]) {
        let mut state = self.0.state.lock();
        let is_new = |session: &&SessionId| {
            !state.in_work.contains(session) && !state.released.contains(session)
        };
        let new: Vec<SessionId> = named.iter().filter(is_new).copied().collect();
        if new.is_empty() {
            return;
        }
        if !state.in_work.is_empty() {
            state.more_wait = true;
            return;
        }
        state.more_wait = named.len() >= MAX_RELEASED_SESSIONS;
        state.in_work = new.iter().copied().collect();
        state.batch = Some(new);
        self.0.offered.notify_one();
    }

    /// Takes back a batch that has not begun. The master names its sessions again.
    pub(crate) fn withdraw(&self) {
        let mut state = self.0.state.lock();
        if state.batch.take().is_some() {
            state.in_work.clear();
        }
    }

    /// Waits for a batch. Cancel safe.
    async fn next_batch(&self) -> Vec<SessionId> {
        loop {
            if let Some(batch) = self.0.state.lock().batch.take() {
                return batch;
            }
            self.0.offered.notified().await;
        }
    }

    /// Ends a batch. Returns whether the next heartbeat should come at once: something was
    /// released, and more waits.
    fn finish(&self, results: ReleaseResults) -> bool {
        let mut state = self.0.state.lock();
        state.in_work.clear();
        let mut n_released = 0;
        for (session, result) in results {
            match result {
                Ok(()) => {
                    state.released.insert(session);
                    n_released += 1;
                }
                Err(error) => {
                    tracing::error!(%session, error = %cstore_types::error_chain(&error), "session could not be released")
                }
            }
        }
        std::mem::take(&mut state.more_wait) && n_released > 0
    }
}

/// Releases batch after batch.
#[derive(Debug)]
pub(crate) struct Releaser {
    pub(crate) releases: Releases,
    pub(crate) roll_call: RollCall,
    pub(crate) heartbeat: HeartbeatTrigger,
    /// Notified after each batch: segments may have died.
    pub(crate) freed: Arc<Notify>,
}

impl Releaser {
    /// Releases with `release` until the shutdown. A batch that has begun then is finished first,
    /// see the module.
    pub(crate) async fn run<F>(self, release: impl Fn(Vec<SessionId>) -> F, shutdown: Shutdown)
    where
        F: Future<Output = ReleaseResults>,
    {
        loop {
            let batch = tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                batch = self.releases.next_batch() => batch,
            };
            let results = release(batch).await;
            self.roll_call
                .forget(results.iter().map(|(session, _)| *session));
            self.freed.notify_one();
            if self.releases.finish(results) {
                self.heartbeat.request();
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sessions(range: std::ops::Range<u64>) -> Vec<SessionId> {
        let session =
            |n: u64| SessionId::from_bytes([[7; 8], n.to_be_bytes()].concat().try_into().unwrap());
        range.map(session).collect()
    }

    fn begin(releases: &Releases) -> Vec<SessionId> {
        releases.0.state.lock().batch.take().unwrap()
    }

    fn all_ok(sessions: &[SessionId]) -> ReleaseResults {
        sessions.iter().map(|session| (*session, Ok(()))).collect()
    }

    #[test]
    fn a_full_batch_asks_for_the_next_heartbeat_and_the_last_one_does_not() {
        let releases = Releases::default();
        releases.offer(&sessions(0..1_000));
        let batch = begin(&releases);
        assert!(releases.finish(all_ok(&batch)));
        releases.acknowledged(&batch);
        releases.offer(&sessions(1_000..1_999));
        let batch = begin(&releases);
        assert!(!releases.finish(all_ok(&batch)));
    }

    #[test]
    fn a_batch_that_released_nothing_asks_for_nothing() {
        let releases = Releases::default();
        releases.offer(&sessions(0..1_000));
        let failed = |session| (session, Err(EngineError::Busy("on purpose")));
        let results = begin(&releases).into_iter().map(failed).collect();
        assert!(!releases.finish(results));
        assert!(releases.to_acknowledge().is_empty());
        releases.offer(&sessions(0..1_000));
        assert_eq!(begin(&releases).len(), 1_000, "they are tried again");
    }

    #[test]
    fn what_is_in_work_or_waits_for_its_acknowledgement_is_not_taken_twice() {
        let releases = Releases::default();
        releases.offer(&sessions(0..3));
        let batch = begin(&releases);
        releases.offer(&sessions(0..3));
        releases.offer(&sessions(0..5));
        assert!(
            releases.0.state.lock().batch.is_none(),
            "one batch at a time"
        );
        assert!(
            releases.finish(all_ok(&batch)),
            "the master has named more since"
        );

        releases.offer(&sessions(0..5));
        assert_eq!(begin(&releases), sessions(3..5));
        assert_eq!(releases.to_acknowledge(), sessions(0..3));
    }

    #[test]
    fn only_what_was_acknowledged_leaves_the_list_and_a_report_is_bounded() {
        let releases = Releases::default();
        for range in [0..1_000, 1_000..1_500] {
            releases.offer(&sessions(range));
            let batch = begin(&releases);
            releases.finish(all_ok(&batch));
        }
        let told = releases.to_acknowledge();
        assert_eq!(told, sessions(0..1_000));
        assert_eq!(
            releases.to_acknowledge(),
            told,
            "a heartbeat without an answer changes nothing"
        );
        releases.acknowledged(&told);
        assert_eq!(releases.to_acknowledge(), sessions(1_000..1_500));
    }

    #[test]
    fn a_batch_that_has_not_begun_can_be_withdrawn() {
        let releases = Releases::default();
        releases.offer(&sessions(0..3));
        releases.withdraw();
        assert!(releases.0.state.lock().batch.is_none());
        releases.offer(&sessions(0..3));
        assert_eq!(begin(&releases).len(), 3);
        releases.withdraw();
        assert_eq!(
            releases.0.state.lock().in_work.len(),
            3,
            "what has begun is finished"
        );
    }

    #[tokio::test]
    async fn a_shutdown_ends_an_idle_releaser_and_waits_for_a_batch() {
        let (releases, shutdown) = (Releases::default(), Shutdown::new());
        let releaser = || Releaser {
            releases: releases.clone(),
            roll_call: RollCall::default(),
            heartbeat: HeartbeatTrigger::default(),
            freed: Arc::default(),
        };
        let finish = Notify::new();
        let release = |batch: Vec<SessionId>| {
            let finish = &finish;
            async move {
                finish.notified().await;
                all_ok(&batch)
            }
        };
        releases.offer(&sessions(0..2));
        let mut running = std::pin::pin!(releaser().run(release, shutdown.clone()));
        let stop = async {
            tokio::task::yield_now().await;
            shutdown.trigger();
            tokio::task::yield_now().await;
        };
        tokio::select! {
            biased;
            () = &mut running => panic!("a batch was cut off"),
            () = stop => {}
        }
        finish.notify_one();
        running.await;
        assert_eq!(releases.to_acknowledge(), sessions(0..2));
        releaser().run(release, shutdown).await;
    }
}
