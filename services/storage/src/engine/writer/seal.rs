//! Seal and PutSeal: a reference set becomes durable, but only over blocks that are here (the presence check of I4).

use std::collections::HashSet;

use bytes::Bytes;
use cstore_log::{Committed, LogError, Record, Urgency};
use cstore_types::limits::MAX_IDS;
use cstore_types::{Block, BlockId, CommitFacts, PartNo, SealSeq, SessionId};
use tokio::sync::oneshot;

use super::format::{KIND_REFSET, encode_refset, refset_key};
use super::put::{MAX_ROOM_TRIES, record};
use super::space::GROUP_OVERHEAD;
use super::state::{ORPHANS, RefSet, record_overhead};
use super::{Engine, MAX_READ_TRIES, PutOutcome, SealOutcome, Shared};
use crate::EngineError;

/// How often a seal waits for blocks that other requests are writing.
const MAX_ROUNDS: usize = 4;

/// What one look under the lock decided.
enum Step {
    /// The part is sealed already; compare what it holds.
    Known(RefSet),
    /// Wait for other requests' writes, then look again.
    Wait(Vec<oneshot::Receiver<bool>>),
    Answer(SealOutcome),
    Written(oneshot::Receiver<Result<(SealSeq, CommitFacts), EngineError>>, Vec<bool>),
}

impl Engine {
    /// Seals `(session, part)` over blocks that are here. Idempotent; other ids for the same part are a conflict.
    ///
    /// # Errors
    /// [`EngineError`]; nothing was sealed then, or (read-only, disk) the outcome is unknown until a restart.
    pub async fn seal(
        &self,
        session: SessionId,
        part: PartNo,
        ids: Vec<BlockId>,
    ) -> Result<SealOutcome, EngineError> {
        self.put_seal(session, part, ids, Vec::new()).await
    }

    /// Puts `blocks`, checks that all `ids` are here, and seals them: one frame and one sync when they fit one group.
    ///
    /// # Errors
    /// As [`Self::seal`], and for a block that is not what its id says or is not among `ids`.
    pub async fn put_seal(
        &self,
        session: SessionId,
        part: PartNo,
        ids: Vec<BlockId>,
        blocks: Vec<Block>,
    ) -> Result<SealOutcome, EngineError> {
        self.validate(session, &ids, &blocks)?;
        let (blocks, good) = self.check(blocks).await?;
        if let Some((bad, _)) = blocks.iter().zip(&good).find(|(_, good)| !**good) {
            return Err(EngineError::Invalid(format!(
                "bytes of block {:?} are not what its id says",
                bad.id
            )));
        }
        let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
        if bytes > self.group_bytes {
            return self.put_then_seal(session, part, ids, blocks).await;
        }
        for round in 0..MAX_ROUNDS {
            match self.step_with_room(session, part, &ids, &blocks).await? {
                Step::Answer(outcome) => return Ok(outcome),
                Step::Known(set) => return self.compare(session, part, set, &ids, blocks.len()),
                Step::Wait(landings) => {
                    for landing in landings {
                        let _ = landing.await;
                    }
                }
                Step::Written(landed, stored) => {
                    let seal_seq = match self.await_commit(landed).await {
                        Err(EngineError::Full { .. }) if round + 1 < MAX_ROUNDS => continue,
                        other => other?,
                    };
                    self.counters.seals.add(1);
                    return Ok(SealOutcome::Sealed { seal_seq, stored });
                }
            }
        }
        Err(EngineError::Busy("other requests keep writing the same blocks"))
    }

    fn validate(&self, session: SessionId, ids: &[BlockId], blocks: &[Block]) -> Result<(), EngineError> {
        if session == ORPHANS {
            return Err(EngineError::Invalid("session must not be zero".to_owned()));
        }
        if ids.is_empty() || ids.len() > MAX_IDS {
            let text = format!("a seal must name 1 to {MAX_IDS} blocks, found {}", ids.len());
            return Err(EngineError::Invalid(text));
        }
        let named: HashSet<&BlockId> = ids.iter().collect();
        match blocks.iter().find(|block| !named.contains(&block.id)) {
            Some(block) => {
                Err(EngineError::Invalid(format!("block {:?} is not among the seal's ids", block.id)))
            }
            None => Ok(()),
        }
    }

