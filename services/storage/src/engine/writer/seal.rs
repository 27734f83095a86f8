//! Seal and PutSeal: a reference set becomes durable, but only over blocks that are here (the
//! presence check of I4).

use std::collections::HashSet;

use cstore_log::{Record, Urgency};
use cstore_types::limits::MAX_IDS;
use cstore_types::{Block, BlockId, PartNo, SealSeq, SessionId};

use super::check::check;
use super::outcome::{PutOutcome, SealOutcome};
use super::{Writer, footprint, record};
use crate::engine::appender::Append;
use crate::engine::error::EngineError;
use crate::engine::fences::{Completion, Fence};
use crate::engine::format::{KIND_REFSET, encode_refset, refset_key};
use crate::engine::index::{Index, ORPHANS, RefSet, SharedIndex, record_overhead, steps};
use crate::engine::space::Reservation;
use crate::limits::{MAX_ROOM_TRIES, MAX_SEAL_ROUNDS};

/// A part of a session with the blocks that its set names.
#[derive(Debug, Clone, Copy)]
struct Part<'a> {
    session: SessionId,
    number: PartNo,
    ids: &'a [BlockId],
    /// Blocks that were sent along. Each is good and among `ids`.
    blocks: &'a [Block],
}

/// The decision of one look at the index.
enum Step {
    /// The part is sealed already: compare what it holds.
    Known(RefSet),
    /// Wait for records of other requests, then look again.
    Wait(Vec<Completion>),
    Return(SealOutcome),
    /// The set was appended, with the blocks that were new.
    Appended {
        append: Append<SealSeq>,
        stored: Vec<bool>,
    },
}

impl Writer {
    /// Puts `blocks`, checks that all `ids` are here, and seals them: one frame and one sync if
    /// they fit one group. Repeating it is safe; other ids for the same part are a conflict.
    ///
    /// # Errors
    /// [`EngineError`], also for a block that is not what its id says or is not among `ids`.
    /// Nothing was sealed then, except that after a failed write the outcome is unknown until a
    /// restart.
    pub(in crate::engine) async fn put_seal(
        &self,
        session: SessionId,
        number: PartNo,
        ids: Vec<BlockId>,
        blocks: Vec<Block>,
    ) -> Result<SealOutcome, EngineError> {
        validate(session, &ids, &blocks)?;
        self.hold.check_sealable()?;
        let checked = check(&self.key, blocks).await?;
        let blocks = checked.blocks;
        if let Some((bad, _)) = blocks.iter().zip(&checked.good).find(|(_, good)| !**good) {
            let text = format!("bytes of block {:?} are not what its id says", bad.id);
            return Err(EngineError::Invalid(text));
        }

        self.recheck(&ids).await?;

        let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
        if bytes <= self.ledger.geometry.group_bytes {
            return self
                .seal_part(Part {
                    session,
                    number,
                    ids: &ids,
                    blocks: &blocks,
                })
                .await;
        }

        // More bytes than one group takes: the blocks first, then the set. Pins hold the blocks in
        // between.
        let mut stored = Vec::with_capacity(blocks.len());
        for outcome in self.put_blocks(session, blocks).await {
            stored.push(match outcome {
                PutOutcome::Stored => true,
                PutOutcome::Duplicate => false,
                PutOutcome::Refused(error) => return Err(error),
            });
        }
        match self
            .seal_part(Part {
                session,
                number,
                ids: &ids,
                blocks: &[],
            })
            .await?
        {
            SealOutcome::Sealed { seal_seq, .. } => Ok(SealOutcome::Sealed { seal_seq, stored }),
            other => Ok(other),
        }
    }

    async fn seal_part(&self, part: Part<'_>) -> Result<SealOutcome, EngineError> {
        for round in 0..MAX_SEAL_ROUNDS {
            match self.step_with_room(part).await? {
                Step::Return(outcome) => return Ok(outcome),
                Step::Known(set) => return self.compare(part, set).await,
                // Their outcomes do not matter here: the next step looks at the index again.
                Step::Wait(completions) => {
                    for completion in completions {
                        let _ = completion.await;
                    }
                }
                Step::Appended { append, stored } => {
                    let seal_seq = match self.appender.wait(append).await {
                        // Another writer claimed the room in the log.
                        Err(EngineError::Full { .. }) if round + 1 < MAX_SEAL_ROUNDS => continue,
                        other => other?,
                    };

                    self.counters.seals.inc();
                    return Ok(SealOutcome::Sealed { seal_seq, stored });
                }
            }
        }
        Err(EngineError::Busy(
            "other requests keep writing the same blocks",
        ))
    }

