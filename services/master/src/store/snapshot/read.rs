//! Reading a snapshot, of this format and of the one before.

use std::fs::File;
use std::io::{BufReader, ErrorKind, Read, Seek, SeekFrom};
use std::path::Path;

use super::{FIRST_MAGIC, Found, HEAD_BYTES, Head, NAME, block_crc};
use crate::limits::{
    MAX_SNAPSHOT_ITEM, SNAPSHOT_BLOCK_BYTES, SNAPSHOT_BUFFER, SNAPSHOT_READ_PAIRS,
};
use crate::store::index::{StoredPair, decode_stored, with_checksum};
use crate::store::{DamageKind, MetaError};

/// Takes some items of a snapshot.
type PairsTaker<'a> = dyn FnMut(Vec<StoredPair>) -> Result<(), MetaError> + 'a;

/// Returns the snapshot in `dir` as its head describes it; `None` if there is none. Its items are
/// not read.
///
/// # Errors
/// [`MetaError::Damaged`] if the head cannot be used or the file has another size than it says,
/// `Io`.
pub(in crate::store) fn look(dir: &Path) -> Result<Option<Found>, MetaError> {
    let Some(mut file) = open(dir)? else {
        return Ok(None);
    };
    let (_, found) = begin(&mut file)?;
    Ok(Some(found))
}

/// Reads the snapshot in `dir` to its end and checks all of it.
///
/// # Errors
/// [`MetaError::Damaged`], `Io`.
pub(in crate::store) fn verify(dir: &Path) -> Result<(), MetaError> {
    match open(dir)? {
        Some(mut file) => deliver(&mut file, &mut |_| Ok(())).map(drop),
        None => Ok(()),
    }
}

/// Reads a file that [`super::SnapshotWriter::create_new`] began to its end and checks all of it.
///
/// # Errors
/// [`MetaError::Damaged`], `Io`.
pub(in crate::store) fn verify_file(path: &Path) -> Result<(), MetaError> {
    let mut file = File::open(path).map_err(unread)?;
    deliver(&mut file, &mut |_| Ok(())).map(drop)
}

/// Hands the items of the snapshot in `dir` to `take`, some at a time, and returns its head;
/// `None` if there is none. Items are handed out before the end of the file is read: [`verify`] it
/// first.
///
/// # Errors
/// [`MetaError::Damaged`], `Io`; those of `take`.
pub(in crate::store) fn read(
    dir: &Path,
    take: &mut PairsTaker<'_>,
) -> Result<Option<Found>, MetaError> {
    match open(dir)? {
        Some(mut file) => deliver(&mut file, take).map(Some),
        None => Ok(None),
    }
}

fn open(dir: &Path) -> Result<Option<File>, MetaError> {
    match File::open(dir.join(NAME)) {
        Ok(file) => Ok(Some(file)),
        Err(error) if error.kind() == ErrorKind::NotFound => Ok(None),
        Err(error) => Err(unread(error)),
    }
}

/// The format of a snapshot, with the number of its items.
enum Start {
    /// The current format, with its head.
    Current(Head),
    /// Format 1, with the number of items.
    First(u64),
}

/// Reads the head of `file`, which stands behind it then.
fn begin(file: &mut File) -> Result<(Start, Found), MetaError> {
    let bytes = file.metadata().map_err(unread)?.len();
    file.seek(SeekFrom::Start(0)).map_err(unread)?;
    let first = first_words(file)?;
    if let [magic, position, items] = first
        && magic == *FIRST_MAGIC
    {
        let found = Found {
            position: u64::from_le_bytes(position),
            link: 0,
            bytes,
            is_current: false,
        };
        return Ok((Start::First(u64::from_le_bytes(items)), found));
    }

    let mut raw = [0; HEAD_BYTES];
    file.seek(SeekFrom::Start(0)).map_err(unread)?;
    file.read_exact(&mut raw).map_err(unread)?;
    let head = Head::decode(&raw)?;
    let expected = head.file_bytes().ok_or(DamageKind::SnapshotShort)?;
    if bytes != expected {
        return Err(DamageKind::SnapshotSize {
            found: bytes,
            expected,
        }
        .into());
    }
    let found = Found {
        position: head.position,
        link: head.link,
        bytes,
        is_current: true,
    };
    Ok((Start::Current(head), found))
}

/// Reads the first three words of a file: all of a head of format 1.
fn first_words(file: &mut File) -> Result<[[u8; 8]; 3], MetaError> {
    let mut words = [[0; 8]; 3];
    for word in &mut words {
        file.read_exact(word).map_err(unread)?;
    }
    Ok(words)
}

/// Reads all items and hands them to `take`, before their checksums are known in format 1.
fn deliver(file: &mut File, take: &mut PairsTaker<'_>) -> Result<Found, MetaError> {
    let (start, found) = begin(file)?;
    let buffered = BufReader::with_capacity(SNAPSHOT_BUFFER, file);
    match start {
        Start::Current(head) => {
            let mut items = Items(Blocks::new(buffered, head));
            items.deliver(head.items, take, |_, value| value)?;
            items.0.end()?;
        }
        Start::First(count) => {
            let mut head = FIRST_MAGIC.to_vec();
            head.extend(found.position.to_le_bytes());
            head.extend(count.to_le_bytes());
            let mut items = Items(Summed {
                inner: buffered,
                crc: crc32c::crc32c(&head),
            });
            items.deliver(count, take, with_checksum)?;
            items.0.end()?;
        }
    }
    Ok(found)
}

