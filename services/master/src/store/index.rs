//! The index: a sled tree with every live key, as of the position that it has applied.
//!
//! ```text
//! value      position at which it was written u64 big-endian · value · CRC-32C u32 of key, position and value
//! \0applied  position u64 big-endian · its link u64 big-endian · format u8, 2 · CRC-32C u32 of all before
//! \0boot     id of the kernel's boot · \0clean: the index was closed
//! ```
//! sled's own durability is not relied upon: what the index lacks is replayed from snapshot and log.
//! Each value is verified wherever it is read. One that does not match is an error of its key, and
//! the next open makes the whole index anew.
//!
//! Invariants
//! * Changes reach sled in the order of the log, [`APPLIED`] AFTER those that it covers. Of the record
//!   of a store only the last value of a group is applied. sled recovers a prefix of its own log, so
//!   after a kill every batch up to `APPLIED` is there. Parts of later batches may be there as well;
//!   replaying them again changes nothing.
//!   If the log has lost such a batch as well, a read-only master may show a part of it: its new values
//!   are left out, but what they replaced is gone. Up to [`INDEX_FLUSH_INTERVAL`] of the newest batches
//!   are in the log only.
//! * Readers see a group of batches wholly or not at all: `apply` excludes them.
//!
//! Why not a `sled::Batch`: each one makes sled write and sync its buffer at once, beside the sync of
//! the log that a commit waits for.

use std::collections::HashMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use parking_lot::{Condvar, Mutex, RwLock};

use super::keys::STORES;
use super::{DamageKind, Link, MetaError, Position, SkipAfter, Versioned};
use crate::limits::{INDEX_FLUSH_INTERVAL, INDEX_OPEN_PAUSE, INDEX_OPEN_TRIES};

const APPLIED: &[u8] = b"\0applied";
const BOOT: &[u8] = b"\0boot";
const CLEAN: &[u8] = b"\0clean";
/// The first byte of the index's own keys; keys of the rules never begin with it.
const OWN: u8 = 0;
/// Format of an index whose values have checksums. Those of format 1 have none.
const FORMAT: u8 = 2;
/// Bytes of [`APPLIED`] in front of its checksum.
const APPLIED_LEN: usize = 17;
const CRC_LEN: usize = 4;

/// The index of one metadata folder. Clones share it.
#[derive(Debug, Clone)]
pub(super) struct Index {
    db: sled::Db,
    /// Held for writing while changes are applied.
    applying: Arc<RwLock<()>>,
    /// A value was found damaged: the next open makes the index anew.
    is_damaged: Arc<AtomicBool>,
}

/// A stored pair: key, and value as it is stored.
pub(super) type StoredPair = (Vec<u8>, Vec<u8>);

/// Takes one key and its value.
pub(super) type PairVisitor<'a> = dyn FnMut(&[u8], Versioned) -> Result<(), MetaError> + 'a;

/// Takes one key and its value as it is stored, which is not verified.
pub(super) type StoredVisitor<'a> = dyn FnMut(&[u8], &[u8]) -> Result<(), MetaError> + 'a;

/// Place up to which an index has applied the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Applied {
    /// 0 if the index is empty.
    pub(super) position: Position,
    /// Link of the batch at the position; 0 if it is not known.
    pub(super) link: Link,
    /// False for an index whose values have no checksums, of a program before format 2.
    pub(super) is_current: bool,
}

/// An index as an open finds it. Nothing was written to it.
#[derive(Debug)]
pub(super) struct FoundIndex {
    pub(super) index: Index,
    pub(super) applied: Applied,
    /// True if the index has no key.
    pub(super) is_empty: bool,
    /// This boot of the kernel wrote it, since sled survives a kill of the process, or it was
    /// closed cleanly. Nothing else says that all of it is there.
    pub(super) is_trusted: bool,
    /// It was closed cleanly, and has every batch that was acknowledged until then.
    pub(super) is_closed: bool,
}