    /// Makes room and takes a step, again if other writers claimed the room.
    async fn step_with_room(&self, part: Part<'_>) -> Result<Step, EngineError> {
        for _ in 0..MAX_ROOM_TRIES {
            let has_room = self.room.make(self.bytes_of(part)).await;
            match self.step(part) {
                Err(EngineError::Full { .. }) if has_room => {}
                Err(full @ EngineError::Full { .. }) => {
                    self.counters.full.inc();
                    return Err(self.room.explain(full));
                }
                other => return other,
            }
        }
        Err(EngineError::Busy(
            "free space is being claimed by other writers",
        ))
    }

    /// Returns the bytes that a part takes on the disk, with those of its blocks that are not here.
    fn bytes_of(&self, part: Part<'_>) -> u64 {
        self.bytes_of_new(part.blocks) + refset_footprint(part.ids.len())
    }

    /// Takes one look at the index. If everything is here, counts the references and hands the set
    /// to the log, so that from this moment on no release can free a block of it.
    fn step(&self, part: Part<'_>) -> Result<Step, EngineError> {
        let Part {
            session,
            number,
            ids,
            ..
        } = part;
        let mut fence = self.fences.fence();

        let mut index = self.index.lock();
        let mut claims = self.fences.lock();
        if let Some(set) = index.refset(session, number) {
            return Ok(Step::Known(set));
        }
        if let Some(completion) = claims.wait_for_move_of_release(session) {
            return Ok(Step::Wait(vec![completion]));
        }
        // Its references are counted already. A second set would count them twice.
        if claims.is_sealing(session, number) {
            return Err(EngineError::Busy(
                "this part is being sealed by another request",
            ));
        }

        // Blocks that others are writing may become durable: this seal needs no copy of them then.
        let absent = ids.iter().filter(|id| !index.has(id));
        let completions: Vec<_> = absent.filter_map(|id| claims.wait_for_block(id)).collect();
        if !completions.is_empty() {
            return Ok(Step::Wait(completions));
        }

        let new = NewBlocks::among(part, &index);
        let missing = new.missing(part, &index);
        if !missing.is_empty() {
            // The blocks that are here must stay until those that are not were sent.
            for id in ids {
                index.pin(session, *id);
            }
            return Ok(Step::Return(SealOutcome::Missing(missing)));
        }

        let needed = new.blocks.iter().map(|block| footprint(block)).sum::<u64>()
            + refset_footprint(ids.len());
        let reservation = self.ledger.reserve(needed, 1)?;
        claims.claim_seal(&mut fence, session, number);
        for block in &new.blocks {
            claims.claim_block(&mut fence, block.id);
        }
        let (refs_of_new, refs_of_stored): (Vec<BlockId>, Vec<BlockId>) =
            ids.iter().copied().partition(|id| new.ids.contains(id));
        index.add_refs(&refs_of_stored);
        // The log may refuse the group at once. What undoes itself then locks both again.
        drop(claims);
        drop(index);

        let counted = CountedRefs {
            index: self.index.clone(),
            ids: refs_of_stored,
        };
        let pending = PendingSet {
            counted,
            refs_of_new,
            fence,
            reservation,
        };
        Ok(Step::Appended {
            append: self.append_set(part, &new.blocks, pending),
            stored: new.stored,
        })
    }

    fn append_set(&self, part: Part<'_>, new: &[&Block], pending: PendingSet) -> Append<SealSeq> {
        let Part {
            session,
            number,
            ids,
            ..
        } = part;
        let mut records: Vec<Record> = new.iter().map(|block| record(block)).collect();
        records.push(Record {
            kind: KIND_REFSET,
            key: refset_key(session, number),
            payload: encode_refset(session, number, ids),
        });
        let new_ids: Vec<BlockId> = new.iter().map(|block| block.id).collect();
        let new_bytes: u64 = new.iter().map(|block| block.bytes.len() as u64).sum();
        let index = self.index.clone();
        let stored_blocks = self.counters.stored_blocks.clone();
        let stored_bytes = self.counters.stored_bytes.clone();

        self.appender
            .append(records, Urgency::Normal, move |committed| {
                let PendingSet {
                    counted,
                    refs_of_new,
                    fence,
                    reservation,
                } = pending;
                let seal_seq = SealSeq(committed.frame_seq);
                drop(reservation);

                let mut index = index.lock();
                for (id, location) in new_ids.iter().zip(committed.locations) {
                    index.insert_block(*id, *location);
                }
                index.add_refs(&refs_of_new);
                counted.keep();
                if let Some(location) = committed.locations.last() {
                    index.insert_refset(
                        session,
                        number,
                        RefSet {
                            location: *location,
                            seal_seq,
                        },
                    );
                }
                drop(index);
                fence.end();

                stored_blocks.inc_by(new_ids.len() as u64);
                stored_bytes.inc_by(new_bytes);
                seal_seq
            })
    }

