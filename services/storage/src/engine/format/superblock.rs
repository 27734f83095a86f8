//! The superblock: who a disk is, how far it is, and what is in doubt.
//!
//! ```text
//! slot, 4 KiB
//!   0 magic "CSTORSB2" · 8 format version u16 · 10 flags u16 (bit 0 clean, bit 1 hold, bit 2 verification owed,
//!  bit 3 written by a program that audits) · 12 zero u32
//!  16 incompatible features u64 · 24 compatible features u64
//!  32 store uuid [16] · 48 cluster uuid [16] · 64 dedup key check value [16]
//!  80 capacity u64 · 88 segment bytes u64 · 96 default block size u64 · 104 seal seq u64 · 112 seq u64
//! 120 node id: length u8, then 64 bytes · 185 zero
//! from version 3 on
//! 192 noted point of the master [40] · 232 newest map u64 · 240 oldest map u64
//! 248 epoch u32 · 252 opens u32 · 256 epoch nonce u64
//! 264 inventory gen u64 · 272 inventory CRC u32 · 276 checkpoint gen u32
//! 280 seen seq u64 · 288 seen nonce u64 · 296 verify below u64
//! 304 scrub file u32 · 308 scrub offset u32 · 312 scrub pass u64 · 320 release cursor u64
//! 328 session floor u32 · 332 failure domain hash u32 · 336 zero
//! 384 number of doubts u8 · 385 zero · 388 next number of a doubt u32 · 392 zero
//! 400 doubts, 48 bytes each, at most 32 · 1936 zero · 4092 CRC-32C of what is before it
//! ```
//! Bytes from 1936 on are refused if they are not zero, unless a compatible feature names them.

use bytes::{BufMut, Bytes, BytesMut};
use cstore_types::codec::Fields;
use cstore_types::history::Point;
use cstore_types::{ClusterUuid, NodeId, SealSeq, StoreUuid};

use super::FormatError;
use super::doubt::{DOUBT, Doubt, MAX_DOUBTS};

pub(crate) const SLOT: usize = 4_096;
pub(crate) const SLOTS: u64 = 4;
/// Version that is written. Version 2 is read, too.
pub(crate) const VERSION: u16 = 3;

const MAGIC: &[u8; 8] = b"CSTORSB2";
const OLD_VERSION: u16 = 2;
const FLAG_CLEAN: u16 = 1;
const FLAG_HOLD: u16 = 2;
const FLAG_OWED: u16 = 4;
const FLAG_AUDITS: u16 = 8;
/// Where the fields of version 3 begin, the doubts, and the bytes that have no meaning yet.
const SECOND_PART: usize = 192;
const DOUBTS_AT: usize = 384;
const DOUBTS_END: usize = 400 + MAX_DOUBTS * DOUBT;
const CRC_AT: usize = SLOT - 4;

/// Contents of a superblock.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Superblock {
    /// Oldest format version of the slots that it was read from, and 3 as soon as it is written.
    pub version: u16,
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
    /// True if the node stopped in good order.
    pub clean: bool,
    /// Newest point of the master's history that the disk obeyed.
    pub noted: Point,
    /// Generation and checksum of the inventory when it was written; (0, 0) before the first.
    pub inventory: (u64, u32),
    /// Highest sequence whose blocks count as unverified since a doubt; 0 if every block is
    /// trusted.
    pub verify_below: u64,
    /// True if a doubt was accepted since `verify_below` was set: only a whole verification clears
    /// both.
    pub owes_verification: bool,
    /// True if the program that wrote it audits the reference sets: what accepted doubts have taken
    /// is counted, or noted as uncounted.
    pub audits: bool,
    /// Epoch of the newest open.
    pub epoch: DiskEpoch,
    /// Fields that this program keeps as they are: maps, checkpoint, scrub, release cursor.
    pub kept: KeptFields,
    /// Number of the next doubt.
    pub next_doubt: u32,
    /// Doubts about the disk, accepted ones among them.
    pub doubts: Vec<Doubt>,
}

/// Epoch of sequences of an open, which may have written nothing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DiskEpoch {
    /// Number; 0 on a disk of before epochs.
    pub number: u32,
    /// Opens so far.
    pub opens: u32,
    /// Random number of the open.
    pub nonce: u64,
}

/// Fields that later work fills. They are zero until then, and a rewrite keeps them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct KeptFields {
    /// Newest and oldest placement map that the disk has served.
    pub maps: (u64, u64),
    /// Generation of the checkpoint of reference counts.
    pub checkpoint: u32,
    /// Newest seal of this disk that the master has seen: sequence and random number of its epoch.
    pub seen: (u64, u64),
    /// Place of the scrubber: file and offset, and finished passes.
    pub scrub: (u32, u32, u64),
    /// Position in the master's list of releases.
    pub release_cursor: u64,
    /// Sessions below are settled.
    pub session_floor: u32,
    /// Hash of the failure domain.
    pub failure_domain: u32,
}