impl Index {
    /// Opens the index in `dir` as it is; an empty one if there is none.
    ///
    /// # Errors
    /// [`MetaError::Index`] or `Damaged` if it cannot be read.
    pub(super) fn find(dir: &Path, cache_bytes: u64) -> Result<FoundIndex, MetaError> {
        let config = config(dir, cache_bytes);
        let open = || {
            // sled panics on some damage; snapshot and log rebuild whatever the index held.
            let opened = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| config.open()));
            let panicked = |_| sled::Error::Unsupported("sled panicked".to_owned());
            opened.map_err(panicked).and_then(|db| db)
        };
        let mut db = open();
        for _ in 0..INDEX_OPEN_TRIES {
            if !matches!(db, Err(sled::Error::Io(_))) {
                break;
            }
            // sled gives its lock back a little after its last handle is gone.
            Condvar::new().wait_for(&mut Mutex::new(()).lock(), INDEX_OPEN_PAUSE);
            db = open();
        }
        let index = Self::over(db.map_err(MetaError::Index)?);

        let mark = |key| index.db.get(key).map_err(MetaError::Index);
        let boot = boot_id();
        // Without an id of the boot nothing tells whether the machine went down since.
        let same_boot = !boot.is_empty() && mark(BOOT)?.is_some_and(|of| of == boot);
        let is_closed = mark(CLEAN)?.is_some();
        let is_trusted = same_boot || is_closed;
        Ok(FoundIndex {
            is_closed,
            applied: index.applied()?,
            is_empty: index.is_empty()?,
            is_trusted,
            index,
        })
    }

    /// Removes whatever index is in `dir` and opens an empty one. No other handle of it may be in
    /// use.
    pub(super) fn rebuilt(dir: &Path, cache_bytes: u64) -> Result<Self, MetaError> {
        let path = path_in(dir);
        let io = MetaError::io("remove the metadata index");
        if path.try_exists().map_err(&io)? {
            std::fs::remove_dir_all(&path).map_err(&io)?;
        }

        let index = Self::over(config(dir, cache_bytes).open().map_err(MetaError::Index)?);
        index.mark_in_use()?;
        Ok(index)
    }

    fn over(db: sled::Db) -> Self {
        Self {
            db,
            applying: Arc::default(),
            is_damaged: Arc::default(),
        }
    }

    /// Notes that this boot of the kernel writes to the index.
    pub(super) fn mark_in_use(&self) -> Result<(), MetaError> {
        let mark = || {
            self.db.insert(BOOT, boot_id())?;
            self.db.remove(CLEAN)?;
            self.db.flush().map(drop)
        };
        mark().map_err(MetaError::Index)
    }

    /// Writes everything and marks the index as complete.
    pub(super) fn close(&self) -> Result<(), MetaError> {
        self.flush()?;
        if self.is_damaged.load(Ordering::Relaxed) {
            return Ok(());
        }
        self.db.insert(CLEAN, b"1").map_err(MetaError::Index)?;
        self.flush()
    }

    /// Hands everything that is buffered to the operating system.
    pub(super) fn flush(&self) -> Result<(), MetaError> {
        self.db.flush().map(drop).map_err(MetaError::Index)
    }

    /// Returns the place up to which the index has applied the log.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] if the mark of it cannot be read.
    pub(super) fn applied(&self) -> Result<Applied, MetaError> {
        let Some(stored) = self.db.get(APPLIED).map_err(MetaError::Index)? else {
            return Ok(Applied {
                is_current: true,
                ..Applied::default()
            });
        };
        decode_applied(&stored).ok_or_else(|| DamageKind::Layout("applied position").into())
    }

    /// Returns true if the index has no key of the rules. An index that has some although it has
    /// applied nothing was left by a restore that did not end, and MUST NOT be restored into: keys
    /// that the snapshot lacks would stay.
    fn is_empty(&self) -> Result<bool, MetaError> {
        let (pairs, _) = self.stored_after(None, 1, 0)?;
        Ok(pairs.is_empty())
    }

    pub(super) fn get(&self, key: &[u8]) -> Result<Option<Versioned>, MetaError> {
        let value = {
            let _whole_groups = self.applying.read();
            self.db.get(key).map_err(MetaError::Index)?
        };
        value.map(|value| self.verified(key, &value)).transpose()
    }

    /// Returns up to `limit` pairs in key order, whose keys begin with `prefix` and are greater
    /// than `after`. Goes on after the key that `skip` returns for a pair.
    pub(super) fn scan(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        skip: Option<&SkipAfter>,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        self.scan_pairs(prefix, after, limit, skip, None)
    }

    /// Returns pairs like [`Self::scan`], without those whose values are damaged or from behind the
    /// batch at `newest`.
    pub(super) fn scan_readable(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        skip: Option<&SkipAfter>,
        newest: Position,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        self.scan_pairs(prefix, after, limit, skip, Some(newest))
    }

    fn scan_pairs(
        &self,
        prefix: &[u8],
        after: Option<&[u8]>,
        limit: usize,
        skip: Option<&SkipAfter>,
        readable_upto: Option<Position>,
    ) -> Result<Vec<(Vec<u8>, Versioned)>, MetaError> {
        let mut start = match after {
            Some(after) if after >= prefix => Bound::Excluded(after.to_vec()),
            _ if prefix.is_empty() => Bound::Included(vec![OWN + 1]),
            _ => Bound::Included(prefix.to_vec()),
        };
        let mut pairs = Vec::new();
        let _whole_groups = self.applying.read();
        'seek: loop {
            for item in self.db.range((start, Bound::Unbounded)) {
                if pairs.len() == limit {
                    return Ok(pairs);
                }
                let (key, value) = item.map_err(MetaError::Index)?;
                if !key.starts_with(prefix) {
                    return Ok(pairs);
                }
                match self.verified(&key, &value) {
                    Ok(value) if readable_upto.is_some_and(|newest| value.version > newest) => {
                        continue;
                    }
                    Ok(value) => pairs.push((key.to_vec(), value)),
                    Err(_) if readable_upto.is_some() => continue,
                    Err(error) => return Err(error),
                }
                // A place before the key would make the scan go round in circles.
                let place = skip.and_then(|skip| skip(&key));
                if let Some(place) = place.filter(|place| place.as_slice() > &*key) {
                    start = Bound::Excluded(place);
                    continue 'seek;
                }
            }
            return Ok(pairs);
        }
    }

    /// Returns pairs as stored, not verified, in key order after `after`, without the index's own
    /// keys. Stops after `limit` pairs or once `limit_bytes` are exceeded; fewer than that means
    /// that there are no more.
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
        self.for_each_stored(&mut |key, stored| visit(key, self.verified(key, stored)?))
    }

    /// Calls `visit` for every key of the rules in key order, with its value as stored.
    pub(super) fn for_each_stored(&self, visit: &mut StoredVisitor<'_>) -> Result<(), MetaError> {
        let rules = (Bound::Included(vec![OWN + 1]), Bound::Unbounded);
        for item in self.db.range(rules) {
            let (key, stored) = item.map_err(MetaError::Index)?;
            visit(&key, &stored)?;
        }
        Ok(())
    }

    /// Returns the size of all pairs of the rules in a snapshot, in bytes, without checksums of blocks.
    /// Reads the whole index.
    pub(super) fn bytes_of_pairs(&self) -> Result<u64, MetaError> {
        const LENGTHS: usize = 8;

        let mut bytes = 0;
        self.for_each_stored(&mut |key, stored| {
            bytes += (LENGTHS + key.len() + stored.len()) as u64;
            Ok(())
        })?;
        Ok(bytes)
    }

    /// Returns a stored value without its position and checksum.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] if the checksum does not match. The index is not trusted any more
    /// then.
    pub(super) fn verified(&self, key: &[u8], stored: &[u8]) -> Result<Versioned, MetaError> {
        decode_stored(key, stored).map_err(|damage| {
            self.distrust(&damage);
            damage.into()
        })
    }

    /// Makes the next open build the index anew if a value of it is damaged.
    pub(super) fn distrust_for(&self, error: &MetaError) {
        if let MetaError::Damaged(damage @ DamageKind::Value { .. }) = error {
            self.distrust(damage);
        }
    }

    /// Makes the next open build the index anew.
    pub(super) fn distrust(&self, why: &DamageKind) {
        if !self.is_damaged.swap(true, Ordering::Relaxed) {
            tracing::error!(error = %why, "index of the metadata is damaged");
            // If this write fails, the next open finds the damage again.
            let _ = self.db.remove(BOOT).and_then(|_| self.db.flush());
        }
    }

    /// Applies staged changes. Readers see all of them or none.
    ///
    /// # Errors
    /// [`MetaError::Index`]; a part may have been applied then, and no batch counts as applied. The
    /// index MUST NOT be used any more: the next open replays the batches.
    pub(super) fn apply(&self, staged: Staged) -> Result<(), MetaError> {
        let Staged { changes, last, .. } = staged;
        let _no_readers = self.applying.write();
        for (key, value) in changes {
            match value {
                Some(value) => self.db.insert(key, value),
                None => self.db.remove(key),
            }
            .map_err(MetaError::Index)?;
        }
        self.set_applied(last.0, last.1)
    }

    /// Inserts pairs of a snapshot.
    pub(super) fn insert_stored(&self, pairs: Vec<StoredPair>) -> Result<(), MetaError> {
        let mut changes = sled::Batch::default();
        for (key, stored) in pairs {
            changes.insert(key, stored);
        }
        self.db.apply_batch(changes).map_err(MetaError::Index)
    }

    pub(super) fn set_applied(&self, position: Position, link: Link) -> Result<(), MetaError> {
        self.db
            .insert(APPLIED, encode_applied((position, link)))
            .map(drop)
            .map_err(MetaError::Index)
    }
}

