//! The snapshot file: all metadata at one position. It truncates the log, rebuilds the index, and
//! is the backup.
//!
//! ```text
//! magic "CSTORMS2" · position u64 · count u64 · count × (key length u32 · value length u32 · key · value) · CRC-32C u32
//! ```
//! Sorted by key; values as they stand in the index, with their version in front. Written beside
//! the snapshot before, synced, renamed, and the folder synced: there is always one that is whole.
//!
//! The count is known only at the end of the one scan, so the head is written last and its checksum
//! is combined with that of the items.

use std::fs::File;
use std::io::{BufReader, BufWriter, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use super::index::StoredPair;
use super::{DamageKind, MetaError, Position};
use crate::limits::{MAX_SNAPSHOT_ITEM, SNAPSHOT_BUFFER, SNAPSHOT_READ_PAIRS, SNAPSHOT_SYNC_BYTES};

const MAGIC: &[u8; 8] = b"CSTORMS2";
const HEAD_BYTES: usize = 24;
const NAME: &str = "snapshot.bin";
const UNFINISHED: &str = "snapshot.new";

/// Facts about a snapshot that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Written {
    pub(super) items: u64,
    /// Size of the file.
    pub(super) bytes: u64,
}

/// A snapshot that is being written. Dropped before [`SnapshotWriter::finish`], it leaves no file.
#[derive(Debug)]
pub(super) struct SnapshotWriter {
    dir: PathBuf,
    out: BufWriter<File>,
    position: Position,
    items: u64,
    item_bytes: u64,
    unsynced: u64,
    item_crc: u32,
    finished: bool,
}

impl SnapshotWriter {
    pub(super) fn create(dir: &Path, position: Position) -> Result<Self, MetaError> {
        let file = File::create(dir.join(UNFINISHED)).map_err(unwritten)?;
        let mut out = BufWriter::with_capacity(SNAPSHOT_BUFFER, file);
        out.write_all(&[0; HEAD_BYTES]).map_err(unwritten)?;
        Ok(Self {
            dir: dir.to_path_buf(),
            out,
            position,
            items: 0,
            item_bytes: 0,
            unsynced: 0,
            item_crc: 0,
            finished: false,
        })
    }

    /// Returns the bytes of the items so far.
    pub(super) fn bytes(&self) -> u64 {
        self.item_bytes
    }

    /// Appends one item. Keys MUST come in byte order.
    ///
    /// # Errors
    /// [`MetaError::Damaged`] for an item that [`read`] would refuse: a snapshot that cannot be
    /// read must not replace one that can.
    pub(super) fn put(&mut self, key: &[u8], value: &[u8]) -> Result<(), MetaError> {
        if key.len().max(value.len()) > MAX_SNAPSHOT_ITEM as usize {
            return Err(DamageKind::SnapshotItem.into());
        }
        let mut lengths = [0; 8];
        lengths[..4].copy_from_slice(&(key.len() as u32).to_le_bytes());
        lengths[4..].copy_from_slice(&(value.len() as u32).to_le_bytes());
        for part in [&lengths[..], key, value] {
            self.item_crc = crc32c::crc32c_append(self.item_crc, part);
            self.out.write_all(part).map_err(unwritten)?;
        }

        let size = (lengths.len() + key.len() + value.len()) as u64;
        self.items += 1;
        self.item_bytes += size;
        self.unsynced += size;
        if self.unsynced > SNAPSHOT_SYNC_BYTES {
            self.out
                .flush()
                .and_then(|()| self.out.get_ref().sync_data())
                .map_err(unwritten)?;
            self.unsynced = 0;
        }
        Ok(())
    }

    /// Writes head and checksum, syncs, and takes the place of the snapshot before.
    pub(super) fn finish(mut self) -> Result<Written, MetaError> {
        let head = head(self.position, self.items);
        let item_bytes = usize::try_from(self.item_bytes).unwrap_or(usize::MAX);
        let crc = crc32c::crc32c_combine(crc32c::crc32c(&head), self.item_crc, item_bytes);
        let write = |out: &mut BufWriter<File>| {
            out.write_all(&crc.to_le_bytes())?;
            out.flush()?;
            out.seek(SeekFrom::Start(0))?;
            out.write_all(&head)?;
            out.flush()?;
            out.get_ref().sync_all()
        };
        write(&mut self.out).map_err(unwritten)?;

        std::fs::rename(self.dir.join(UNFINISHED), self.dir.join(NAME)).map_err(unwritten)?;
        self.finished = true;
        File::open(&self.dir)
            .and_then(|dir| dir.sync_all())
            .map_err(unwritten)?;
        let bytes = HEAD_BYTES as u64 + self.item_bytes + 4;
        Ok(Written {
            items: self.items,
            bytes,
        })
    }
}

impl Drop for SnapshotWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Half a snapshot must not take the room that the log lacks.
            let _ = std::fs::remove_file(self.dir.join(UNFINISHED));
        }
    }
}

/// Removes what an earlier process left of a snapshot that it did not finish.
pub(super) fn remove_unfinished(dir: &Path) -> Result<(), MetaError> {
    match std::fs::remove_file(dir.join(UNFINISHED)) {
        Err(error) if error.kind() != ErrorKind::NotFound => Err(unwritten(error)),
        _ => Ok(()),
    }
}

