//! The engine: the log is the truth, sled is its index.
//!
//! One writer thread takes all batches that wait, checks what they require in their order, appends those that hold as
//! one group of the log, and only when the group is synced applies it to sled and tells the callers. sled's own
//! durability is not relied upon: it stores the log position that it has applied, and what it lacks is replayed. A
//! sled of another boot without a clean mark, or one that does not open, is discarded and rebuilt.

use std::collections::HashMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TrySendError, sync_channel};
use std::thread::JoinHandle;

use async_trait::async_trait;
use bytes::Bytes;
use cstore_log::{Disk, FileState, FrameFacts, Location, Log, LogError, Options, Record, Urgency};
use cstore_node::commit::{CommitSpans, CommittedFrame};
use cstore_node::metrics::CommitMetrics;
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tracing::Instrument;

use super::batch::{Batch, Require};
use super::{MetaError, MetaStore, Position, Versioned, snapshot};

const KIND_BATCH: u8 = 1;
const MAX_GROUP: usize = 1_024;
const MAX_QUEUE: usize = 4_096;
const APPLIED: &[u8] = b"\0applied";
const BOOT: &[u8] = b"\0boot";
const CLEAN: &[u8] = b"\0clean";
/// Keys of the engine itself begin with this byte; those of the rules never do.
const OWN: u8 = 0;

/// How the engine is laid out and bounded.
#[derive(Debug, Clone)]
pub(crate) struct SledOptions {
    /// Bytes of log after which a snapshot truncates it.
    pub(crate) snapshot_bytes: u64,
    /// Bound of the log.
    pub(crate) max_log_bytes: u64,
    /// Standard size of a file of the log.
    pub(crate) file_bytes: u64,
    /// Memory that sled caches in.
    pub(crate) cache_bytes: u64,
}

impl Default for SledOptions {
    fn default() -> Self {
        Self { snapshot_bytes: 64 << 20, max_log_bytes: 64 << 30, file_bytes: 8 << 20, cache_bytes: 64 << 20 }
    }
}

struct Job {
    batch: Batch,
    answer: oneshot::Sender<Result<(Position, FrameFacts), MetaError>>,
}

/// Log and index of one master.
#[derive(Debug)]
pub(crate) struct SledMeta {
    db: sled::Db,
    hands: Mutex<Option<Hands>>,
    position: Arc<AtomicU64>,
    /// Group commits of the log.
    frames: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<String>>>,
    commits: CommitSpans,
    commit_metrics: CommitMetrics,
}

/// Who writes.
#[derive(Debug)]
enum Hands {
    Thread(SyncSender<Job>, JoinHandle<Result<(), MetaError>>),
    /// Each caller in turn, on a disk that has one thread only.
    Callers(Box<Writer>),
}

impl SledMeta {
    /// Opens `dir`, with the log on `log_disk`.
    pub(crate) fn open(
        dir: &Path,
        log_disk: Arc<dyn Disk>,
        options: &SledOptions,
    ) -> Result<Self, MetaError> {
        std::fs::create_dir_all(dir).map_err(|error| MetaError::Unavailable(error.to_string()))?;
        let by_callers = log_disk.has_one_thread();
        let mut found: Vec<(Position, Location)> = Vec::new();
        let (log, _) = Log::open(log_disk, log_options(dir, options)?, &mut |record| {
            let position = record.key.first_chunk().map_or(0, |raw| u64::from_be_bytes(*raw));
            found.push((position, record.location));
        })
        .map_err(|error| MetaError::Unavailable(error.to_string()))?;
        let commit_metrics = CommitMetrics::default();
        let counted = commit_metrics.clone();
        log.observe(Box::new(move |frame| counted.observe(frame.took, frame.bytes)));
        let db = open_index(dir, options)?;
        let position = replay(&db, &log, dir, &found)?;
        let mut files: HashMap<u32, Position> = HashMap::new();
        for (position, location) in &found {
            let last = files.entry(location.file).or_default();
            *last = (*last).max(*position);
        }
        let position = Arc::new(AtomicU64::new(position));
        let frames = Arc::new(AtomicU64::new(log.durable_seq()));
        let failed = Arc::new(Mutex::new(None));
        let writer = Writer {
            dir: dir.to_path_buf(),
            db: db.clone(),
            log,
            files,
            position: position.clone(),
            frames: frames.clone(),
            failed: failed.clone(),
            snapshot_bytes: options.snapshot_bytes,
            since_snapshot: 0,
        };
        let hands = if by_callers { Hands::Callers(Box::new(writer)) } else { writer.on_a_thread()? };
        let commits = CommitSpans::default();
        let hands = Mutex::new(Some(hands));
        Ok(Self { db, hands, position, frames, failed, commits, commit_metrics })
    }
}