/// Changes that are applied to the index together, with the last position among them.
#[derive(Debug, Default)]
pub(super) struct Staged {
    /// Keys with their new values as stored, `None` for removed ones, in the order of the log.
    changes: Vec<(Vec<u8>, Option<Vec<u8>>)>,
    /// Places in `changes` of the records of stores, by key. Nearly each batch raises the seal of a
    /// store: a later value replaces the earlier one in its place. After a kill in the middle the
    /// group is replayed whole.
    stores: HashMap<Vec<u8>, usize>,
    last: (Position, Link),
}

impl Staged {
    /// Adds one change of the batch at `position`; positions MUST NOT decrease.
    pub(super) fn stage(&mut self, key: &[u8], value: Option<&[u8]>, position: Position) {
        let value = value.map(|value| stored(key, position, value));
        let place = self.stores.get(key);
        if let Some((_, earlier)) = place.and_then(|place| self.changes.get_mut(*place)) {
            *earlier = value;
            return;
        }
        if key.first() == Some(&STORES) {
            self.stores.insert(key.to_vec(), self.changes.len());
        }
        self.changes.push((key.to_vec(), value));
    }

    /// Counts the batch at `position` as applied, also if it changed nothing.
    pub(super) fn advance(&mut self, position: Position, link: Link) {
        self.last = (position, link);
    }
}

