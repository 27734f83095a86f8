//! Verifier: after a doubt was accepted, reads every block from before it, so that uploads may rest
//! on what is stored again.
//!
//! ```text
//! verify_below > 0 and nothing in doubt ─▶ unverified segment of the lowest id ─▶ its directory
//!   ─▶ step by step: read the records that are current (a damaged one gets a verdict)
//!   ─▶ the segment is trusted ─▶ the next one … ─▶ none is left ─▶ verify_below = 0, durably
//! ```
//! Invariants
//! * A segment is trusted only AFTER each current record in it was read and is good, or its verdict
//!   is durable. Otherwise a restart would take a damaged block for a good one.
//! * What was read before another doubt counts for nothing: each doubt begins another round of the
//!   index, and a pass belongs to one round.
//! * Nothing changes before an await returns, so a step may be dropped at any time. A pass that a
//!   restart ends begins anew: only its end is written.
//!
//! A segment that is retired leaves the list with its index entries. One that is being written has
//! no directory yet, and a damaged directory cannot be used: the index names their blocks.

use std::sync::Arc;

use cstore_log::{DirectoryEntry, Location, LogError};
use cstore_node::shutdown::Shutdown;
use cstore_types::{BlockId, error_chain};
use tokio::sync::Mutex;

use super::compactor::pause_after;
use super::error::{EngineError, is_passing};
use super::format::{FormatError, KIND_DATA, KIND_MANIFEST, parse_block_key};
use super::hold::Hold;
use super::index::{SharedIndex, steps};
use super::locked_log::LockedLog;
use super::reader::BlockReader;
use crate::limits::{MAX_COPIED_RECORDS, VERIFY_BYTES_PER_SECOND, VERIFY_PAUSE, VERIFY_STEP_BYTES};

/// The outcome of a step.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum VerifyStep {
    /// Nothing is unverified, or the disk is on hold or read-only.
    Idle,
    /// Bytes that were read.
    Read(u64),
    /// The pass ended: every block is trusted, or damaged with a verdict.
    Ended,
}

/// Reads unverified segments. Clones share everything.
#[derive(Debug, Clone)]
pub struct Verifier {
    log: Arc<LockedLog>,
    index: SharedIndex,
    blocks: BlockReader,
    hold: Hold,
    /// One step at a time. `None` while no pass runs.
    pass: Arc<Mutex<Option<Pass>>>,
}

/// A pass over all unverified segments.
#[derive(Debug)]
struct Pass {
    /// Round of the index to which the pass belongs.
    round: u64,
    segment: Option<Segment>,
    /// Damaged blocks so far.
    damaged: u64,
}

/// The segment that is being read.
#[derive(Debug)]
struct Segment {
    file: u32,
    records: Vec<(BlockId, Location)>,
    /// Position in `records` where the next step begins.
    at: usize,
}

/// Sums of one step.
#[derive(Debug, Default)]
struct Tally {
    bytes: u64,
    damaged: u64,
}

impl Segment {
    /// Returns the records of the next step.
    fn batch(&self) -> Vec<(BlockId, Location)> {
        let mut bytes = 0;
        let rest = self.records.iter().skip(self.at).take(MAX_COPIED_RECORDS);
        rest.take_while(|(_, location)| {
            let is_first = bytes == 0;
            bytes += u64::from(location.len);
            is_first || bytes <= VERIFY_STEP_BYTES
        })
        .copied()
        .collect()
    }
}

impl Verifier {
    pub(super) fn new(
        log: Arc<LockedLog>,
        index: SharedIndex,
        blocks: BlockReader,
        hold: Hold,
    ) -> Self {
        Self {
            log,
            index,
            blocks,
            hold,
            pass: Arc::default(),
        }
    }

    /// Returns how many segments are unverified.
    pub fn unverified_segments(&self) -> u64 {
        self.index.lock().n_unverified() as u64
    }

