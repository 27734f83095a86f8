//! PutBlocks: new blocks become durable, known ones are counted as duplicates; both are pinned.

use bytes::Bytes;
use cstore_log::{Committed, LogError, Record, Urgency};
use cstore_types::limits::MAX_BLOCK_BYTES;
use cstore_types::{Block, BlockId, BlockKind, CommitFacts, SessionId};
use tokio::sync::oneshot;

use super::format::{KIND_DATA, KIND_MANIFEST};
use super::space::GROUP_OVERHEAD;
use super::state::record_overhead;
use super::{Engine, PutOutcome};
use crate::EngineError;

/// Requests up to this size are checked where they arrive; larger ones on a blocking thread.
const INLINE_CHECK_BYTES: usize = 128 << 10;

/// Returns the record of a block, which shares the block's bytes.
pub(super) fn record(block: &Block) -> Record {
    let kind = match block.kind {
        BlockKind::Data => KIND_DATA,
        BlockKind::Manifest => KIND_MANIFEST,
    };
    Record { kind, key: Bytes::copy_from_slice(block.id.as_bytes()), payload: block.bytes.clone() }
}

/// Returns the bytes that a block takes on the disk, with its place in the directories.
pub(super) fn footprint(block: &Block) -> u64 {
    block.bytes.len() as u64 + record_overhead(32)
}

/// How often a request looks for room that others took first.
pub(super) const MAX_ROOM_TRIES: usize = 16;

/// What is to be done with one block of a put.
enum Plan {
    Done(PutOutcome),
    Write,
    Await(oneshot::Receiver<bool>),
}

impl Engine {
    /// Makes blocks durable. Answers when every one of them is synced, known or refused, in the order of `blocks`.
    pub async fn put_blocks(&self, session: SessionId, blocks: Vec<Block>) -> Vec<PutOutcome> {
        let count = blocks.len();
        let (blocks, good) = match self.check(blocks).await {
            Ok(checked) => checked,
            // An answer without outcomes would break the frame's own bounds, and the worker would drop the connection.
            Err(error) => return vec![PutOutcome::Refused(error); count],
        };
        let mut outcomes = self.put_checked(session, &blocks, &good).await;
        for _ in 1..MAX_ROOM_TRIES {
            let is_full =
                |outcome: &PutOutcome| matches!(outcome, PutOutcome::Refused(EngineError::Full { .. }));
            let full: Vec<usize> =
                (0..outcomes.len()).filter(|at| outcomes.get(*at).is_some_and(is_full)).collect();
            if full.is_empty() {
                break;
            }
            let again: Vec<Block> = full.iter().filter_map(|at| blocks.get(*at)).cloned().collect();
            if !self.await_room(self.bytes_of_new(&again)).await {
                self.counters.full.add(1);
                break;
            }
            let next = self.put_checked(session, &again, &vec![true; again.len()]).await;
            for (at, outcome) in full.into_iter().zip(next) {
                if let Some(place) = outcomes.get_mut(at) {
                    *place = outcome;
                }
            }
        }
        self.count(&blocks, &outcomes);
        outcomes
    }

    /// Puts what fits.
    async fn put_checked(&self, session: SessionId, blocks: &[Block], good: &[bool]) -> Vec<PutOutcome> {
        let (plans, writes) = self.plan(session, blocks, good);
        let mut landed: Vec<Result<(), EngineError>> = Vec::with_capacity(writes.len());
        for write in writes {
            let result = self.await_commit(write.landed).await;
            landed.extend(std::iter::repeat_n(result, write.blocks));
        }
        let mut landed = landed.into_iter();
        let mut outcomes = Vec::with_capacity(plans.len());
        for (plan, block) in plans.into_iter().zip(blocks) {
            outcomes.push(match plan {
                Plan::Done(outcome) => outcome,
                Plan::Write => match landed.next() {
                    Some(Ok(())) => PutOutcome::Stored,
                    Some(Err(error)) => PutOutcome::Refused(error),
                    None => PutOutcome::Refused(EngineError::writer_gone()),
                },
                Plan::Await(landing) => self.join_other_put(session, block.id, landing).await,
            });
        }
        outcomes
    }

    /// Room that the blocks take which are not here.
    pub(super) fn bytes_of_new(&self, blocks: &[Block]) -> u64 {
        let shared = self.shared.lock();
        blocks.iter().filter(|block| !shared.state.has(&block.id)).map(footprint).sum()
    }

    /// Two puts of one block become one write; the second waits for the first.
    async fn join_other_put(
        &self,
        session: SessionId,
        id: BlockId,
        landing: oneshot::Receiver<bool>,
    ) -> PutOutcome {
        let durable = landing.await.unwrap_or(false);
        let mut shared = self.shared.lock();
        if durable && shared.state.has(&id) {
            shared.state.pin(session, id);
            return PutOutcome::Duplicate;
        }
        PutOutcome::Refused(EngineError::Busy("another write of this block failed"))
    }

    /// Checks the length and the keyed half of every block's id. Returns the blocks with one verdict each.
    ///
    /// # Errors
    /// [`EngineError::Task`] if the check panicked. Nothing is known of any block then.
    pub(super) async fn check(&self, blocks: Vec<Block>) -> Result<(Vec<Block>, Vec<bool>), EngineError> {
        let key = self.key.clone();
        let is_good = move |block: &Block| {
            (1..=MAX_BLOCK_BYTES).contains(&block.bytes.len()) && block.id.matches(&key, &block.bytes)
        };
        judge(blocks, is_good).await
    }