#[async_trait]
impl MetaStore for SledMeta {
    async fn commit(&self, batch: Batch) -> Result<Position, MetaError> {
        let (answer, committed) = oneshot::channel();
        let closed = || MetaError::Unavailable("metadata is closed".to_owned());
        {
            let mut hands = self.hands.lock();
            let job = Job { batch, answer };
            match hands.as_mut().ok_or_else(closed)? {
                Hands::Thread(queue, _) => queue.try_send(job).map_err(|error| match error {
                    TrySendError::Full(_) => MetaError::Busy,
                    TrySendError::Disconnected(_) => closed(),
                })?,
                Hands::Callers(writer) => writer.turn(vec![job]),
            }
        }
        let span = self.commits.begin();
        let (position, frame) = committed.instrument(span.clone()).await.map_err(|_| closed())??;
        self.commits.landed(
            &span,
            CommittedFrame {
                seq: frame.seq,
                records: frame.records,
                bytes: frame.bytes,
                // A record is the batch of one request.
                requests: frame.records,
                took: frame.took,
            },
        );
        Ok(position)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, MetaError> {
        read(&self.db, key)
    }

    async fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        use std::ops::Bound;
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ => Bound::Included(prefix.to_vec()),
        };
        let mut found = Vec::new();
        for item in self.db.range((start, Bound::Unbounded)).take(limit) {
            let (key, value) = item.map_err(|error| index_error(&error))?;
            if !key.starts_with(prefix) {
                break;
            }
            found.push((key.to_vec(), versioned(&value)?));
        }
        Ok(found)
    }

    fn position(&self) -> Position {
        self.position.load(Ordering::Acquire)
    }

    fn frames(&self) -> u64 {
        self.frames.load(Ordering::Relaxed)
    }

    fn commit_metrics(&self) -> &CommitMetrics {
        &self.commit_metrics
    }

    fn failed(&self) -> Option<String> {
        self.failed.lock().clone()
    }

    async fn close(&self) -> Result<(), MetaError> {
        let hands = self.hands.lock().take();
        let thread = match hands {
            Some(Hands::Thread(queue, thread)) => {
                // Without a queue the thread ends.
                drop(queue);
                thread
            }
            Some(Hands::Callers(writer)) => return writer.close(),
            None => return Ok(()),
        };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        joined
            .ok()
            .and_then(Result::ok)
            .unwrap_or_else(|| Err(MetaError::Unavailable("writer panicked".to_owned())))
    }
}

fn index_error(error: &sled::Error) -> MetaError {
    MetaError::Unavailable(format!("index: {error}"))
}

fn versioned(bytes: &[u8]) -> Result<Versioned, MetaError> {
    let damaged = || MetaError::Damaged("index value is shorter than its version".to_owned());
    let (version, value) = bytes.split_first_chunk().ok_or_else(damaged)?;
    Ok(Versioned { version: u64::from_be_bytes(*version), value: value.to_vec() })
}

fn read(db: &sled::Db, key: &[u8]) -> Result<Option<Versioned>, MetaError> {
    let value = db.get(key).map_err(|error| index_error(&error))?;
    value.map(|value| versioned(&value)).transpose()
}

