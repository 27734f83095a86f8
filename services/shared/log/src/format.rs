//! The bytes of a log file: frames and footers here, the header in `header.rs`. No other file knows
//! them; `docs/log-format.md` says the same in prose.
//!
//! ```text
//! file    header block, then frames; every part starts on a 4 KiB boundary; little-endian
//! header  block 0: `header.rs`
//! frame     0 magic "CLF2" · 4 file id u32 · 8 frame_seq u64 · 16 durable_seq u64 · 24 records u32
//!          28 flags u32 (bit 0 footer) · 32 directory length u32 · 36 payload length u32
//!          40 CRC-32C of bytes 0..40, the directory and the payloads, seeded with owner and file id
//!          44 zero · 64 directory · payloads · zero up to the boundary
//! entry   kind u8 · key length u8 · payload length u32 · key                    (directory of a data frame)
//! entry   kind u8 · key length u8 · payload length u32 · payload offset u32
//!         · age u32 (frame_seq of the footer minus that of the record) · key    (directory of a footer)
//! trailer the last 16 bytes of a sealed file: magic "CLT2" · CRC-32C of the length · footer length u64
//! ```
//! A footer is a frame without payloads that ends where its file ends. It takes no frame_seq of its
//! own: it repeats that of the last frame.

mod directory;
mod header;

use bytes::{BufMut, Bytes, BytesMut};
use cstore_types::codec::{CodecError, Fields};

pub(crate) use directory::Directory;
use header::VERSION;
pub(crate) use header::{FileHeader, header_crc};
pub use header::{HeaderFacts, header_facts};

pub(crate) const BLOCK: u64 = 4_096;
pub(crate) const FRAME_HEADER: usize = 64;
/// Longest key of a record in bytes.
pub const MAX_KEY: usize = 64;
/// Largest frame: one group that the caller could not cut any smaller.
pub(crate) const MAX_FRAME: usize = 64 << 20;
/// Kinds from here on belong to the log itself.
pub(crate) const FIRST_OWN_KIND: u8 = 0xF0;
/// key = frame_seq u64 of the frame whose records this frame copied.
pub(crate) const KIND_SUPERSEDES: u8 = 0xF0;

const FRAME_MAGIC: &[u8; 4] = b"CLF2";
const TRAILER_MAGIC: &[u8; 4] = b"CLT2";
const FLAG_FOOTER: u32 = 1;
const ENTRY: usize = 6;
const FOOTER_ENTRY: usize = 14;
pub(crate) const TRAILER: usize = 16;

/// Name of the file of an id.
pub fn file_name(id: u32) -> String {
    format!("{id:08x}.bin")
}

/// Id of the file of a name; `None` for the name of something else.
pub fn parse_file_name(name: &str) -> Option<u32> {
    let digits = name.strip_suffix(".bin")?;
    (digits.len() == 8).then(|| u32::from_str_radix(digits, 16).ok())?
}

const fn align(len: u64) -> u64 {
    len.div_ceil(BLOCK) * BLOCK
}

/// Zeros from which the padding of a frame to whole blocks is taken.
const PADDING: &[u8] = &[0; BLOCK as usize];
/// Capacity for the buffers of a frame beside its payloads: head, padding, and the zeros that the
/// committer adds.
const OTHER_BUFFERS: usize = 12;

/// Bytes that a frame of `records` takes on disk, with `key_bytes` of keys and `payload_bytes` of
/// payloads.
pub const fn frame_bytes(records: usize, key_bytes: usize, payload_bytes: usize) -> u64 {
    align((FRAME_HEADER + records * ENTRY + key_bytes + payload_bytes) as u64)
}

/// Bytes that the footer over `records` takes.
pub(crate) const fn footer_bytes(records: usize, key_bytes: usize) -> u64 {
    align((FRAME_HEADER + records * FOOTER_ENTRY + key_bytes + TRAILER) as u64)
}

