//! Release: the reference sets of a session are durably dropped. Reached from the master's
//! heartbeat response only.

use std::collections::{BTreeSet, HashMap};

use bytes::Bytes;
use cstore_log::{Record, Urgency};
use cstore_types::{BlockId, PartNo, SessionId};

use super::appender::Appender;
use super::compactor::{CompactStep, Need};
use super::counters::Counters;
use super::doubts::{Entered, Finding};
use super::error::EngineError;
use super::fences::Fences;
use super::format::KIND_RELEASE;
use super::hold::Hold;
use super::index::{RefSet, SharedIndex, steps};
use super::room::Room;
use super::sets::SetReader;
use crate::limits::{MAX_KEPT_IDS, MAX_RELEASE_GROUP, MAX_ROOM_STEPS};

/// The sets that a release has dropped.
#[derive(Debug)]
struct DroppedSets {
    session: SessionId,
    parts: Vec<(PartNo, RefSet)>,
}

/// Ids of the sets of sessions, read BEFORE their release is written: a set that cannot be read
/// afterwards would leave its references counted for ever.
type SetIds = HashMap<(SessionId, PartNo), Vec<BlockId>>;

/// Releases sessions.
#[derive(Debug)]
pub struct Releaser {
    pub(super) appender: Appender,
    pub(super) index: SharedIndex,
    pub(super) fences: Fences,
    pub(super) room: Room,
    pub(super) sets: SetReader,
    pub(super) counters: Counters,
    pub(super) hold: Hold,
}

impl Releaser {
    /// Drops all reference sets of a session.
    ///
    /// # Errors
    /// Those of [`Self::release_all`].
    pub async fn release(&self, session: SessionId) -> Result<(), EngineError> {
        let results = self.release_all(&[session]).await;
        results.into_iter().try_for_each(|(_, result)| result)
    }

