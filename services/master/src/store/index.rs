//! The index: a sled tree with every live key, as of the position that it has applied.
//!
//! Every value has the position at which it was written in front (u64, big-endian). sled's own
//! durability is not relied upon: [`APPLIED`] is part of each batch, and what the index lacks is
//! replayed from snapshot and log.

use std::ops::Bound;
use std::path::{Path, PathBuf};

use super::{DamageKind, MetaError, Position, Versioned};
use crate::limits::INDEX_FLUSH_INTERVAL;

const APPLIED: &[u8] = b"\0applied";
const BOOT: &[u8] = b"\0boot";
const CLEAN: &[u8] = b"\0clean";
/// The first byte of the index's own keys; keys of the rules never begin with it.
const OWN: u8 = 0;

/// The index of one metadata folder. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Index {
    db: sled::Db,
}

/// A stored pair: key, and value with its position in front.
pub(super) type StoredPair = (Vec<u8>, Vec<u8>);

/// Takes one key and its value.
pub(super) type PairVisitor<'a> = dyn FnMut(&[u8], Versioned) -> Result<(), MetaError> + 'a;

impl Index {
    /// Opens the index if it can be trusted, else removes it and starts with an empty one.
    ///
    /// It is trusted if this boot of the kernel wrote it (sled survives a kill of the process), or
    /// if it was closed cleanly.
    pub(super) fn open(dir: &Path, cache_bytes: u64) -> Result<Self, MetaError> {
        let path = path_in(dir);
        let config = sled::Config::new()
            .path(&path)
            .cache_capacity(cache_bytes)
            .flush_every_ms(Some(INDEX_FLUSH_INTERVAL.as_millis() as u64));

        // sled panics on some damage; snapshot and log rebuild whatever the index held.
        let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
        if let Ok(Ok(db)) = opened {
            let boot = boot_id();
            // Without an id of the boot nothing tells whether the machine went down since.
            let same_boot = !boot.is_empty()
                && db
                    .get(BOOT)
                    .ok()
                    .flatten()
                    .is_some_and(|found| found == boot);
            let clean = db.get(CLEAN).ok().flatten().is_some();
            if same_boot || clean || db.is_empty() {
                let index = Self { db };
                index.mark_in_use().map_err(MetaError::Index)?;
                return Ok(index);
            }
            tracing::warn!(
                "index is of another boot and was not closed: it is rebuilt from the log"
            );
        } else if path.try_exists().unwrap_or(true) {
            tracing::warn!("index does not open: it is rebuilt from the log");
        }

        Self::rebuilt(dir, cache_bytes)
    }

    /// Removes whatever index is in `dir` and opens an empty one. No other handle of it may be in
    /// use.
    pub(super) fn rebuilt(dir: &Path, cache_bytes: u64) -> Result<Self, MetaError> {
        let path = path_in(dir);
        let io = MetaError::io("remove the metadata index");
        if path.try_exists().map_err(&io)? {
            std::fs::remove_dir_all(&path).map_err(&io)?;
        }

        let config = sled::Config::new().path(&path).cache_capacity(cache_bytes);
        let db = config
            .flush_every_ms(Some(INDEX_FLUSH_INTERVAL.as_millis() as u64))
            .open()
            .map_err(MetaError::Index)?;
        db.insert(BOOT, boot_id()).map_err(MetaError::Index)?;
        Ok(Self { db })
    }

    fn mark_in_use(&self) -> sled::Result<()> {
        self.db.insert(BOOT, boot_id())?;
        self.db.remove(CLEAN)?;
        self.db.flush()?;
        Ok(())
    }

    /// Writes everything and marks the index as complete.
    pub(super) fn close(&self) -> Result<(), MetaError> {
        self.flush()?;
        self.db.insert(CLEAN, b"1").map_err(MetaError::Index)?;
        self.flush()
    }

    /// Hands everything that is buffered to the operating system.
    pub(super) fn flush(&self) -> Result<(), MetaError> {
        self.db.flush().map(drop).map_err(MetaError::Index)
    }

    /// Returns the position that the index has applied; 0 if it is empty.
    pub(super) fn applied(&self) -> Result<Position, MetaError> {
        let value = self.db.get(APPLIED).map_err(MetaError::Index)?;
        Ok(value
            .and_then(|value| value.first_chunk().map(|raw| u64::from_be_bytes(*raw)))
            .unwrap_or(0))
    }