/// Bytes of a log file that no crash of this program leaves behind.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Damage {
    /// The file ends inside of its header.
    #[error("file is {0} bytes long, shorter than its header")]
    Short(u64),
    /// Block 0 has another magic number.
    #[error("is not a log file")]
    Magic,
    /// Another program wrote the file.
    #[error("has version {0}, this program knows {VERSION}")]
    Version(u16),
    /// The checksum of block 0 does not match.
    #[error("has a damaged header")]
    Header,
    /// Block 0 names another owner or another file id.
    #[error("file belongs to another log or has another name")]
    Foreign,
    /// The directory of a valid frame does not hold the records that the frame announces.
    #[error("directory does not fit its records")]
    Directory(#[from] CodecError),
    /// The payload of a record lies where no location can point.
    #[error("payload lies beyond 4 GiB")]
    PayloadOffset,
    /// A frame of a file that was complete does not validate.
    #[error("frame does not validate in a file that was complete")]
    Frame,
    /// A frame does not validate, although a frame that was written after its sync does.
    #[error("frame does not validate, but a later one does")]
    FrameBeforeValid,
    /// A frame that was proven durable is missing.
    #[error("frame {0} was durable and does not validate")]
    Lost(u64),
    /// The disk does not give the bytes back.
    #[error("cannot be read: {}", std::io::Error::from_raw_os_error(*.0))]
    Unreadable(i32),
}

/// Start value of every frame checksum of a file.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Seed(u32);

impl Seed {
    pub(crate) fn new(owner: &[u8; 16], file: u32) -> Self {
        Self(crc32c::crc32c_append(
            crc32c::crc32c(owner),
            &file.to_le_bytes(),
        ))
    }
}

/// Checksum of an encoded frame or footer.
pub(crate) fn frame_crc(frame: &[u8]) -> u32 {
    let field = frame.get(40..).and_then(|rest| rest.first_chunk());
    field.map_or(0, |raw| u32::from_le_bytes(*raw))
}

/// The first 64 bytes of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct FrameHeader {
    pub(crate) file: u32,
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
    pub(crate) records: u32,
    pub(crate) footer: bool,
    pub(crate) directory_len: u32,
    pub(crate) payload_len: u32,
    crc: u32,
}

impl FrameHeader {
    fn encode(&self) -> [u8; FRAME_HEADER] {
        let mut bytes = [0; FRAME_HEADER];
        let mut out: &mut [u8] = &mut bytes;
        out.put_slice(FRAME_MAGIC);
        out.put_u32_le(self.file);
        out.put_u64_le(self.seq);
        out.put_u64_le(self.durable_seq);
        out.put_u32_le(self.records);
        out.put_u32_le(if self.footer { FLAG_FOOTER } else { 0 });
        out.put_u32_le(self.directory_len);
        out.put_u32_le(self.payload_len);
        out.put_u32_le(self.crc);
        bytes
    }

    /// Reads a header that claims to be of `file`; the checksum is not looked at yet.
    pub(crate) fn decode(bytes: &[u8], file: u32) -> Option<Self> {
        let mut fields = Fields::new(bytes);
        if fields.array::<4>().ok()? != *FRAME_MAGIC {
            return None;
        }
        let header = Self {
            file: fields.u32().ok()?,
            seq: fields.u64().ok()?,
            durable_seq: fields.u64().ok()?,
            records: fields.u32().ok()?,
            footer: fields.u32().ok()? & FLAG_FOOTER != 0,
            directory_len: fields.u32().ok()?,
            payload_len: fields.u32().ok()?,
            crc: fields.u32().ok()?,
        };
        (header.file == file && header.content_len() <= MAX_FRAME as u64 + (MAX_FRAME as u64 / 4))
            .then_some(header)
    }

    /// Bytes of header, directory and payloads.
    pub(crate) fn content_len(&self) -> u64 {
        FRAME_HEADER as u64 + u64::from(self.directory_len) + u64::from(self.payload_len)
    }

    /// Bytes on disk up to the next frame.
    pub(crate) fn disk_len(&self) -> u64 {
        align(self.content_len())
    }

    /// Checks the whole frame, whose bytes from the header on are `content`.
    pub(crate) fn verify(&self, seed: Seed, content: &[u8]) -> bool {
        let Some((header, rest)) = content.split_at_checked(FRAME_HEADER) else {
            return false;
        };
        let Some(start) = header.first_chunk::<40>() else {
            return false;
        };
        let crc = crc32c::crc32c_append(crc32c::crc32c_append(seed.0, start), rest);
        content.len() as u64 == self.content_len() && crc == self.crc
    }
}

