//! The snapshot file: all metadata at one position. It truncates the log, rebuilds the index, and
//! is the backup.
//!
//! ```text
//! head   64 bytes: magic "CSTORMS3" · position u64 · link u64 · incarnation u64 · items u64 · bytes of all items u64
//!        · zero [12] · CRC-32C u32 of the head before
//! block  up to 64 KiB of the items, all but the last one full · CRC-32C u32 of position u64 · number of the block u64
//!        · its bytes
//! items  key length u32 · value length u32 · key · value as the index stores it, with its own checksum
//! ```
//! Numbers are little-endian. Items are sorted by key and cross the borders of blocks. A checksum
//! covers position and number of its block, so that a block of another snapshot does not count.
//! Written beside the snapshot before, synced, renamed, and the folder synced: there is always one
//! that is whole. A reader verifies all of it before it uses the first item.
//!
//! A program before format 2 wrote magic "CSTORMS2" · position · items · the items, with values
//! without checksum · CRC-32C of everything. This program reads it.

mod read;
mod write;

pub(super) use read::{look, read, verify, verify_file};
pub(super) use write::{
    SnapshotWriter, Written, open_for_truncation, remove_unfinished, write_all,
};

use super::{DamageKind, Link, Position};
use crate::limits::SNAPSHOT_BLOCK_BYTES;

const MAGIC: &[u8; 8] = b"CSTORMS3";
/// Magic number of snapshots before format 2.
const FIRST_MAGIC: &[u8; 8] = b"CSTORMS2";
/// Place of the digit in the magic number that differs from format to format.
const FORMAT_AT: usize = 7;
const HEAD_BYTES: usize = 64;
/// End of the fields of the head; zeros follow up to its checksum.
const FIELDS_END: usize = 48;
const HEAD_CRC_AT: usize = 60;
const CRC_BYTES: u64 = 4;
const NAME: &str = "snapshot.bin";
const UNFINISHED: &str = "snapshot.new";

/// Beginning of a snapshot: what it holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
struct Head {
    position: Position,
    link: Link,
    incarnation: u64,
    items: u64,
    /// Bytes of all items.
    bytes: u64,
}

impl Head {
    fn encode(&self) -> [u8; HEAD_BYTES] {
        let fields = [
            self.position,
            self.link,
            self.incarnation,
            self.items,
            self.bytes,
        ];
        let mut head = [0; HEAD_BYTES];
        let (slots, _) = head.as_chunks_mut::<8>();
        let values = std::iter::once(*MAGIC).chain(fields.map(u64::to_le_bytes));
        for (slot, value) in slots.iter_mut().zip(values) {
            *slot = value;
        }
        let crc = crc32c::crc32c(&head[..HEAD_CRC_AT]);
        head[HEAD_CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        head
    }

    fn decode(head: &[u8; HEAD_BYTES]) -> Result<Self, DamageKind> {
        if head[..FORMAT_AT] != MAGIC[..FORMAT_AT] {
            return Err(DamageKind::Layout("head of the snapshot"));
        }
        if head[..8] != *MAGIC {
            return Err(DamageKind::SnapshotMagic);
        }
        let crc = crc32c::crc32c(&head[..HEAD_CRC_AT]).to_le_bytes();
        if head[HEAD_CRC_AT..] != crc {
            return Err(DamageKind::SnapshotChecksum);
        }
        if head[FIELDS_END..HEAD_CRC_AT].iter().any(|byte| *byte != 0) {
            return Err(DamageKind::Layout("head of the snapshot"));
        }
        let (slots, _) = head.as_chunks::<8>();
        let field = |n: usize| slots.get(n).map_or(0, |slot| u64::from_le_bytes(*slot));
        Ok(Self {
            position: field(1),
            link: field(2),
            incarnation: field(3),
            items: field(4),
            bytes: field(5),
        })
    }

    /// Returns the size of the file, or `None` if there can be no such file.
    fn file_bytes(&self) -> Option<u64> {
        let blocks = self.bytes.div_ceil(SNAPSHOT_BLOCK_BYTES as u64);
        self.bytes
            .checked_add(blocks * CRC_BYTES)?
            .checked_add(HEAD_BYTES as u64)
    }
}

/// Returns the checksum of one block.
fn block_crc(position: Position, number: u64, bytes: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&position.to_le_bytes());
    let crc = crc32c::crc32c_append(crc, &number.to_le_bytes());
    crc32c::crc32c_append(crc, bytes)
}

