//! PutBlocks: new blocks become durable, known ones count as duplicates; both are pinned.

use cstore_log::{Record, Urgency};
use cstore_types::{Block, BlockId, SessionId};

use super::check::check;
use super::outcome::PutOutcome;
use super::{Writer, footprint, record};
use crate::engine::appender::Append;
use crate::engine::error::EngineError;
use crate::engine::fences::{ClaimsGuard, Completion, Fence};
use crate::engine::space::{GROUP_OVERHEAD, Reservation};
use crate::limits::MAX_ROOM_TRIES;

/// The plan for one block of a put.
enum BlockPlan {
    Done(PutOutcome),
    /// It is one of the next group of new blocks.
    Write,
    /// Another request is writing it.
    Wait(Completion),
}

/// New blocks that fit one group of records, with the claims on them.
struct Group<'a> {
    blocks: Vec<&'a Block>,
    bytes: usize,
    fence: Fence,
}

/// A group that was appended.
struct GroupAppend {
    n_blocks: usize,
    append: Append<()>,
}

impl Writer {
    /// Makes blocks durable. Returns when every one of them is synced, known or refused, in the
    /// order of `blocks`.
    pub(in crate::engine) async fn put_blocks(
        &self,
        session: SessionId,
        blocks: Vec<Block>,
    ) -> Vec<PutOutcome> {
        let count = blocks.len();
        if let Err(held) = self.hold.check_writable() {
            return vec![PutOutcome::Refused(held); count];
        }
        let checked = match check(&self.key, blocks).await {
            Ok(checked) => checked,
            // A result without outcomes would break the frame's own bounds, and the worker would
            // drop the connection.
            Err(error) => return vec![PutOutcome::Refused(error); count],
        };
        let blocks = checked.blocks;

        let mut outcomes = self.put_checked(session, &blocks, &checked.good).await;
        for _ in 1..MAX_ROOM_TRIES {
            let is_full = |outcome: &PutOutcome| {
                matches!(outcome, PutOutcome::Refused(EngineError::Full { .. }))
            };
            let full: Vec<usize> = (0..outcomes.len())
                .filter(|i| outcomes.get(*i).is_some_and(is_full))
                .collect();
            if full.is_empty() {
                break;
            }

            let again: Vec<Block> = full
                .iter()
                .filter_map(|i| blocks.get(*i))
                .cloned()
                .collect();
            if !self.room.make(self.bytes_of_new(&again)).await {
                self.counters.full.inc();
                break;
            }
            // They were checked, and other writers may have stored some of them in between.
            let next = self
                .put_checked(session, &again, &vec![true; again.len()])
                .await;
            for (i, outcome) in full.into_iter().zip(next) {
                if let Some(place) = outcomes.get_mut(i) {
                    *place = outcome;
                }
            }
        }
        self.count(&blocks, &outcomes);
        outcomes
    }

    /// Puts blocks that were checked, without making room.
    async fn put_checked(
        &self,
        session: SessionId,
        blocks: &[Block],
        good: &[bool],
    ) -> Vec<PutOutcome> {
        let (plans, groups) = self.plan(session, blocks, good);

        // In the order of the blocks: groups are cut in that order.
        let mut written: Vec<Result<(), EngineError>> = Vec::new();
        for group in groups {
            let result = self.appender.wait(group.append).await;
            written.extend(std::iter::repeat_n(result, group.n_blocks));
        }

        let mut written = written.into_iter();
        let mut outcomes = Vec::with_capacity(plans.len());
        for (plan, block) in plans.into_iter().zip(blocks) {
            outcomes.push(match plan {
                BlockPlan::Done(outcome) => outcome,
                BlockPlan::Write => match written.next() {
                    Some(Ok(())) => PutOutcome::Stored,
                    Some(Err(error)) => PutOutcome::Refused(error),
                    None => PutOutcome::Refused(EngineError::writer_gone()),
                },
                BlockPlan::Wait(completion) => {
                    self.join_other_put(session, block.id, completion).await
                }
            });
        }
        outcomes
    }

    /// Waits for another put of the same block: two puts of one block become one write.
    async fn join_other_put(
        &self,
        session: SessionId,
        id: BlockId,
        completion: Completion,
    ) -> PutOutcome {
        let is_durable = completion.await.unwrap_or(false);
        let mut index = self.index.lock();
        if is_durable && index.has(&id) {
            index.pin(session, id);
            return PutOutcome::Duplicate;
        }
        PutOutcome::Refused(EngineError::Busy("another write of this block failed"))
    }

