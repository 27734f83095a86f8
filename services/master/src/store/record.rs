//! Records of the log: the bytes of one batch, its checksum, and its link in the chain of batches.
//!
//! ```text
//! key      position u64 big-endian
//! payload  version u8, 2 · flags u8, zero · zero u16 · CRC-32C u32 of the key and all the rest
//!          · link before u64 · n u32 · n × (op u8 · key length u32 · value length u32 · key · value)
//! op       0 put · 1 delete, without value · 2 reserved for the greater of two values
//! link     first 8 bytes of BLAKE3 over link before u64 · position u64 · the payload from n on
//! ```
//! Numbers are little-endian unless they say otherwise. A record of kind 1 is of a program before
//! format 2: no version, checksum and link, `n u32 · n × (key length u32 · value length u32, all
//! ones for a delete · key · value)`. Its link counts as 0, which says that none is known.
//!
//! The log verifies frames when it opens, and not those of files that have a footer. So each record
//! brings a checksum of its own, and is verified wherever it is read.

use cstore_types::codec::{CodecError, Fields};

use super::{DamageKind, Link, Position};

/// Kind of a record without checksum, read but no longer written.
pub(super) const KIND_UNCHECKED: u8 = 1;
/// Kind of a record of this format. Those between are left to a replicated log.
pub(super) const KIND_BATCH: u8 = 7;

const VERSION: u8 = 2;
const PUT: u8 = 0;
const DELETE: u8 = 1;
const CRC_AT: usize = 4;
/// End of version, flags and checksum.
const LINK_AT: usize = 8;
/// Start of what the link is computed over.
const CHANGES_AT: usize = 16;
/// Bytes of the count of changes.
const COUNT: usize = 4;
/// Bytes of a change without its key and value.
const CHANGE_HEAD: usize = 9;

/// A change as the log has it: the key, and the value or `None` for a deletion.
pub(super) type ResolvedChange = (Vec<u8>, Option<Vec<u8>>);

/// A batch that was read from the log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Decoded {
    /// Link of the batch before; `None` in a record of kind 1.
    pub(super) before: Option<Link>,
    pub(super) link: Link,
    pub(super) changes: Vec<ResolvedChange>,
}

/// Encodes resolved changes, `None` deletes, as the batch at `position` behind the one of link
/// `before`. Returns the payload and its link.
pub(super) fn encode<'a>(
    position: Position,
    before: Link,
    changes: impl ExactSizeIterator<Item = (&'a [u8], Option<&'a [u8]>)> + Clone,
) -> (Vec<u8>, Link) {
    let bytes_of = |(key, value): (&[u8], Option<&[u8]>)| {
        CHANGE_HEAD + key.len() + value.map_or(0, <[u8]>::len)
    };
    let capacity = CHANGES_AT + COUNT + changes.clone().map(bytes_of).sum::<usize>();
    let mut out = Vec::with_capacity(capacity);
    out.extend([VERSION, 0, 0, 0, 0, 0, 0, 0]);
    out.extend(before.to_le_bytes());
    out.extend((changes.len() as u32).to_le_bytes());
    for (key, value) in changes {
        out.push(if value.is_some() { PUT } else { DELETE });
        let value = value.unwrap_or_default();
        out.extend((key.len() as u32).to_le_bytes());
        out.extend((value.len() as u32).to_le_bytes());
        out.extend(key);
        out.extend(value);
    }

    let link = link_of(position, before, out.get(CHANGES_AT..).unwrap_or_default());
    let crc = checksum(position, &out).to_le_bytes();
    out.splice(CRC_AT..LINK_AT, crc);
    (out, link)
}

/// Decodes the payload of a record of this kind at `position`.
///
/// # Errors
/// [`DamageKind::Record`] if the checksum does not match, others if the bytes are not those of a
/// batch that this program knows.
pub(super) fn decode(kind: u8, position: Position, payload: &[u8]) -> Result<Decoded, DamageKind> {
    match kind {
        KIND_UNCHECKED => Ok(Decoded {
            before: None,
            link: 0,
            changes: decode_unchecked(Fields::new(payload)).map_err(DamageKind::from)?,
        }),
        KIND_BATCH => decode_batch(position, payload),
        other => Err(DamageKind::RecordKind(other)),
    }
}

fn decode_batch(position: Position, payload: &[u8]) -> Result<Decoded, DamageKind> {
    let damaged = DamageKind::Record { position };
    let stored = payload
        .get(CRC_AT..)
        .and_then(|rest| rest.first_chunk())
        .ok_or_else(|| damaged.clone())?;
    if u32::from_le_bytes(*stored) != checksum(position, payload) {
        return Err(damaged);
    }
    match payload {
        [VERSION, 0, 0, 0, ..] => {}
        [VERSION, ..] => return Err(DamageKind::Layout("flags of a record")),
        _ => {
            let found = payload.first().copied().unwrap_or_default();
            let known = &[VERSION];
            return Err(DamageKind::Version { found, known });
        }
    }
    let (before, changes) = decode_changes(payload).map_err(|error| match error {
        Unread::Fields(error) => DamageKind::from(error),
        Unread::Op(op) => DamageKind::Op(op),
    })?;
    let link = link_of(
        position,
        before,
        payload.get(CHANGES_AT..).unwrap_or_default(),
    );
    Ok(Decoded {
        before: Some(before),
        link,
        changes,
    })
}

/// The reason why changes cannot be read although their checksum matches.
enum Unread {
    Fields(CodecError),
    Op(u8),
}

impl From<CodecError> for Unread {
    fn from(error: CodecError) -> Self {
        Self::Fields(error)
    }
}

