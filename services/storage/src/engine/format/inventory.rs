//! The inventory: which segments a disk has, so that one that is lost is missed.
//!
//! ```text
//! inventory.bin   two areas of the same size, each the half of the file; image n is written to area n mod 2
//! image    0 magic "CSTORIN3" · 8 version u16 · 10 zero u16 · 12 number of entries u32
//!         16 store uuid [16] · 32 generation u64 · 40 highest id ever u32 · 44 number of epochs u32
//!         48 superblock seq u64 · 56 entries, 56 bytes each · epochs, 32 bytes each · CRC-32C u32
//! entry    0 id u32 · 4 state u8 (1 live, 2 sealed, 3 leaving, 4 lost) · 5 flags u8 (bit 0 unproven) · 6 zero u16
//!          8 epoch u32 · 12 records u32 · 16 size u64 · 24 first seq u64 · 32 last seq u64
//!         40 footer CRC u32 · 44 header CRC u32 · 48 checkpoint gen u32 · 52 CRC of settled holes u32
//! epoch    0 epoch u32 · 4 zero u32 · 8 nonce u64 · 16 first seq u64
//!         24 last seq of the epoch before u64
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use cstore_types::StoreUuid;
use cstore_types::codec::Fields;
use cstore_types::epoch::{Epoch, first_seq};

use super::FormatError;

const MAGIC: &[u8; 8] = b"CSTORIN3";
const VERSION: u16 = 3;
const HEAD: usize = 56;
const ENTRY: usize = 56;
const EPOCH: usize = 32;
const FLAG_UNPROVEN: u8 = 1;

/// One image of the inventory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Image {
    pub(crate) store: StoreUuid,
    /// Counts the images.
    pub(crate) generation: u64,
    /// Highest id that a segment ever had.
    pub(crate) highest: u32,
    /// Sequence of the superblock when the image was written.
    pub(crate) superblock_seq: u64,
    /// In order of their ids.
    pub(crate) files: Vec<FileEntry>,
    /// Epochs of sequences, oldest first.
    pub(crate) epochs: Vec<EpochEntry>,
}

/// A segment as the inventory lists it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FileEntry {
    pub(crate) id: u32,
    pub(crate) standing: FileStanding,
    /// The figures were taken from the file itself, when there was no inventory to compare with.
    pub(crate) unproven: bool,
    pub(crate) epoch: u32,
    pub(crate) records: u32,
    pub(crate) size: u64,
    /// First and last sequence of its frames; (0, 0) without frames.
    pub(crate) seqs: (u64, u64),
    /// 0 if it has no footer.
    pub(crate) footer_crc: u32,
    pub(crate) header_crc: u32,
    pub(crate) checkpoint: u32,
    /// Checksum of the holes that are settled: accepted, or explained by blocks that are damaged. 0 if
    /// there are none.
    pub(crate) holes_crc: u32,
}

impl FileEntry {
    /// Makes the entry of a segment of which nothing could be read when there was no inventory.
    pub(crate) const fn unread(id: u32) -> Self {
        Self {
            id,
            standing: FileStanding::Sealed,
            unproven: true,
            epoch: 0,
            records: 0,
            size: 0,
            seqs: (0, 0),
            footer_crc: 0,
            header_crc: 0,
            checkpoint: 0,
            holes_crc: 0,
        }
    }
}

/// Standing of a listed segment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub(crate) enum FileStanding {
    /// Takes frames: its figures are those of its beginning.
    Live = 1,
    /// Complete: its figures are final.
    Sealed = 2,
    /// Nothing in it is needed, and it is about to go. It is not read any more.
    Leaving = 3,
    /// A person accepted that it is gone. It is not read even if it comes back.
    Lost = 4,
}

/// An epoch of sequences.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EpochEntry {
    pub(crate) epoch: u32,
    /// Zero until it has a use.
    pub(crate) crc_before: u32,
    pub(crate) nonce: u64,
    pub(crate) first_seq: u64,
    /// Last sequence of the epoch before it.
    pub(crate) end_before: u64,
}

