//! The sled engine of the metadata: opening, reading, proposing, closing.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;

use async_trait::async_trait;
use cstore_log::{Disk, Gather};
use cstore_node::commit::CommitSpans;
use cstore_node::metrics::CommitMetrics;
use cstore_types::history::Point;
use cstore_types::{CommitFacts, error_chain};
use parking_lot::Mutex;
use tokio::sync::{oneshot, watch};
use tracing::Instrument;

use super::batch::Batch;
use super::checkpoint::{Checkpoint, LogFiles, Walk};
use super::index::Index;
use super::lives::{History, Lives};
use super::queue::JobQueue;
use super::recovery::{self, OpenLog, Recovered, Survey};
use super::room::{Room, SharedGauge, by_statvfs};
use super::scratch::Scratch;
use super::snapshot;
use super::snapshot_schedule::SnapshotSchedule;
use super::writer::{self, Job, Outcome, Published, Writer};
use super::{
    Change, Link, MetaError, MetaStore, Observer, Position, SkipAfter, Versioned, WriterState,
};
use crate::limits::{
    FILES_AT_OPEN, INDEX_CACHE_BYTES, LOG_FILE_BYTES, MAX_LOG_BYTES, MIN_LOG_FILE_BYTES,
    WRITER_QUEUE,
};

/// Layout and bounds of the engine.
#[derive(Debug, Clone)]
pub(crate) struct SledOptions {
    /// Bytes of log after which a snapshot truncates it; more if the last snapshot was larger, so
    /// that the bytes written for snapshots stay in proportion to those of the log.
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
        Self {
            snapshot_bytes: 64 << 20,
            max_log_bytes: MAX_LOG_BYTES,
            file_bytes: LOG_FILE_BYTES,
            cache_bytes: INDEX_CACHE_BYTES,
        }
    }
}

/// Log, index and writer of one master. Dropped without [`MetaStore::close`], it behaves as if the
/// process was killed.
#[derive(Debug)]
pub(crate) struct SledMeta {
    index: Index,
    lives: Lives,
    writer: Mutex<WriterMode>,
    published: Published,
    abandoned: Arc<AtomicBool>,
    commits: CommitSpans,
    commit_metrics: CommitMetrics,
}

/// How the writer runs.
#[derive(Debug)]
enum WriterMode {
    Thread(Arc<JobQueue>, JoinHandle<Result<(), MetaError>>),
    /// Each caller in turn, on a disk that has one thread only.
    Callers(Box<Writer>),
    Closed,
}

impl SledOptions {
    /// Returns the free bytes that every open needs.
    fn room_at_open(&self) -> u64 {
        FILES_AT_OPEN * self.file_bytes
    }

    /// Makes the folder `dir` if it is not there, and returns the options for its file system: on a
    /// small one files of the log are small, too.
    fn in_folder(&self, dir: &Path, gauge: &SharedGauge) -> Result<Self, MetaError> {
        std::fs::create_dir_all(dir).map_err(MetaError::io("create the metadata folder"))?;
        let total = (gauge.0)(dir).map_or(u64::MAX, |space| space.total);
        let most = (total / 32).max(MIN_LOG_FILE_BYTES) / 4_096 * 4_096;
        Ok(Self {
            file_bytes: self.file_bytes.min(most),
            ..self.clone()
        })
    }
}

impl SledMeta {
    /// Opens `dir` with the log on `log_disk`, brings the index up to date, and feeds `observer`
    /// every key.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] if stored bytes cannot be used, else of the disk. Blocks the thread.
    pub(crate) fn open(
        dir: &Path,
        log_disk: Arc<dyn Disk>,
        options: &SledOptions,
        observer: Arc<dyn Observer>,
    ) -> Result<Self, MetaError> {
        Self::open_with(dir, log_disk, options, observer, by_statvfs())
    }

