//! Reading blocks: every byte is verified before it leaves (I8).

use std::sync::Arc;
use std::sync::mpsc::sync_channel;

use bytes::Bytes;
use cstore_log::{Committed, Location, LogError, Record, Urgency};
use cstore_types::{BlockId, DedupKey};

use super::appender::Appender;
use super::counters::Counters;
use super::error::{EngineError, is_passing};
use super::format::{KIND_BAD, Place, bad_key};
use super::index::{Marked, SharedIndex, place_of};
use super::locked_log::LockedLog;
use crate::limits::{INDEX_STEP, MAX_READ_TRIES, MAX_VERDICTS, VERDICT_PATIENCE};

/// Reads blocks. Every method blocks the thread. Clones share the log and the index.
#[derive(Debug, Clone)]
pub(super) struct BlockReader {
    log: Arc<LockedLog>,
    appender: Appender,
    index: SharedIndex,
    counters: Counters,
    key: DedupKey,
}

impl BlockReader {
    pub(super) fn new(
        log: Arc<LockedLog>,
        appender: Appender,
        index: SharedIndex,
        counters: Counters,
        key: DedupKey,
    ) -> Self {
        Self {
            log,
            appender,
            index,
            counters,
            key,
        }
    }

    /// Returns the length of each block; `None` if the block is not here. Does not block.
    pub(super) fn lens(&self, ids: &[BlockId]) -> Vec<Option<usize>> {
        let mut lens = Vec::with_capacity(ids.len());
        for chunk in ids.chunks(INDEX_STEP) {
            let index = self.index.lock();
            let len_of = |id: &BlockId| index.block(id).map(|block| block.location.len as usize);
            lens.extend(chunk.iter().map(len_of));
        }
        lens
    }

    /// Returns the verified bytes of a block.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if the block is not here, [`EngineError::DataLoss`] if its bytes
    /// are damaged: it counts as missing then until it is put again or reads well.
    /// [`EngineError::Busy`] if it keeps moving.
    pub(super) fn read(&self, id: &BlockId) -> Result<Bytes, EngineError> {
        for _ in 0..MAX_READ_TRIES {
            let block = self.index.lock().block(id).ok_or(EngineError::NotFound)?;
            match self.read_at(id, block.location) {
                Ok(bytes) => {
                    if block.bad {
                        // The read error was temporary. The durable verdict stays, so after a
                        // restart an upload stores the block again.
                        self.index.lock().mark_good(id, block.location);
                        tracing::info!(block = ?id, "stored block that was damaged reads well");
                    }
                    self.counters.read_blocks.inc();
                    self.counters.read_bytes.inc_by(bytes.len() as u64);
                    return Ok(bytes);
                }
                Err(EngineError::DataLoss) => return Err(EngineError::DataLoss),
                // The block moved after the look at the index, and its old file was recycled.
                Err(_) => {}
            }
        }
        Err(EngineError::Busy("block keeps moving"))
    }

    /// Returns the verified bytes of a block if they are in memory. `None` if the disk would have to be
    /// waited for, the block is not here, or its bytes are not what they should be: [`Self::read`] does
    /// what is to be done. Does not wait for the disk.
    pub(super) fn read_cached(&self, id: &BlockId) -> Option<Bytes> {
        let block = self.index.lock().block(id).filter(|block| !block.bad)?;
        let bytes = self.log.read_cached(block.location)?;
        if !id.matches(&self.key, &bytes) {
            return None;
        }
        self.counters.read_blocks.inc();
        self.counters.read_bytes.inc_by(bytes.len() as u64);
        Some(bytes)
    }

    /// Returns the bytes at `location` if they are the block. If they are not, nor when they are
    /// read again through another handle, and that is still the place of the block, the block is
    /// marked as damaged, and a verdict is written that outlives this process.
    ///
    /// # Errors
    /// [`EngineError::DataLoss`] if the block is damaged, [`EngineError::NotFound`] if it is not
    /// there any more, [`EngineError::Busy`] if it could not be read for a passing reason.
    pub(super) fn read_at(&self, id: &BlockId, location: Location) -> Result<Bytes, EngineError> {
        if let Ok(bytes) = self.log.read(location)
            && id.matches(&self.key, &bytes)
        {
            return Ok(bytes);
        }
        match self.log.read_anew(location) {
            Ok(bytes) if id.matches(&self.key, &bytes) => return Ok(bytes),
            Err(LogError::Io { source, .. }) if is_passing(&source) => {
                return Err(EngineError::Busy(
                    "too few descriptors or memory to read a block",
                ));
            }
            Ok(_) | Err(_) => {}
        }

        // The file may have been recycled after a move: only a record that is still the current one
        // is damaged.
        let marked = self.index.lock().mark_bad(id, location);
        match marked {
            Marked::Elsewhere => return Err(EngineError::NotFound),
            Marked::Before => {}
            Marked::Now => {
                self.counters.damaged_blocks.inc();
                tracing::error!(block = ?id, ?location, "stored block is damaged");
            }
        }
        let place = place_of(location);
        if !self.index.lock().has_verdict(id, place) {
            self.index.lock().owe_verdict(*id, place);
            self.write_verdicts(&[(*id, place)]);
        }
        Err(EngineError::DataLoss)
    }

    /// Writes the verdicts that the disk did not take when they were made. Blocks the thread.
    pub(super) fn keep_verdicts(&self) {
        loop {
            let owed = self.index.lock().owed_verdicts(MAX_VERDICTS);
            if owed.is_empty() || !self.write_verdicts(&owed) {
                return;
            }
        }
    }

    /// Writes down that records of blocks are damaged, BEFORE the read fails: an upload of such a
    /// block must not be answered that it is here, also after a kill. Returns false if the
    /// disk does not take it now: then [`Self::keep_verdicts`] tries again.
    fn write_verdicts(&self, verdicts: &[(BlockId, Place)]) -> bool {
        let record = |(id, place): &(BlockId, Place)| Record {
            kind: KIND_BAD,
            key: bad_key(id, *place),
            payload: Bytes::new(),
        };
        let records = verdicts.iter().map(record).collect();
        let (index, noted) = (self.index.clone(), verdicts.to_vec());
        let (landed, durable) = sync_channel(1);
        let note = move |committed: &Committed<'_>| {
            let mut index = index.lock();
            for ((id, place), location) in noted.into_iter().zip(committed.locations) {
                index.note_verdict(id, place, *location);
            }
            let _ = landed.try_send(());
        };
        drop(self.appender.append(records, Urgency::Urgent, note));
        let is_written = durable.recv_timeout(VERDICT_PATIENCE).is_ok();
        if !is_written {
            tracing::warn!(
                blocks = verdicts.len(),
                "that blocks are damaged could not be written down yet"
            );
        }
        is_written
    }
}
