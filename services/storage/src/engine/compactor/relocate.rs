//! One batch of records from a victim to the end of the log.

use bytes::Bytes;
use cstore_log::{Committed, DirectoryEntry, Location, LogError, Record, Urgency};
use cstore_types::{PartNo, SessionId, error_chain};
use tokio::sync::oneshot;

use super::super::format::{
    FormatError, KIND_DATA, KIND_MANIFEST, KIND_REFSET, KIND_RELEASE, decode_refset, parse_block_key,
    parse_refset_key, parse_release_key, refset_key,
};
use super::super::state::Live;
use super::super::{Engine, Shared};
use super::{Entry, Victim};
use crate::EngineError;

/// Records of one batch.
const MAX_RECORDS: usize = 4_096;
/// Directory entries that are looked up under one lock.
const MAX_SCAN: usize = 16_384;

/// What a directory entry names.
pub(super) fn entry(entry: &DirectoryEntry) -> Result<Entry, FormatError> {
    let live = match entry.kind {
        KIND_DATA | KIND_MANIFEST => Live::Block(parse_block_key(&entry.key)?),
        KIND_REFSET => {
            let (session, part) = parse_refset_key(&entry.key)?;
            Live::Set(session, part)
        }
        KIND_RELEASE => Live::Release(parse_release_key(&entry.key)?),
        _ => return Err(FormatError::Damaged),
    };
    Ok(Entry { kind: entry.kind, live, location: entry.location })
}

impl Entry {
    fn key(&self) -> Bytes {
        match &self.live {
            Live::Block(id) => Bytes::copy_from_slice(id.as_bytes()),
            Live::Set(session, part) => refset_key(*session, *part),
            Live::Release(session) => Bytes::copy_from_slice(session.as_bytes()),
        }
    }
}

impl Engine {
    /// The next entries of the victim that are needed.
    pub(super) fn gather(&self, victim: &mut Victim) -> Vec<Entry> {
        let mut shared = self.shared.lock();
        let mut batch: Vec<Entry> = Vec::new();
        let mut bytes = 0;
        for entry in victim.entries.iter().skip(victim.at).take(MAX_SCAN) {
            if !shared.state.is_live(&entry.live, entry.location) {
                victim.at += 1;
                continue;
            }
            if self.flaw.forgets(&entry.live) {
                if let Live::Set(session, part) = entry.live
                    && let Some(set) = shared.state.refset(session, part)
                {
                    shared.state.bury(set);
                }
                victim.at += 1;
                continue;
            }
            if matches!(entry.live, Live::Block(_))
                && !shared.state.may_move(&entry.live)
                && !self.flaw.moves_unverified()
            {
                victim.at += 1;
                victim.damaged = true;
                continue;
            }
            bytes += entry.location.len as usize;
            if !batch.is_empty() && (bytes > victim.limit || batch.len() >= MAX_RECORDS) {
                break;
            }
            victim.at += 1;
            batch.push(*entry);
        }
        batch
    }

    /// Reads, verifies and appends a batch. When this returns its records have their new places. Answers the bytes.
    pub(super) async fn copy(&self, victim: &mut Victim, batch: Vec<Entry>) -> Result<u64, EngineError> {
        let (engine, wanted) = (self.clone(), batch.len());
        let read = cstore_node::blocking(move || {
            let read = |entry: Entry| engine.read_entry(&entry).map(|payload| (entry, payload));
            batch.into_iter().filter_map(read).collect::<Vec<_>>()
        });
        let read = read.await?;
        victim.damaged |= read.len() < wanted;
        let batch = self.fence(read, &mut victim.held);
        if batch.is_empty() {
            return Ok(0);
        }
        let bytes = batch.iter().map(|(entry, _)| u64::from(entry.location.len)).sum();
        self.append_copy(batch).await.unwrap_or_else(|_| Err(EngineError::writer_gone()))?;
        self.counters.moved_bytes.add(bytes);
        Ok(bytes)
    }

    /// Whether all of these records that are needed are good. Blocks the thread.
    pub(super) fn verify(&self, entries: &[Entry]) -> bool {
        for some in entries.chunks(MAX_RECORDS) {
            let needed: Vec<Entry> = {
                let shared = self.shared.lock();
                some.iter()
                    .filter(|entry| shared.state.is_live(&entry.live, entry.location))
                    .copied()
                    .collect()
            };
            for entry in needed {
                let is_needed = || self.shared.lock().state.is_live(&entry.live, entry.location);
                // A block that was found to be damaged before does not move, whatever its bytes are now. One that
                // cannot be read because it went meanwhile is no damage.
                let stays = matches!(entry.live, Live::Block(_))
                    && !self.shared.lock().state.may_move(&entry.live)
                    && !self.flaw.moves_unverified();
                if (stays || self.read_entry(&entry).is_none()) && is_needed() {
                    return false;
                }
            }
        }
        true
    }