/// Returns a value as the index stores it.
pub(super) fn stored(key: &[u8], position: Position, value: &[u8]) -> Vec<u8> {
    let mut stored = Vec::with_capacity(8 + value.len() + CRC_LEN);
    stored.extend(position.to_be_bytes());
    stored.extend(value);
    let crc = checksum(key, &stored);
    stored.extend(crc.to_le_bytes());
    stored
}

/// Returns what a stored value says, if its checksum matches.
pub(super) fn decode_stored(key: &[u8], stored: &[u8]) -> Result<Versioned, DamageKind> {
    let split = || {
        let (content, crc) = stored.split_last_chunk::<CRC_LEN>()?;
        let matches = u32::from_le_bytes(*crc) == checksum(key, content);
        content.split_first_chunk().filter(|_| matches)
    };
    let (version, value) = split().ok_or_else(|| DamageKind::Value {
        key: key.escape_ascii().to_string(),
    })?;
    Ok(Versioned {
        version: u64::from_be_bytes(*version),
        value: value.to_vec(),
    })
}

/// Returns a value that a program before format 2 stored, position and value, as this one does.
pub(super) fn with_checksum(key: &[u8], mut stored: Vec<u8>) -> Vec<u8> {
    let crc = checksum(key, &stored);
    stored.extend(crc.to_le_bytes());
    stored
}

fn checksum(key: &[u8], content: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(key), content)
}

fn encode_applied((position, link): (Position, Link)) -> Vec<u8> {
    let mut out = position.to_be_bytes().to_vec();
    out.extend(link.to_be_bytes());
    out.push(FORMAT);
    let crc = crc32c::crc32c(&out);
    out.extend(crc.to_le_bytes());
    out
}

/// Decodes the mark of the applied position, also that of format 1: the position alone.
fn decode_applied(stored: &[u8]) -> Option<Applied> {
    if let Ok(position) = stored.try_into() {
        return Some(Applied {
            position: u64::from_be_bytes(position),
            link: 0,
            is_current: false,
        });
    }
    let (content, crc) = stored.split_last_chunk::<CRC_LEN>()?;
    let content: &[u8; APPLIED_LEN] = content.try_into().ok()?;
    let (position, rest) = content.split_first_chunk()?;
    let (link, format) = rest.split_first_chunk()?;
    let is_valid = *format == [FORMAT] && u32::from_le_bytes(*crc) == crc32c::crc32c(content);
    is_valid.then(|| Applied {
        position: u64::from_be_bytes(*position),
        link: u64::from_be_bytes(*link),
        is_current: true,
    })
}

fn config(dir: &Path, cache_bytes: u64) -> sled::Config {
    sled::Config::new()
        .path(path_in(dir))
        .cache_capacity(cache_bytes)
        .flush_every_ms(Some(INDEX_FLUSH_INTERVAL.as_millis() as u64))
}