    /// Returns true if the index has no key of the rules. An index that has some although it has
    /// applied nothing was left by a restore that did not end, and MUST NOT be restored into: keys
    /// that the snapshot lacks would stay.
    pub(super) fn is_empty(&self) -> Result<bool, MetaError> {
        let (pairs, _) = self.stored_after(None, 1, 0)?;
        Ok(pairs.is_empty())
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Versioned>, MetaError> {
        let value = self.db.get(key).map_err(MetaError::Index)?;
        value.map(|value| versioned(&value)).transpose()
    }

    /// Returns up to `limit` pairs in key order, whose keys begin with `prefix` and are greater
    /// than `after`.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        let start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ => Bound::Included(prefix.to_vec()),
        };
        let mut pairs = Vec::new();
        for item in self.db.range((start, Bound::Unbounded)).take(limit) {
            let (key, value) = item.map_err(MetaError::Index)?;
            if !key.starts_with(prefix) {
                break;
            }
            pairs.push((key.to_vec(), versioned(&value)?));
        }
        Ok(pairs)
    }

    /// Returns pairs as stored, in key order after `after`, without the index's own keys. Stops
    /// after `limit` pairs or once `limit_bytes` are exceeded; fewer than that means that there are
    /// no more.
    pub(super) fn stored_after(
        &self,
        after: Option<&[u8]>,
        limit: usize,
        limit_bytes: usize,
    ) -> Result<(Vec<StoredPair>, bool), MetaError> {
        let start = match after {
            Some(after) => Bound::Excluded(after.to_vec()),
            None => Bound::Included(vec![OWN + 1]),
        };
        let mut pairs = Vec::new();
        let mut bytes = 0;
        for item in self.db.range((start, Bound::Unbounded)) {
            if pairs.len() == limit || bytes > limit_bytes {
                return Ok((pairs, false));
            }
            let (key, value) = item.map_err(MetaError::Index)?;
            bytes += key.len() + value.len();
            pairs.push((key.to_vec(), value.to_vec()));
        }
        Ok((pairs, true))
    }

    /// Calls `visit` for every key of the rules.
    pub(super) fn for_each(&self, visit: &mut PairVisitor<'_>) -> Result<(), MetaError> {
        for item in self
            .db
            .range((Bound::Included(vec![OWN + 1]), Bound::Unbounded))
        {
            let (key, value) = item.map_err(MetaError::Index)?;
            visit(&key, versioned(&value)?)?;
        }
        Ok(())
    }

    /// Applies staged changes as one.
    pub(super) fn apply(&self, staged: Staged) -> Result<(), MetaError> {
        let Staged { mut changes, last } = staged;
        changes.insert(APPLIED, &last.to_be_bytes());
        self.db.apply_batch(changes).map_err(MetaError::Index)
    }

    /// Inserts pairs of a snapshot.
    pub(super) fn insert_stored(&self, pairs: Vec<StoredPair>) -> Result<(), MetaError> {
        let mut changes = sled::Batch::default();
        for (key, stored) in pairs {
            changes.insert(key, stored);
        }
        self.db.apply_batch(changes).map_err(MetaError::Index)
    }

    pub(super) fn set_applied(&self, position: Position) -> Result<(), MetaError> {
        self.db
            .insert(APPLIED, &position.to_be_bytes())
            .map(drop)
            .map_err(MetaError::Index)
    }
}

/// Changes that are applied to the index together, with the last position among them.
#[derive(Debug, Default)]
pub(super) struct Staged {
    changes: sled::Batch,
    last: Position,
}

impl Staged {
    /// Adds one change of the batch at `position`; positions MUST NOT decrease.
    pub(super) fn stage(&mut self, key: &[u8], value: Option<&[u8]>, position: Position) {
        match value {
            Some(value) => self.changes.insert(key, stored(position, value)),
            None => self.changes.remove(key),
        }
        self.last = position;
    }

    /// Counts the batch at `position` as applied, also if it changed nothing.
    pub(super) fn advance(&mut self, position: Position) {
        self.last = position;
    }
}

/// Returns a value as the index stores it.
pub(super) fn stored(position: Position, value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(8 + value.len());
    stored.extend(position.to_be_bytes());
    stored.extend(value);
    stored
}

fn versioned(stored: &[u8]) -> Result<Versioned, MetaError> {
    let (version, value) = stored
        .split_first_chunk()
        .ok_or(DamageKind::Layout("index value"))?;
    Ok(Versioned {
        version: u64::from_be_bytes(*version),
        value: value.to_vec(),
    })
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("index")
}

fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}
