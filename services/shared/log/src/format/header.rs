//! The header of a log file: its first block.
//!
//! ```text
//! header    0 magic "CSTORLG2" · 8 version u16 (2 in a log with epochs, else 1) · 10 zero u16
//!          12 file id u32 · 16 owner [16] · 32 capacity u64 · 40 durable_seq u64
//!          48 epoch u32 · 52 zero u32 · 56 nonce u64 · 64 last seq in front of the epoch u64
//!          72 zero u32 · 76 id of the file before u32 · 80 superblock seq u64 · 88 zero
//!          4092 CRC-32C of what is before it                     (48 to 88 are zero in version 1)
//! ```
//! Little-endian. The checksum is verified before the version: rot in the version must not look like
//! a later program.

use bytes::{BufMut, Bytes, BytesMut};
use cstore_types::codec::Fields;
use cstore_types::epoch::Epoch;

use super::{BLOCK, Damage};

const MAGIC: &[u8; 8] = b"CSTORLG2";
/// Version of a file in a log with epochs.
pub(super) const VERSION: u16 = 2;
/// Version of a file in a log without epochs.
const VERSION_WITHOUT_EPOCHS: u16 = 1;

/// Block 0 of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileHeader {
    pub(crate) file: u32,
    pub(crate) owner: [u8; 16],
    pub(crate) capacity: u64,
    pub(crate) durable_seq: u64,
    /// Epoch of the frames; all zero in a log without epochs.
    pub(crate) epoch: Epoch,
    /// Id of the file that took frames before this one; 0 if there was none.
    pub(crate) file_before: u32,
    /// Sequence of the owner's superblock when the file was made.
    pub(crate) superblock_seq: u64,
}

impl FileHeader {
    pub(crate) fn encode(&self) -> Bytes {
        let mut block = BytesMut::with_capacity(BLOCK as usize);
        block.put_slice(MAGIC);
        block.put_u16_le(match self.epoch.number {
            0 => VERSION_WITHOUT_EPOCHS,
            _ => VERSION,
        });
        block.put_u16_le(0);
        block.put_u32_le(self.file);
        block.put_slice(&self.owner);
        block.put_u64_le(self.capacity);
        block.put_u64_le(self.durable_seq);
        block.put_u32_le(self.epoch.number);
        block.put_u32_le(0);
        block.put_u64_le(self.epoch.nonce);
        block.put_u64_le(self.epoch.end_before);
        block.put_u32_le(0);
        block.put_u32_le(self.file_before);
        block.put_u64_le(self.superblock_seq);
        block.resize(BLOCK as usize - 4, 0);
        let crc = crc32c::crc32c(&block);
        block.put_u32_le(crc);
        block.freeze()
    }

    pub(crate) fn decode(block: &[u8]) -> Result<Self, Damage> {
        let mut fields = Fields::new(block);
        if fields.array::<8>()? != *MAGIC {
            return Err(Damage::Magic);
        }
        // The checksum comes first: a version that was hit by rot is not that of a later program.
        let (body, crc) = block
            .split_last_chunk::<4>()
            .ok_or(Damage::Short(block.len() as u64))?;
        if crc32c::crc32c(body).to_le_bytes() != *crc {
            return Err(Damage::Header);
        }
        let version = fields.u16()?;
        if version != VERSION && version != VERSION_WITHOUT_EPOCHS {
            return Err(Damage::Version(version));
        }
        fields.u16()?;
        let file = fields.u32()?;
        let owner = fields.array()?;
        let (capacity, durable_seq) = (fields.u64()?, fields.u64()?);
        let number = fields.u32()?;
        fields.u32()?;
        let epoch = Epoch {
            number,
            nonce: fields.u64()?,
            end_before: fields.u64()?,
        };
        fields.u32()?;
        Ok(Self {
            file,
            owner,
            capacity,
            durable_seq,
            epoch,
            file_before: fields.u32()?,
            superblock_seq: fields.u64()?,
        })
    }
}

/// Fields of the header block of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct HeaderFacts {
    /// Identity of the log's owner.
    pub owner: [u8; 16],
    /// Id of the file.
    pub file: u32,
    /// Sequence of the owner's superblock when the file was made.
    pub superblock_seq: u64,
}

/// Reads the header block of a file; `None` if it is no valid header.
pub fn header_facts(block: &[u8]) -> Option<HeaderFacts> {
    let header = FileHeader::decode(block).ok()?;
    Some(HeaderFacts {
        owner: header.owner,
        file: header.file,
        superblock_seq: header.superblock_seq,
    })
}

/// Checksum of an encoded header block.
pub(crate) fn header_crc(block: &[u8]) -> u32 {
    block.last_chunk().map_or(0, |raw| u32::from_le_bytes(*raw))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWNER: [u8; 16] = [7; 16];

    #[test]
    fn the_file_header_names_what_is_wrong() {
        let header = FileHeader {
            file: 5,
            owner: OWNER,
            capacity: 1 << 20,
            durable_seq: 4,
            epoch: Epoch {
                number: 3,
                nonce: 8,
                end_before: 4,
            },
            file_before: 2,
            superblock_seq: 6,
        };
        let block = header.encode();
        assert_eq!(FileHeader::decode(&block), Ok(header));
        let expected = concat!(
            "02000000",
            "05000000",
            "07070707070707070707070707070707",
            "0000100000000000",
            "0400000000000000",
            "0300000000000000",
            "0800000000000000",
            "0400000000000000",
            "0000000002000000",
            "0600000000000000",
        );
        assert_eq!(hex::encode(&block[8..88]), expected);
        let without = FileHeader {
            epoch: Epoch::default(),
            ..header
        };
        assert_eq!(without.encode()[8], 1, "a log without epochs is version 1");
        let mut newer = block.to_vec();
        newer[8] = 9;
        assert_eq!(FileHeader::decode(&newer), Err(Damage::Header));
        let crc = crc32c::crc32c(&newer[..4_092]);
        newer[4_092..].copy_from_slice(&crc.to_le_bytes());
        assert_eq!(FileHeader::decode(&newer), Err(Damage::Version(9)));
        assert_eq!(FileHeader::decode(&[0; 4_096]), Err(Damage::Magic));
        let mut flipped = block.to_vec();
        flipped[20] ^= 1;
        assert_eq!(FileHeader::decode(&flipped), Err(Damage::Header));
    }
}