/// Record without its payload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Entry {
    pub(crate) kind: u8,
    pub(crate) key: Bytes,
    pub(crate) len: u32,
    /// Offset of the payload in the file.
    pub(crate) offset: u32,
    pub(crate) seq: u64,
}

/// A frame as buffers for one vectored write, payloads not copied.
#[derive(Debug)]
pub(crate) struct EncodedFrame {
    pub(crate) buffers: Vec<Bytes>,
    pub(crate) entries: Vec<Entry>,
    pub(crate) disk_len: u64,
}

/// Where a frame goes and what it says of the frames before it.
#[derive(Debug, Clone, Copy)]
pub(crate) struct FramePlace {
    pub(crate) file: u32,
    pub(crate) offset: u64,
    pub(crate) seq: u64,
    pub(crate) durable_seq: u64,
}

/// Encodes records (kind, key, payload) as one frame.
pub(crate) fn encode_frame<'a>(
    seed: Seed,
    place: FramePlace,
    records: impl Iterator<Item = (u8, &'a Bytes, &'a Bytes)> + Clone,
) -> EncodedFrame {
    let (count, key_bytes) = records.clone().fold((0, 0), |(count, bytes), (_, key, _)| {
        (count + 1, bytes + key.len())
    });
    let mut directory = BytesMut::with_capacity(count * ENTRY + key_bytes);
    let mut payload_len = 0u32;
    for (kind, key, payload) in records.clone() {
        directory.put_u8(kind);
        directory.put_u8(key.len() as u8);
        directory.put_u32_le(payload.len() as u32);
        directory.put_slice(key);
        payload_len += payload.len() as u32;
    }
    let mut offset = place.offset as u32 + (FRAME_HEADER + directory.len()) as u32;
    let mut entries = Vec::with_capacity(count);
    let mut payloads = Vec::with_capacity(count);
    for (kind, key, payload) in records {
        entries.push(Entry {
            kind,
            key: key.clone(),
            len: payload.len() as u32,
            offset,
            seq: place.seq,
        });
        offset += payload.len() as u32;
        if !payload.is_empty() {
            payloads.push(payload.clone());
        }
    }
    let mut header = FrameHeader {
        file: place.file,
        seq: place.seq,
        durable_seq: place.durable_seq,
        records: entries.len() as u32,
        footer: false,
        directory_len: directory.len() as u32,
        payload_len,
        crc: 0,
    };
    header.crc = checksum(
        seed,
        &header,
        std::iter::once(&directory[..]).chain(payloads.iter().map(|p| &p[..])),
    );
    let mut head = BytesMut::with_capacity(FRAME_HEADER + directory.len());
    head.put_slice(&header.encode());
    head.put_slice(&directory);
    let mut buffers = Vec::with_capacity(payloads.len() + OTHER_BUFFERS);
    buffers.push(head.freeze());
    buffers.append(&mut payloads);
    let padding = header.disk_len() - header.content_len();
    if padding > 0 {
        buffers.push(Bytes::from_static(&PADDING[..padding as usize]));
    }
    EncodedFrame {
        buffers,
        entries,
        disk_len: header.disk_len(),
    }
}

/// Encodes the footer over `entries`; `place.offset` is where it starts, and it ends where the file
/// ends.
pub(crate) fn encode_footer<'a>(
    seed: Seed,
    place: FramePlace,
    entries: impl Iterator<Item = EntryRef<'a>>,
) -> Bytes {
    let mut directory = BytesMut::new();
    let mut records = 0;
    for entry in entries {
        records += 1;
        directory.put_u8(entry.kind);
        directory.put_u8(entry.key.len() as u8);
        directory.put_u32_le(entry.len);
        directory.put_u32_le(entry.offset);
        directory.put_u32_le(u32::try_from(place.seq - entry.seq).unwrap_or(u32::MAX));
        directory.put_slice(entry.key);
    }
    let mut header = FrameHeader {
        file: place.file,
        seq: place.seq,
        durable_seq: place.durable_seq,
        records,
        footer: true,
        directory_len: directory.len() as u32,
        payload_len: 0,
        crc: 0,
    };
    header.crc = checksum(seed, &header, std::iter::once(&directory[..]));
    let len = align(header.content_len() + TRAILER as u64);
    let mut content = Vec::with_capacity(len as usize);
    content.put_slice(&header.encode());
    content.put_slice(&directory);
    with_trailer(seed, content, len)
}