    /// Compares a repeated seal with the set that is stored, which is read on a blocking thread: the
    /// same ids get the same result, others are a conflict.
    async fn compare(&self, part: Part<'_>, set: RefSet) -> Result<SealOutcome, EngineError> {
        let Part {
            session,
            number,
            ids,
            blocks,
        } = part;
        let sets = self.sets.clone();
        let read = move || sets.read_current(session, number, set);
        match cstore_node::blocking(read).await?? {
            None => Err(EngineError::Invalid(
                "this session was released by another request".to_owned(),
            )),
            Some(sealed) if sealed != ids => Ok(SealOutcome::Conflict),
            Some(_) => Ok(SealOutcome::Sealed {
                seal_seq: set.seal_seq,
                stored: vec![false; blocks.len()],
            }),
        }
    }
}

fn validate(session: SessionId, ids: &[BlockId], blocks: &[Block]) -> Result<(), EngineError> {
    if session == ORPHANS {
        return Err(EngineError::Invalid("session must not be zero".to_owned()));
    }
    if ids.is_empty() || ids.len() > MAX_IDS {
        let text = format!(
            "a seal must name 1 to {MAX_IDS} blocks, found {}",
            ids.len()
        );
        return Err(EngineError::Invalid(text));
    }
    let named: HashSet<&BlockId> = ids.iter().collect();
    match blocks.iter().find(|block| !named.contains(&block.id)) {
        Some(block) => Err(EngineError::Invalid(format!(
            "block {:?} is not among the seal's ids",
            block.id
        ))),
        None => Ok(()),
    }
}

fn refset_footprint(n_ids: usize) -> u64 {
    8 + (n_ids * BlockId::LEN) as u64 + record_overhead(20)
}

/// The blocks of a part that are not stored yet.
struct NewBlocks<'a> {
    /// Each once.
    blocks: Vec<&'a Block>,
    ids: HashSet<BlockId>,
    /// For each block that was sent along, whether it is one of `blocks`.
    stored: Vec<bool>,
}

impl<'a> NewBlocks<'a> {
    fn among(part: Part<'a>, index: &Index) -> Self {
        let mut new = Self {
            blocks: Vec::new(),
            ids: HashSet::new(),
            stored: Vec::new(),
        };
        for block in part.blocks {
            let is_new = !index.has(&block.id) && new.ids.insert(block.id);
            if is_new {
                new.blocks.push(block);
            }
            new.stored.push(is_new);
        }
        new
    }

    /// Returns the positions of the part's ids that are neither stored nor among the new blocks.
    fn missing(&self, part: Part<'_>, index: &Index) -> Vec<u32> {
        let is_missing = |id: &BlockId| !index.has(id) && !self.ids.contains(id);
        let missing = part.ids.iter().enumerate().filter(|(_, id)| is_missing(id));
        missing
            .map(|(i, _)| u32::try_from(i).unwrap_or(u32::MAX))
            .collect()
    }
}

/// A reference set between its presence check and its durability. If the write fails, dropping it
/// undoes everything.
#[derive(Debug)]
struct PendingSet {
    /// References to blocks that are stored, counted at the check.
    counted: CountedRefs,
    /// References to blocks of the same group, to be counted when the group is durable.
    refs_of_new: Vec<BlockId>,
    fence: Fence,
    reservation: Reservation,
}

/// References that were counted before their set is durable. Dropping them counts them down again.
#[derive(Debug)]
struct CountedRefs {
    index: SharedIndex,
    ids: Vec<BlockId>,
}

impl CountedRefs {
    /// Leaves the references counted: their set is durable.
    fn keep(mut self) {
        self.ids.clear();
    }
}

impl Drop for CountedRefs {
    fn drop(&mut self) {
        if !self.ids.is_empty() {
            steps::drop_refs(&self.index, &self.ids);
        }
    }
}