    /// Decides in one look at the index what to do with each block, and hands the new ones to the
    /// log.
    fn plan(
        &self,
        session: SessionId,
        blocks: &[Block],
        good: &[bool],
    ) -> (Vec<BlockPlan>, Vec<GroupAppend>) {
        let mut groups: Vec<Group<'_>> = Vec::new();
        let mut plans = Vec::with_capacity(blocks.len());

        let mut index = self.index.lock();
        let mut claims = self.fences.lock();
        let is_new = |block: &Block| !index.has(&block.id) && !claims.is_on_its_way(&block.id);
        let mut room = self.reserve_for(blocks.iter().filter(|block| is_new(block)));
        for (block, is_good) in blocks.iter().zip(good) {
            plans.push(if !is_good {
                let text = format!("bytes of block {:?} are not what its id says", block.id);
                BlockPlan::Done(PutOutcome::Refused(EngineError::Invalid(text)))
            } else if index.has(&block.id) {
                index.pin(session, block.id);
                BlockPlan::Done(PutOutcome::Duplicate)
            } else if let Some(completion) = claims.wait_for_block(&block.id) {
                BlockPlan::Wait(completion)
            } else if let Err(full) = &room {
                BlockPlan::Done(PutOutcome::Refused(full.clone()))
            } else {
                self.claim(block, &mut groups, &mut claims);
                BlockPlan::Write
            });
        }
        // The log may refuse a group at once, which ends its claims.
        drop(claims);
        drop(index);

        let appends = match &mut room {
            Ok(room) => groups
                .into_iter()
                .map(|group| self.append_group(session, group, room))
                .collect(),
            Err(_) => Vec::new(),
        };
        (plans, appends)
    }

    /// Reserves space for new blocks, in the groups that [`Self::claim`] makes of them.
    fn reserve_for<'a>(
        &self,
        new: impl Iterator<Item = &'a Block>,
    ) -> Result<Reservation, EngineError> {
        let mut needed = 0;
        let mut n_groups = 0;
        let mut group_bytes = usize::MAX;
        for block in new {
            needed += footprint(block);
            group_bytes = group_bytes.saturating_add(block.bytes.len());
            if group_bytes > self.ledger.geometry.group_bytes {
                n_groups += 1;
                group_bytes = block.bytes.len();
            }
        }
        self.ledger.reserve(needed, n_groups)
    }

    /// Adds a new block to the last group, or to another one if it does not fit the segments of
    /// this disk, and claims it.
    fn claim<'a>(
        &self,
        block: &'a Block,
        groups: &mut Vec<Group<'a>>,
        claims: &mut ClaimsGuard<'_>,
    ) {
        let limit = self.ledger.geometry.group_bytes;
        let fits = groups
            .last()
            .is_some_and(|group| group.bytes + block.bytes.len() <= limit);
        if !fits {
            groups.push(Group {
                blocks: Vec::new(),
                bytes: 0,
                fence: self.fences.fence(),
            });
        }
        if let Some(group) = groups.last_mut() {
            group.blocks.push(block);
            group.bytes += block.bytes.len();
            claims.claim_block(&mut group.fence, block.id);
        }
    }

    fn append_group(
        &self,
        session: SessionId,
        group: Group<'_>,
        room: &mut Reservation,
    ) -> GroupAppend {
        let records: Vec<Record> = group.blocks.iter().map(|block| record(block)).collect();
        let ids: Vec<BlockId> = group.blocks.iter().map(|block| block.id).collect();
        let n_blocks = ids.len();
        let footprint = group
            .blocks
            .iter()
            .map(|block| footprint(block))
            .sum::<u64>();
        let reservation = room.split(footprint + GROUP_OVERHEAD);
        let fence = group.fence;
        let index = self.index.clone();

        let append = self
            .appender
            .append(records, Urgency::Normal, move |committed| {
                // The log counts the bytes from here on.
                drop(reservation);
                let mut index = index.lock();
                for (id, location) in ids.iter().zip(committed.locations) {
                    index.insert_block(*id, *location);
                    index.pin(session, *id);
                }
                drop(index);
                fence.end();
            });
        GroupAppend { n_blocks, append }
    }

    fn count(&self, blocks: &[Block], outcomes: &[PutOutcome]) {
        for (block, outcome) in blocks.iter().zip(outcomes) {
            match outcome {
                PutOutcome::Stored => {
                    self.counters.stored_blocks.inc();
                    self.counters.stored_bytes.inc_by(block.bytes.len() as u64);
                }
                PutOutcome::Duplicate => drop(self.counters.duplicate_blocks.inc()),
                PutOutcome::Refused(_) => {}
            }
        }
    }
}