/// Fills header and directory of a footer up to its length, the trailer at its end.
pub(crate) fn with_trailer(seed: Seed, content: Vec<u8>, len: u64) -> Bytes {
    let mut out = BytesMut::from(&content[..]);
    out.resize(len as usize - TRAILER, 0);
    out.put_slice(TRAILER_MAGIC);
    out.put_u32_le(crc32c::crc32c_append(seed.0, &len.to_le_bytes()));
    out.put_u64_le(len);
    out.freeze()
}

/// Length of the footer that ends a file, from the file's last 16 bytes.
pub(crate) fn decode_trailer(seed: Seed, trailer: &[u8; TRAILER]) -> Option<u64> {
    let mut fields = Fields::new(trailer);
    let magic = fields.array::<4>().ok()?;
    let (crc, len) = (fields.u32().ok()?, fields.u64().ok()?);
    (magic == *TRAILER_MAGIC && crc == crc32c::crc32c_append(seed.0, &len.to_le_bytes()))
        .then_some(len)
}

/// Returns true if bytes look like those that end a sealed file.
pub(crate) fn is_trailer(trailer: &[u8]) -> bool {
    trailer.starts_with(TRAILER_MAGIC)
}

fn checksum<'a>(seed: Seed, header: &FrameHeader, parts: impl Iterator<Item = &'a [u8]>) -> u32 {
    let start = header.encode();
    parts.fold(
        crc32c::crc32c_append(seed.0, &start[..40]),
        crc32c::crc32c_append,
    )
}

/// Record in the directory of a frame or footer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct EntryRef<'a> {
    pub(crate) kind: u8,
    pub(crate) key: &'a [u8],
    pub(crate) len: u32,
    /// Offset of the payload in the file.
    pub(crate) offset: u32,
    pub(crate) seq: u64,
}

impl Entry {
    pub(crate) fn as_ref(&self) -> EntryRef<'_> {
        EntryRef {
            kind: self.kind,
            key: &self.key,
            len: self.len,
            offset: self.offset,
            seq: self.seq,
        }
    }
}

impl EntryRef<'_> {
    pub(crate) fn to_entry(self) -> Entry {
        Entry {
            kind: self.kind,
            key: Bytes::copy_from_slice(self.key),
            len: self.len,
            offset: self.offset,
            seq: self.seq,
        }
    }
}

