//! The metadata of a folder whose snapshot and log are not whole: it is served, and never written.
//!
//! # Invariants
//! * No file of the folder is changed. What has to be written is written to a scratch folder.
//! * A batch is refused with the reason, and changes nothing.
//! * The position, and the history, are those of the batches that are served. They may be older
//!   than what storage nodes have obeyed; [`crate::domain`] tells nodes nothing that they could go
//!   by.
//! * A damaged value is an error of its key. A list leaves it out, and the reason counts it.

mod remains;

use std::path::Path;
use std::sync::Arc;

use async_trait::async_trait;
use cstore_log::Disk;
use cstore_node::metrics::CommitMetrics;
use cstore_types::error_chain;
use cstore_types::history::Point;
use tokio::sync::watch;

use super::engine::SledOptions;
use super::error::ReadOnly;
use super::links::Links;
use super::lives::{History, Lives};
use super::room::{SharedGauge, by_statvfs};
use super::scratch::Scratch;
use super::{
    Batch, Change, DamageKind, Link, MetaError, MetaStore, Observer, Position, SkipAfter,
    Versioned, WriterState,
};
use crate::limits::MAX_LOGGED_DAMAGED;
pub(super) use remains::{Folder, Remains};

/// Metadata that is only read.
#[derive(Debug)]
pub(crate) struct ReadOnlyMeta {
    remains: Remains,
    lives: Lives,
    state: watch::Sender<WriterState>,
    reason: Arc<ReadOnly>,
    commit_metrics: CommitMetrics,
}

impl ReadOnlyMeta {
    /// Opens the rest of `dir` after an open for writing was refused with `damage`, and feeds
    /// `observer` every key.
    ///
    /// # Errors
    /// `damage` if the rest of the folder must not be served, or has nothing that can be. Blocks
    /// the thread.
    pub(crate) fn open(
        dir: &Path,
        log_disk: Arc<dyn Disk>,
        options: &SledOptions,
        observer: &dyn Observer,
        damage: MetaError,
    ) -> Result<Self, MetaError> {
        Self::open_with(dir, log_disk, options, observer, damage, &by_statvfs())
    }

    /// Opens like [`Self::open`], with another way to measure the file system.
    pub(super) fn open_with(
        dir: &Path,
        log_disk: Arc<dyn Disk>,
        options: &SledOptions,
        observer: &dyn Observer,
        damage: MetaError,
        gauge: &SharedGauge,
    ) -> Result<Self, MetaError> {
        let awaits_disk = damage.is_of_the_disk();
        if !damage.leaves_a_rest() && !awaits_disk {
            return Err(damage);
        }
        let scratch = match awaits_disk {
            true => match Scratch::path_elsewhere() {
                Ok(path) => path,
                Err(_) => return Err(damage),
            },
            false => {
                Scratch::remove_leftover(dir);
                Scratch::path_in(dir)
            }
        };
        let folder = Folder {
            dir,
            log: Some(log_disk),
            scratch,
            options,
            gauge,
        };
        let opened = Remains::find(&folder).and_then(|remains| {
            observer.forget();
            feed(&remains, observer)?;
            let links = Links::starting(remains.extent.position, remains.link);
            let lives = Lives::read_readable(&remains.index, links)?;
            Ok((remains, lives))
        });
        let (remains, lives) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(%error, "the rest of the metadata cannot be served either");
                return Err(damage);
            }
        };
        let extent = remains.extent;
        let reason = Arc::new(ReadOnly { damage, extent });
        tracing::error!("{reason}");
        let state = WriterState::ReadOnly(MetaError::ReadOnly(reason.clone()));
        Ok(Self {
            remains,
            lives,
            state: watch::Sender::new(state),
            reason,
            commit_metrics: CommitMetrics::default(),
        })
    }
}

/// Shows `observer` every value that is whole. The others are logged.
fn feed(remains: &Remains, observer: &dyn Observer) -> Result<(), MetaError> {
    let mut left_out = 0;
    let mut leave_out = |key: &[u8]| {
        left_out += 1;
        if left_out <= MAX_LOGGED_DAMAGED {
            tracing::error!(key = %key.escape_ascii(), "value of the metadata is damaged");
        }
    };
    remains.for_each(&mut |key, _, value| {
        let Some(value) = value else {
            leave_out(key);
            return Ok(());
        };
        let change = Change {
            key,
            old: None,
            new: Some(&value),
        };
        if observer.follows(key) && observer.observe(change).is_err() {
            leave_out(key);
        }
        Ok(())
    })
}

#[async_trait]
impl MetaStore for ReadOnlyMeta {
    async fn commit(&self, _: Batch) -> Result<Position, MetaError> {
        Err(MetaError::ReadOnly(self.reason.clone()))
    }

    async fn get(&self, key: &[u8]) -> Result<Option<Versioned>, MetaError> {
        let found = self.remains.index.get(key)?;
        match found {
            Some(found) if found.version > self.position() => {
                let key = key.escape_ascii().to_string();
                Err(DamageKind::Value { key }.into())
            }
            found => Ok(found),
        }
    }

    async fn scan_skipping(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        skip: Option<SkipAfter>,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        let (newest, index) = (self.position(), self.remains.index.clone());
        let (prefix, after) = (prefix.to_vec(), after.map(<[u8]>::to_vec));
        let scanning = cstore_node::blocking(move || {
            index.scan_readable(&prefix, after.as_deref(), limit, skip.as_ref(), newest)
        });
        scanning.await.map_err(|_| MetaError::Closed)?
    }

    fn position(&self) -> Position {
        self.remains.extent.position
    }

    fn head(&self) -> Point {
        self.lives.head(self.position())
    }

    fn history(&self) -> History {
        self.lives.upto(self.position())
    }

    fn contains(&self, point: &Point) -> bool {
        self.lives.contains(self.position(), point)
    }

    fn link_at(&self, position: Position) -> Option<Link> {
        self.lives.link_at(position)
    }

    fn frames(&self) -> u64 {
        0
    }

    fn commit_metrics(&self) -> &CommitMetrics {
        &self.commit_metrics
    }

    fn writer_state(&self) -> watch::Receiver<WriterState> {
        self.state.subscribe()
    }

    async fn close(&self) -> Result<(), MetaError> {
        // Others may hold the store until the process ends.
        self.remains.remove();
        Ok(())
    }
}
