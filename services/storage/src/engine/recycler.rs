//! Recycling: segments in which nothing is needed are retired, which gives their space back.

use std::sync::Arc;

use cstore_log::{FileInfo, FileState, LogError};
use cstore_types::{SealSeq, error_chain};

use super::counters::Counters;
use super::error::EngineError;
use super::hold::Hold;
use super::index::{SharedIndex, steps};
use super::locked_log::LockedLog;
use super::volume::Volume;

/// Retires dead segments. Clones share everything.
#[derive(Debug, Clone)]
pub struct Recycler {
    log: Arc<LockedLog>,
    index: SharedIndex,
    volume: Arc<Volume>,
    hold: Hold,
    counters: Counters,
    /// Serializes [`Self::reclaim_aside`].
    turn: Arc<tokio::sync::Mutex<()>>,
}

impl Recycler {
    pub(super) fn new(
        log: Arc<LockedLog>,
        index: SharedIndex,
        volume: Arc<Volume>,
        hold: Hold,
        counters: Counters,
    ) -> Self {
        Self {
            log,
            index,
            volume,
            hold,
            counters,
            turn: Arc::default(),
        }
    }

    /// Retires every segment in which nothing is needed, and returns how many those were. Blocks
    /// the thread.
    pub fn reclaim(&self) -> usize {
        self.retire(&self.dead_files())
    }

    /// Like [`Self::reclaim`], but on a blocking thread. Calls are serialized: a caller that waits
    /// here benefits from the segments that the caller before it has freed.
    pub(crate) async fn reclaim_aside(&self) {
        let turn = self.turn.clone().lock_owned().await;
        let dead = self.dead_files();
        if dead.is_empty() {
            return;
        }

        let recycler = self.clone();
        let retire = cstore_node::blocking(move || {
            recycler.retire(&dead);
            // Kept until the segments are retired, also if the caller is gone.
            drop(turn);
        });
        if let Err(error) = retire.await {
            tracing::error!(%error, "recycling of segments broke off");
        }
    }

    fn dead_files(&self) -> Vec<FileInfo> {
        if self.hold.is_held() {
            return Vec::new();
        }
        // The states are read BEFORE the counts. A file that is not active any more gets no new
        // records, and the callbacks of its last frame have run.
        let mut files = self.log.files();
        let index = self.index.lock();
        files.retain(|file| file.state != FileState::Active && index.is_dead(file.id));
        files
    }

    fn retire(&self, dead: &[FileInfo]) -> usize {
        let mut retired = 0;
        for file in dead {
            let Some(permit) = self.hold.permit() else {
                break;
            };
            if let Err(error) = self.keep_seal_seq(file) {
                let error = error_chain(&error);
                tracing::warn!(file = file.id, %error, "segment of the highest sequence could not be recycled");
                continue;
            }

            match self.log.retire(file.id) {
                // The index forgets the file AFTER its contents can never come back: releases that
                // kept its sets away die with it.
                Ok(()) => {
                    steps::remove_file(&self.index, file.id);
                    retired += 1;
                }
                // Another caller retired it.
                Err(LogError::NoFile(_)) => {}
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(file = file.id, %error, "segment could not be recycled");
                }
            }
            drop(permit);
        }

        self.counters.retired_files.inc_by(retired as u64);
        retired
    }

    /// Writes the highest sequence to the superblock BEFORE the file that holds it goes: sequences
    /// never go back.
    fn keep_seal_seq(&self, file: &FileInfo) -> Result<(), EngineError> {
        let seal_seq = SealSeq(self.log.durable_seq());
        let is_last = file.seqs.is_some_and(|(_, last)| last >= seal_seq.0);
        if is_last && self.volume.superblock().seal_seq < seal_seq {
            return self.volume.write_superblock(seal_seq, false);
        }
        Ok(())
    }
}
