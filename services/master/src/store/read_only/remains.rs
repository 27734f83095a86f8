//! Remains: what a folder still has whose snapshot and log are not whole, as an index in a scratch
//! folder.
//!
//! ```text
//! index      1 ───────────── I          goes on with the log: I+1 … up to the first hole behind I
//! snapshot   1 ──────── S               goes on with the log: S+1 … up to the first hole behind S
//! ```
//! Whichever reaches further is used. If both reach as far, snapshot and log are, which are verified
//! as a whole. An index or a snapshot that the log contradicts is of another copy, and is not used.

use std::cmp::Reverse;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cstore_log::Disk;
use cstore_types::error_chain;

use crate::store::engine::SledOptions;
use crate::store::error::Extent;
use crate::store::index::{Applied, FoundIndex, Index, decode_stored};
use crate::store::keys::{CLUSTER, ClusterRecord};
use crate::store::links::Links;
use crate::store::lives::Lives;
use crate::store::recovery::{LogOwner, Truth, replay_upto, restore_snapshot};
use crate::store::room::SharedGauge;
use crate::store::scratch::Scratch;
use crate::store::snapshot::{self, Found};
use crate::store::{DamageKind, Link, MetaError, Position, Versioned};

/// A folder whose remains are looked for. Nothing in it is changed.
#[derive(Debug)]
pub(in crate::store) struct Folder<'a> {
    pub(in crate::store) dir: &'a Path,
    /// The log; `None` if there is none.
    pub(in crate::store) log: Option<Arc<dyn Disk>>,
    /// Path of the scratch folder that is made.
    pub(in crate::store) scratch: PathBuf,
    pub(in crate::store) options: &'a SledOptions,
    pub(in crate::store) gauge: &'a SharedGauge,
}

/// Metadata that a folder still has.
#[derive(Debug)]
pub(in crate::store) struct Remains {
    pub(in crate::store) index: Index,
    /// Link of the last batch; 0 if it has none.
    pub(in crate::store) link: Link,
    pub(in crate::store) extent: Extent,
    /// Dropped AFTER the index, which lies in it.
    scratch: Scratch,
}

/// Takes one key, its value as stored, and the value if it is whole.
type RestVisitor<'a> = dyn FnMut(&[u8], &[u8], Option<Versioned>) -> Result<(), MetaError> + 'a;

/// A part of a folder from which an index can be made, and how far that reaches.
#[derive(Debug, Clone, Copy)]
struct Source {
    part: Part,
    /// Position and link of the last batch in the part itself.
    at: (Position, Link),
    /// Position that the log adds to it without a hole.
    reach: Position,
    /// Nothing proves that no later batch was acknowledged.
    may_lag: bool,
    /// Bytes that the index will take, roughly.
    bytes: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Part {
    Index,
    Snapshot,
}

impl Remains {
    /// Finds the most that `folder` still has, and makes an index of it.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] if nothing can be used or two parts contradict each other; `Full` if
    /// there is no room for another index; `Io`.
    pub(in crate::store) fn find(folder: &Folder<'_>) -> Result<Self, MetaError> {
        let found = match snapshot::look(folder.dir) {
            // Only one that is whole is used.
            Ok(Some(found)) => snapshot::verify(folder.dir).map(|()| Some(found)),
            other => other,
        };
        let mut truth = folder.open_truth(found.clone());
        let mut newest = truth.as_ref().map_or(0, Truth::last);
        let mut sources = Vec::new();
        let mut copy = folder.copy_index()?;
        if let Some(index) = copy.look(folder.options) {
            newest = newest.max(index.applied.position);
            sources.extend(Source::of_index(
                folder.dir,
                &index,
                truth.as_mut(),
                &found,
            )?);
        }
        sources.extend(Source::of_snapshot(truth.as_ref(), &found));
        newest = sources
            .iter()
            .fold(newest, |newest, source| newest.max(source.at.0));
        // At equal reach, prefer the verified source.
        sources.sort_by_key(|source| (Reverse(source.reach), source.part == Part::Index));

        let mut failure = DamageKind::Layout("metadata folder").into();
        for source in sources {
            match catch(|| source.make(folder, &mut copy, truth.as_ref(), newest)) {
                Ok(remains) => return Ok(remains),
                Err(error) => {
                    let text = error_chain(&error);
                    tracing::warn!(error = %text, part = ?source.part, "a part of the metadata cannot be used");
                    failure = error;
                }
            }
        }
        Err(failure)
    }

