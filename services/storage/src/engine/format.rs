//! The only place that knows the bytes of the storage disk, beside the log frames (crate
//! `cstore-log`).
//!
//! Little-endian throughout. `docs/disk-format.md` is the same in prose; a test keeps the two
//! together.
//!
//! ```text
//! <disk>/superblock.bin   4 slots of 4 KiB, written in turn; the valid one with the highest seq wins
//! <disk>/bitmap.bin       derived cache, written at a clean stop; may be deleted at any time
//! <disk>/segments/        files of the log
//! <disk>/LOCK             held by the running process
//!
//! superblock slot
//!   0 magic "CSTORSB2" · 8 format version u16 · 10 flags u16 (bit 0 clean) · 12 reserved u32
//!  16 incompatible features u64 · 24 compatible features u64
//!  32 store uuid [16] · 48 cluster uuid [16] · 64 dedup key check value [16]
//!  80 capacity u64 · 88 segment bytes u64 · 96 default block size u64 · 104 seal seq u64 · 112 seq u64
//! 120 node id: length u8, then 64 bytes · 185 zero · 4092 CRC-32C of what is before it
//!
//! record kinds in segments
//!   1 data      key = block id [32]                payload = the block
//!   2 manifest  key = block id [32]                payload = the recipe leaf
//!   3 refset    key = session [16] · part u32      payload = count u32 · CRC-32C u32 · ids [32] each
//!   4 release   key = session [16]                 payload = nothing; drops the refsets of the session before it
//!
//! bitmap.bin
//!   0 magic "CSTORBM2" · 8 store uuid [16] · 24 last frame_seq u64 · 32 number of files u32
//!     per file: id u32 · n u32 · n × (distance from the offset before, reference count), both LEB128
//!     CRC-32C u32 of all before it
//! ```

use bytes::{Bytes, BytesMut};
use cstore_types::codec::{CodecError, Fields};
use cstore_types::limits::MAX_IDS;
use cstore_types::{BlockId, ClusterUuid, NodeId, PartNo, SealSeq, SessionId, StoreUuid};

pub(crate) const SUPERBLOCK_FILE: &str = "superblock.bin";
pub(crate) const BITMAP_FILE: &str = "bitmap.bin";
pub(crate) const SEGMENTS_DIR: &str = "segments";
pub(crate) const LOCK_FILE: &str = "LOCK";
pub(crate) const SLOT: usize = 4_096;
pub(crate) const SLOTS: u64 = 4;

pub(crate) const KIND_DATA: u8 = 1;
pub(crate) const KIND_MANIFEST: u8 = 2;
pub(crate) const KIND_REFSET: u8 = 3;
pub(crate) const KIND_RELEASE: u8 = 4;

const SUPERBLOCK_MAGIC: &[u8; 8] = b"CSTORSB2";
const BITMAP_MAGIC: &[u8; 8] = b"CSTORBM2";
const VERSION: u16 = 2;
const FLAG_CLEAN: u16 = 1;
const CRC_AT: usize = SLOT - 4;

/// What the superblock says of the disk.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Identity of this disk; a re-format gives a new one.
    pub store: StoreUuid,
    /// The cluster it belongs to.
    pub cluster: ClusterUuid,
    /// The node that formatted it.
    pub node: NodeId,
    /// Recognises the cluster's dedup key.
    pub key_check: [u8; 16],
    /// FS_SIZE: bounds everything under the disk's folder.
    pub capacity: u64,
    /// Size of a standard segment file.
    pub segment_bytes: u64,
    /// Chunking default when it was formatted; blocks of all sizes live in one store.
    pub block_size: u64,
    /// Highest seal when it was written.
    pub seal_seq: SealSeq,
    /// Counts the writes of the superblock.
    pub seq: u64,
    /// Whether the node stopped in good order.
    pub clean: bool,
}

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
    #[error("has format version {0}, this program knows 2")]
    Version(u16),
    /// Uses a feature that this program does not know.
    #[error("uses unknown incompatible features {0:#x}")]
    Features(u64),
    /// A checksum or a value does not fit.
    #[error("is damaged")]
    Damaged,
    /// The bytes end before their last field, or go on after it.
    #[error("is damaged")]
    Fields(#[from] CodecError),
}