/// The owner of the log is random and made once, so that files of another master's log never validate.
fn log_options(dir: &Path, options: &SledOptions) -> Result<Options, MetaError> {
    let path = dir.join("log-owner");
    let unavailable = |error: std::io::Error| MetaError::Unavailable(format!("log owner: {error}"));
    let owner = match std::fs::read(&path) {
        Ok(bytes) => {
            let damaged = || MetaError::Damaged("file log-owner does not have 16 bytes".to_owned());
            bytes.try_into().map_err(|_| damaged())?
        }
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            let mut owner = [0; 16];
            getrandom::fill(&mut owner).map_err(|error| MetaError::Unavailable(error.to_string()))?;
            let unfinished = dir.join("log-owner.new");
            std::fs::write(&unfinished, owner).map_err(unavailable)?;
            std::fs::File::open(&unfinished).and_then(|file| file.sync_all()).map_err(unavailable)?;
            std::fs::rename(&unfinished, &path).map_err(unavailable)?;
            std::fs::File::open(dir).and_then(|dir| dir.sync_all()).map_err(unavailable)?;
            owner
        }
        Err(error) => return Err(unavailable(error)),
    };
    Ok(Options {
        owner,
        file_bytes: options.file_bytes,
        max_bytes: options.max_log_bytes,
        reserve_bytes: (options.max_log_bytes / 8).min(64 << 20),
        compaction_bytes: 0,
        max_frame_bytes: 8 << 20,
        max_queue_bytes: 64 << 20,
        // Positions are kept in the records themselves.
        least_seq: 0,
    })
}

fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

/// Opens sled if it can be believed, else starts with an empty one.
fn open_index(dir: &Path, options: &SledOptions) -> Result<sled::Db, MetaError> {
    let path = dir.join("index");
    let config =
        sled::Config::new().path(&path).cache_capacity(options.cache_bytes).flush_every_ms(Some(1_000));
    // sled panics on some damage; the log rebuilds whatever it held.
    let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
    if let Ok(Ok(db)) = opened {
        let same_boot = db.get(BOOT).ok().flatten().is_some_and(|found| found == boot_id());
        let clean = db.get(CLEAN).ok().flatten().is_some();
        if same_boot || clean || db.is_empty() {
            let mark = db.insert(BOOT, boot_id()).and_then(|_| db.remove(CLEAN)).and_then(|_| db.flush());
            mark.map_err(|error| index_error(&error))?;
            return Ok(db);
        }
        tracing::warn!("index is of another boot and was not closed: it is rebuilt from the log");
        drop(db);
    } else if path.try_exists().unwrap_or(true) {
        tracing::warn!("index does not open: it is rebuilt from the log");
    }
    let unavailable = |error: std::io::Error| MetaError::Unavailable(format!("index: {error}"));
    if path.try_exists().map_err(unavailable)? {
        std::fs::remove_dir_all(&path).map_err(unavailable)?;
    }
    let db = config.open().map_err(|error| index_error(&error))?;
    db.insert(BOOT, boot_id()).map_err(|error| index_error(&error))?;
    Ok(db)
}

fn applied(db: &sled::Db) -> Result<Position, MetaError> {
    let value = db.get(APPLIED).map_err(|error| index_error(&error))?;
    Ok(value.and_then(|value| value.first_chunk().map(|raw| u64::from_be_bytes(*raw))).unwrap_or(0))
}

/// Brings the index up to the end of the log, and answers the last position. A gap is damage: a file of the log was
/// removed.
fn replay(
    db: &sled::Db,
    log: &Log,
    dir: &Path,
    found: &[(Position, Location)],
) -> Result<Position, MetaError> {
    let mut position = applied(db)?;
    if position == 0 {
        position = restore_snapshot(db, dir)?;
    }
    for (next, location) in found {
        if *next <= position {
            continue;
        }
        if *next != position + 1 {
            return Err(MetaError::Damaged(format!("log goes on with position {next} behind {position}")));
        }
        let payload = log.read(*location).map_err(|error| MetaError::Unavailable(error.to_string()))?;
        let mut changes = sled::Batch::default();
        stage(&mut changes, &Batch::decode(&payload)?, *next);
        db.apply_batch(changes).map_err(|error| index_error(&error))?;
        position = *next;
    }
    Ok(position)
}

fn restore_snapshot(db: &sled::Db, dir: &Path) -> Result<Position, MetaError> {
    let mut take =
        |key: Vec<u8>, value: Vec<u8>| db.insert(key, value).map(drop).map_err(|error| index_error(&error));
    let position = snapshot::read(dir, &mut take)?;
    db.insert(APPLIED, &position.to_be_bytes()).map_err(|error| index_error(&error))?;
    Ok(position)
}

