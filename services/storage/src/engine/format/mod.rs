//! The only place that knows the bytes of the storage disk, beside the log frames (crate
//! `cstore-log`).
//!
//! Little-endian throughout. `docs/disk-format.md` is the same in prose; a test keeps the two
//! together. Each file of this folder holds one structure.
//!
//! ```text
//! <disk>/superblock.bin   4 slots of 4 KiB, written in turn; the valid one with the highest seq wins
//! <disk>/inventory.bin    which segments there are; two areas, written in turn, the higher gen wins
//! <disk>/bitmap.bin       derived cache, written at a clean stop; may be deleted at any time
//! <disk>/segments/        files of the log
//! <disk>/LOCK             held by the running process
//!
//! record kinds in segments
//!   1 data      key = block id [32]                payload = the block
//!   2 manifest  key = block id [32]                payload = the recipe leaf
//!   3 refset    key = session [16] · part u32      payload = count u32 · CRC-32C u32 · ids [32] each
//!   4 release   key = session [16]                 payload = nothing; drops the refsets of the session before it
//!   5 bad       key = block id [32] · file u32 · offset u32        payload = nothing; the record of the block at this
//!                                                  place is damaged
//!   128 to 239  left to later programs: skipped, and their file is kept
//!
//! bitmap.bin
//!   0 magic "CSTORBM2" · 8 store uuid [16] · 24 last frame_seq u64 · 32 number of files u32
//!     per file: id u32 · n u32 · n × (distance from the offset before, reference count), both LEB128
//!     CRC-32C u32 of all before it
//! ```

mod bitmap;
mod doubt;
mod inventory;
mod superblock;

use bytes::{Bytes, BytesMut};
use cstore_types::codec::{CodecError, Fields};
use cstore_types::limits::MAX_IDS;
use cstore_types::{BlockId, PartNo, SessionId};

pub(crate) use bitmap::{Bitmap, FileCounts};
pub use doubt::{Doubt, DoubtKind};
pub(crate) use doubt::{MAX_DOUBTS, UNCOUNTED};
pub(crate) use inventory::{EpochEntry, FileEntry, FileStanding, Image};
pub use superblock::{DiskEpoch, KeptFields, Superblock};
pub(crate) use superblock::{SLOT, SLOTS, VERSION};

pub(crate) const SUPERBLOCK_FILE: &str = "superblock.bin";

pub(crate) const BITMAP_FILE: &str = "bitmap.bin";
pub(crate) const INVENTORY_FILE: &str = "inventory.bin";

pub(crate) const SEGMENTS_DIR: &str = "segments";

pub(crate) const LOCK_FILE: &str = "LOCK";

pub(crate) const KIND_DATA: u8 = 1;

pub(crate) const KIND_MANIFEST: u8 = 2;

pub(crate) const KIND_REFSET: u8 = 3;

pub(crate) const KIND_RELEASE: u8 = 4;

pub(crate) const KIND_BAD: u8 = 5;

/// First kind of records that a program may skip which does not know them.
pub(crate) const FIRST_SKIPPED_KIND: u8 = 128;

/// Bytes of the disk that cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FormatError {
    /// All zero: never written.
    #[error("is empty")]
    Empty,
    /// Another magic number.
    #[error("is not a C-Store structure")]
    Foreign,
    /// Written by a program that knows more.
    #[error("has format version {0}, this program knows 2 and {VERSION}")]
    Version(u16),
    /// Uses a feature that this program does not know.
    #[error("uses unknown incompatible features {0:#x}")]
    Features(u64),
    /// Bytes are set that have no meaning for this program, and nothing says that they may be
    /// ignored.
    #[error("holds fields that this program does not know")]
    Unknown,
    /// A checksum or a value does not fit.
    #[error("is damaged")]
    Damaged,
    /// The bytes end before their last field, or go on after it.
    #[error("is damaged")]
    Fields(#[from] CodecError),
}

/// Key of a reference set.
pub(crate) fn refset_key(session: SessionId, part: PartNo) -> Bytes {
    let mut key = BytesMut::with_capacity(20);
    key.extend_from_slice(session.as_bytes());
    key.extend_from_slice(&part.0.to_le_bytes());
    key.freeze()
}

pub(crate) fn parse_refset_key(key: &[u8]) -> Result<(SessionId, PartNo), FormatError> {
    let mut reader = Fields::new(key);
    let session = SessionId::from_bytes(reader.array()?);
    let part = PartNo(reader.u32()?);
    reader.end()?;
    Ok((session, part))
}

pub(crate) fn parse_release_key(key: &[u8]) -> Result<SessionId, FormatError> {
    SessionId::try_from(key).map_err(|_| FormatError::Damaged)
}