fn decode_changes(payload: &[u8]) -> Result<(Link, Vec<ResolvedChange>), Unread> {
    let mut fields = Fields::new(payload.get(LINK_AT..).unwrap_or_default());
    let before = fields.u64()?;
    let count = fields.u32()?;

    let mut changes = Vec::new();
    for _ in 0..count {
        let op = fields.u8()?;
        let key_len = fields.u32()?;
        let value_len = fields.u32()?;
        let key = fields.take(key_len as usize)?.to_vec();
        let value = fields.take(value_len as usize)?.to_vec();
        let value = match op {
            PUT => Some(value),
            DELETE if value.is_empty() => None,
            other => return Err(Unread::Op(other)),
        };
        changes.push((key, value));
    }
    fields.end()?;
    Ok((before, changes))
}

fn decode_unchecked(mut fields: Fields<'_>) -> Result<Vec<ResolvedChange>, CodecError> {
    let count = fields.u32()?;
    let mut changes = Vec::new();
    for _ in 0..count {
        let key_len = fields.u32()?;
        let value_len = fields.u32()?;
        let key = fields.take(key_len as usize)?.to_vec();
        let value = match value_len {
            u32::MAX => None,
            len => Some(fields.take(len as usize)?.to_vec()),
        };
        changes.push((key, value));
    }
    fields.end()?;
    Ok(changes)
}

/// Returns the checksum of a payload with its key, without the four bytes that hold it.
fn checksum(position: Position, payload: &[u8]) -> u32 {
    let crc = crc32c::crc32c(&position.to_be_bytes());
    let crc = crc32c::crc32c_append(crc, payload.get(..CRC_AT).unwrap_or_default());
    crc32c::crc32c_append(crc, payload.get(LINK_AT..).unwrap_or_default())
}

fn link_of(position: Position, before: Link, changes: &[u8]) -> Link {
    let mut hasher = blake3::Hasher::new();
    hasher.update(&before.to_le_bytes());
    hasher.update(&position.to_le_bytes());
    hasher.update(changes);
    let first = hasher.finalize().as_bytes().first_chunk().copied();
    // 0 says that no link is known.
    u64::from_le_bytes(first.unwrap_or_default()).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn changes() -> Vec<ResolvedChange> {
        vec![
            (b"a".to_vec(), Some(b"1".to_vec())),
            (b"b".to_vec(), Some(Vec::new())),
            (b"c".to_vec(), None),
        ]
    }

    fn encoded(position: Position, before: Link) -> (Vec<u8>, Link) {
        let changes = changes();
        let changes = changes
            .iter()
            .map(|(key, value)| (key.as_slice(), value.as_deref()));
        encode(position, before, changes)
    }

    #[test]
    fn i8_a_record_survives_its_bytes_and_any_flipped_bit_is_noticed() {
        let (bytes, link) = encoded(9, 7);
        let expected = Decoded {
            before: Some(7),
            link,
            changes: changes(),
        };
        assert_eq!(decode(KIND_BATCH, 9, &bytes).unwrap(), expected);
        for cut in 0..bytes.len() {
            assert!(
                decode(KIND_BATCH, 9, &bytes[..cut]).is_err(),
                "cut at {cut}"
            );
        }
        for bit in 0..bytes.len() * 8 {
            let mut flipped = bytes.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            assert!(decode(KIND_BATCH, 9, &flipped).is_err(), "bit {bit}");
        }
        // The bytes of another batch do not count as this one.
        assert!(decode(KIND_BATCH, 8, &bytes).is_err());
    }

    #[test]
    fn i4_a_link_depends_on_all_that_was_written_up_to_it() {
        let (_, link) = encoded(9, 7);
        assert_ne!(link, 0);
        assert_ne!(link, encoded(10, 7).1);
        assert_ne!(link, encoded(9, 8).1);
        assert_ne!(link, encode(9, 7, std::iter::empty()).1);
        assert_eq!(link, encoded(9, 7).1);
    }

    #[test]
    fn a_record_of_a_later_program_is_refused_by_what_it_has() {
        let sealed = |mut bytes: Vec<u8>| {
            let crc = checksum(1, &bytes).to_le_bytes();
            bytes.splice(CRC_AT..LINK_AT, crc);
            decode(KIND_BATCH, 1, &bytes).unwrap_err()
        };
        let (bytes, _) = encoded(1, 0);
        let with = |at: usize, byte| {
            let mut bytes = bytes.clone();
            bytes[at] = byte;
            bytes
        };
        let version = DamageKind::Version {
            found: 3,
            known: &[2],
        };
        let flags = DamageKind::Layout("flags of a record");
        let op = DamageKind::Op(2);
        for (bytes, expected) in [
            (with(0, 3), version),
            (with(1, 1), flags.clone()),
            (with(3, 1), flags),
            (with(20, 2), op),
        ] {
            assert_eq!(sealed(bytes), expected);
        }
        let kind = decode(6, 1, &bytes).unwrap_err();
        assert_eq!(kind, DamageKind::RecordKind(6));
    }

    #[test]
    fn records_of_earlier_programs_are_read() {
        let mut bytes = 3u32.to_le_bytes().to_vec();
        for (key, value) in changes() {
            bytes.extend((key.len() as u32).to_le_bytes());
            let len = value.as_ref().map_or(u32::MAX, |value| value.len() as u32);
            bytes.extend(len.to_le_bytes());
            bytes.extend(key);
            bytes.extend(value.unwrap_or_default());
        }
        let decoded = decode(KIND_UNCHECKED, 5, &bytes).unwrap();
        let expected = Decoded {
            before: None,
            link: 0,
            changes: changes(),
        };
        assert_eq!(decoded, expected);
        for cut in 0..bytes.len() {
            assert!(decode(KIND_UNCHECKED, 5, &bytes[..cut]).is_err());
        }
    }
}