/// Calls `visit` with each record of a directory, whose frame or footer lies at `offset`.
///
/// # Errors
/// [`Damage::Directory`] or [`Damage::PayloadOffset`]: the directory is not what the header
/// announces. `visit` may have been called before.
pub(crate) fn visit_directory(
    header: &FrameHeader,
    offset: u64,
    directory: &[u8],
    visit: &mut dyn FnMut(EntryRef<'_>),
) -> Result<(), Damage> {
    let mut fields = Fields::new(directory);
    let mut payload = offset + FRAME_HEADER as u64 + u64::from(header.directory_len);
    for _ in 0..header.records {
        let [kind, key_len] = fields.array()?;
        let len = fields.u32()?;
        let (offset, seq) = if header.footer {
            let offset = fields.u32()?;
            (offset, header.seq.saturating_sub(fields.u32()?.into()))
        } else {
            let offset = u32::try_from(payload).map_err(|_| Damage::PayloadOffset)?;
            payload += u64::from(len);
            (offset, header.seq)
        };
        let key = fields.take(key_len.into())?;
        visit(EntryRef {
            kind,
            key,
            len,
            offset,
            seq,
        });
    }
    fields.end()?;
    Ok(())
}

/// Returns the records of the directory of a frame or footer at `offset`.
///
/// # Errors
/// Those of [`visit_directory`].
pub(crate) fn decode_directory(
    header: &FrameHeader,
    offset: u64,
    directory: &[u8],
) -> Result<Vec<Entry>, Damage> {
    let mut entries = Vec::with_capacity((header.records as usize).min(directory.len()));
    visit_directory(header, offset, directory, &mut |entry| {
        entries.push(entry.to_entry());
    })?;
    Ok(entries)
}

/// Returns true if a frame whose checksum does not match can be what its header says: its records
/// fill the directory, and their payloads the rest.
pub(crate) fn is_plausible(header: &FrameHeader, offset: u64, directory: &[u8]) -> bool {
    let mut payload = 0;
    let read = visit_directory(header, offset, directory, &mut |entry| {
        payload += u64::from(entry.len);
    });
    read.is_ok() && !header.footer && payload == u64::from(header.payload_len)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OWNER: [u8; 16] = [7; 16];

    fn place() -> FramePlace {
        FramePlace {
            file: 3,
            offset: 4_096,
            seq: 9,
            durable_seq: 8,
        }
    }

    fn frame() -> EncodedFrame {
        let (key, payload) = (Bytes::from_static(b"key"), Bytes::from_static(b"payload"));
        encode_frame(
            Seed::new(&OWNER, 3),
            place(),
            [(1, &key, &payload)].into_iter(),
        )
    }

    #[test]
    fn a_frame_is_pinned_byte_by_byte() {
        let bytes = frame().buffers.concat();
        let expected = concat!(
            "434c4632",
            "03000000",
            "0900000000000000",
            "0800000000000000",
            "01000000",
            "00000000",
            "09000000",
            "07000000"
        );
        assert_eq!(hex::encode(&bytes[..40]), expected);
        assert_eq!(hex::encode(&bytes[44..64]), "00".repeat(20));
        assert_eq!(&bytes[64..80], b"\x01\x03\x07\0\0\0keypayload");
        assert_eq!(bytes.len(), 4_096);
        let header = FrameHeader::decode(&bytes, 3).unwrap();
        assert!(header.verify(Seed::new(&OWNER, 3), &bytes[..80]));
        let entries = decode_directory(&header, 4_096, &bytes[64..73]).unwrap();
        assert_eq!(entries, frame().entries);
        assert_eq!(entries[0].offset, 4_096 + 64 + 9);
    }

    #[test]
    fn a_frame_of_another_owner_or_file_never_validates() {
        let bytes = frame().buffers.concat();
        let header = FrameHeader::decode(&bytes, 3).unwrap();
        assert!(!header.verify(Seed::new(&[8; 16], 3), &bytes[..80]));
        assert!(FrameHeader::decode(&bytes, 4).is_none());
        for at in 0..80 {
            let mut copy = bytes.clone();
            copy[at] ^= 4;
            let valid = FrameHeader::decode(&copy, 3).is_some_and(|h| {
                h.content_len() == 80 && h.verify(Seed::new(&OWNER, 3), &copy[..80])
            });
            assert!(!valid || (44..64).contains(&at), "byte {at}");
        }
    }

    #[test]
    fn a_footer_is_found_from_the_end_and_repeats_the_directory() {
        let entries = frame().entries;
        let seed = Seed::new(&OWNER, 3);
        let footer = encode_footer(seed, place(), entries.iter().map(Entry::as_ref));
        assert_eq!(footer.len() as u64, footer_bytes(1, 3));
        let len = decode_trailer(seed, footer.last_chunk().unwrap()).unwrap();
        assert_eq!(len, footer.len() as u64);
        let header = FrameHeader::decode(&footer, 3).unwrap();
        let content = &footer[..header.content_len() as usize];
        assert!(header.footer && header.verify(seed, content));
        assert_eq!(
            decode_directory(&header, 0, &content[FRAME_HEADER..]).unwrap(),
            entries
        );
    }

    #[test]
    fn a_directory_that_does_not_fit_its_frame_says_how() {
        let bytes = frame().buffers.concat();
        let header = FrameHeader::decode(&bytes, 3).unwrap();
        let directory = |end: usize| decode_directory(&header, 4_096, &bytes[64..end]);
        assert!(matches!(
            directory(72),
            Err(Damage::Directory(CodecError::TooShort { .. }))
        ));
        assert_eq!(
            directory(75),
            Err(Damage::Directory(CodecError::Trailing(2)))
        );
        assert_eq!(
            decode_directory(&header, 1 << 32, &bytes[64..73]),
            Err(Damage::PayloadOffset)
        );
    }

    proptest! {
        #[test]
        fn i10_decoding_garbage_never_panics(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = FileHeader::decode(&bytes);
            if let Some(header) = FrameHeader::decode(&bytes, 3) {
                let _ = header.verify(Seed::new(&OWNER, 3), &bytes);
                let _ = decode_directory(&header, 4_096, &bytes);
            }
        }
    }
}