/// A snapshot as its head describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) position: Position,
    /// Link of the batch at the position; 0 if it is not known.
    pub(super) link: Link,
    /// Size of the file.
    pub(super) bytes: u64,
    /// False for one of a program before format 2.
    pub(super) is_current: bool,
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::super::MetaError;
    use super::super::index::{StoredPair, stored};
    use super::*;

    fn read_all(dir: &Path) -> Result<(Position, Vec<StoredPair>), MetaError> {
        let mut found = Vec::new();
        let position = read(dir, &mut |pairs| {
            found.extend(pairs);
            Ok(())
        })?;
        Ok((position.map_or(0, |found| found.position), found))
    }

    fn items(count: u32, value: usize) -> Vec<StoredPair> {
        let item = |n: u32| {
            let key = n.to_be_bytes().to_vec();
            let value = stored(&key, n.into(), &vec![n as u8; value]);
            (key, value)
        };
        (0..count).map(item).collect()
    }

    fn write(dir: &Path, position: Position, items: &[StoredPair]) -> Written {
        let mut writer = SnapshotWriter::create(dir, (position, 77), 0).unwrap();
        for (key, value) in items {
            writer.put(key, value).unwrap();
        }
        writer.finish().unwrap()
    }

    #[test]
    fn i8_a_snapshot_round_trips_and_any_flipped_byte_is_noticed() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(read_all(dir.path()).unwrap(), (0, Vec::new()));
        let items = items(2, 3);
        let written = write(dir.path(), 7, &items);
        assert_eq!(read_all(dir.path()).unwrap(), (7, items));

        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        let bytes = whole.len() as u64;
        assert_eq!(written, Written { items: 2, bytes });
        let expected = Found {
            position: 7,
            link: 77,
            bytes,
            is_current: true,
        };
        assert_eq!(look(dir.path()).unwrap(), Some(expected));
        for at in 0..whole.len() {
            let mut copy = whole.clone();
            copy[at] ^= 1;
            std::fs::write(&path, &copy).unwrap();
            assert!(verify(dir.path()).is_err(), "byte {at}");
            // One bit makes the magic number that of format 1, whose head has no checksum.
            let is_noticed = at < HEAD_BYTES && at != 7;
            assert_eq!(look(dir.path()).is_err(), is_noticed, "byte {at}");
        }
        for len in 0..whole.len() {
            std::fs::write(&path, &whole[..len]).unwrap();
            assert!(look(dir.path()).is_err(), "cut at {len}");
        }
    }

    #[test]
    fn i8_a_snapshot_of_many_blocks_is_verified_to_its_end() {
        let dir = tempfile::tempdir().unwrap();
        for (count, value) in [(0, 0), (1, 1), (2_500, 100), (3, 100_000)] {
            let items = items(count, value);
            write(dir.path(), 7, &items);
            assert_eq!(read_all(dir.path()).unwrap(), (7, items));
        }
        let items = items(2_500, 100);
        write(dir.path(), 7, &items);

        let path = dir.path().join(NAME);
        let whole = std::fs::read(&path).unwrap();
        let block = SNAPSHOT_BLOCK_BYTES + 4;
        assert!(whole.len() > 3 * block, "several blocks");
        let mut last = whole.clone();
        *last.last_mut().unwrap() ^= 1;
        let mut swapped = whole.clone();
        swapped[HEAD_BYTES..HEAD_BYTES + 2 * block].rotate_left(block);
        for bytes in [last, swapped] {
            std::fs::write(&path, &bytes).unwrap();
            assert!(matches!(
                verify(dir.path()),
                Err(MetaError::Damaged(DamageKind::SnapshotChecksum))
            ));
        }

        // A block of the snapshot before has the same number and another position.
        write(dir.path(), 8, &items);
        let mut mixed = std::fs::read(&path).unwrap();
        mixed[HEAD_BYTES..HEAD_BYTES + block]
            .copy_from_slice(&whole[HEAD_BYTES..HEAD_BYTES + block]);
        std::fs::write(&path, &mixed).unwrap();
        assert!(verify(dir.path()).is_err());
    }

    #[test]
    fn i8_a_damaged_value_gets_into_no_snapshot() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 3, &[]);
        let mut damaged = stored(b"nkey", 1, b"value");
        damaged[9] ^= 1;
        let mut writer = SnapshotWriter::create(dir.path(), (4, 0), 0).unwrap();
        let put = writer.put(b"nkey", &damaged);
        assert!(matches!(
            put,
            Err(MetaError::Damaged(DamageKind::Value { .. }))
        ));
        drop(writer);
        assert_eq!(read_all(dir.path()).unwrap(), (3, Vec::new()));
    }

    #[test]
    fn an_unfinished_snapshot_leaves_nothing_and_keeps_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        write(dir.path(), 3, &[]);
        let mut second = SnapshotWriter::create(dir.path(), (4, 0), 0).unwrap();
        second.put(b"a", &stored(b"a", 1, b"1")).unwrap();
        drop(second);
        assert_eq!(read_all(dir.path()).unwrap(), (3, Vec::new()));
        assert!(!dir.path().join(UNFINISHED).try_exists().unwrap());
    }

    #[test]
    fn a_snapshot_of_format_1_is_read_and_its_values_get_checksums() {
        let dir = tempfile::tempdir().unwrap();
        let mut bytes = b"CSTORMS2".to_vec();
        bytes.extend(9u64.to_le_bytes());
        bytes.extend(1u64.to_le_bytes());
        let value = [&5u64.to_be_bytes()[..], b"value"].concat();
        bytes.extend(3u32.to_le_bytes());
        bytes.extend((value.len() as u32).to_le_bytes());
        bytes.extend(b"key");
        bytes.extend(&value);
        let crc = crc32c::crc32c(&bytes);
        bytes.extend(crc.to_le_bytes());
        let path = dir.path().join(NAME);
        std::fs::write(&path, &bytes).unwrap();

        let expected = vec![(b"key".to_vec(), stored(b"key", 5, b"value"))];
        assert_eq!(read_all(dir.path()).unwrap(), (9, expected));
        let found = look(dir.path()).unwrap().unwrap();
        assert_eq!((found.position, found.link), (9, 0));
        assert!(!found.is_current);
        for at in 0..bytes.len() {
            let mut flipped = bytes.clone();
            flipped[at] ^= 1;
            std::fs::write(&path, &flipped).unwrap();
            assert!(verify(dir.path()).is_err(), "byte {at}");
        }
    }
}