fn path_in(dir: &Path) -> PathBuf {
    dir.join("index")
}

/// Returns the path of the file in which sled stores the index.
pub(super) fn file_in(dir: &Path) -> PathBuf {
    path_in(dir).join("db")
}

fn boot_id() -> Vec<u8> {
    std::fs::read("/proc/sys/kernel/random/boot_id").unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn i8_any_flipped_bit_of_a_stored_value_is_noticed() {
        let bytes = stored(b"nkey", 7, b"value");
        let found = decode_stored(b"nkey", &bytes).unwrap();
        assert_eq!((found.version, &found.value[..]), (7, &b"value"[..]));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode_stored(b"nkey", &flipped).is_err(), "bit {bit}");
        }
        for cut in 0..bytes.len() {
            assert!(
                decode_stored(b"nkey", &bytes[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        let error = decode_stored(b"n\0other", &bytes).unwrap_err();
        assert!(error.to_string().contains("n\\x00other"), "{error}");
        let earlier = [&7u64.to_be_bytes()[..], b"value"].concat();
        assert_eq!(with_checksum(b"nkey", earlier), bytes);
    }

    #[test]
    fn the_applied_position_is_read_in_both_formats_and_noticed_when_it_is_damaged() {
        let bytes = encode_applied((7, 9));
        let applied = Applied {
            position: 7,
            link: 9,
            is_current: true,
        };
        assert_eq!(decode_applied(&bytes), Some(applied));
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(decode_applied(&flipped), None, "bit {bit}");
        }
        let first = Applied {
            link: 0,
            is_current: false,
            ..applied
        };
        assert_eq!(decode_applied(&7u64.to_be_bytes()), Some(first));
        assert_eq!(decode_applied(&[1; 9]), None);
    }

    #[test]
    fn i2_readers_see_a_group_wholly_or_not_at_all() {
        const GROUPS: u64 = 300;
        let dir = tempfile::tempdir().unwrap();
        let index = Index::rebuilt(dir.path(), 1 << 20).unwrap();
        let keys: Vec<Vec<u8>> = (0..20).map(|n| vec![b'n', n]).collect();
        let apply = |position: Position| {
            let mut staged = Staged::default();
            for key in &keys {
                staged.stage(key, Some(b"value"), position);
            }
            staged.advance(position, 0);
            index.apply(staged).unwrap();
        };
        apply(1);
        std::thread::scope(|scope| {
            let writing = scope.spawn(|| (2..=GROUPS).for_each(apply));
            while !writing.is_finished() {
                let pairs = index.scan(b"n", None, keys.len(), None).unwrap();
                let first = pairs[0].1.version;
                assert!(pairs.iter().all(|(_, value)| value.version == first));
                // The first key is written first: whoever has seen it must see the last one, too.
                let of = |key: &Vec<u8>| index.get(key).unwrap().unwrap().version;
                let (first, last) = (of(&keys[0]), of(&keys[keys.len() - 1]));
                assert!(last >= first, "{last} is older than {first}");
            }
        });
        assert_eq!(index.applied().unwrap().position, GROUPS);
    }

    #[test]
    fn a_damaged_value_is_an_error_of_its_key_and_ends_the_trust_in_the_index() {
        let dir = tempfile::tempdir().unwrap();
        let index = Index::rebuilt(dir.path(), 1 << 20).unwrap();
        let mut damaged = stored(b"nb", 2, b"two");
        damaged[9] ^= 1;
        let whole = stored(b"na", 1, b"one");
        let pairs = vec![(b"na".to_vec(), whole), (b"nb".to_vec(), damaged)];
        index.insert_stored(pairs).unwrap();
        index.set_applied(2, 5).unwrap();
        assert_eq!(index.get(b"na").unwrap().unwrap().value, b"one");
        index.close().unwrap();
        drop(index);

        let found = Index::find(dir.path(), 1 << 20).unwrap();
        assert!(found.is_trusted);
        let index = found.index;
        index.mark_in_use().unwrap();
        let is_value = |error| matches!(error, MetaError::Damaged(DamageKind::Value { .. }));
        assert!(is_value(index.get(b"nb").unwrap_err()));
        assert!(is_value(index.scan(b"n", None, 9, None).unwrap_err()));
        assert!(is_value(index.for_each(&mut |_, _| Ok(())).unwrap_err()));
        index.close().unwrap();
        drop(index);
        assert!(!Index::find(dir.path(), 1 << 20).unwrap().is_trusted);
    }
}
