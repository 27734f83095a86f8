//! Release: the reference sets of a session are durably dropped. Reached from the master's
//! heartbeat response only.

use std::collections::BTreeSet;

use bytes::Bytes;
use cstore_log::{Record, Urgency};
use cstore_types::{PartNo, SessionId};

use super::appender::Appender;
use super::compactor::{CompactStep, Need};
use super::counters::Counters;
use super::error::EngineError;
use super::fences::Fences;
use super::format::KIND_RELEASE;
use super::index::{RefSet, SharedIndex};
use super::room::Room;
use super::sets::SetReader;
use crate::limits::{MAX_RELEASE_GROUP, MAX_ROOM_STEPS};

/// The sets that a release has dropped.
#[derive(Debug)]
struct DroppedSets {
    session: SessionId,
    parts: Vec<(PartNo, RefSet)>,
}

/// Releases sessions.
#[derive(Debug)]
pub(super) struct Releaser {
    pub(super) appender: Appender,
    pub(super) index: SharedIndex,
    pub(super) fences: Fences,
    pub(super) room: Room,
    pub(super) sets: SetReader,
    pub(super) counters: Counters,
}

impl Releaser {
    /// Drops all reference sets of sessions. Repeating it is safe: a session without sets is
    /// released already.
    ///
    /// The release records are synced first, many in one group. Only then are references counted
    /// down and blocks freed. The records may use a reserve, so that a full disk can always be
    /// emptied.
    ///
    /// The results hold errors of the disk. After an error while the sets were read, their space
    /// comes back with the next restart.
    pub(super) async fn release_all(
        &self,
        sessions: &[SessionId],
    ) -> Vec<(SessionId, Result<(), EngineError>)> {
        let mut results = Vec::with_capacity(sessions.len());
        let mut held = Vec::new();
        for session in sessions.iter().copied().collect::<BTreeSet<_>>() {
            let mut index = self.index.lock();
            index.unpin(session);
            match index.holds_sets(session) {
                true => held.push(session),
                false => results.push((session, Ok(()))),
            }
        }

        // One sync for many sessions.
        for group in held.chunks(MAX_RELEASE_GROUP) {
            match self.append_releases(group).await {
                Ok(dropped) => {
                    for sets in dropped {
                        let session = sets.session;
                        results.push((session, self.count_down(sets).await));
                    }
                }
                Err(error) => {
                    results.extend(group.iter().map(|session| (*session, Err(error.clone()))))
                }
            }
        }
        results
    }

    /// Appends the release records, compacting first if the log is full.
    ///
    /// The last reserve belongs to compaction. Once compaction has nothing left to reclaim, only a
    /// release can free space, so the reserve is spent on it. The right to compact is held until
    /// the append completes: otherwise a running copy could lose space that it has already counted
    /// on.
    async fn append_releases(
        &self,
        sessions: &[SessionId],
    ) -> Result<Vec<DroppedSets>, EngineError> {
        for step in 0..MAX_ROOM_STEPS {
            match self.append_group(sessions, Urgency::Urgent).await {
                Err(EngineError::Full { .. }) => {}
                other => return other,
            }
            if step == 0 {
                // They need no copy: their space comes back with the next dead segment.
                self.room.forget_orphans();
            }
            let mut turn = self.room.compactor.turn().await;
            if self.room.compactor.step_in(&mut turn, Need::Now).await? == CompactStep::Idle {
                return self.append_group(sessions, Urgency::Compaction).await;
            }
        }
        Err(EngineError::Busy(
            "free space is being claimed by other writers",
        ))
    }

    async fn append_group(
        &self,
        sessions: &[SessionId],
        urgency: Urgency,
    ) -> Result<Vec<DroppedSets>, EngineError> {
        let mut fence = self.fences.fence();
        // A statement of its own: the claims MUST be unlocked before `fence` is dropped.
        let claimed = self.fences.lock().claim_releases(&mut fence, sessions);
        for completion in claimed? {
            let _ = completion.await;
        }

        let record = |session: &SessionId| Record {
            kind: KIND_RELEASE,
            key: Bytes::copy_from_slice(session.as_bytes()),
            payload: Bytes::new(),
        };
        let records = sessions.iter().map(record).collect();
        let sessions = sessions.to_vec();
        let index = self.index.clone();
        let append = self.appender.append(records, urgency, move |committed| {
            let mut index = index.lock();
            let drop_sets = |(session, location): (&SessionId, &_)| DroppedSets {
                session: *session,
                parts: index.release(*session, *location),
            };
            let dropped = sessions
                .iter()
                .zip(committed.locations)
                .map(drop_sets)
                .collect();
            drop(index);
            fence.end();
            dropped
        });
        self.appender.wait(append).await
    }

    /// Counts the references of dropped sets down.
    async fn count_down(&self, dropped: DroppedSets) -> Result<(), EngineError> {
        for (part, set) in dropped.parts {
            let sets = self.sets.clone();
            let session = dropped.session;
            let ids = cstore_node::blocking(move || sets.read(session, part, set)).await??;
            let mut index = self.index.lock();
            index.drop_refs(&ids);
            index.drop_set_record(set);
        }
        self.counters.releases.inc();
        Ok(())
    }
}