impl Superblock {
    pub(crate) fn encode(&self) -> Bytes {
        let mut slot = BytesMut::with_capacity(SLOT);
        slot.extend_from_slice(SUPERBLOCK_MAGIC);
        slot.extend_from_slice(&VERSION.to_le_bytes());
        slot.extend_from_slice(&u16::from(self.clean).to_le_bytes());
        slot.extend_from_slice(&[0; 4]);
        slot.extend_from_slice(&[0; 16]);
        slot.extend_from_slice(self.store.as_bytes());
        slot.extend_from_slice(self.cluster.as_bytes());
        slot.extend_from_slice(&self.key_check);
        for number in [
            self.capacity,
            self.segment_bytes,
            self.block_size,
            self.seal_seq.0,
            self.seq,
        ] {
            slot.extend_from_slice(&number.to_le_bytes());
        }
        let name = self.node.as_str().as_bytes();
        slot.extend_from_slice(&[u8::try_from(name.len()).unwrap_or(u8::MAX)]);
        slot.extend_from_slice(name);
        slot.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&slot);
        slot.extend_from_slice(&crc.to_le_bytes());
        slot.freeze()
    }

    pub(crate) fn decode(slot: &[u8]) -> Result<Self, FormatError> {
        if slot.iter().all(|byte| *byte == 0) {
            return Err(FormatError::Empty);
        }
        let mut reader = Fields::new(slot);
        if reader.array::<8>()? != *SUPERBLOCK_MAGIC {
            return Err(FormatError::Foreign);
        }
        let (body, crc) = slot.split_at_checked(CRC_AT).ok_or(FormatError::Damaged)?;
        if crc != crc32c::crc32c(body).to_le_bytes() {
            return Err(FormatError::Damaged);
        }
        let version = reader.u16()?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        let flags = reader.u16()?;
        reader.array::<4>()?;
        let incompatible = reader.u64()?;
        if incompatible != 0 {
            return Err(FormatError::Features(incompatible));
        }
        reader.u64()?;
        let store = StoreUuid::from_bytes(reader.array()?);
        let cluster = ClusterUuid::from_bytes(reader.array()?);
        let key_check = reader.array()?;
        let (capacity, segment_bytes, block_size) = (reader.u64()?, reader.u64()?, reader.u64()?);
        let (seal_seq, seq) = (SealSeq(reader.u64()?), reader.u64()?);
        let name_len = reader.u8()?;
        let name = reader.take(name_len.into())?;
        let node = std::str::from_utf8(name)
            .ok()
            .and_then(|text| NodeId::new(text).ok());
        let node = node.ok_or(FormatError::Damaged)?;
        let clean = flags & FLAG_CLEAN != 0;
        Ok(Self {
            store,
            cluster,
            node,
            key_check,
            capacity,
            segment_bytes,
            block_size,
            seal_seq,
            seq,
            clean,
        })
    }
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

/// Payload offset and reference count of each referenced block of one file, in order of offsets.
pub(crate) type FileCounts = Vec<(u32, u32)>;

/// The derived cache: for the log as it was at `last_seq`, where the referenced blocks lie and how
/// often they are referenced.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Bitmap {
    pub(crate) last_seq: u64,
    pub(crate) files: Vec<(u32, FileCounts)>,
}

impl Bitmap {
    pub(crate) fn encode(&self, store: StoreUuid) -> Bytes {
        let mut out = BytesMut::new();
        out.extend_from_slice(BITMAP_MAGIC);
        out.extend_from_slice(store.as_bytes());
        out.extend_from_slice(&self.last_seq.to_le_bytes());
        out.extend_from_slice(
            &u32::try_from(self.files.len())
                .unwrap_or(u32::MAX)
                .to_le_bytes(),
        );
        for (file, counts) in &self.files {
            out.extend_from_slice(&file.to_le_bytes());
            out.extend_from_slice(
                &u32::try_from(counts.len())
                    .unwrap_or(u32::MAX)
                    .to_le_bytes(),
            );
            let mut before = 0;
            for (offset, count) in counts {
                put_varint(&mut out, offset.wrapping_sub(before));
                put_varint(&mut out, *count);
                before = *offset;
            }
        }
        let crc = crc32c::crc32c(&out);
        out.extend_from_slice(&crc.to_le_bytes());
        out.freeze()
    }