fn stage(changes: &mut sled::Batch, batch: &Batch, position: Position) {
    for (key, value) in &batch.changes {
        match value {
            Some(value) => {
                let mut stored = position.to_be_bytes().to_vec();
                stored.extend(value);
                changes.insert(key.as_slice(), stored);
            }
            None => changes.remove(key.as_slice()),
        }
    }
    changes.insert(APPLIED, &position.to_be_bytes());
}

#[derive(Debug)]
struct Writer {
    dir: PathBuf,
    db: sled::Db,
    log: Log,
    /// Last position in each file of the log.
    files: HashMap<u32, Position>,
    position: Arc<AtomicU64>,
    frames: Arc<AtomicU64>,
    failed: Arc<Mutex<Option<String>>>,
    snapshot_bytes: u64,
    since_snapshot: u64,
}

impl Writer {
    fn on_a_thread(self) -> Result<Hands, MetaError> {
        let (sender, receiver) = sync_channel(MAX_QUEUE);
        let thread = std::thread::Builder::new()
            .name("metadata-writer".to_owned())
            .spawn(move || self.run(&receiver))
            .map_err(|error| MetaError::Unavailable(error.to_string()))?;
        Ok(Hands::Thread(sender, thread))
    }

    fn run(mut self, queue: &Receiver<Job>) -> Result<(), MetaError> {
        while let Ok(first) = queue.recv() {
            let mut jobs = vec![first];
            while jobs.len() < MAX_GROUP {
                match queue.try_recv() {
                    Ok(job) => jobs.push(job),
                    Err(_) => break,
                }
            }
            self.turn(jobs);
        }
        self.close()
    }

    fn turn(&mut self, jobs: Vec<Job>) {
        self.commit(jobs);
        if self.since_snapshot > self.snapshot_bytes
            && let Err(error) = self.snapshot()
        {
            tracing::error!(%error, "snapshot of the metadata failed; the log keeps growing");
            self.since_snapshot = 0;
        }
    }

    fn close(&self) -> Result<(), MetaError> {
        self.log.close().map_err(|error| MetaError::Unavailable(error.to_string()))?;
        let marked = self.db.flush().and_then(|_| self.db.insert(CLEAN, b"1")).and_then(|_| self.db.flush());
        marked.map(drop).map_err(|error| index_error(&error))
    }

    fn commit(&mut self, jobs: Vec<Job>) {
        if let Some(why) = self.failed.lock().clone() {
            return answer_all(jobs, &MetaError::Unavailable(why));
        }
        let mut overlay: HashMap<Vec<u8>, Option<Position>> = HashMap::new();
        let mut next = self.position.load(Ordering::Acquire);
        let mut accepted = Vec::with_capacity(jobs.len());
        for job in jobs {
            match self.holds(&job.batch, &overlay) {
                Ok(true) => {
                    next += 1;
                    for (key, value) in &job.batch.changes {
                        overlay.insert(key.clone(), value.as_ref().map(|_| next));
                    }
                    accepted.push((next, job));
                }
                Ok(false) => drop(job.answer.send(Err(MetaError::Conflict))),
                Err(error) => drop(job.answer.send(Err(error))),
            }
        }
        if !accepted.is_empty() {
            self.write(accepted);
        }
    }