    /// Removes the files of the index, which is not used any more.
    pub(in crate::store) fn remove(&self) {
        self.scratch.remove();
    }

    /// Calls `visit` for every key in key order, with its value if that is whole.
    ///
    /// # Errors
    /// Those of `visit` and of the index.
    pub(in crate::store) fn for_each(&self, visit: &mut RestVisitor<'_>) -> Result<(), MetaError> {
        let position = self.extent.position;
        self.index.for_each_stored(&mut |key, stored| {
            let value = decode_stored(key, stored).ok();
            // A value from behind the last batch is none of this index.
            let value = value.filter(|value| value.version <= position);
            visit(key, stored, value)
        })
    }
}

impl Folder<'_> {
    /// Opens snapshot and log; `None` if the log cannot be read.
    fn open_truth(&self, found: Result<Option<Found>, MetaError>) -> Option<Truth> {
        let log = self.log.as_ref()?;
        let owner = LogOwner::find(self.dir, &**log);
        let opened =
            owner.and_then(|owner| Truth::open(self.dir, log, &owner, found, self.options));
        if let Err(error) = &opened {
            let error = error_chain(error);
            tracing::warn!(%error, "log of the metadata cannot be read");
        }
        opened.ok()
    }

    fn copy_index(&self) -> Result<IndexCopy, MetaError> {
        let scratch = Scratch::with_index(self.scratch.clone(), self.dir, self.gauge)?;
        Ok(IndexCopy {
            index: None,
            scratch: Some(scratch),
        })
    }
}

/// A copy of the index of a folder, opened or not.
#[derive(Debug)]
struct IndexCopy {
    /// Dropped BEFORE the folder in which it lies.
    index: Option<Index>,
    /// `None` after the copy was used or given up.
    scratch: Option<Scratch>,
}

impl IndexCopy {
    /// Opens the copy; `None` if the index cannot be used.
    fn look(&mut self, options: &SledOptions) -> Option<LookedAt> {
        let scratch = self.scratch.as_ref()?;
        let look = || {
            let FoundIndex {
                index,
                applied,
                is_trusted,
                is_closed,
                ..
            } = Index::find(scratch.path(), options.cache_bytes)?;
            let Applied { position, link, .. } = applied;
            let lives = Lives::read_readable(&index, Links::starting(position, link))?;
            let found = LookedAt {
                lives,
                applied,
                is_trusted,
                is_closed,
            };
            Ok((index, found))
        };
        match catch(look) {
            Ok((index, found)) => {
                self.index = Some(index);
                let is_used = found.applied.position > 0 && found.applied.is_current;
                is_used.then_some(found)
            }
            Err(error) => {
                let error = error_chain(&error);
                tracing::warn!(%error, "index of the metadata cannot be used");
                None
            }
        }
    }

    /// Hands out the index, and the folder in which it lies.
    fn take(&mut self) -> Option<(Index, Scratch)> {
        self.index.take().zip(self.scratch.take())
    }
}

/// An index as it was found.
#[derive(Debug)]
struct LookedAt {
    lives: Lives,
    applied: Applied,
    is_trusted: bool,
    is_closed: bool,
}

impl LookedAt {
    /// Returns true if the log knows that the index is of another copy.
    fn is_of_other_log(&self, truth: &Truth) -> bool {
        let Applied { position, link, .. } = self.applied;
        let is_other = |at: Link| at != 0 && link != 0 && at != link;
        let is_ahead = truth
            .end()
            .filter(|end| end.position <= position)
            .is_some_and(|end| !self.lives.contains(position, &end));
        is_ahead
            || truth.is_foreign((position, link))
            || truth.link_at(position).is_some_and(is_other)
    }

    /// Returns true if one of index and snapshot has what the other one has.
    fn is_one_history_with(&self, dir: &Path, covered: Position) -> Result<bool, MetaError> {
        let position = self.applied.position;
        let theirs = Lives::of_snapshot(dir)?;
        Ok(match covered <= position {
            true => self.lives.contains(position, &theirs.head(covered)),
            false => theirs.contains(covered, &self.lives.head(position)),
        })
    }
}