    pub(crate) fn decode(store: StoreUuid, bytes: &[u8]) -> Result<Self, FormatError> {
        let (body, crc) = bytes.split_last_chunk::<4>().ok_or(FormatError::Damaged)?;
        if crc32c::crc32c(body).to_le_bytes() != *crc {
            return Err(FormatError::Damaged);
        }
        let mut reader = Fields::new(body);
        if reader.array::<8>()? != *BITMAP_MAGIC || reader.array::<16>()? != *store.as_bytes() {
            return Err(FormatError::Foreign);
        }
        let last_seq = reader.u64()?;
        let n_files = reader.u32()?;
        let mut files = Vec::new();
        for _ in 0..n_files {
            let file = reader.u32()?;
            let records = reader.u32()? as usize;
            let mut counts = Vec::with_capacity(records.min(reader.rest().len()));
            let mut offset = 0u32;
            for _ in 0..records {
                offset = offset
                    .checked_add(varint(&mut reader)?)
                    .ok_or(FormatError::Damaged)?;
                counts.push((offset, varint(&mut reader)?));
            }
            files.push((file, counts));
        }
        Ok(Self { last_seq, files })
    }
}

fn put_varint(out: &mut BytesMut, mut number: u32) {
    while number >= 0x80 {
        out.extend_from_slice(&[(number & 0x7f) as u8 | 0x80]);
        number >>= 7;
    }
    out.extend_from_slice(&[number as u8]);
}

/// Takes a LEB128 number of at most 32 bits.
fn varint(fields: &mut Fields<'_>) -> Result<u32, FormatError> {
    let mut number = 0u32;
    for shift in [0, 7, 14, 21, 28] {
        let byte = fields.u8()?;
        number |= u32::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Ok(number);
        }
    }
    Err(FormatError::Damaged)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn superblock() -> Superblock {
        Superblock {
            store: StoreUuid::from_bytes([1; 16]),
            cluster: ClusterUuid::from_bytes([2; 16]),
            node: NodeId::new("storage-1").unwrap(),
            key_check: [3; 16],
            capacity: 6 << 20,
            segment_bytes: 196_608,
            block_size: 64,
            seal_seq: SealSeq(9),
            seq: 4,
            clean: true,
        }
    }

    #[test]
    fn the_superblock_is_pinned_byte_by_byte() {
        let slot = superblock().encode();
        let expected = concat!(
            "4353544f5253423202000100000000000000000000000000",
            "0000000000000000",
            "01010101010101010101010101010101",
            "02020202020202020202020202020202",
            "03030303030303030303030303030303",
            "0000600000000000",
            "0000030000000000",
            "4000000000000000",
            "0900000000000000",
            "0400000000000000",
            "0973746f726167652d31",
        );
        assert_eq!(hex::encode(&slot[..130]), expected);
        assert_eq!(Superblock::decode(&slot), Ok(superblock()));
    }

    #[test]
    fn every_flipped_byte_of_a_superblock_is_noticed() {
        let slot = superblock().encode();
        for at in 0..SLOT {
            let mut copy = slot.to_vec();
            copy[at] ^= 0x10;
            assert!(Superblock::decode(&copy).is_err(), "byte {at}");
        }
        assert_eq!(Superblock::decode(&[0; SLOT]), Err(FormatError::Empty));
    }

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
            let _ = Superblock::decode(&bytes);
            let _ = Bitmap::decode(StoreUuid::from_bytes([0; 16]), &bytes);
            let _ = decode_refset(SessionId::from_bytes([0; 16]), PartNo(0), &bytes);
        }
    }
}
