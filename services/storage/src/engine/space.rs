//! Space: what is left, reservation before a write, recycling of wholly dead segments.

use cstore_log::{FileInfo, FileState, LogError, Urgency};
use cstore_types::error_chain;

use super::Engine;
use super::state::ORPHANS;
use crate::EngineError;

/// Room that a group may lose to the header and padding of its frame.
pub(super) const GROUP_OVERHEAD: u64 = 4 << 10;
/// Room that a segment may lose to its header and footer.
const SEGMENT_OVERHEAD: u64 = 12 << 10;

/// How full the disk is, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// FS_SIZE.
    pub capacity: u64,
    /// What new blocks could still take, promises deducted.
    pub free: u64,
    /// Size of all segment files.
    pub allocated: u64,
}

impl Engine {
    /// How full the disk is.
    pub fn space(&self) -> Space {
        let reserved = self.shared.lock().reserved;
        Space {
            capacity: self.superblock.lock().capacity,
            free: self.log.free_bytes(Urgency::Normal).saturating_sub(reserved),
            allocated: self.log.allocated_bytes(),
        }
    }

    fn fits(&self, needed: u64) -> bool {
        let (group, segment) = (self.group_bytes as u64, self.superblock.lock().segment_bytes);
        let groups = needed.div_ceil(group.max(1)) + 1;
        let segments = needed / segment.max(1) + 1;
        // The end of a segment in which a group does not fit is lost, unless it is so large that it is cut off.
        let lost = needed.min(group).saturating_add(SEGMENT_OVERHEAD).min(segment / 16);
        let overhead = groups * GROUP_OVERHEAD + segments * (SEGMENT_OVERHEAD + lost);
        self.space().free >= needed.saturating_add(overhead)
    }

    /// Compacts on behalf of a request for which there is no room, as long as it helps and within bounds. Answers
    /// whether there is room now; others may take it first.
    pub(super) async fn await_room(&self, needed: u64) -> bool {
        if needed == 0 || self.fits(needed) {
            return true;
        }
        if self.read_only().is_some() {
            return false;
        }
        self.reclaim_aside().await;
        if self.fits(needed) {
            return true;
        }
        self.forget_orphans();
        self.reclaim_aside().await;
        self.compact_until(|| self.fits(needed)).await
    }

    /// Succeeds when `needed` more bytes fit as it is. Who must have room looks for it first ([`Self::await_room`]).
    pub(super) fn check_room(&self, needed: u64) -> Result<(), EngineError> {
        if needed == 0 || self.fits(needed) {
            return Ok(());
        }
        Err(EngineError::Full { needed, free: self.space().free })
    }

    /// Drops the pins of uploads that fell silent, blocks that a restart found without a reference set among them. Two
    /// calls must lie further apart than an upload may be silent.
    pub fn sweep_pins(&self) {
        self.shared.lock().state.sweep_pins();
    }

    /// Drops the blocks that a restart found without a reference set. An upload that still wanted them sends them
    /// again.
    pub fn forget_orphans(&self) {
        self.shared.lock().state.unpin(ORPHANS);
    }

    /// Retires every segment in which nothing is needed. Answers how many. Blocks the thread.
    pub fn reclaim(&self) -> usize {
        self.retire(&self.dead_files())
    }

    /// As [`Self::reclaim`], on a thread for it. One at a time: who comes while another one is at it finds the room
    /// that this one has won.
    pub(crate) async fn reclaim_aside(&self) {
        let turn = self.retiring.clone().lock_owned().await;
        let dead = self.dead_files();
        if dead.is_empty() {
            return;
        }
        let engine = self.clone();
        let retire = cstore_node::blocking(move || {
            engine.retire(&dead);
            drop(turn);
        });
        if let Err(error) = retire.await {
            tracing::error!(%error, "recycling of segments broke off");
        }
    }

    /// The states are read before the counts: a file that is not active any more gets no new records, and the callbacks
    /// of its last frame have run.
    fn dead_files(&self) -> Vec<FileInfo> {
        let mut files = self.log.files();
        let shared = self.shared.lock();
        files.retain(|file| file.state != FileState::Active && shared.state.is_dead(file.id));
        files
    }

    fn retire(&self, dead: &[FileInfo]) -> usize {
        let mut retired = 0;
        for file in dead {
            if let Err(error) = self.keep_seal_seq(file) {
                tracing::warn!(file = file.id, error = %error_chain(&error), "segment of the highest sequence could not be recycled");
                continue;
            }
            match self.log.retire(file.id) {
                Ok(()) => {
                    let mut shared = self.shared.lock();
                    shared.state.retired(file.id);
                    shared.pinned.remove(&file.id);
                    retired += 1;
                }
                // Somebody else was faster.
                Err(LogError::NoFile(_)) => {}
                Err(error) => {
                    tracing::warn!(file = file.id, error = %error_chain(&error), "segment could not be recycled");
                }
            }
        }
        self.counters.retired_files.add(retired as u64);
        retired
    }

    /// Sequences never go back: before the file that holds the highest one goes, the superblock says which it was.
    fn keep_seal_seq(&self, file: &FileInfo) -> Result<(), EngineError> {
        let is_last = file.seqs.is_some_and(|(_, last)| last >= self.log.durable_seq());
        if is_last && self.superblock.lock().seal_seq < self.seal_seq() {
            return self.write_superblock(false);
        }
        Ok(())
    }
}
