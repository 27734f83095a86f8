//! The hold: while it is in doubt whether references are hidden, nothing on the disk is freed.
//!
//! Every path that frees asks here: [`Hold::permit`] for segments, and the index for blocks
//! ([`super::index::Index::hold`]). A doubt is entered in memory first, and stands in the
//! superblock before the call returns. It ends when an open finds that it is disproved, or when a
//! person accepts it.
//!
//! A disk that was in doubt may hold blocks that are not what they were, so the blocks from before
//! it are unverified until the doubt is disproved or they were read (`debt.rs`). The index knows
//! their segments (`index/unverified.rs`), the writer reads what a seal rests on in them
//! (`writer/mod.rs`), the verifier reads all of them (`verifier.rs`).

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};

use cstore_log::LogError;
use parking_lot::{Mutex, MutexGuard, RwLock, RwLockReadGuard};

use super::debt::VerificationDebt;
use super::doubts::{Doubts, Entered, Finding, LostSets};
use super::error::{AcceptError, EngineError};
use super::format::{Doubt, DoubtKind};
use super::index::{SharedIndex, steps};
use super::locked_log::LockedLog;
use super::volume::Volume;

/// Reason of a hold without a doubt.
const WAITING: &str = "no answer of the master was judged since the start";

/// The hold of one disk. Clones share everything.
#[derive(Debug, Clone)]
pub struct Hold {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    log: Arc<LockedLog>,
    volume: Arc<Volume>,
    index: SharedIndex,
    doubts: Mutex<Doubts>,
    /// Copy of the doubts for those who must not wait for the disk, as `doubts` is locked while the
    /// superblock is written.
    shown: Mutex<Doubts>,
    is_held: AtomicBool,
    /// The disk is on hold for a doubt, and not only until the master was heard: the end of the
    /// hold is logged.
    has_doubt: AtomicBool,
    /// Read while something is freed, written when a doubt is entered: whoever entered it knows
    /// that nothing is being freed any more.
    frees: RwLock<()>,
    /// The superblock could not be written since the last change.
    is_unwritten: AtomicBool,
    /// Every segment was missing at the open: what is written now would hide them for good.
    is_empty: bool,
    /// Doubts that a person accepted in this process, here or at the master.
    accepts: AtomicU32,
    /// No answer of the master was judged yet. What it has seen of this disk may show that the disk
    /// is an older copy, which must not take seals that hide that.
    waits: AtomicBool,
}

/// Right to free something. Nobody enters a doubt while it is held, so it MUST NOT be held over an
/// await, nor by a caller that may enter one.
#[derive(Debug)]
pub(super) struct FreePermit<'a> {
    _guard: RwLockReadGuard<'a, ()>,
}

impl Hold {
    /// Begins with the doubts of an open. On a disk that `is_empty`, because every segment is
    /// missing, nothing is written either. One that `waits` for the master is held until
    /// [`Self::begin`].
    pub(super) fn new(
        log: Arc<LockedLog>,
        volume: Arc<Volume>,
        index: SharedIndex,
        doubts: Doubts,
        is_empty: bool,
        waits: bool,
    ) -> Self {
        let has_doubt = doubts.are_open();
        let is_held = has_doubt || waits;
        if is_held {
            index.lock().hold(true);
        }
        let hold = Self {
            shared: Arc::new(Shared {
                log,
                volume,
                index,
                shown: Mutex::new(doubts.clone()),
                doubts: Mutex::new(doubts),
                is_held: AtomicBool::new(is_held),
                has_doubt: AtomicBool::new(has_doubt),
                frees: RwLock::default(),
                is_unwritten: AtomicBool::new(false),
                is_empty,
                accepts: AtomicU32::new(0),
                waits: AtomicBool::new(waits),
            }),
        };
        hold.distrust_segments(&hold.shared.doubts.lock());
        hold
    }

