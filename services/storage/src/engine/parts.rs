//! The parts of an open disk, their assembly and their end.

use std::sync::Arc;

use cstore_types::{SealSeq, error_chain};

use super::appender::Appender;
use super::audit::Audit;
use super::compactor::{Compactor, CompactorParts};
use super::counters::Counters;
use super::error::EngineError;
use super::fences::Fences;
use super::for_reads::ForReads;
use super::format::Bitmap;
use super::hold::Hold;
use super::holdings::Holdings;
use super::index::SharedIndex;
use super::judge::Judge;
use super::locked_log::LockedLog;
use super::reader::BlockReader;
use super::recycler::Recycler;
use super::releaser::Releaser;
use super::room::Room;
use super::sets::SetReader;
use super::space::{Geometry, SpaceLedger};
use super::verifier::Verifier;
use super::volume::Volume;
use super::volume::mount::Identity;
use super::writer::Writer;

/// The parts of an open disk.
#[derive(Debug)]
pub(super) struct Parts {
    pub(super) volume: Arc<Volume>,
    pub(super) log: Arc<LockedLog>,
    pub(super) index: SharedIndex,
    pub(super) hold: Hold,
    pub(super) judge: Judge,
    pub(super) audit: Audit,
    pub(super) counters: Counters,
    pub(super) blocks: BlockReader,
    pub(super) holdings: Holdings,
    pub(super) recycler: Recycler,
    pub(super) compactor: Compactor,
    pub(super) verifier: Verifier,
    pub(super) room: Room,
    pub(super) writer: Writer,
    pub(super) releaser: Releaser,
    /// Set if the disk takes no writes and was opened to be read.
    pub(super) for_reads: Option<ForReads>,
}

impl Parts {
    /// Shuts down cleanly: drains the log, seals the active segment, writes the derived cache and
    /// the clean mark. After a failed write neither is written: which frames the disk has is
    /// unknown.
    ///
    /// # Errors
    /// [`EngineError`] of the disk. The next start recovers all the same.
    pub(super) fn close(&self) -> Result<(), EngineError> {
        if self.log.poisoned().is_none() {
            self.blocks.keep_verdicts();
        }
        self.log.close()?;
        if self.log.poisoned().is_some() {
            return Ok(());
        }
        self.judge.keep_noted()?;
        let seal_seq = SealSeq(self.log.durable_seq());
        let (files, is_complete) = {
            let index = self.index.lock();
            (index.counts(), index.has_all_blocks())
        };
        // The cache has no place for the counts of absent blocks, and none for doubt.
        if is_complete && !self.hold.is_held() {
            let saved = self.volume.save_bitmap(&Bitmap {
                last_seq: seal_seq.0,
                files,
            });
            if let Err(error) = saved {
                // A start counts the references anew then.
                tracing::warn!(error = %error_chain(&error), "reference counts are not saved");
            }
        }
        self.volume.write_superblock(seal_seq, true)
    }

    /// Returns the failure after which this process can write nothing any more.
    pub(super) fn failure(&self) -> Option<EngineError> {
        let is_open_for_writes = self.for_reads.is_none();
        let failed = self.log.poisoned().filter(|_| is_open_for_writes);
        failed.map(EngineError::ReadOnly)
    }

    /// Returns why the disk takes no writes: it was opened for reads, or after a failed write or
    /// sync, or because every segment is missing.
    pub(super) fn read_only(&self) -> Option<String> {
        let failed = self.log.poisoned();
        let failed = failed.map(|cause| cstore_types::error_chain(&*cause).to_string());
        failed.or_else(|| self.hold.read_only())
    }

    /// Gives each part what it may touch.
    pub(super) fn assemble(
        volume: Arc<Volume>,
        log: Arc<LockedLog>,
        index: SharedIndex,
        hold: Hold,
        geometry: Geometry,
        identity: &Identity,
    ) -> Self {
        // Shared by several parts.
        let counters = Counters::default();
        let fences = Fences::default();
        let ledger = SpaceLedger::new(log.clone(), geometry);
        let appender = Appender::new(log.clone());
        let sets = SetReader::new(log.clone(), index.clone());
        let blocks = BlockReader::new(
            log.clone(),
            appender.clone(),
            index.clone(),
            counters.clone(),
            identity.key.clone(),
        );

        // Parts that return space.
        let recycler = Recycler::new(
            log.clone(),
            index.clone(),
            volume.clone(),
            hold.clone(),
            counters.clone(),
        );
        let compactor = Compactor::new(CompactorParts {
            log: log.clone(),
            index: index.clone(),
            fences: fences.clone(),
            ledger: ledger.clone(),
            appender: appender.clone(),
            blocks: blocks.clone(),
            sets: sets.clone(),
            recycler: recycler.clone(),
            counters: counters.clone(),
            hold: hold.clone(),
        });
        let verifier = Verifier::new(log.clone(), index.clone(), blocks.clone(), hold.clone());
        let room = Room {
            log: log.clone(),
            index: index.clone(),
            ledger: ledger.clone(),
            recycler: recycler.clone(),
            compactor: compactor.clone(),
            hold: hold.clone(),
        };

        // Parts that write for requests.
        let writer = Writer {
            appender: appender.clone(),
            index: index.clone(),
            fences: fences.clone(),
            ledger,
            room: room.clone(),
            sets: sets.clone(),
            blocks: blocks.clone(),
            counters: counters.clone(),
            hold: hold.clone(),
            key: identity.key.clone(),
        };
        let releaser = Releaser {
            appender,
            index: index.clone(),
            fences,
            room: room.clone(),
            sets: sets.clone(),
            counters: counters.clone(),
            hold: hold.clone(),
        };
        let holdings = Holdings::new(index.clone(), sets);
        Self {
            audit: Audit::new(index.clone(), hold.clone()),
            judge: Judge::new(log.clone(), volume.clone(), hold.clone()),
            volume,
            log,
            index,
            hold,
            counters,
            blocks,
            holdings,
            recycler,
            compactor,
            verifier,
            room,
            writer,
            releaser,
            for_reads: None,
        }
    }
}