    /// Drops all reference sets of sessions. Repeating it is safe: a session without sets is
    /// released already.
    ///
    /// The release records are synced first, many in one group. Only then are references counted
    /// down and blocks freed. The records may use a reserve, so that a full disk can always be
    /// emptied.
    ///
    /// On hold nothing is released. A set that cannot be read puts the disk on hold, and its
    /// session keeps all its sets. The results hold these errors and those of the disk.
    pub async fn release_all(
        &self,
        sessions: &[SessionId],
    ) -> Vec<(SessionId, Result<(), EngineError>)> {
        let mut results = Vec::with_capacity(sessions.len());
        let mut held = Vec::new();
        let mut pins = None;
        for session in sessions.iter().copied().collect::<BTreeSet<_>>() {
            if let Some(reason) = self.hold.reason() {
                results.push((session, Err(EngineError::Held(reason))));
                continue;
            }
            let mut index = self.index.lock();
            pins = Some(index.end_pins(session));
            match index.holds_sets(session) {
                true => held.push(session),
                false => results.push((session, Ok(()))),
            }
        }
        if let Some(pins) = pins {
            steps::drop_pins_aside(&self.index, pins).await;
        }

        // One sync for many sessions.
        for group in held.chunks(MAX_RELEASE_GROUP) {
            // A group before it may have found a set that cannot be read.
            if let Some(reason) = self.hold.reason() {
                let held = EngineError::Held(reason);
                results.extend(group.iter().map(|session| (*session, Err(held.clone()))));
                continue;
            }
            match self.append_releases(group).await {
                Ok((dropped, ids)) => {
                    for sets in dropped {
                        let session = sets.session;
                        results.push((session, self.count_down(sets, &ids).await));
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
    ) -> Result<(Vec<DroppedSets>, SetIds), EngineError> {
        for step in 0..MAX_ROOM_STEPS {
            match self.append_group(sessions, Urgency::Urgent).await {
                Err(EngineError::Full { .. }) => {}
                other => return other,
            }
            if step == 0 {
                // They need no copy: their space comes back with the next dead segment.
                self.room.forget_orphans_aside().await;
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
    ) -> Result<(Vec<DroppedSets>, SetIds), EngineError> {
        let mut fence = self.fences.fence();
        // A statement of its own: the claims MUST be unlocked before `fence` is dropped.
        let claimed = self.fences.lock().claim_releases(&mut fence, sessions);
        for completion in claimed? {
            let _ = completion.await;
        }

        let ids = self.read_sets(sessions).await?;

        let record = |session: &SessionId| Record {
            kind: KIND_RELEASE,
            key: Bytes::copy_from_slice(session.as_bytes()),
            payload: Bytes::new(),
        };
        let records = sessions.iter().map(record).collect();
        let sessions = sessions.to_vec();
        let index = self.index.clone();
        // No doubt is entered between this look and the append.
        let append = {
            let Some(_permit) = self.hold.permit() else {
                let reason = self.hold.reason().unwrap_or_default();
                return Err(EngineError::Held(reason));
            };
            self.appender.append(records, urgency, move |committed| {
                // One session in one hold of the index: none of them depends on another one.
                let drop_sets = |(session, location): (&SessionId, &_)| DroppedSets {
                    session: *session,
                    parts: index.lock().release(*session, *location),
                };
                let dropped = sessions
                    .iter()
                    .zip(committed.locations)
                    .map(drop_sets)
                    .collect();
                fence.end();
                dropped
            })
        };
        Ok((self.appender.wait(append).await?, ids))
    }

    /// Reads the sets of sessions whose release is claimed, so that they do not move.
    ///
    /// # Errors
    /// [`EngineError::Held`] after a set that could not be read, which puts the disk on hold.
    async fn read_sets(&self, sessions: &[SessionId]) -> Result<SetIds, EngineError> {
        let sets = self.sets.clone();
        let of = |session: &SessionId| {
            let session = *session;
            let parts = self.index.lock().parts(session).into_iter();
            parts.map(move |(part, set)| (session, part, set))
        };
        let parts: Vec<(SessionId, PartNo, RefSet)> = sessions.iter().flat_map(of).collect();

        let reading = cstore_node::blocking(move || {
            let mut ids = SetIds::new();
            let mut unread = Vec::new();
            let mut n_ids = 0;
            for (session, part, set) in parts {
                match sets.read_twice(session, part, set) {
                    // The others were seen to be readable, and are read again.
                    Ok(read) if n_ids + read.len() > MAX_KEPT_IDS => {}
                    Ok(read) => {
                        n_ids += read.len();
                        ids.insert((session, part), read);
                    }
                    Err(error) => unread.push((session, part, set, error)),
                }
            }
            (ids, unread)
        });

        let (mut ids, unread) = reading.await?;
        for (session, part, set, error) in unread {
            let error = cstore_types::error_chain(&error);
            tracing::error!(%session, %error, "reference set of a release cannot be read");
            let hold = self.hold.clone();
            let entering = move || hold.enter(Finding::of_set(session, set));
            match cstore_node::blocking(entering).await? {
                // The disk goes on without it: it is dropped, and its references stay counted.
                Entered::Accepted => drop(ids.insert((session, part), Vec::new())),
                Entered::Open => {
                    return Err(EngineError::Held(self.hold.reason().unwrap_or_default()));
                }
            }
        }
        Ok(ids)
    }

    /// Counts the references of dropped sets down.
    async fn count_down(&self, dropped: DroppedSets, ids: &SetIds) -> Result<(), EngineError> {
        let session = dropped.session;
        for (part, set) in dropped.parts {
            // A seal that was under way may have added a set since, or there were too many ids.
            let late = match ids.get(&(session, part)) {
                Some(_) => None,
                None => {
                    let sets = self.sets.clone();
                    let read = move || sets.read_twice(session, part, set);
                    Some(cstore_node::blocking(read).await??)
                }
            };

            let ids = late.as_ref().or_else(|| ids.get(&(session, part)));
            steps::drop_refs(&self.index, ids.map_or(&[], |ids| &ids[..]));
            self.index.lock().drop_set_record(set);
        }
        self.counters.releases.inc();
        Ok(())
    }
}