    /// Opens like [`SledMeta::open`], with another way to measure the file system.
    pub(super) fn open_with(
        dir: &Path,
        log_disk: Arc<dyn Disk>,
        options: &SledOptions,
        observer: Arc<dyn Observer>,
        gauge: SharedGauge,
    ) -> Result<Self, MetaError> {
        let options = &options.in_folder(dir, &gauge)?;
        let by_callers = log_disk.has_one_thread();

        // A folder that is refused stays as it is.
        Scratch::remove_leftover(dir);
        let survey = survey(dir, &log_disk, options, &gauge)?;

        // BEFORE anything else is written: on a full disk the open itself needs room.
        snapshot::remove_unfinished(dir)?;
        let needed = options.room_at_open() + survey.index_bytes();
        let room = Room::open(dir, gauge.clone(), options.file_bytes, needed);
        let recovered = survey.recover(dir, options, &gauge)?;
        let recovered = feed_or_rebuild(recovered, dir, options, &*observer)?;
        let (index, position) = (recovered.index.clone(), recovered.position);
        let snapshot_bytes = recovered.snapshot_bytes;
        let OpenLog {
            log,
            files,
            links,
            uncovered,
        } = recovered.into_log(log_disk, options)?;
        let commit_metrics = CommitMetrics::default();
        let counted = commit_metrics.clone();
        log.observe(Box::new(move |frame| {
            counted.observe(frame.took, frame.bytes)
        }));

        let published = Published {
            position: Arc::new(AtomicU64::new(position)),
            frames: Arc::new(AtomicU64::new(log.durable_seq())),
            state: watch::Sender::new(WriterState::Writable),
        };
        let log = Arc::new(log);
        let checkpoint = Checkpoint {
            dir: dir.to_path_buf(),
            index: index.clone(),
            log: log.clone(),
            files: Arc::new(LogFiles::new(files)),
            walk: Arc::new(Walk::default()),
            last_bytes: Arc::new(AtomicU64::new(snapshot_bytes)),
            cancelled: Arc::default(),
            is_awaited: Arc::default(),
            gauge,
        };
        let abandoned = Arc::new(AtomicBool::new(false));
        let lives = Lives::read(&index, links)?;
        let number = cstore_types::nonce().map_err(MetaError::Random)?;
        let writer = Writer {
            next_life: Some(lives.next(number)),
            lives: lives.clone(),
            index: index.clone(),
            log,
            observer,
            published: published.clone(),
            checkpoint,
            room,
            snapshot_bytes: options.snapshot_bytes,
            file_bytes: options.file_bytes,
            schedule: SnapshotSchedule::new(snapshot_bytes, uncovered),
            applied: position,
            lacked_room: false,
            checkpointing: None,
            abandoned: abandoned.clone(),
            by_callers,
            gather: Gather::default(),
        };
        let mode = if by_callers {
            WriterMode::Callers(Box::new(writer))
        } else {
            on_a_thread(writer)?
        };
        let commits = CommitSpans::default();
        Ok(Self {
            index,
            lives,
            writer: Mutex::new(mode),
            published,
            abandoned,
            commits,
            commit_metrics,
        })
    }

    /// Ends the writer if a read made the index unusable, so that the master starts again. Returns the
    /// result of the read.
    fn checked<T>(&self, read: Result<T, MetaError>) -> Result<T, MetaError> {
        if let Err(error) = &read {
            writer::end_with_the_index(&self.published.state, error);
        }
        read
    }

    /// Hands a batch to the writer and returns where its outcome will come.
    fn propose(&self, batch: Batch) -> Result<oneshot::Receiver<Outcome>, MetaError> {
        let (answer, outcome) = oneshot::channel();
        let job = Job { batch, answer };
        match &mut *self.writer.lock() {
            WriterMode::Thread(queue, _) => queue.push(job)?,
            WriterMode::Callers(writer) => writer.turn(vec![job]),
            WriterMode::Closed => return Err(MetaError::Closed),
        }
        Ok(outcome)
    }
}

#[cfg(test)]
impl SledMeta {
    /// Hands batches to the writer as one group, on a disk that has one thread.
    pub(super) fn propose_together(&self, batches: Vec<Batch>) -> Vec<oneshot::Receiver<Outcome>> {
        let mut jobs = Vec::new();
        let mut outcomes = Vec::new();
        for batch in batches {
            let (answer, outcome) = oneshot::channel();
            jobs.push(Job { batch, answer });
            outcomes.push(outcome);
        }
        match &mut *self.writer.lock() {
            WriterMode::Callers(writer) => writer.turn(jobs),
            WriterMode::Thread(..) | WriterMode::Closed => panic!("the disk has one thread"),
        }
        outcomes
    }
}

/// Surveys the folder. If sled, which writes when it is opened, finds no space, cuts the ballast and
/// tries once more.
fn survey(
    dir: &Path,
    log_disk: &Arc<dyn Disk>,
    options: &SledOptions,
    gauge: &SharedGauge,
) -> Result<Survey, MetaError> {
    match recovery::survey(dir, log_disk, options, gauge) {
        Err(error) if error.is_without_room() => {
            let gauge_of_room = gauge.clone();
            Room::open(
                dir,
                gauge_of_room,
                options.file_bytes,
                options.room_at_open(),
            );
            recovery::survey(dir, log_disk, options, gauge)
        }
        found => found,
    }
}