impl Superblock {
    /// Returns true while a doubt is open: nothing on the disk is freed then.
    pub fn is_held(&self) -> bool {
        self.doubts.iter().any(|doubt| !doubt.accepted)
    }

    pub(crate) fn encode(&self) -> Bytes {
        let mut slot = BytesMut::with_capacity(SLOT);
        slot.put_slice(MAGIC);
        slot.put_u16_le(VERSION);
        let clean = if self.clean { FLAG_CLEAN } else { 0 };
        let held = if self.is_held() { FLAG_HOLD } else { 0 };
        let owed = if self.owes_verification { FLAG_OWED } else { 0 };
        let audits = if self.audits { FLAG_AUDITS } else { 0 };
        slot.put_u16_le(clean | held | owed | audits);
        slot.put_bytes(0, 4 + 8 + 8);
        slot.put_slice(self.store.as_bytes());
        slot.put_slice(self.cluster.as_bytes());
        slot.put_slice(&self.key_check);
        for number in [
            self.capacity,
            self.segment_bytes,
            self.block_size,
            self.seal_seq.0,
            self.seq,
        ] {
            slot.put_u64_le(number);
        }
        let name = self.node.as_str().as_bytes();
        slot.put_u8(u8::try_from(name.len()).unwrap_or(u8::MAX));
        slot.put_slice(name);

        slot.resize(SECOND_PART, 0);
        self.encode_second_part(&mut slot);
        slot.resize(DOUBTS_AT, 0);
        let doubts = self.doubts.iter().take(MAX_DOUBTS);
        slot.put_u8(doubts.len() as u8);
        slot.put_bytes(0, 3);
        slot.put_u32_le(self.next_doubt);
        slot.put_bytes(0, 8);
        for doubt in doubts {
            doubt.encode(&mut slot);
        }

        slot.resize(CRC_AT, 0);
        let crc = crc32c::crc32c(&slot);
        slot.put_u32_le(crc);
        slot.freeze()
    }

    fn encode_second_part(&self, slot: &mut BytesMut) {
        let kept = &self.kept;
        slot.put_slice(&self.noted.to_bytes());
        slot.put_u64_le(kept.maps.0);
        slot.put_u64_le(kept.maps.1);
        slot.put_u32_le(self.epoch.number);
        slot.put_u32_le(self.epoch.opens);
        slot.put_u64_le(self.epoch.nonce);
        slot.put_u64_le(self.inventory.0);
        slot.put_u32_le(self.inventory.1);
        slot.put_u32_le(kept.checkpoint);
        slot.put_u64_le(kept.seen.0);
        slot.put_u64_le(kept.seen.1);
        slot.put_u64_le(self.verify_below);
        slot.put_u32_le(kept.scrub.0);
        slot.put_u32_le(kept.scrub.1);
        slot.put_u64_le(kept.scrub.2);
        slot.put_u64_le(kept.release_cursor);
        slot.put_u32_le(kept.session_floor);
        slot.put_u32_le(kept.failure_domain);
    }

    pub(crate) fn decode(slot: &[u8]) -> Result<Self, FormatError> {
        if slot.iter().all(|byte| *byte == 0) {
            return Err(FormatError::Empty);
        }
        let mut reader = Fields::new(slot);
        if reader.array::<8>()? != *MAGIC {
            return Err(FormatError::Foreign);
        }
        let (body, crc) = slot.split_at_checked(CRC_AT).ok_or(FormatError::Damaged)?;
        if crc != crc32c::crc32c(body).to_le_bytes() {
            return Err(FormatError::Damaged);
        }
        let version = reader.u16()?;
        if version != VERSION && version != OLD_VERSION {
            return Err(FormatError::Version(version));
        }
        let flags = reader.u16()?;
        reader.array::<4>()?;
        let incompatible = reader.u64()?;
        if incompatible != 0 {
            return Err(FormatError::Features(incompatible));
        }
        let compatible = reader.u64()?;
        let later = body.get(DOUBTS_END..).unwrap_or_default();
        if compatible == 0 && later.iter().any(|byte| *byte != 0) {
            return Err(FormatError::Unknown);
        }

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

        let found = Self {
            version,
            store,
            cluster,
            node,
            key_check,
            capacity,
            segment_bytes,
            block_size,
            seal_seq,
            seq,
            clean: flags & FLAG_CLEAN != 0,
            noted: Point::default(),
            inventory: (0, 0),
            verify_below: 0,
            owes_verification: flags & FLAG_OWED != 0,
            audits: flags & FLAG_AUDITS != 0,
            epoch: DiskEpoch::default(),
            kept: KeptFields::default(),
            next_doubt: 1,
            doubts: Vec::new(),
        };
        match version {
            OLD_VERSION => Ok(found),
            _ => found.with_second_part(body),
        }
    }

