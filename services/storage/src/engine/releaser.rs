//! Release: the reference sets of a session are durably dropped. Reached from the master's heartbeat answer only.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Committed, LogError, Record, Urgency};
use cstore_types::{CommitFacts, PartNo, SessionId};
use parking_lot::Mutex;
use tokio::sync::oneshot;

use super::format::KIND_RELEASE;
use super::state::RefSet;
use super::{CompactStep, Engine, Need, Shared};
use crate::EngineError;

/// Sessions whose release records share a group.
const MAX_GROUP: usize = 1_024;
/// Steps of compaction that make room for a release on a full disk.
const MAX_STEPS: usize = 4_096;

type Dropped = Vec<(SessionId, Vec<(PartNo, RefSet)>)>;

impl Engine {
    /// Drops all reference sets of `session`; see [`Self::release_all`].
    ///
    /// # Errors
    /// As there.
    pub async fn release(&self, session: SessionId) -> Result<(), EngineError> {
        match self.release_all(&[session]).await.pop() {
            Some((_, result)) => result,
            None => Ok(()),
        }
    }

    /// Drops all reference sets of sessions. Idempotent: a session without sets is released already.
    ///
    /// The release records are synced first, many in one group; only then are references counted down and blocks
    /// freed. They may use a reserve, so that a full disk can always be emptied.
    ///
    /// The answers have errors of the disk. After an error while the sets were read, their space comes back with the
    /// next restart.
    pub async fn release_all(&self, sessions: &[SessionId]) -> Vec<(SessionId, Result<(), EngineError>)> {
        let mut answers = Vec::with_capacity(sessions.len());
        let mut held = Vec::new();
        for session in sessions.iter().copied().collect::<BTreeSet<_>>() {
            self.unpin(session);
            match self.shared.lock().state.parts(session).is_empty() {
                true => answers.push((session, Ok(()))),
                false => held.push(session),
            }
        }
        for group in held.chunks(MAX_GROUP) {
            match self.append_releases(group).await {
                Ok(dropped) => {
                    for (session, parts) in dropped {
                        answers.push((session, self.bury(session, parts).await));
                    }
                }
                Err(error) => answers.extend(group.iter().map(|session| (*session, Err(error.clone())))),
            }
        }
        answers
    }

    /// Makes room for the records when there is none. The last reserve is compaction's, until that has nothing to win:
    /// then only a release can change anything. No compaction begins before it has landed, so it takes no room that a
    /// copy under way counts on.
    async fn append_releases(&self, sessions: &[SessionId]) -> Result<Dropped, EngineError> {
        for step in 0..MAX_STEPS {
            match self.append_release_group(sessions, Urgency::Urgent).await {
                Err(EngineError::Full { .. }) => {}
                other => return other,
            }
            if step == 0 {
                // As for a put without room: an upload that still wants them sends them again.
                self.forget_orphans();
            }
            let mut cleaning = self.cleaning.lock().await;
            if self.compact(&mut cleaning, Need::Now).await? == CompactStep::Idle {
                return self.append_release_group(sessions, Urgency::Compaction).await;
            }
        }
        Err(EngineError::Busy("others take the room that comes back"))
    }

    async fn append_release_group(
        &self,
        sessions: &[SessionId],
        urgency: Urgency,
    ) -> Result<Dropped, EngineError> {
        let (fence, moves) = Releasing::begin(self, sessions)?;
        for landing in moves {
            let _ = landing.await;
        }
        let record = |session: &SessionId| Record {
            kind: KIND_RELEASE,
            key: Bytes::copy_from_slice(session.as_bytes()),
            payload: Bytes::new(),
        };
        let records = sessions.iter().map(record).collect();
        let (sender, landed) = oneshot::channel();
        let done = move |result: Result<Committed<'_>, LogError>| {
            let answer = result.map(|committed| fence.end(&committed)).map_err(EngineError::from);
            let _ = sender.send(answer);
        };
        self.log.append(records, urgency, Box::new(done));
        self.await_commit(landed).await
    }

    /// Counts the references of dropped sets down.
    async fn bury(&self, session: SessionId, parts: Vec<(PartNo, RefSet)>) -> Result<(), EngineError> {
        for (part, set) in parts {
            let engine = self.clone();
            let read = cstore_node::blocking(move || engine.read_refset(session, part, set));
            let ids = read.await??;
            let mut shared = self.shared.lock();
            shared.state.drop_refs(&ids);
            shared.state.bury(set);
        }
        self.counters.releases.add(1);
        Ok(())
    }
}

/// Sessions whose sets do not move as long as this lives.
struct Releasing {
    shared: Arc<Mutex<Shared>>,
    sessions: Vec<SessionId>,
}

impl Releasing {
    /// Keeps new moves away; the moves that are under way are answered.
    fn begin(
        engine: &Engine,
        sessions: &[SessionId],
    ) -> Result<(Self, Vec<oneshot::Receiver<bool>>), EngineError> {
        let mut shared = engine.shared.lock();
        if sessions.iter().any(|session| shared.releasing.contains(session)) {
            return Err(EngineError::Busy("this session is being released by another request"));
        }
        shared.releasing.extend(sessions);
        let moves = match engine.flaw.has_no_fence() {
            true => Vec::new(),
            false => sessions.iter().filter_map(|session| shared.wait_for_move(*session)).collect(),
        };
        let (shared, sessions) = (engine.shared.clone(), sessions.to_vec());
        Ok((Self { shared, sessions }, moves))
    }

    /// The records are durable: the sets are gone.
    fn end(self, committed: &Committed<'_>) -> (Dropped, CommitFacts) {
        let mut shared = self.shared.lock();
        let landed = self.sessions.iter().zip(committed.locations);
        let dropped = landed.map(|(session, at)| (*session, shared.state.release(*session, *at))).collect();
        drop(shared);
        (dropped, committed.frame)
    }
}

impl Drop for Releasing {
    fn drop(&mut self) {
        let mut shared = self.shared.lock();
        for session in &self.sessions {
            shared.releasing.remove(session);
        }
        shared.fences.notify_waiters();
    }
}