    /// Verifies until the shutdown. A step that runs then leaves everything as it was.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        loop {
            let step = tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                step = self.step() => step,
            };
            if let Err(error) = &step {
                tracing::debug!(error = %error_chain(error), "verification of stored blocks rests");
            }

            let pause = match step {
                Ok(VerifyStep::Read(bytes)) => pause_after(bytes, VERIFY_BYTES_PER_SECOND),
                Ok(VerifyStep::Idle | VerifyStep::Ended) | Err(_) => VERIFY_PAUSE,
            };
            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// Reads a bounded part of an unverified segment, or ends the pass. Steps of several callers
    /// follow each other. A step whose future is dropped half-way is safe.
    ///
    /// # Errors
    /// [`EngineError::Busy`] if a block could not be read for a passing reason, or its verdict is
    /// not durable; [`EngineError::Io`] if the end of the pass could not be written. The next step
    /// tries the same again.
    pub async fn step(&self) -> Result<VerifyStep, EngineError> {
        let mut pass = self.pass.lock().await;
        // A log that failed takes no verdicts, and no uploads that could rest on anything.
        let is_due =
            self.hold.verify_below() > 0 && !self.hold.is_held() && self.log.poisoned().is_none();
        if !is_due {
            *pass = None;
            return Ok(VerifyStep::Idle);
        }

        let (round, next) = self.index.lock().next_unverified();
        let pass = self.current_pass(&mut pass, round);
        let segment = match (&mut pass.segment, next) {
            (Some(segment), _) => segment,
            (none, Some(file)) => none.insert(self.open_segment(file).await?),
            (None, None) => return self.end(pass).await,
        };

        let batch = segment.batch();
        let n_read = batch.len();
        let verifier = self.clone();
        let read = cstore_node::blocking(move || verifier.read(&batch)).await??;
        segment.at += n_read;
        pass.damaged += read.damaged;
        if segment.at >= segment.records.len() {
            self.index.lock().trust(segment.file, round);
            pass.segment = None;
        }
        Ok(VerifyStep::Read(read.bytes))
    }

    /// Returns the pass of a round, which begins if it is another one than that of `pass`.
    fn current_pass<'a>(&self, pass: &'a mut Option<Pass>, round: u64) -> &'a mut Pass {
        if pass.as_ref().is_some_and(|pass| pass.round != round) {
            *pass = None;
        }
        pass.get_or_insert_with(|| {
            let segments = self.unverified_segments();
            let below = self.hold.verify_below();
            tracing::info!(segments, below, "verification of stored blocks begins");
            Pass {
                round,
                segment: None,
                damaged: 0,
            }
        })
    }

    /// Ends the pass if nothing was doubted since its last segment.
    async fn end(&self, pass: &Pass) -> Result<VerifyStep, EngineError> {
        let (hold, round) = (self.hold.clone(), pass.round);
        let is_over = cstore_node::blocking(move || hold.end_verification(round)).await??;
        if !is_over {
            return Ok(VerifyStep::Idle);
        }
        let damaged = pass.damaged;
        tracing::info!(damaged, "verification of stored blocks ended");
        Ok(VerifyStep::Ended)
    }

    async fn open_segment(&self, file: u32) -> Result<Segment, EngineError> {
        let verifier = self.clone();
        let records = cstore_node::blocking(move || verifier.records_of(file)).await??;
        Ok(Segment {
            file,
            records,
            at: 0,
        })
    }

    /// Returns the records of blocks in a file, current ones and others. Blocks the thread.
    fn records_of(&self, file: u32) -> Result<Vec<(BlockId, Location)>, EngineError> {
        let listed = match self.log.directory(file) {
            Ok(records) => blocks_among(&records).ok(),
            Err(LogError::Io { source, .. }) if is_passing(&source) => {
                return Err(EngineError::Busy(
                    "too few descriptors or memory to read a directory",
                ));
            }
            Err(_) => None,
        };
        Ok(listed.unwrap_or_else(|| steps::blocks_in(&self.index, file)))
    }

    /// Reads those of the records that are current. Blocks the thread.
    fn read(&self, records: &[(BlockId, Location)]) -> Result<Tally, EngineError> {
        let mut tally = Tally::default();
        for (id, location) in records {
            let block = self.index.lock().block(id);
            if block.is_none_or(|block| block.location != *location) {
                continue;
            }
            match self.blocks.read_at(id, *location) {
                Ok(_) => {}
                Err(EngineError::DataLoss) => {
                    let place = (location.file, location.offset);
                    if !self.index.lock().has_verdict(id, place) {
                        return Err(EngineError::Busy("a verdict is not durable yet"));
                    }
                    tally.damaged += 1;
                }
                // The block was freed, or has moved, which has verified it.
                Err(EngineError::NotFound) => {}
                Err(error) => return Err(error),
            }
            tally.bytes += u64::from(location.len);
        }
        Ok(tally)
    }
}

/// Returns the blocks of a directory.
fn blocks_among(records: &[DirectoryEntry]) -> Result<Vec<(BlockId, Location)>, FormatError> {
    let is_block = |record: &&DirectoryEntry| matches!(record.kind, KIND_DATA | KIND_MANIFEST);
    let blocks = records.iter().filter(is_block);
    blocks
        .map(|record| Ok((parse_block_key(&record.key)?, record.location)))
        .collect()
}