    fn with_second_part(self, body: &[u8]) -> Result<Self, FormatError> {
        let mut fields = Fields::new(body.get(SECOND_PART..).unwrap_or_default());
        let noted = Point::take(&mut fields)?;
        let maps = (fields.u64()?, fields.u64()?);
        let epoch = DiskEpoch {
            number: fields.u32()?,
            opens: fields.u32()?,
            nonce: fields.u64()?,
        };
        let inventory = (fields.u64()?, fields.u32()?);
        let checkpoint = fields.u32()?;
        let seen = (fields.u64()?, fields.u64()?);
        let verify_below = fields.u64()?;
        let kept = KeptFields {
            maps,
            checkpoint,
            seen,
            scrub: (fields.u32()?, fields.u32()?, fields.u64()?),
            release_cursor: fields.u64()?,
            session_floor: fields.u32()?,
            failure_domain: fields.u32()?,
        };

        let mut fields = Fields::new(body.get(DOUBTS_AT..).unwrap_or_default());
        let n_doubts = usize::from(fields.u8()?);
        fields.array::<3>()?;
        let next_doubt = fields.u32()?;
        fields.array::<8>()?;
        if n_doubts > MAX_DOUBTS {
            return Err(FormatError::Damaged);
        }
        let doubts = (0..n_doubts)
            .map(|_| Doubt::take(&mut fields))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            noted,
            inventory,
            verify_below,
            epoch,
            kept,
            next_doubt,
            doubts,
            ..self
        })
    }
}

#[cfg(test)]
mod tests {
    use super::super::DoubtKind;
    use super::*;

    fn superblock() -> Superblock {
        Superblock {
            version: VERSION,
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
            noted: Point::default(),
            inventory: (7, 8),
            verify_below: 0,
            owes_verification: false,
            audits: false,
            epoch: DiskEpoch::default(),
            kept: KeptFields::default(),
            next_doubt: 1,
            doubts: Vec::new(),
        }
    }

    fn doubt(number: u32) -> Doubt {
        Doubt {
            kind: DoubtKind::Missing,
            accepted: number.is_multiple_of(2),
            number,
            file: 5,
            count: 1,
            seqs: (3, 9),
            aux: [0; 16],
        }
    }

    #[test]
    fn the_superblock_is_pinned_byte_by_byte() {
        let slot = superblock().encode();
        let expected = concat!(
            "4353544f5253423203000100000000000000000000000000",
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
        assert_eq!(
            hex::encode(&slot[264..276]),
            concat!("0700000000000000", "08000000")
        );
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
    fn all_doubts_that_fit_come_back_and_set_the_flag() {
        for n in [1, 2, MAX_DOUBTS as u32] {
            let held = Superblock {
                next_doubt: n + 1,
                doubts: (1..=n).map(doubt).collect(),
                ..superblock()
            };
            let slot = held.encode();
            assert_eq!(slot[10], 3, "clean and on hold");
            assert_eq!(Superblock::decode(&slot), Ok(held));
        }
        let accepted = Superblock {
            doubts: vec![doubt(2)],
            ..superblock()
        };
        assert_eq!(accepted.encode()[10], 1, "clean");
    }

    #[test]
    fn the_sequence_below_which_blocks_are_unverified_comes_back_with_its_flag() {
        let owing = Superblock {
            verify_below: 0x0102_0304_0506_0708,
            owes_verification: true,
            ..superblock()
        };
        let slot = owing.encode();
        assert_eq!(slot[10], 5, "clean, and a verification is owed");
        assert_eq!(hex::encode(&slot[296..304]), "0807060504030201");
        assert_eq!(Superblock::decode(&slot), Ok(owing));
    }

    fn sealed(mut slot: Vec<u8>) -> Vec<u8> {
        let crc = crc32c::crc32c(&slot[..CRC_AT]);
        slot[CRC_AT..].copy_from_slice(&crc.to_le_bytes());
        slot
    }

    #[test]
    fn fields_of_a_later_program_are_refused_unless_they_may_be_ignored() {
        let mut slot = superblock().encode().to_vec();
        slot[DOUBTS_END] = 1;
        let slot = sealed(slot);
        assert_eq!(Superblock::decode(&slot), Err(FormatError::Unknown));

        let mut compatible = slot;
        compatible[24] = 1;
        assert_eq!(Superblock::decode(&sealed(compatible)), Ok(superblock()));
    }

    #[test]
    fn a_doubt_of_an_unknown_kind_is_refused_so_that_it_is_not_forgotten() {
        let held = Superblock {
            doubts: vec![doubt(1)],
            ..superblock()
        };
        let mut slot = held.encode().to_vec();
        slot[400] = 99;
        assert_eq!(Superblock::decode(&sealed(slot)), Err(FormatError::Unknown));
    }
}