impl Source {
    /// Judges the index as a source. `None` if it is of another copy than the log.
    ///
    /// # Errors
    /// `Strangers` if index and snapshot contradict each other, and the log does not know either.
    fn of_index(
        dir: &Path,
        index: &LookedAt,
        truth: Option<&mut Truth>,
        found: &Result<Option<Found>, MetaError>,
    ) -> Result<Option<Self>, MetaError> {
        let Applied { position, link, .. } = index.applied;
        let truth = match truth {
            Some(truth) => {
                truth.judge_snapshot_by(dir, index.applied, &index.lives, index.is_trusted)?;
                if index.is_of_other_log(truth) {
                    tracing::warn!(
                        applied = position,
                        "index of the metadata is of another copy"
                    );
                    return Ok(None);
                }
                Some(&*truth)
            }
            None => None,
        };
        let covered = match (truth, found) {
            (Some(truth), _) => truth.covered().0,
            (None, Ok(Some(found))) => found.position,
            (None, _) => 0,
        };
        if covered > 0 && !index.is_one_history_with(dir, covered)? {
            return Err(DamageKind::Strangers.into());
        }
        let is_ended_by_log = truth.is_some_and(|truth| truth.last() >= position);
        Ok(Some(Self {
            part: Part::Index,
            at: (position, link),
            reach: truth.map_or(position, |truth| truth.reach_whole((position, link))),
            may_lag: !is_ended_by_log && !index.is_closed,
            bytes: 0,
        }))
    }

    /// Judges the snapshot as a source, or the log alone if it begins with the first batch.
    fn of_snapshot(
        truth: Option<&Truth>,
        found: &Result<Option<Found>, MetaError>,
    ) -> Option<Self> {
        let source = match (truth, found) {
            (Some(truth), _) => {
                let at = truth.covered();
                let is_used = truth.has_beginning() && !truth.is_of_first_format();
                is_used.then(|| Self {
                    part: Part::Snapshot,
                    at,
                    reach: truth.reach_whole(at),
                    may_lag: false,
                    bytes: truth.bytes(),
                })
            }
            (None, Ok(Some(found))) => Some(Self {
                part: Part::Snapshot,
                at: (found.position, found.link),
                reach: found.position,
                may_lag: true,
                bytes: found.bytes,
            }),
            (None, _) => None,
        };
        source.filter(|source| source.reach > 0)
    }

    /// Makes an index of the source, and checks that it is one of a cluster.
    fn make(
        self,
        folder: &Folder<'_>,
        copy: &mut IndexCopy,
        truth: Option<&Truth>,
        newest: Position,
    ) -> Result<Remains, MetaError> {
        let cache_bytes = folder.options.cache_bytes;
        // An index that is not used makes way for the other one.
        let copy = copy.take();
        let (index, scratch) = match self.part {
            Part::Index => match copy {
                Some(copy) => copy,
                None => {
                    let scratch =
                        Scratch::with_index(folder.scratch.clone(), folder.dir, folder.gauge)?;
                    let found = Index::find(scratch.path(), cache_bytes)?;
                    (found.index, scratch)
                }
            },
            Part::Snapshot => {
                drop(copy);
                let scratch =
                    Scratch::create(folder.scratch.clone(), 2 * self.bytes, folder.gauge)?;
                let index = Index::rebuilt(scratch.path(), cache_bytes)?;
                restore_snapshot(folder.dir, &index, self.at)?;
                (index, scratch)
            }
        };
        if let Some(truth) = truth {
            replay_upto(&index, truth, self.at.0, self.reach)?;
        }
        let Applied { position, link, .. } = index.applied()?;
        let cluster = index.get(CLUSTER)?;
        let cluster = cluster.ok_or(DamageKind::Layout("record of the cluster"))?;
        ClusterRecord::decode(&cluster.value)?;

        let mut remains = Remains {
            index,
            link,
            extent: Extent {
                position,
                newest,
                unused: truth.map_or(0, |truth| truth.n_whole_behind(position)),
                may_lag: self.may_lag,
                damaged: 0,
            },
            scratch,
        };
        let mut damaged = 0;
        remains.for_each(&mut |_, _, value| {
            damaged += u64::from(value.is_none());
            Ok(())
        })?;
        remains.extent.damaged = damaged;
        Ok(remains)
    }
}

/// Runs `work` on an index that may be damaged: sled panics on some damage.
fn catch<T>(work: impl FnOnce() -> Result<T, MetaError>) -> Result<T, MetaError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|_| {
        let panicked = sled::Error::Unsupported("sled panicked".to_owned());
        Err(MetaError::Index(panicked))
    })
}