    /// More bytes than one group takes: the blocks first, then the set. Pins hold them in between.
    async fn put_then_seal(
        &self,
        session: SessionId,
        part: PartNo,
        ids: Vec<BlockId>,
        blocks: Vec<Block>,
    ) -> Result<SealOutcome, EngineError> {
        let mut stored = Vec::with_capacity(blocks.len());
        for outcome in self.put_blocks(session, blocks).await {
            stored.push(match outcome {
                PutOutcome::Stored => true,
                PutOutcome::Duplicate => false,
                PutOutcome::Refused(error) => return Err(error),
            });
        }
        match Box::pin(self.seal(session, part, ids)).await? {
            SealOutcome::Sealed { seal_seq, .. } => Ok(SealOutcome::Sealed { seal_seq, stored }),
            other => Ok(other),
        }
    }

    /// As [`Self::step`], again when others took the room that there was.
    async fn step_with_room(
        &self,
        session: SessionId,
        part: PartNo,
        ids: &[BlockId],
        blocks: &[Block],
    ) -> Result<Step, EngineError> {
        for _ in 0..MAX_ROOM_TRIES {
            let needed = self.bytes_of_new(blocks) + refset_footprint(ids.len()) + GROUP_OVERHEAD;
            let hope = self.await_room(needed).await;
            match self.step(session, part, ids, blocks) {
                Err(EngineError::Full { .. }) if hope => {}
                Err(full @ EngineError::Full { .. }) => {
                    self.counters.full.add(1);
                    return Err(full);
                }
                other => return other,
            }
        }
        Err(EngineError::Busy("others take the room that comes back"))
    }

    /// One look under the lock. When everything is here it counts the references and hands the set to the log, so
    /// that from this moment on no release can free a block of it.
    fn step(
        &self,
        session: SessionId,
        part: PartNo,
        ids: &[BlockId],
        blocks: &[Block],
    ) -> Result<Step, EngineError> {
        let needed = self.bytes_of_new(blocks) + refset_footprint(ids.len()) + GROUP_OVERHEAD;
        let room = self.check_room(needed);
        let mut shared = self.shared.lock();
        if let Some(set) = shared.state.refset(session, part) {
            return Ok(Step::Known(set));
        }
        if shared.moving.get(&session).is_some_and(|moving| moving.release) {
            // A set that landed before the copy of a release would be dropped by it.
            return Ok(Step::Wait(shared.wait_for_move(session).into_iter().collect()));
        }
        if shared.sealing.contains(&(session, part)) {
            return Err(EngineError::Busy("this part is being sealed by another request"));
        }
        let fresh: Vec<&Block> = blocks.iter().filter(|block| !shared.state.has(&block.id)).collect();
        let fresh_ids: HashSet<BlockId> = fresh.iter().map(|block| block.id).collect();
        let wanted: Vec<BlockId> = ids.iter().copied().filter(|id| !shared.state.has(id)).collect();
        let landings: Vec<_> = wanted.iter().filter_map(|id| shared.wait_for(id)).collect();
        if !landings.is_empty() {
            return Ok(Step::Wait(landings));
        }
        let missing = |(at, id): (usize, &BlockId)| {
            let absent = !shared.state.has(id) && !fresh_ids.contains(id);
            absent.then(|| u32::try_from(at).unwrap_or(u32::MAX))
        };
        let missing: Vec<u32> = ids.iter().enumerate().filter_map(missing).collect();
        if !missing.is_empty() {
            for id in ids {
                shared.state.pin(session, *id);
            }
            return Ok(Step::Answer(SealOutcome::Missing(missing)));
        }
        room?;
        let mut first = HashSet::new();
        let stored: Vec<bool> =
            blocks.iter().map(|block| fresh_ids.contains(&block.id) && first.insert(block.id)).collect();
        let fresh: Vec<Block> = blocks
            .iter()
            .zip(&stored)
            .filter(|(_, stored)| **stored)
            .map(|(block, _)| block.clone())
            .collect();
        let sealing = Sealing::begin(&mut shared, session, part, ids, &fresh, needed);
        drop(shared);
        Ok(Step::Written(self.append_set(sealing, ids, &fresh), stored))
    }