/// Feeds the keys of the index to `observer`. Makes the index anew if a value of it is damaged.
fn feed_or_rebuild(
    recovered: Recovered,
    dir: &Path,
    options: &SledOptions,
    observer: &dyn Observer,
) -> Result<Recovered, MetaError> {
    match feed(&recovered.index, observer) {
        Ok(()) => Ok(recovered),
        Err(error) if error.is_of_index() => {
            tracing::warn!(error = %error_chain(&error), "index of the metadata is made anew");
            observer.forget();
            let recovered = recovered.rebuild(dir, options)?;
            feed(&recovered.index, observer)?;
            Ok(recovered)
        }
        Err(error) => Err(error),
    }
}

/// Shows `observer` every key of the index, and verifies every value of it.
fn feed(index: &Index, observer: &dyn Observer) -> Result<(), MetaError> {
    index.for_each(&mut |key, value| {
        if !observer.follows(key) {
            return Ok(());
        }
        observer.observe(Change {
            key,
            old: None,
            new: Some(&value),
        })
    })
}

fn on_a_thread(writer: Writer) -> Result<WriterMode, MetaError> {
    let queue = Arc::new(JobQueue::new(WRITER_QUEUE));
    let taken = queue.clone();
    let state = writer.published.state.clone();
    let run = move || {
        let ran = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| writer.run(&taken)));
        let ran = ran.unwrap_or_else(|_| {
            // A defect. Whether the last group is applied everywhere is unknown, so nothing may
            // follow it.
            writer::end(&state, MetaError::Closed);
            Err(MetaError::Closed)
        });
        taken.abandon();
        ran
    };
    let thread = std::thread::Builder::new()
        .name("metadata-writer".to_owned())
        .spawn(run)
        .map_err(MetaError::io("start the metadata writer"))?;
    Ok(WriterMode::Thread(queue, thread))
}

#[async_trait]
impl MetaStore for SledMeta {
    async fn commit(&self, batch: Batch) -> Result<Position, MetaError> {
        let outcome = self.propose(batch)?;
        let span = self.commits.begin();
        let (position, frame) = outcome
            .instrument(span.clone())
            .await
            .map_err(|_| MetaError::Closed)??;
        // All batches of a frame are one group of the log, and each record is the batch of one
        // request.
        self.commits.landed(
            &span,
            CommitFacts {
                requests: frame.records,
                ..frame
            },
        );
        Ok(position)
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, MetaError> {
        self.checked(self.index.get(key))
    }

    async fn scan_skipping(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        skip: Option<SkipAfter>,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        let index = self.index.clone();
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        let scanning = cstore_node::blocking(move || {
            index.scan(&prefix, after.as_deref(), limit, skip.as_ref())
        });
        let scanned = scanning.await.map_err(|_| MetaError::Closed)?;
        self.checked(scanned)
    }

    fn position(&self) -> Position {
        self.published.position.load(Ordering::Acquire)
    }

    fn head(&self) -> Point {
        // In this order: see `Lives::upto`.
        let position = self.position();
        self.lives.head(position)
    }

    fn history(&self) -> History {
        // In this order: see `Lives::upto`.
        let position = self.position();
        self.lives.upto(position)
    }

    fn contains(&self, point: &Point) -> bool {
        // In this order: see `Lives::upto`.
        let position = self.position();
        self.lives.contains(position, point)
    }

    fn link_at(&self, position: Position) -> Option<Link> {
        self.lives.link_at(position)
    }

    fn frames(&self) -> u64 {
        self.published.frames.load(Ordering::Relaxed)
    }

    fn commit_metrics(&self) -> &CommitMetrics {
        &self.commit_metrics
    }

    fn writer_state(&self) -> watch::Receiver<WriterState> {
        self.published.state.subscribe()
    }

    async fn close(&self) -> Result<(), MetaError> {
        let mode = std::mem::replace(&mut *self.writer.lock(), WriterMode::Closed);
        match mode {
            WriterMode::Thread(queue, thread) => {
                // The thread writes what waits and ends.
                queue.close();
                let joined = tokio::task::spawn_blocking(move || thread.join()).await;
                joined
                    .ok()
                    .and_then(Result::ok)
                    .unwrap_or(Err(MetaError::Closed))
            }
            WriterMode::Callers(writer) => writer.close(),
            WriterMode::Closed => Ok(()),
        }
    }
}

impl Drop for SledMeta {
    fn drop(&mut self) {
        self.abandoned.store(true, Ordering::Relaxed);
        let mode = std::mem::replace(self.writer.get_mut(), WriterMode::Closed);
        if let WriterMode::Thread(queue, thread) = mode {
            queue.close();
            let _ = thread.join();
        }
    }
}
