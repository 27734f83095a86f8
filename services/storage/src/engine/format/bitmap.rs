//! The derived cache of reference counts, written at a clean stop.

use bytes::{Bytes, BytesMut};
use cstore_types::StoreUuid;
use cstore_types::codec::Fields;

use super::FormatError;

const MAGIC: &[u8; 8] = b"CSTORBM2";

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
        out.extend_from_slice(MAGIC);
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
        if reader.array::<8>()? != *MAGIC || reader.array::<16>()? != *store.as_bytes() {
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