    /// Decides under the lock what to do with each block and hands the new ones to the log.
    fn plan(&self, session: SessionId, blocks: &[Block], good: &[bool]) -> (Vec<Plan>, Vec<Write>) {
        let needed = self.bytes_of_new(blocks);
        let room = self.check_room(needed);
        let mut shared = self.shared.lock();
        let mut fresh: Vec<&Block> = Vec::new();
        let mut plans = Vec::with_capacity(blocks.len());
        for (block, good) in blocks.iter().zip(good) {
            plans.push(if !good {
                let text = format!("bytes of block {:?} are not what its id says", block.id);
                Plan::Done(PutOutcome::Refused(EngineError::Invalid(text)))
            } else if shared.state.has(&block.id) {
                shared.state.pin(session, block.id);
                Plan::Done(PutOutcome::Duplicate)
            } else if let Some(landing) = shared.wait_for(&block.id) {
                Plan::Await(landing)
            } else if let Err(full) = &room {
                Plan::Done(PutOutcome::Refused(full.clone()))
            } else {
                shared.in_flight.insert(block.id, Vec::new());
                fresh.push(block);
                Plan::Write
            });
        }
        let groups = self.groups(&fresh);
        shared.reserved += groups.iter().map(|group| reservation(group)).sum::<u64>();
        drop(shared);
        let writes = groups.into_iter().map(|group| self.write(session, group)).collect();
        (plans, writes)
    }

    /// Cuts blocks into groups that fit the segments of this disk.
    fn groups<'a>(&self, fresh: &[&'a Block]) -> Vec<Vec<&'a Block>> {
        let mut groups: Vec<Vec<&Block>> = Vec::new();
        let mut bytes = 0;
        for block in fresh {
            match groups.last_mut() {
                Some(group) if bytes + block.bytes.len() <= self.group_bytes => group.push(block),
                _ => {
                    groups.push(vec![block]);
                    bytes = 0;
                }
            }
            bytes += block.bytes.len();
        }
        groups
    }

    fn write(&self, session: SessionId, group: Vec<&Block>) -> Write {
        let records: Vec<Record> = group.iter().map(|block| record(block)).collect();
        let ids: Vec<BlockId> = group.iter().map(|block| block.id).collect();
        let reserved = reservation(&group);
        let (sender, landed) = oneshot::channel();
        let shared = self.shared.clone();
        let blocks = ids.len();
        let done = move |result: Result<Committed<'_>, LogError>| {
            let mut shared = shared.lock();
            shared.reserved = shared.reserved.saturating_sub(reserved);
            if let Ok(committed) = &result {
                for (id, location) in ids.iter().zip(committed.locations) {
                    shared.state.insert_block(*id, *location);
                    shared.state.pin(session, *id);
                }
            }
            for id in &ids {
                shared.land(id, result.is_ok());
            }
            drop(shared);
            let _ = sender.send(result.map(|committed| ((), committed.frame)).map_err(EngineError::from));
        };
        self.log.append(records, Urgency::Normal, Box::new(done));
        Write { blocks, landed }
    }

    fn count(&self, blocks: &[Block], outcomes: &[PutOutcome]) {
        for (block, outcome) in blocks.iter().zip(outcomes) {
            match outcome {
                PutOutcome::Stored => {
                    self.counters.stored_blocks.add(1);
                    self.counters.stored_bytes.add(block.bytes.len() as u64);
                }
                PutOutcome::Duplicate => self.counters.duplicate_blocks.add(1),
                PutOutcome::Refused(_) => {}
            }
        }
    }
}

/// Judges each block with `is_good`, on a blocking thread when there is much to hash.
async fn judge(
    blocks: Vec<Block>,
    is_good: impl Fn(&Block) -> bool + Send + 'static,
) -> Result<(Vec<Block>, Vec<bool>), EngineError> {
    let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
    let judge = move || {
        let good = blocks.iter().map(is_good).collect();
        (blocks, good)
    };
    if bytes <= INLINE_CHECK_BYTES { Ok(judge()) } else { Ok(cstore_node::blocking(judge).await?) }
}

fn reservation(group: &[&Block]) -> u64 {
    group.iter().map(|block| footprint(block)).sum::<u64>() + GROUP_OVERHEAD
}

/// One group on its way to the disk.
struct Write {
    blocks: usize,
    landed: oneshot::Receiver<Result<((), CommitFacts), EngineError>>,
}

#[cfg(test)]
mod tests {
    use cstore_types::{DedupKey, ErrorCode};

    use super::*;

    fn block(len: usize) -> Block {
        let bytes = Bytes::from(vec![7; len]);
        let id = BlockId::of_many(&DedupKey::from_bytes([1; 32]), &[&bytes])[0];
        Block { id, kind: BlockKind::Data, bytes }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_block_gets_a_verdict_wherever_it_is_judged() {
        for len in [1, INLINE_CHECK_BYTES] {
            let blocks = vec![block(len), block(len + 1)];
            let (judged, good) = judge(blocks.clone(), move |block| block.bytes.len() == len).await.unwrap();
            assert_eq!(judged.len(), blocks.len());
            assert_eq!(good, [true, false]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_of_the_check_is_an_internal_error_and_not_an_answer_without_outcomes() {
        let judged = judge(vec![block(INLINE_CHECK_BYTES + 1)], |_| panic!("on purpose")).await;
        assert_eq!(judged.unwrap_err().code(), ErrorCode::Internal);
    }
}