    fn holds(&self, batch: &Batch, overlay: &HashMap<Vec<u8>, Option<Position>>) -> Result<bool, MetaError> {
        for require in &batch.require {
            let (key, wanted) = match require {
                Require::Absent(key) => (key, None),
                Require::Equals(key, version) => (key, Some(*version)),
            };
            let found = match overlay.get(key) {
                Some(found) => *found,
                None => read(&self.db, key)?.map(|found| found.version),
            };
            if found != wanted {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn write(&mut self, accepted: Vec<(Position, Job)>) {
        let records: Vec<Record> = accepted
            .iter()
            .map(|(position, job)| Record {
                kind: KIND_BATCH,
                key: Bytes::copy_from_slice(&position.to_be_bytes()),
                payload: job.batch.encode().into(),
            })
            .collect();
        // Deletes and tombstones must work on a full disk.
        let adds =
            |job: &Job| job.batch.changes.iter().any(|(key, _)| key.first() == Some(&super::keys::NAMES));
        let urgency =
            if accepted.iter().any(|(_, job)| adds(job)) { Urgency::Normal } else { Urgency::Urgent };
        match self.append(records, urgency) {
            Ok((file, frame)) => self.apply(accepted, file, frame),
            Err(LogError::Full { .. }) => {
                answer_all(accepted.into_iter().map(|(_, job)| job), &MetaError::Full)
            }
            Err(error) => {
                let why = error.to_string();
                self.failed.lock().get_or_insert(why.clone());
                answer_all(accepted.into_iter().map(|(_, job)| job), &MetaError::Unavailable(why));
            }
        }
    }

    fn append(&mut self, records: Vec<Record>, urgency: Urgency) -> Result<(u32, FrameFacts), LogError> {
        self.since_snapshot += records.iter().map(|record| record.payload.len() as u64 + 64).sum::<u64>();
        let (sender, landed) = sync_channel(1);
        let done = move |result: Result<cstore_log::Committed<'_>, LogError>| {
            let landed = result.map(|committed| {
                (committed.locations.first().map_or(0, |location| location.file), committed.frame)
            });
            let _ = sender.send(landed);
        };
        self.log.append(records, urgency, Box::new(done));
        landed.recv().unwrap_or(Err(LogError::Closed))
    }

    fn apply(&mut self, accepted: Vec<(Position, Job)>, file: u32, frame: FrameFacts) {
        let mut changes = sled::Batch::default();
        let mut last = 0;
        for (position, job) in &accepted {
            stage(&mut changes, &job.batch, *position);
            last = *position;
        }
        self.files.insert(file, last);
        if let Err(error) = self.db.apply_batch(changes) {
            // Durable in the log, but not visible: only a restart can show it, so nothing may be built on it.
            let why = index_error(&error).to_string();
            self.failed.lock().get_or_insert(why.clone());
            return answer_all(accepted.into_iter().map(|(_, job)| job), &MetaError::Unavailable(why));
        }
        self.position.store(last, Ordering::Release);
        self.frames.store(self.log.durable_seq(), Ordering::Relaxed);
        for (position, job) in accepted {
            let _ = job.answer.send(Ok((position, frame)));
        }
    }

    /// Writes a snapshot and gives up the files of the log that it covers.
    fn snapshot(&mut self) -> Result<(), MetaError> {
        let position = self.position.load(Ordering::Acquire);
        let own = |key: &sled::IVec| key.first() == Some(&OWN);
        let mut count = 0;
        for item in self.db.iter().keys() {
            count += u64::from(!own(&item.map_err(|error| index_error(&error))?));
        }
        let items = self.db.iter().filter_map(|item| match item {
            Ok((key, _)) if own(&key) => None,
            Ok((key, value)) => Some(Ok((key.to_vec(), value.to_vec()))),
            Err(error) => Some(Err(index_error(&error))),
        });
        snapshot::write(&self.dir, position, count, items)?;
        self.since_snapshot = 0;
        for file in self.log.files() {
            let covered = self.files.get(&file.id).is_some_and(|last| *last <= position);
            if covered && file.state != FileState::Active {
                self.log.retire(file.id).map_err(|error| MetaError::Unavailable(error.to_string()))?;
                self.files.remove(&file.id);
            }
        }
        tracing::info!(position, count, "metadata snapshot written");
        Ok(())
    }
}

fn answer_all(jobs: impl IntoIterator<Item = Job>, error: &MetaError) {
    for job in jobs {
        let _ = job.answer.send(Err(error.clone()));
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use cstore_log::{Fault, FaultyDisk, Verb};
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn options(snapshot_bytes: u64) -> SledOptions {
        SledOptions { snapshot_bytes, max_log_bytes: 1 << 30, cache_bytes: 4 << 20, ..SledOptions::default() }
    }

    fn open(dir: &Path, disk: &FaultyDisk, snapshot_bytes: u64) -> SledMeta {
        SledMeta::open(dir, Arc::new(disk.clone()), &options(snapshot_bytes)).unwrap()
    }

    fn put(key: &[u8], value: Vec<u8>) -> Batch {
        let mut batch = Batch::default();
        batch.put(key.to_vec(), value);
        batch
    }

    async fn content(meta: &SledMeta) -> BTreeMap<Vec<u8>, Vec<u8>> {
        let found = meta.scan(b"n", None, usize::MAX).await.unwrap();
        found.into_iter().map(|(key, found)| (key, found.value)).collect()
    }

    #[tokio::test]
    async fn i2_requirements_are_checked_within_one_group_too() {
        let dir = tempfile::tempdir().unwrap();
        let meta = Arc::new(open(dir.path(), &FaultyDisk::new(), 1 << 30));
        let racers = (0..50u8).map(|n| {
            let meta = meta.clone();
            async move {
                let mut batch = put(b"none", vec![n]);
                batch.require_absent(b"none".to_vec());
                meta.commit(batch).await
            }
        });
        let results = futures_util::future::join_all(racers).await;
        let won = results.iter().filter(|result| result.is_ok()).count();
        let lost = results.iter().filter(|result| **result == Err(MetaError::Conflict)).count();
        assert_eq!((won, lost), (1, 49));
        let version = meta.get(b"none").await.unwrap().unwrap().version;
        let mut stale = put(b"none", vec![99]);
        stale.require_version(b"none".to_vec(), version + 1);
        assert_eq!(meta.commit(stale).await, Err(MetaError::Conflict));
    }

    #[tokio::test]
    async fn on_a_disk_with_one_thread_a_commit_is_answered_at_once() {
        use futures_util::FutureExt;
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::with_one_thread();
        let meta = open(dir.path(), &disk, 1 << 30);
        assert_eq!(meta.commit(put(b"na", vec![1])).now_or_never(), Some(Ok(1)));
        drop(meta);
        let meta = open(dir.path(), &disk.power_loss(1), 1 << 30);
        assert_eq!(content(&meta).await.len(), 1);
        meta.close().await.unwrap();
        assert!(meta.commit(put(b"nb", vec![1])).await.is_err());
        drop(meta);
    }

    /// Acknowledged changes survive kills, power loss and the loss of the whole index, with and without snapshots.
    #[tokio::test]
    async fn i6_acknowledged_changes_survive_power_loss_and_a_lost_index() {
        for seed in 1..25u64 {
            let mut rng = StdRng::seed_from_u64(seed);
            let dir = tempfile::tempdir().unwrap();
            let snapshot_bytes = if seed % 2 == 0 { 4_096 } else { 1 << 30 };
            let mut disk = FaultyDisk::new();
            let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
            for _ in 0..4 {
                let meta = open(dir.path(), &disk, snapshot_bytes);
                assert_eq!(content(&meta).await, model, "seed {seed}");
                for _ in 0..rng.random_range(1..60) {
                    let key = format!("n{}", rng.random_range(0..20)).into_bytes();
                    if rng.random_bool(0.3) {
                        let mut batch = Batch::default();
                        batch.delete(key.clone());
                        meta.commit(batch).await.unwrap();
                        model.remove(&key);
                    } else {
                        let value = vec![rng.random(); rng.random_range(0..300)];
                        meta.commit(put(&key, value.clone())).await.unwrap();
                        model.insert(key, value);
                    }
                }
                if rng.random_bool(0.3) {
                    meta.close().await.unwrap();
                }
                drop(meta);
                disk = if rng.random_bool(0.5) { disk.kill() } else { disk.power_loss(rng.random()) };
                if rng.random_bool(0.5) {
                    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
                }
            }
        }
    }

    #[tokio::test]
    async fn i6_a_failed_sync_ends_writes_and_keeps_reads() {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new();
        let meta = open(dir.path(), &disk, 1 << 30);
        meta.commit(put(b"na", vec![1])).await.unwrap();
        disk.strike(Verb::Sync, 1, Fault::Eio);
        assert!(matches!(meta.commit(put(b"nb", vec![2])).await, Err(MetaError::Unavailable(_))));
        assert!(matches!(meta.commit(put(b"nc", vec![3])).await, Err(MetaError::Unavailable(_))));
        assert!(meta.failed().is_some());
        assert_eq!(content(&meta).await, BTreeMap::from([(b"na".to_vec(), vec![1])]));
    }
}