    /// Returns the right to free something, unless a doubt is open.
    pub(super) fn permit(&self) -> Option<FreePermit<'_>> {
        let guard = self.shared.frees.read();
        (!self.is_held()).then_some(FreePermit { _guard: guard })
    }

    pub fn is_held(&self) -> bool {
        self.shared.is_held.load(Ordering::Acquire)
    }

    /// Ends the wait for the first answer of the master, which was judged.
    pub(super) fn begin(&self) {
        if self.shared.waits.load(Ordering::Acquire) {
            let doubts = self.shared.doubts.lock();
            self.shared.waits.store(false, Ordering::Release);
            self.settle(&doubts);
        }
    }

    /// Returns true as long as no answer of the master was judged.
    pub(super) fn waits(&self) -> bool {
        self.shared.waits.load(Ordering::Acquire)
    }

    /// Checks that the disk takes seals: not after a failed write, not before an answer of the master
    /// was judged, nor as long as it is in doubt whether it is the right master.
    ///
    /// # Errors
    /// [`EngineError::ReadOnly`], [`EngineError::Unjudged`], [`EngineError::Held`].
    pub(super) fn check_sealable(&self) -> Result<(), EngineError> {
        // Otherwise a seal whose blocks are missing would ask for blocks that are refused then.
        if let Some(cause) = self.shared.log.poisoned() {
            return Err(EngineError::ReadOnly(cause));
        }
        self.check_writable()?;
        if self.waits() {
            return Err(EngineError::Unjudged);
        }
        let doubts = self.shared.shown.lock();
        let mut open = doubts.list().iter().filter(|doubt| !doubt.accepted);
        match open.find(|doubt| doubt.kind == DoubtKind::Master) {
            Some(doubt) => Err(EngineError::Held(doubt.to_string())),
            None => Ok(()),
        }
    }

    /// Checks that the disk takes writes: one whose segments are all missing does not, as long as
    /// that is in doubt.
    ///
    /// # Errors
    /// [`EngineError::Held`].
    pub(super) fn check_writable(&self) -> Result<(), EngineError> {
        match self.read_only() {
            Some(reason) => Err(EngineError::Held(reason)),
            None => Ok(()),
        }
    }

    /// Returns why the disk takes no writes, if it takes none.
    pub(super) fn read_only(&self) -> Option<String> {
        let is_missing = self.shared.is_empty && self.is_held();
        is_missing.then(|| "every segment is missing; is the volume mounted?".to_owned())
    }

    /// Returns the doubts, accepted ones among them.
    pub fn doubts(&self) -> Vec<Doubt> {
        self.shared.shown.lock().list().to_vec()
    }

    /// Returns why the disk is on hold: the first open doubt.
    pub fn reason(&self) -> Option<String> {
        let reason = self.shared.shown.lock().reason();
        let waits = self.shared.waits.load(Ordering::Acquire);
        reason.or_else(|| waits.then(|| WAITING.to_owned()))
    }

    /// Enters a doubt. When this returns nothing is being freed, and nothing will be, unless a
    /// person has accepted it before. A superblock that cannot be written is written again by
    /// [`Self::keep`]. Blocks the thread.
    pub(super) fn enter(&self, finding: Finding) -> Entered {
        let shared = &self.shared;
        let mut doubts = shared.doubts.lock();
        let before = doubts.clone();
        let entered = doubts.enter(finding, shared.log.durable_seq());
        if entered == Entered::Accepted {
            return entered;
        }

        self.stop_frees(&doubts);
        if *doubts != before {
            // Also what was verified since the doubt before this one.
            self.distrust_segments(&doubts);
            if let Some(doubt) = doubts.list().last() {
                tracing::error!(number = doubt.number, kind = doubt.kind.name(), %doubt, "disk is on hold: nothing is freed");
            }
            self.write(&doubts);
        }
        entered
    }

    /// Drops doubts that were disproved while the disk is open, and accepted ones that nobody asks
    /// about any more. Leaves the hold with the last open one.
    pub(super) fn close(&self, is_disproved: impl Fn(&Doubt) -> bool) {
        let mut doubts = self.shared.doubts.lock();
        let closed = doubts.close(is_disproved);
        log_closed(&closed);
        if !closed.is_empty() {
            self.write(&doubts);
            if doubts.debt().below() == 0 {
                self.distrust_segments(&doubts);
            }
            self.settle(&doubts);
        }
    }

    /// Accepts the doubt of a number on behalf of a person: the disk goes on without what is
    /// missing. Blocks the thread.
    ///
    /// # Errors
    /// [`AcceptError`]: [`AcceptError::ForReads`] on a disk that is open for reads only. The doubt stays
    /// open.
    pub fn accept(&self, number: u32) -> Result<Doubt, AcceptError> {
        // The decision cannot be recorded, and the next open may number another doubt the same.
        if let Some(cause) = self.shared.log.poisoned()
            && matches!(*cause, LogError::ForReads(_))
        {
            return Err(AcceptError::ForReads(cause));
        }
        let mut doubts = self.shared.doubts.lock();
        let open: Vec<u32> = doubts
            .list()
            .iter()
            .filter(|doubt| !doubt.accepted)
            .map(|doubt| doubt.number)
            .collect();
        let Some(doubt) = doubts
            .list()
            .iter()
            .find(|doubt| doubt.number == number)
            .copied()
        else {
            return Err(AcceptError::Unknown { number, open });
        };
        if doubt.accepted {
            return Ok(doubt);
        }
        if doubt.kind == DoubtKind::Absent && self.shared.index.lock().is_absent_incomplete() {
            return Err(AcceptError::Incomplete);
        }
        if doubt.kind == DoubtKind::Master {
            return Err(AcceptError::Elsewhere(doubt.kind));
        }

        // The inventory BEFORE the doubt: a crash in between leaves a doubt that the next open
        // closes. It is not disproved then, so what follows from the accept comes first of all.
        let mut next = doubts.clone();
        next.prepare_accept(doubt.kind);
        if next != *doubts {
            self.shared.volume.write_doubts(&next)?;
            doubts.clone_from(&next);
        }
        let kept = self.shared.volume.accept_file(&doubt);
        kept.map_err(EngineError::io("write inventory"))?;
        next.accept(number);
        self.shared.volume.write_doubts(&next)?;
        *doubts = next;
        self.note_accept();
        self.shared.shown.lock().clone_from(&doubts);
        self.shared.is_unwritten.store(false, Ordering::Release);
        tracing::warn!(
            number,
            kind = doubt.kind.name(),
            "doubt is accepted: {doubt}"
        );
        self.settle(&doubts);
        Ok(Doubt {
            accepted: true,
            ..doubt
        })
    }

    /// Counts an accept of a person.
    pub(super) fn note_accept(&self) {
        self.shared.accepts.fetch_add(1, Ordering::AcqRel);
    }

    /// Returns the number of accepts in this process.
    pub(super) fn accepts(&self) -> u32 {
        self.shared.accepts.load(Ordering::Acquire)
    }

    /// Ends the doubt about the master because a person has accepted the master. Blocks the thread.
    pub(super) fn accept_master(&self) {
        let mut doubts = self.shared.doubts.lock();
        doubts.close(|doubt| doubt.kind == DoubtKind::Master);
        // This master still names files whose sets the other one has released.
        doubts.expect_lost_sets();
        self.note_accept();
        self.write(&doubts);
        self.settle(&doubts);
    }

    /// Notes what an audit has found: lost sets hold the disk, unless it is known why they are
    /// lost. Blocks the thread.
    pub(super) fn note_lost(&self, lost: &LostSets) {
        let mut doubts = self.shared.doubts.lock();
        let before = doubts.clone();
        doubts.note_lost(lost, self.shared.log.durable_seq());
        if *doubts == before {
            return;
        }
        match (before.are_open(), doubts.are_open()) {
            (false, true) => {
                self.stop_frees(&doubts);
                let lost = lost.count;
                tracing::error!(
                    lost,
                    "disk is on hold, nothing is freed: reference sets are lost"
                );
            }
            (true, false) => {
                tracing::info!("no reference set is lost any more");
            }
            _ => {}
        }
        if doubts.debt() != before.debt() {
            self.distrust_segments(&doubts);
        }
        self.write(&doubts);
        if before.are_open() {
            self.settle(&doubts);
        }
    }

    /// Stops all frees from now on. Needs the lock of the `doubts`, so that no other thread ends
    /// the hold in between.
    fn stop_frees(&self, _doubts: &MutexGuard<'_, Doubts>) {
        self.shared.has_doubt.store(true, Ordering::Release);
        self.shared.is_held.store(true, Ordering::Release);
        self.shared.index.lock().hold(true);
        drop(self.shared.frees.write());
    }

    /// Closes the doubt about absent blocks if uploads have brought all of them back, and writes
    /// doubts that are in memory only. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::Io`] if the superblock cannot be written again.
    pub fn keep(&self) -> Result<(), EngineError> {
        let has_all = self.shared.index.lock().has_all_blocks();
        if has_all {
            self.close(|doubt| doubt.kind == DoubtKind::Absent);
        }
        if !self.shared.is_unwritten.load(Ordering::Acquire) {
            return Ok(());
        }
        let doubts = self.shared.doubts.lock();
        self.shared.volume.write_doubts(&doubts)?;
        self.shared.is_unwritten.store(false, Ordering::Release);
        Ok(())
    }

    /// Returns the highest sequence whose blocks count as unverified; 0 if every block is trusted.
    pub(super) fn verify_below(&self) -> u64 {
        self.shared.shown.lock().debt().below()
    }

    /// Ends a verification that began in `round` of the index: durably trusts all blocks, if no
    /// segment is unverified any more and nothing was doubted since. Returns false otherwise.
    /// Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::Io`]. The blocks stay unverified.
    pub(super) fn end_verification(&self, round: u64) -> Result<bool, EngineError> {
        // Under the lock of the doubts, so that nobody enters one before this is written.
        let mut doubts = self.shared.doubts.lock();
        let is_done = self.shared.index.lock().is_verified_since(round);
        if doubts.are_open() || !is_done {
            return Ok(false);
        }

        let next = doubts.with_debt(VerificationDebt::default());
        self.shared.volume.write_doubts(&next)?;
        *doubts = next;
        self.shared.shown.lock().clone_from(&doubts);
        self.shared.is_unwritten.store(false, Ordering::Release);
        Ok(true)
    }

    /// Makes the segments unverified whose blocks are, and no others.
    fn distrust_segments(&self, doubts: &Doubts) {
        // A frame stands in the figures of its segment BEFORE its sequence counts as durable.
        let below = doubts.debt().below();
        let mut files = self.shared.log.files();
        files.retain(|file| file.seqs.is_some_and(|(first, _)| first <= below));
        let files = files.into_iter().map(|file| file.id).collect();
        self.shared.index.lock().distrust(files);
    }

    fn write(&self, doubts: &Doubts) {
        self.shared.shown.lock().clone_from(doubts);
        if let Err(error) = self.shared.volume.write_doubts(doubts) {
            let error = cstore_types::error_chain(&error);
            tracing::error!(%error, "hold is in memory only");
            self.shared.is_unwritten.store(true, Ordering::Release);
        }
    }

    /// Leaves the hold if no doubt is open any more and the master was heard. Blocks that lost
    /// their last holder meanwhile become orphans. Blocks the thread.
    fn settle(&self, doubts: &Doubts) {
        if doubts.are_open() || self.shared.waits.load(Ordering::Acquire) {
            return;
        }
        // Blocks are freed with their last holder from now on. The doubts are locked, so no doubt
        // is entered before all that nothing holds were adopted.
        self.shared.index.lock().hold(false);
        steps::adopt_orphans(&self.shared.index);
        self.shared.is_held.store(false, Ordering::Release);
        if self.shared.has_doubt.swap(false, Ordering::AcqRel) {
            tracing::info!("disk is not on hold any more");
        }
    }
}