impl FileStanding {
    fn from_number(number: u8) -> Option<Self> {
        [Self::Live, Self::Sealed, Self::Leaving, Self::Lost]
            .into_iter()
            .find(|standing| *standing as u8 == number)
    }
}

impl Image {
    /// Returns the store that an area names. Nothing of the area is checked.
    pub(crate) fn store_of(area: &[u8]) -> Option<StoreUuid> {
        let raw = area.get(16..)?.first_chunk::<16>()?;
        Some(StoreUuid::from_bytes(*raw))
    }

    /// Returns the bytes of an image with so many files and epochs.
    pub(crate) const fn bytes_of(files: usize, epochs: usize) -> usize {
        HEAD + files * ENTRY + epochs * EPOCH + 4
    }

    /// Returns the bytes, the checksum at their end.
    pub(crate) fn encode(&self) -> Bytes {
        let len = Self::bytes_of(self.files.len(), self.epochs.len());
        let mut out = BytesMut::with_capacity(len);
        out.put_slice(MAGIC);
        out.put_u16_le(VERSION);
        out.put_u16_le(0);
        out.put_u32_le(self.files.len() as u32);
        out.put_slice(self.store.as_bytes());
        out.put_u64_le(self.generation);
        out.put_u32_le(self.highest);
        out.put_u32_le(self.epochs.len() as u32);
        out.put_u64_le(self.superblock_seq);

        for file in &self.files {
            file.encode(&mut out);
        }
        for epoch in &self.epochs {
            epoch.encode(&mut out);
        }
        let crc = crc32c::crc32c(&out);
        out.put_u32_le(crc);
        out.freeze()
    }

    /// Returns the image at the front of `area`, and its checksum.
    ///
    /// # Errors
    /// [`FormatError`]; `Empty` for an area that was never written.
    pub(crate) fn decode(store: StoreUuid, area: &[u8]) -> Result<(Self, u32), FormatError> {
        let mut fields = Fields::new(area);
        let magic = fields.array::<8>()?;
        if magic == [0; 8] {
            return Err(FormatError::Empty);
        }
        if magic != *MAGIC {
            return Err(FormatError::Foreign);
        }
        let version = fields.u16()?;
        if version != VERSION {
            return Err(FormatError::Version(version));
        }
        fields.u16()?;
        let n_files = fields.u32()? as usize;
        let found = StoreUuid::from_bytes(fields.array()?);
        let (generation, highest) = (fields.u64()?, fields.u32()?);
        let n_epochs = fields.u32()? as usize;
        let superblock_seq = fields.u64()?;

        // Numbers that are damaged may be huge: they are compared before anything is taken.
        let room = area.len().saturating_sub(HEAD + 4);
        if n_files > room / ENTRY || n_epochs > (room - n_files * ENTRY) / EPOCH {
            return Err(FormatError::Damaged);
        }
        let body_len = Self::bytes_of(n_files, n_epochs) - 4;
        let (body, rest) = area
            .split_at_checked(body_len)
            .ok_or(FormatError::Damaged)?;
        let crc = Fields::new(rest).u32()?;
        if crc32c::crc32c(body) != crc {
            return Err(FormatError::Damaged);
        }
        if found != store {
            return Err(FormatError::Foreign);
        }

        let files = (0..n_files)
            .map(|_| FileEntry::take(&mut fields))
            .collect::<Result<_, _>>()?;
        let epochs = (0..n_epochs)
            .map(|_| EpochEntry::take(&mut fields))
            .collect::<Result<_, _>>()?;
        let image = Self {
            store,
            generation,
            highest,
            superblock_seq,
            files,
            epochs,
        };
        Ok((image, crc))
    }
}

