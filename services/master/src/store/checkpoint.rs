//! Checkpoints: a snapshot of the index at one position, taken while commits go on.
//!
//! ```text
//!            keys in order ─▶  a  b  c  d │ e  f  g  h
//!                                  walked │ cursor        the writer changes f: its old value goes to `saved`,
//!                                         │               because the walk has yet to reach f
//! ```
//! The walk copies the index in key order, a chunk at a time. The cut is the position at which it
//! began: for a key beyond the cursor, the writer saves the old value before its first change, and
//! the walk uses the saved value instead of the index's. Keys at or before the cursor are already
//! copied and need nothing (copy-on-write, as in Ren, Diamond, Abadi, Thomson: "Low-Overhead
//! Asynchronous Checkpointing in Main-Memory Database Systems", SIGMOD 2016).
//!
//! Writer and walk share one lock, held for one group or one chunk. So a commit waits at most for a
//! chunk.

use std::collections::{BTreeMap, HashMap};
use std::fs::File;
use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use cstore_log::{FileInfo, FileState, Log};
use parking_lot::{Condvar, Mutex};

use super::index::{Index, StoredPair};
use super::room::{self, SharedGauge};
use super::{Link, MetaError, Position, snapshot};
use crate::limits::{
    MAX_SAVED_BYTES, MAX_SNAPSHOT_REST, MEASURE_BYTES, SNAPSHOT_CHUNK_BYTES, SNAPSHOT_CHUNK_PAIRS,
    SNAPSHOT_REST_FACTOR,
};

/// The state of a walk, shared by the writer and the checkpoint's thread.
#[derive(Debug, Default)]
pub(super) struct Walk {
    running: Mutex<Option<Progress>>,
    /// Signalled when a chunk was copied or the walk ended.
    advanced: Condvar,
}

#[derive(Debug, Default)]
struct Progress {
    /// The last key that was copied.
    cursor: Option<Vec<u8>>,
    /// Values of the cut, of keys beyond the cursor that have changed since: `None` if the key did
    /// not exist.
    saved: BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    saved_bytes: usize,
}

impl Walk {
    /// Begins a walk; the cut is what the index holds now. The caller is the writer, between two
    /// groups.
    pub(super) fn begin(&self) {
        *self.running.lock() = Some(Progress::default());
    }

    /// Ends the walk, whether it is complete or not.
    pub(super) fn end(&self) {
        *self.running.lock() = None;
        self.advanced.notify_all();
    }

    /// Returns true if the writer has to save old values.
    pub(super) fn is_running(&self) -> bool {
        self.running.lock().is_some()
    }

    /// Saves the values of `originals` that the walk has yet to reach, then applies the group, as
    /// one step for the walk.
    ///
    /// `originals` are keys that the group changes with their values before it, as stored.
    pub(super) fn save_then<T>(
        &self,
        originals: impl Iterator<Item = (Vec<u8>, Option<Vec<u8>>)>,
        apply: impl FnOnce() -> T,
    ) -> T {
        let mut running = self.running.lock();
        while running
            .as_ref()
            .is_some_and(|progress| progress.saved_bytes > MAX_SAVED_BYTES)
        {
            self.advanced.wait(&mut running);
        }
        if let Some(progress) = &mut *running {
            originals.for_each(|(key, value)| progress.save(key, value));
        }
        apply()
    }

    /// Copies the next chunk of the cut. Returns `true` with the last one.
    fn next_chunk(&self, index: &Index) -> Result<(Vec<StoredPair>, bool), MetaError> {
        let mut running = self.running.lock();
        let Some(progress) = &mut *running else {
            return Err(MetaError::Closed);
        };
        let (pairs, complete) = index.stored_after(
            progress.cursor.as_deref(),
            SNAPSHOT_CHUNK_PAIRS,
            SNAPSHOT_CHUNK_BYTES,
        )?;
        let last = if complete {
            None
        } else {
            pairs.last().map(|(key, _)| key.clone())
        };

        let mut chunk: BTreeMap<Vec<u8>, Vec<u8>> = pairs.into_iter().collect();
        let beyond = match &last {
            Some(last) => split_after(&mut progress.saved, last),
            None => BTreeMap::new(),
        };
        for (key, value) in std::mem::replace(&mut progress.saved, beyond) {
            progress.saved_bytes -= size_of_saved(&key, value.as_deref());
            match value {
                Some(value) => drop(chunk.insert(key, value)),
                None => drop(chunk.remove(&key)),
            }
        }

        match last {
            Some(last) => progress.cursor = Some(last),
            // Nothing lies beyond the cursor any more: later changes need not be saved.
            None => *running = None,
        }
        drop(running);
        self.advanced.notify_all();
        Ok((chunk.into_iter().collect(), complete))
    }
}