/// Logs doubts that have left the list. An accepted one proves nothing by that: what was missing
/// may be missing still.
pub(super) fn log_closed(closed: &[Doubt]) {
    for doubt in closed {
        let (number, kind) = (doubt.number, doubt.kind.name());
        match doubt.accepted {
            true => tracing::info!(number, kind, "accepted doubt leaves the list: {doubt}"),
            false => tracing::info!(number, kind, "doubt is disproved: {doubt}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use cstore_log::{Disk, FaultyDisk};

    use super::super::volume::mount::small_disk;
    use super::*;

    #[test]
    fn the_end_of_a_wait_for_the_master_is_not_the_end_of_a_doubt() {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
        let (identity, mut options) = small_disk();
        options.waits_for_master = true;
        let parts = super::super::open::open(disk, "memory", &identity, &options).unwrap();
        let hold = &parts.hold;
        let has_doubt = || hold.shared.has_doubt.load(Ordering::Acquire);
        assert!(hold.is_held() && !has_doubt());

        // A doubt that is entered while the disk waits outlives the wait.
        hold.enter(Finding::new(DoubtKind::Inventory));
        hold.begin();
        assert!(hold.is_held() && has_doubt());
        hold.accept(1).unwrap();
        assert!(!hold.is_held() && !has_doubt());
    }

    /// The master names an accepted doubt until the report of it has reached it.
    #[test]
    fn i4_an_accept_that_is_repeated_does_not_end_the_hold_of_a_doubt_that_is_being_entered() {
        let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
        let (identity, options) = small_disk();
        let parts = super::super::open::open(disk, "memory", &identity, &options).unwrap();
        let hold = &parts.hold;
        hold.enter(Finding::new(DoubtKind::Inventory));
        hold.accept(1).unwrap();
        assert!(!hold.is_held());

        // A segment is being retired, which the new doubt waits for.
        let permit = hold.permit().unwrap();
        let finding = Finding {
            file: 7,
            ..Finding::new(DoubtKind::Set)
        };
        std::thread::scope(|scope| {
            scope.spawn(|| hold.enter(finding));
            while !hold.is_held() {
                std::thread::yield_now();
            }
            scope.spawn(|| hold.accept(1).unwrap());
            drop(permit);
        });
        assert!(hold.is_held());
        assert!(hold.permit().is_none());
    }
}