    /// The verified payload of a record. A damaged one stays where it is.
    fn read_entry(&self, entry: &Entry) -> Option<Bytes> {
        match &entry.live {
            Live::Block(_) if self.flaw.moves_unverified() => self.log.read(entry.location).ok(),
            Live::Block(id) => self.read_verified(id, entry.location).ok(),
            Live::Set(session, part) => match self.read_whole_refset(*session, *part, entry.location) {
                Ok(payload) => Some(payload),
                Err(error) => {
                    self.counters.damaged_sets.add(1);
                    let error = error_chain(&error);
                    tracing::error!(%session, part = part.0, %error, "reference set is damaged and not moved");
                    None
                }
            },
            Live::Release(_) => Some(Bytes::new()),
        }
    }

    /// Reads the payload of a reference set and checks that it is whole.
    fn read_whole_refset(
        &self,
        session: SessionId,
        part: PartNo,
        location: Location,
    ) -> Result<Bytes, EngineError> {
        let payload = self.log.read(location)?;
        decode_refset(session, part, &payload).map_err(|source| EngineError::RefSet { session, source })?;
        Ok(payload)
    }

    /// Takes what is still needed and may move, and keeps seals and releases of its sessions away until it has landed.
    /// What may move later is added to `waiting`.
    fn fence(&self, read: Vec<(Entry, Bytes)>, waiting: &mut Vec<Entry>) -> Vec<(Entry, Bytes)> {
        let mut shared = self.shared.lock();
        let mut batch = Vec::with_capacity(read.len());
        let mut ours: Vec<SessionId> = Vec::new();
        for (entry, payload) in read {
            if !shared.state.is_live(&entry.live, entry.location) {
                continue;
            }
            if let Some(session) = entry.live.session() {
                if !shared.state.may_move(&entry.live) {
                    continue;
                }
                if shared.is_held(&entry.live, session, &ours) && !self.flaw.has_no_fence() {
                    waiting.push(entry);
                    continue;
                }
                let moving = shared.moving.entry(session).or_default();
                moving.release |= matches!(entry.live, Live::Release(_));
                ours.push(session);
            }
            batch.push((entry, payload));
        }
        batch
    }

    /// Waits until one of these records may move. Answers false when none was held, so that nothing would change.
    pub(super) async fn await_fences(&self, held: &[Entry]) -> bool {
        let fences = self.shared.lock().fences.clone();
        let changed = fences.notified();
        tokio::pin!(changed);
        // From here on no change is missed.
        changed.as_mut().enable();
        let is_held = {
            let shared = self.shared.lock();
            let keeps = |entry: &Entry| {
                entry.live.session().is_some_and(|session| shared.is_held(&entry.live, session, &[]))
            };
            !held.is_empty() && held.iter().all(keeps)
        };
        if is_held {
            changed.await;
        }
        !held.is_empty()
    }

    fn append_copy(&self, batch: Vec<(Entry, Bytes)>) -> oneshot::Receiver<Result<(), EngineError>> {
        let record = |(entry, payload): &(Entry, Bytes)| Record {
            kind: entry.kind,
            key: entry.key(),
            payload: payload.clone(),
        };
        let records = batch.iter().map(record).collect();
        let entries: Vec<Entry> = batch.into_iter().map(|(entry, _)| entry).collect();
        let (sender, landed) = oneshot::channel();
        let (owner, counters, flaw) = (self.shared.clone(), self.counters.clone(), self.flaw);
        let done = move |result: Result<Committed<'_>, LogError>| {
            let mut shared = owner.lock();
            if let Ok(committed) = &result {
                let mut moved = 0;
                for (entry, to) in entries.iter().zip(committed.locations) {
                    moved += u64::from(shared.state.relocate(&entry.live, entry.location, *to));
                    flaw.after_move(&mut shared.state, &entry.live, entry.location);
                }
                counters.moved_records.add(moved);
            }
            for session in entries.iter().filter_map(|entry| entry.live.session()) {
                shared.moved(session);
            }
            drop(shared);
            let _ = sender.send(result.map(drop).map_err(EngineError::from));
        };
        self.log.append(records, Urgency::Compaction, Box::new(done));
        landed
    }
}

impl Shared {
    /// Whether a seal, a release or another move of the session is under way; `ours` are of this batch.
    fn is_held(&self, live: &Live, session: SessionId, ours: &[SessionId]) -> bool {
        let sealing = matches!(live, Live::Release(_)) && self.sealing.iter().any(|(s, _)| *s == session);
        let moving = self.moving.contains_key(&session) && !ours.contains(&session);
        sealing || moving || self.releasing.contains(&session)
    }
}