impl Progress {
    fn save(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        let walked = self.cursor.as_ref().is_some_and(|cursor| key <= *cursor);
        if walked || self.saved.contains_key(&key) {
            return;
        }
        self.saved_bytes += size_of_saved(&key, value.as_deref());
        self.saved.insert(key, value);
    }
}

/// Memory of one saved value: its bytes, and what the map takes for an entry, roughly.
fn size_of_saved(key: &[u8], value: Option<&[u8]>) -> usize {
    const ENTRY: usize = 128;

    key.len() + value.map_or(0, <[u8]>::len) + ENTRY
}

/// Takes the entries after `last` out of `map`.
fn split_after(
    map: &mut BTreeMap<Vec<u8>, Option<Vec<u8>>>,
    last: &[u8],
) -> BTreeMap<Vec<u8>, Option<Vec<u8>>> {
    // The next key in byte order after `last`.
    let mut next = last.to_vec();
    next.push(0);
    map.split_off(&next)
}

/// Last position in each file of the log.
#[derive(Debug, Default)]
pub(super) struct LogFiles(Mutex<HashMap<u32, Position>>);

impl LogFiles {
    pub(super) fn new(last: HashMap<u32, Position>) -> Self {
        Self(Mutex::new(last))
    }

    pub(super) fn note(&self, file: u32, position: Position) {
        self.0.lock().insert(file, position);
    }

    /// Returns true if a snapshot at `position` covers files of `log`, which are removed then.
    pub(super) fn has_covered(&self, log: &Log, position: Position) -> bool {
        log.files()
            .iter()
            .any(|file| self.is_covered(file, position))
    }

    /// Retires the files of `log` whose batches all lie at or before `position`.
    fn retire_covered(&self, log: &Log, position: Position) -> Result<(), MetaError> {
        for file in log.files() {
            if self.is_covered(&file, position) {
                log.retire(file.id).map_err(MetaError::Log)?;
                self.0.lock().remove(&file.id);
            }
        }
        Ok(())
    }

    fn is_covered(&self, file: &FileInfo, position: Position) -> bool {
        let last = self.0.lock().get(&file.id).copied();
        file.state != FileState::Active && last.is_some_and(|last| last <= position)
    }
}

/// Everything that one checkpoint works on.
#[derive(Debug, Clone)]
pub(super) struct Checkpoint {
    pub(super) dir: PathBuf,
    pub(super) index: Index,
    pub(super) log: Arc<Log>,
    pub(super) files: Arc<LogFiles>,
    pub(super) walk: Arc<Walk>,
    /// Size of the last snapshot, which decides when the next one is due.
    pub(super) last_bytes: Arc<AtomicU64>,
    pub(super) cancelled: Arc<AtomicBool>,
    /// True while the writer waits for the checkpoint, which takes no rests then.
    pub(super) is_awaited: Arc<AtomicBool>,
    pub(super) gauge: SharedGauge,
}

/// Ends the walk also when the thread panics: otherwise the writer would wait for it for ever.
struct EndOnDrop<'a>(&'a Walk);

impl Drop for EndOnDrop<'_> {
    fn drop(&mut self) {
        self.0.end();
    }
}

impl Checkpoint {
    /// Creates the file of a snapshot at a position and its link, and allocates `bytes` bytes for it
    /// if the file system supports that.
    ///
    /// # Errors
    /// [`MetaError::Full`] if the file system has no space for `bytes`, `Io`. No file is left.
    pub(super) fn create(
        &self,
        at: (Position, Link),
        bytes: u64,
    ) -> Result<snapshot::SnapshotWriter, MetaError> {
        snapshot::SnapshotWriter::create(&self.dir, at, bytes)
    }