pub(crate) fn parse_block_key(key: &[u8]) -> Result<BlockId, FormatError> {
    <[u8; 32]>::try_from(key)
        .map(BlockId::from_bytes)
        .map_err(|_| FormatError::Damaged)
}

/// Place of a block's record, which a verdict names: file and offset.
pub(crate) type Place = (u32, u32);

/// Key of the verdict that the record of a block is damaged.
pub(crate) fn bad_key(id: &BlockId, (file, offset): Place) -> Bytes {
    let mut key = BytesMut::with_capacity(40);
    key.extend_from_slice(id.as_bytes());
    key.extend_from_slice(&file.to_le_bytes());
    key.extend_from_slice(&offset.to_le_bytes());
    key.freeze()
}

pub(crate) fn parse_bad_key(key: &[u8]) -> Result<(BlockId, Place), FormatError> {
    let mut reader = Fields::new(key);
    let id = BlockId::from_bytes(reader.array()?);
    let place = (reader.u32()?, reader.u32()?);
    reader.end()?;
    Ok((id, place))
}

/// Payload of a reference set. Its checksum covers the key too, so that a set found at a wrong
/// place never validates.
pub(crate) fn encode_refset(session: SessionId, part: PartNo, ids: &[BlockId]) -> Bytes {
    let mut payload = BytesMut::with_capacity(8 + ids.len() * BlockId::LEN);
    payload.extend_from_slice(&u32::try_from(ids.len()).unwrap_or(u32::MAX).to_le_bytes());
    payload.extend_from_slice(&[0; 4]);
    for id in ids {
        payload.extend_from_slice(id.as_bytes());
    }
    let crc = refset_crc(session, part, payload.get(8..).unwrap_or_default());
    if let Some(field) = payload.get_mut(4..8) {
        field.copy_from_slice(&crc.to_le_bytes());
    }
    payload.freeze()
}

pub(crate) fn decode_refset(
    session: SessionId,
    part: PartNo,
    payload: &[u8],
) -> Result<Vec<BlockId>, FormatError> {
    let mut reader = Fields::new(payload);
    let count = reader.u32()? as usize;
    let crc = reader.u32()?;
    let ids = reader.rest();
    if count > MAX_IDS || ids.len() != count * BlockId::LEN || crc != refset_crc(session, part, ids)
    {
        return Err(FormatError::Damaged);
    }
    ids.chunks_exact(BlockId::LEN)
        .map(parse_block_key)
        .collect()
}

fn refset_crc(session: SessionId, part: PartNo, ids: &[u8]) -> u32 {
    let crc = crc32c::crc32c_append(crc32c::crc32c(session.as_bytes()), &part.0.to_le_bytes());
    crc32c::crc32c_append(crc, ids)
}

#[cfg(test)]
mod tests {
    use cstore_types::StoreUuid;
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_reference_set_is_bound_to_its_key() {
        let (session, part) = (SessionId::from_bytes([5; 16]), PartNo(7));
        let ids = [BlockId::from_bytes([8; 32]), BlockId::from_bytes([9; 32])];
        let payload = encode_refset(session, part, &ids);
        assert_eq!(payload.len(), 8 + 64);
        assert_eq!(decode_refset(session, part, &payload), Ok(ids.to_vec()));
        assert_eq!(
            decode_refset(session, PartNo(8), &payload),
            Err(FormatError::Damaged)
        );
        assert_eq!(
            parse_refset_key(&refset_key(session, part)),
            Ok((session, part))
        );
    }

    proptest! {
        #[test]
        fn a_bitmap_round_trips(
            files in proptest::collection::vec((any::<u32>(), proptest::collection::vec(any::<(u32, u32)>(), 0..20)), 0..5)
        ) {
            let sorted = |(file, mut counts): (u32, FileCounts)| {
                counts.sort_unstable();
                (file, counts)
            };
            let files = files.into_iter().map(sorted).collect();
            let store = StoreUuid::from_bytes([1; 16]);
            let bitmap = Bitmap { last_seq: 77, files };
            let bytes = bitmap.encode(store);
            prop_assert_eq!(Bitmap::decode(store, &bytes), Ok(bitmap));
            prop_assert!(Bitmap::decode(StoreUuid::from_bytes([2; 16]), &bytes).is_err());
        }

        #[test]
        fn i10_decoding_garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..5000)) {
            let store = StoreUuid::from_bytes([0; 16]);
            let _ = Superblock::decode(&bytes);
            let _ = Bitmap::decode(store, &bytes);
            let _ = Image::decode(store, &bytes);
            let _ = decode_refset(SessionId::from_bytes([0; 16]), PartNo(0), &bytes);
        }
    }
}