    fn append_set(
        &self,
        sealing: Sealing,
        ids: &[BlockId],
        fresh: &[Block],
    ) -> oneshot::Receiver<Result<(SealSeq, CommitFacts), EngineError>> {
        let mut records: Vec<Record> = fresh.iter().map(record).collect();
        records.push(Record {
            kind: KIND_REFSET,
            key: refset_key(sealing.session, sealing.part),
            payload: encode_refset(sealing.session, sealing.part, ids),
        });
        let new_bytes: u64 = fresh.iter().map(|block| block.bytes.len() as u64).sum();
        let (sender, landed) = oneshot::channel();
        let (owner, counters) = (self.shared.clone(), self.counters.clone());
        let done = move |result: Result<Committed<'_>, LogError>| {
            sealing.end(&mut owner.lock(), &result);
            if result.is_ok() {
                counters.stored_blocks.add(sealing.fresh.len() as u64);
                counters.stored_bytes.add(new_bytes);
            }
            let answer = result.map(|committed| (SealSeq(committed.frame_seq), committed.frame));
            let answer = answer.map_err(EngineError::from);
            let _ = sender.send(answer);
        };
        self.log.append(records, Urgency::Normal, Box::new(done));
        landed
    }

    /// A repeated seal: the same ids get the same answer, others are a conflict.
    fn compare(
        &self,
        session: SessionId,
        part: PartNo,
        set: RefSet,
        ids: &[BlockId],
        n_blocks: usize,
    ) -> Result<SealOutcome, EngineError> {
        if self.read_moving_refset(session, part, set)? != ids {
            return Ok(SealOutcome::Conflict);
        }
        Ok(SealOutcome::Sealed { seal_seq: set.seal_seq, stored: vec![false; n_blocks] })
    }

    /// As [`Self::read_refset`] of a set that may move meanwhile.
    fn read_moving_refset(
        &self,
        session: SessionId,
        part: PartNo,
        mut set: RefSet,
    ) -> Result<Vec<BlockId>, EngineError> {
        for _ in 1..MAX_READ_TRIES {
            match self.read_refset(session, part, set) {
                Ok(ids) => return Ok(ids),
                Err(error) => match self.shared.lock().state.refset(session, part) {
                    Some(now) if now != set => set = now,
                    _ => return Err(error),
                },
            }
        }
        self.read_refset(session, part, set)
    }

    pub(super) fn read_refset(
        &self,
        session: SessionId,
        part: PartNo,
        set: RefSet,
    ) -> Result<Vec<BlockId>, EngineError> {
        let payload: Bytes = self.log.read(set.location)?;
        super::format::decode_refset(session, part, &payload)
            .map_err(|source| EngineError::RefSet { session, source })
    }
}

/// A reference set between its presence check and its landing.
///
/// References to blocks that are here are counted at once, so that no release can free them meanwhile; those to
/// blocks that travel in the same frame are counted when the frame has landed.
struct Sealing {
    session: SessionId,
    part: PartNo,
    fresh: Vec<BlockId>,
    refs_of_fresh: Vec<BlockId>,
    refs_of_held: Vec<BlockId>,
    reserved: u64,
}

impl Sealing {
    fn begin(
        shared: &mut Shared,
        session: SessionId,
        part: PartNo,
        ids: &[BlockId],
        fresh: &[Block],
        reserved: u64,
    ) -> Self {
        let fresh: Vec<BlockId> = fresh.iter().map(|block| block.id).collect();
        let is_fresh: HashSet<BlockId> = fresh.iter().copied().collect();
        let (refs_of_fresh, refs_of_held): (Vec<BlockId>, Vec<BlockId>) =
            ids.iter().copied().partition(|id| is_fresh.contains(id));
        shared.state.add_refs(&refs_of_held);
        shared.sealing.insert((session, part));
        shared.reserved += reserved;
        for id in &fresh {
            shared.in_flight.insert(*id, Vec::new());
        }
        Self { session, part, fresh, refs_of_fresh, refs_of_held, reserved }
    }

    fn end(&self, shared: &mut Shared, result: &Result<Committed<'_>, LogError>) {
        shared.sealing.remove(&(self.session, self.part));
        shared.fences.notify_waiters();
        shared.reserved = shared.reserved.saturating_sub(self.reserved);
        match result {
            Ok(committed) => {
                for (id, location) in self.fresh.iter().zip(committed.locations) {
                    shared.state.insert_block(*id, *location);
                }
                shared.state.add_refs(&self.refs_of_fresh);
                if let Some(location) = committed.locations.last() {
                    let set = RefSet { location: *location, seal_seq: SealSeq(committed.frame_seq) };
                    shared.state.insert_refset(self.session, self.part, set);
                }
            }
            Err(_) => shared.state.drop_refs(&self.refs_of_held),
        }
        for id in &self.fresh {
            shared.land(id, result.is_ok());
        }
    }
}

fn refset_footprint(n_ids: usize) -> u64 {
    8 + (n_ids * BlockId::LEN) as u64 + record_overhead(20)
}