    /// Writes the snapshot of the running walk, and retires the log files that the snapshot covers.
    /// `rests` is false if no batch is committed at the same time.
    ///
    /// Returns the file of the replaced snapshot, which has no name any more, so that the caller can
    /// free its space in steps. The new snapshot is durable.
    ///
    /// # Errors
    /// The error of the disk or the index. The previous snapshot stays, and the log keeps growing.
    pub(super) fn take(
        &self,
        out: snapshot::SnapshotWriter,
        rests: bool,
    ) -> Result<Option<File>, MetaError> {
        let ending = EndOnDrop(&self.walk);
        let position = out.position();
        let replaced = snapshot::open_for_truncation(&self.dir);
        let written = self.write(out, rests)?;
        drop(ending);
        self.last_bytes.store(written.bytes, Ordering::Relaxed);

        // The index MUST be on the disk BEFORE log files go: otherwise a killed process could leave
        // an index that is behind the first record of the log.
        self.index.flush()?;
        self.files.retire_covered(&self.log, position)?;
        tracing::info!(
            position,
            keys = written.items,
            bytes = written.bytes,
            "metadata snapshot written"
        );
        Ok(replaced)
    }

    fn write(
        &self,
        mut out: snapshot::SnapshotWriter,
        rests: bool,
    ) -> Result<snapshot::Written, MetaError> {
        let rest = Mutex::new(());
        let woken = Condvar::new();
        let mut measured = 0;
        loop {
            if self.cancelled.load(Ordering::Relaxed) {
                return Err(MetaError::Closed);
            }
            let begun = now();
            let (pairs, complete) = self.walk.next_chunk(&self.index)?;
            for (key, value) in &pairs {
                out.put(key, value)
                    .inspect_err(|error| self.index.distrust_for(error))?;
            }
            // Measure only behind the allocated bytes: these take no free space.
            if out.bytes() >= (measured + MEASURE_BYTES).max(out.allocated()) {
                measured = out.bytes();
                if !room::leaves_reserve(&self.gauge, &self.dir, 0) {
                    return Err(MetaError::Full);
                }
            }
            if complete {
                return out.finish();
            }
            if rests && !self.is_awaited.load(Ordering::Relaxed) {
                let pause = (begun.elapsed() * SNAPSHOT_REST_FACTOR).min(MAX_SNAPSHOT_REST);
                woken.wait_for(&mut rest.lock(), pause);
            }
        }
    }
}

#[allow(
    clippy::disallowed_types,
    reason = "the checkpoint has no runtime, and its rests take real time"
)]
fn now() -> std::time::Instant {
    std::time::Instant::now()
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::super::index::{Staged, stored};
    use super::*;

    /// The walk copies exactly what the index held when it began, whatever is written between two
    /// chunks.
    #[test]
    fn the_walk_copies_the_cut_whatever_changes_meanwhile() {
        for seed in 0..60u64 {
            let mut rng = StdRng::seed_from_u64(seed);
            let dir = tempfile::tempdir().unwrap();
            let index = Index::rebuilt(dir.path(), 1 << 20).unwrap();
            let mut live: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            let mut position = 0;
            let walk = Walk::default();
            let mut cut = None;
            let mut copied = BTreeMap::new();
            loop {
                for _ in 0..rng.random_range(0..if cut.is_none() { 400 } else { 40 }) {
                    position += 1;
                    let key = format!("n{:04}", rng.random_range(0..500)).into_bytes();
                    let value = rng.random_bool(0.6).then(|| vec![rng.random(); 5]);
                    let before = live.get(&key).cloned();
                    let mut staged = Staged::default();
                    staged.stage(&key, value.as_deref(), position);
                    let originals = std::iter::once((key.clone(), before));
                    walk.save_then(originals, || index.apply(staged)).unwrap();
                    match value {
                        Some(value) => {
                            let stored = stored(&key, position, &value);
                            live.insert(key, stored);
                        }
                        None => drop(live.remove(&key)),
                    }
                }
                if cut.is_none() {
                    walk.begin();
                    cut = Some(live.clone());
                }
                let (pairs, complete) = walk.next_chunk(&index).unwrap();
                copied.extend(pairs);
                if complete {
                    break;
                }
            }
            assert_eq!(Some(copied), cut, "seed {seed}");
            assert!(!walk.is_running());
        }
    }
}