fn unread(error: std::io::Error) -> MetaError {
    match error.kind() {
        ErrorKind::UnexpectedEof => DamageKind::SnapshotShort.into(),
        _ => MetaError::io("read the metadata snapshot")(error),
    }
}

/// Bytes of items, with whatever verifies them.
trait Source {
    /// Fills `out`.
    fn fill(&mut self, out: &mut [u8]) -> Result<(), MetaError>;
}

/// Items of a snapshot, one after the other.
struct Items<S>(S);

impl<S: Source> Items<S> {
    fn deliver(
        &mut self,
        count: u64,
        take: &mut PairsTaker<'_>,
        stored: impl Fn(&[u8], Vec<u8>) -> Vec<u8>,
    ) -> Result<(), MetaError> {
        let mut pairs = Vec::new();
        for _ in 0..count {
            let key_len = self.length()?;
            let value_len = self.length()?;
            let key = self.bytes(key_len)?;
            let value = stored(&key, self.bytes(value_len)?);
            decode_stored(&key, &value).map_err(|_| DamageKind::Layout("value of the snapshot"))?;
            pairs.push((key, value));
            if pairs.len() == SNAPSHOT_READ_PAIRS {
                take(std::mem::take(&mut pairs))?;
            }
        }
        take(pairs)
    }

    fn length(&mut self) -> Result<usize, MetaError> {
        let mut bytes = [0; 4];
        self.0.fill(&mut bytes)?;
        match u32::from_le_bytes(bytes) {
            len if len > MAX_SNAPSHOT_ITEM => Err(DamageKind::SnapshotItem.into()),
            len => Ok(len as usize),
        }
    }

    fn bytes(&mut self, len: usize) -> Result<Vec<u8>, MetaError> {
        let mut bytes = vec![0; len];
        self.0.fill(&mut bytes)?;
        Ok(bytes)
    }
}

/// Blocks of a snapshot of this format: each is verified before a byte of it is used.
struct Blocks<R> {
    inner: R,
    head: Head,
    /// Bytes of items that were not read yet.
    left: u64,
    number: u64,
    block: Vec<u8>,
    used: usize,
}

impl<R: Read> Blocks<R> {
    fn new(inner: R, head: Head) -> Self {
        Self {
            inner,
            head,
            left: head.bytes,
            number: 0,
            block: Vec::new(),
            used: 0,
        }
    }

    fn next_block(&mut self) -> Result<(), MetaError> {
        let len = self.left.min(SNAPSHOT_BLOCK_BYTES as u64) as usize;
        if len == 0 {
            return Err(DamageKind::SnapshotShort.into());
        }
        self.block.resize(len, 0);
        self.inner.read_exact(&mut self.block).map_err(unread)?;
        let mut crc = [0; 4];
        self.inner.read_exact(&mut crc).map_err(unread)?;
        if u32::from_le_bytes(crc) != block_crc(self.head.position, self.number, &self.block) {
            return Err(DamageKind::SnapshotChecksum.into());
        }
        self.left -= len as u64;
        self.number += 1;
        self.used = 0;
        Ok(())
    }

    /// Checks that nothing is behind the last item.
    fn end(&self) -> Result<(), MetaError> {
        match (self.left, self.block.len() - self.used) {
            (0, 0) => Ok(()),
            _ => Err(DamageKind::Layout("end of the snapshot").into()),
        }
    }
}

impl<R: Read> Source for Blocks<R> {
    fn fill(&mut self, mut out: &mut [u8]) -> Result<(), MetaError> {
        while !out.is_empty() {
            if self.used == self.block.len() {
                self.next_block()?;
            }
            let rest = self.block.get(self.used..).unwrap_or_default();
            let now = rest.len().min(out.len());
            let (filled, later) = out.split_at_mut(now);
            filled.copy_from_slice(rest.get(..now).unwrap_or_default());
            self.used += now;
            out = later;
        }
        Ok(())
    }
}

/// Bytes of a snapshot of format 1, whose one checksum stands at its end.
struct Summed<R> {
    inner: R,
    crc: u32,
}

impl<R: Read> Summed<R> {
    fn end(&mut self) -> Result<(), MetaError> {
        let mut crc = [0; 4];
        self.inner.read_exact(&mut crc).map_err(unread)?;
        if u32::from_le_bytes(crc) == self.crc {
            Ok(())
        } else {
            Err(DamageKind::SnapshotChecksum.into())
        }
    }
}

impl<R: Read> Source for Summed<R> {
    fn fill(&mut self, out: &mut [u8]) -> Result<(), MetaError> {
        self.inner.read_exact(out).map_err(unread)?;
        self.crc = crc32c::crc32c_append(self.crc, out);
        Ok(())
    }
}