impl FileEntry {
    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.id);
        out.put_u8(self.standing as u8);
        out.put_u8(if self.unproven { FLAG_UNPROVEN } else { 0 });
        out.put_u16_le(0);
        out.put_u32_le(self.epoch);
        out.put_u32_le(self.records);
        out.put_u64_le(self.size);
        out.put_u64_le(self.seqs.0);
        out.put_u64_le(self.seqs.1);
        out.put_u32_le(self.footer_crc);
        out.put_u32_le(self.header_crc);
        out.put_u32_le(self.checkpoint);
        out.put_u32_le(self.holes_crc);
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        let id = fields.u32()?;
        let standing = FileStanding::from_number(fields.u8()?).ok_or(FormatError::Unknown)?;
        let flags = fields.u8()?;
        fields.u16()?;
        Ok(Self {
            id,
            standing,
            unproven: flags & FLAG_UNPROVEN != 0,
            epoch: fields.u32()?,
            records: fields.u32()?,
            size: fields.u64()?,
            seqs: (fields.u64()?, fields.u64()?),
            footer_crc: fields.u32()?,
            header_crc: fields.u32()?,
            checkpoint: fields.u32()?,
            holes_crc: fields.u32()?,
        })
    }
}

impl From<&Epoch> for EpochEntry {
    fn from(epoch: &Epoch) -> Self {
        Self {
            epoch: epoch.number,
            crc_before: 0,
            nonce: epoch.nonce,
            first_seq: first_seq(epoch.number),
            end_before: epoch.end_before,
        }
    }
}

impl EpochEntry {
    /// Returns the epoch of the entry.
    pub(crate) fn epoch(&self) -> Epoch {
        Epoch {
            number: self.epoch,
            nonce: self.nonce,
            end_before: self.end_before,
        }
    }

    fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.epoch);
        out.put_u32_le(self.crc_before);
        out.put_u64_le(self.nonce);
        out.put_u64_le(self.first_seq);
        out.put_u64_le(self.end_before);
    }

    fn take(fields: &mut Fields<'_>) -> Result<Self, FormatError> {
        Ok(Self {
            epoch: fields.u32()?,
            crc_before: fields.u32()?,
            nonce: fields.u64()?,
            first_seq: fields.u64()?,
            end_before: fields.u64()?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STORE: StoreUuid = StoreUuid::from_bytes([1; 16]);

    fn image() -> Image {
        let file = FileEntry {
            id: 3,
            standing: FileStanding::Sealed,
            unproven: true,
            epoch: 0,
            records: 9,
            size: 65_536,
            seqs: (4, 12),
            footer_crc: 7,
            header_crc: 8,
            checkpoint: 0,
            holes_crc: 0,
        };
        let epoch = EpochEntry {
            epoch: 1,
            crc_before: 2,
            nonce: 3,
            first_seq: 4,
            end_before: 5,
        };
        Image {
            store: STORE,
            generation: 2,
            highest: 5,
            superblock_seq: 6,
            files: vec![
                file,
                FileEntry {
                    id: 4,
                    standing: FileStanding::Lost,
                    ..file
                },
            ],
            epochs: vec![epoch],
        }
    }

    #[test]
    fn an_image_comes_back_and_every_flipped_byte_of_it_is_noticed() {
        let bytes = image().encode();
        assert_eq!(bytes.len(), Image::bytes_of(2, 1));
        // It is followed by what an older, longer image left.
        let mut area = bytes.to_vec();
        area.resize(4_096, 0xee);
        let crc = crc32c::crc32c(&bytes[..bytes.len() - 4]);
        assert_eq!(Image::decode(STORE, &area), Ok((image(), crc)));
        for at in 0..bytes.len() {
            let mut copy = area.clone();
            copy[at] ^= 0x10;
            assert!(Image::decode(STORE, &copy).is_err(), "byte {at}");
        }
    }

    #[test]
    fn an_image_of_another_disk_is_foreign() {
        let other = StoreUuid::from_bytes([2; 16]);
        let found = Image::decode(other, &image().encode());
        assert_eq!(found, Err(FormatError::Foreign));
        assert_eq!(Image::decode(STORE, &[0; 4_096]), Err(FormatError::Empty));
    }

    #[test]
    fn i10_numbers_beyond_the_area_are_damage_and_take_no_memory() {
        for at in [12, 44] {
            let mut bytes = image().encode().to_vec();
            bytes[at..at + 4].copy_from_slice(&u32::MAX.to_le_bytes());
            assert_eq!(Image::decode(STORE, &bytes), Err(FormatError::Damaged));
        }
    }
}