fn head(position: Position, items: u64) -> [u8; HEAD_BYTES] {
    let mut head = [0; HEAD_BYTES];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&position.to_le_bytes());
    head[16..].copy_from_slice(&items.to_le_bytes());
    head
}

fn unwritten(error: std::io::Error) -> MetaError {
    MetaError::io("write the metadata snapshot")(error)
}

fn unread(error: std::io::Error) -> MetaError {
    match error.kind() {
        ErrorKind::UnexpectedEof => DamageKind::SnapshotShort.into(),
        _ => MetaError::io("read the metadata snapshot")(error),
    }
}

struct Checked<T> {
    inner: T,
    crc: u32,
}

impl<R: Read> Checked<R> {
    fn get(&mut self, len: usize) -> Result<Vec<u8>, MetaError> {
        let mut bytes = vec![0; len];
        self.inner.read_exact(&mut bytes).map_err(unread)?;
        self.crc = crc32c::crc32c_append(self.crc, &bytes);
        Ok(bytes)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], MetaError> {
        let mut bytes = [0; N];
        bytes.copy_from_slice(&self.get(N)?);
        Ok(bytes)
    }

    fn length(&mut self) -> Result<usize, MetaError> {
        match u32::from_le_bytes(self.array()?) {
            len if len > MAX_SNAPSHOT_ITEM => Err(DamageKind::SnapshotItem.into()),
            len => Ok(len as usize),
        }
    }
}

fn open(dir: &Path) -> Result<Option<File>, MetaError> {
    match File::open(dir.join(NAME)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unread(error)),
    }
}

fn read_head<R: Read>(input: &mut Checked<R>) -> Result<(Position, u64), MetaError> {
    if input.array::<8>()? != *MAGIC {
        return Err(DamageKind::SnapshotMagic.into());
    }
    let position = u64::from_le_bytes(input.array()?);
    let count = u64::from_le_bytes(input.array()?);
    Ok((position, count))
}

/// Returns position and size of the snapshot in `dir`, by its head alone; `None` if there is none.
pub(super) fn peek(dir: &Path) -> Result<Option<(Position, u64)>, MetaError> {
    let Some(file) = open(dir)? else {
        return Ok(None);
    };
    let bytes = file.metadata().map_err(unread)?.len();
    let (position, _) = read_head(&mut Checked {
        inner: file,
        crc: 0,
    })?;
    Ok(Some((position, bytes)))
}

/// Hands the items of the snapshot in `dir` to `take`, some at a time, and returns its position; 0
/// if there is none.
///
/// # Errors
/// [`MetaError::Damaged`]: what was handed out before MUST NOT be used then; see
/// [`Index::is_empty`].
///
/// [`Index::is_empty`]: super::index::Index::is_empty
pub(super) fn read(
    dir: &Path,
    take: &mut dyn FnMut(Vec<StoredPair>) -> Result<(), MetaError>,
) -> Result<Position, MetaError> {
    let Some(file) = open(dir)? else { return Ok(0) };
    let mut input = Checked {
        inner: BufReader::with_capacity(SNAPSHOT_BUFFER, file),
        crc: 0,
    };
    let (position, count) = read_head(&mut input)?;

    let mut pairs = Vec::new();
    for _ in 0..count {
        let key_len = input.length()?;
        let value_len = input.length()?;
        pairs.push((input.get(key_len)?, input.get(value_len)?));
        if pairs.len() == SNAPSHOT_READ_PAIRS {
            take(std::mem::take(&mut pairs))?;
        }
    }

    let crc = input.crc;
    if u32::from_le_bytes(input.array()?) != crc {
        return Err(DamageKind::SnapshotChecksum.into());
    }
    take(pairs)?;
    Ok(position)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read_all(dir: &Path) -> Result<(Position, Vec<StoredPair>), MetaError> {
        let mut found = Vec::new();
        let position = read(dir, &mut |pairs| {
            found.extend(pairs);
            Ok(())
        })?;
        Ok((position, found))
    }

    #[test]
    fn a_snapshot_round_trips_and_any_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), (0, Vec::new()));
        let items = vec![(b"a".to_vec(), b"1".to_vec()), (b"b".to_vec(), vec![])];
        let mut writer = SnapshotWriter::create(dir.path(), 7).unwrap();
        items
            .iter()
            .for_each(|(key, value)| writer.put(key, value).unwrap());
        let written = writer.finish().unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), (7, items));

        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        assert_eq!(
            written,
            Written {
                items: 2,
                bytes: whole.len() as u64
            }
        );
        assert_eq!(peek(dir.path()).unwrap(), Some((7, whole.len() as u64)));
        for at in 0..whole.len() {
            let mut copy = whole.clone();
            copy[at] ^= 1;
            std::fs::write(&path, &copy).unwrap();
            assert!(read_all(dir.path()).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_unfinished_snapshot_leaves_nothing_and_keeps_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        SnapshotWriter::create(dir.path(), 3)
            .unwrap()
            .finish()
            .unwrap();
        let mut second = SnapshotWriter::create(dir.path(), 4).unwrap();
        second.put(b"a", b"1").unwrap();
        drop(second);
        assert_eq!(read_all(dir.path()).unwrap(), (3, Vec::new()));
        assert!(!dir.path().join(UNFINISHED).try_exists().unwrap());
    }
}
