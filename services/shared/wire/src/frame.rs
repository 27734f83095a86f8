//! Byte layout of frames; READ THIS FIRST before changing a byte: golden vectors in
//! `tests/golden.rs` pin it, and `docs/wire-protocol.md` carries this file's checksum.
//!
//! ```text
//! frame    opcode u8 · payload length u32 · payload
//! payload  request id u32 · flags u8 (bit 0 trace, bit 1 the answer may hold what version 3 brought) · map version u64
//!          · [trace: 26 bytes, when flag bit 0 is set] · body
//! trace    version u8 · trace id [16] · span id [8] · flags u8        (W3C trace context, big endian as there)
//! ```
//!
//! | opcode | name | body |
//! |---|---|---|
//! | 0x00 | Error | code u8 · retry after ms u32 · text length u16 · text |
//! | 0x02 | Ok | |
//! | 0x03 | Handshake | see [`crate::handshake`]; without the payload prefix |
//! | 0x06 | AllHere | answer to HaveBlocks: nothing is missing |
//! | 0x07 | SomeMissing | n u32 · bitmap, bit i (lowest first) set: id i is missing |
//! | 0x30 | HaveBlocks | session \[16\] · n u32 · ids |
//! | 0x31 | PutBlocks | session · n u32 · n × (id \[32\] · kind u8 · length u32) · bytes |
//! | 0x32 | GetBlocks | n u32 · ids |
//! | 0x33 | Seal | session · part u32 · n u32 · ids |
//! | 0x34 | Unpin | session |
//! | 0x35 | PutSeal | session · part u32 · n u32 · ids · m u32 · m × (index u32 · kind u8 · length u32) · bytes |
//! | 0x36 | UsageOf | n u32 · n × (session · ends u8); n at most 4,096 |
//! | 0x3e | Ping | answered by Ok |
//! | 0x3f | Goodbye | the sender closes after it |
//! | 0x41 | PutResult | n u32 · n × status u8 (0 stored, 1 duplicate, 64 + error code refused) |
//! | 0x42 | Block | index u32 · last u8 · status u8 (0 here, else 64 + error code) · bytes |
//! | 0x43 | Sealed | store uuid \[16\] · seal seq u64 · m u32 · m × new u8 · \[nonce u64, if the request allowed it\] |
//! | 0x44 | SealMissing | n u32 · n × index u32 |
//! | 0x45 | SealConflict | |
//! | 0x46 | Usage | blocks u64 · bytes u64 · shared blocks u64 · shared bytes u64 |

use bytes::{Buf, BufMut, Bytes, BytesMut};
use cstore_types::codec::{CodecError, Fields};
use cstore_types::limits::{MAX_BLOCK_BYTES, MAX_IDS, MAX_REQUEST_BYTES, MAX_USAGE_SESSIONS};
use cstore_types::{BlockId, MapVersion};

use crate::decode_error::DecodeError;

/// Bytes of opcode and length.
pub const HEADER: usize = 5;
/// Bytes of the prefix without a trace.
pub const PREFIX: usize = 13;
/// Bytes of a trace field.
pub const TRACE: usize = 26;
const FLAG_TRACE: u8 = 1;
const FLAG_NONCE: u8 = 2;
/// Bytes of text that an ERROR frame carries at most.
pub const MAX_ERROR_TEXT: usize = 512;

/// Upper bound of every handshake payload, in bytes.
pub(crate) const MAX_HANDSHAKE: usize = 1_024;

/// First byte of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(missing_docs, reason = "the module's table says what each one is")]
pub enum Opcode {
    Error,
    Ok,
    Handshake,
    AllHere,
    SomeMissing,
    HaveBlocks,
    PutBlocks,
    GetBlocks,
    Seal,
    Unpin,
    PutSeal,
    UsageOf,
    Ping,
    Goodbye,
    PutResult,
    Block,
    Sealed,
    SealMissing,
    SealConflict,
    Usage,
}

impl Opcode {
    /// All opcodes, for tables and tests.
    pub const ALL: [Self; 20] = [
        Self::Error,
        Self::Ok,
        Self::Handshake,
        Self::AllHere,
        Self::SomeMissing,
        Self::HaveBlocks,
        Self::PutBlocks,
        Self::GetBlocks,
        Self::Seal,
        Self::Unpin,
        Self::PutSeal,
        Self::UsageOf,
        Self::Ping,
        Self::Goodbye,
        Self::PutResult,
        Self::Block,
        Self::Sealed,
        Self::SealMissing,
        Self::SealConflict,
        Self::Usage,
    ];

    /// Returns the byte.
    pub const fn byte(self) -> u8 {
        match self {
            Self::Error => 0x00,
            Self::Ok => 0x02,
            Self::Handshake => 0x03,
            Self::AllHere => 0x06,
            Self::SomeMissing => 0x07,
            Self::HaveBlocks => 0x30,
            Self::PutBlocks => 0x31,
            Self::GetBlocks => 0x32,
            Self::Seal => 0x33,
            Self::Unpin => 0x34,
            Self::PutSeal => 0x35,
            Self::UsageOf => 0x36,
            Self::Ping => 0x3e,
            Self::Goodbye => 0x3f,
            Self::PutResult => 0x41,
            Self::Block => 0x42,
            Self::Sealed => 0x43,
            Self::SealMissing => 0x44,
            Self::SealConflict => 0x45,
            Self::Usage => 0x46,
        }
    }

    /// # Errors
    /// [`DecodeError::Opcode`].
    pub fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        Self::ALL
            .into_iter()
            .find(|opcode| opcode.byte() == byte)
            .ok_or(DecodeError::Opcode(byte))
    }

    /// Returns true if a worker may send a frame of this opcode after the handshake.
    pub const fn is_request(self) -> bool {
        matches!(
            self,
            Self::HaveBlocks
                | Self::PutBlocks
                | Self::GetBlocks
                | Self::Seal
                | Self::Unpin
                | Self::PutSeal
                | Self::UsageOf
                | Self::Ping
                | Self::Goodbye
        )
    }

    /// Bounds of the body, without prefix and trace.
    const fn body_bounds(self) -> (usize, usize) {
        const IDS: usize = MAX_IDS * BlockId::LEN;
        match self {
            Self::Error => (7, 7 + MAX_ERROR_TEXT),
            Self::Ok | Self::AllHere | Self::Ping | Self::Goodbye | Self::SealConflict => (0, 0),
            Self::Handshake => (0, MAX_HANDSHAKE),
            Self::SomeMissing => (5, 4 + MAX_IDS / 8),
            Self::HaveBlocks => (20 + 32, 20 + IDS),
            Self::PutBlocks => (20 + 37 + 1, 20 + MAX_IDS * 37 + MAX_REQUEST_BYTES),
            Self::GetBlocks => (4 + 32, 4 + IDS),
            Self::Seal => (24 + 32, 24 + IDS),
            Self::Unpin => (16, 16),
            Self::PutSeal => (24 + 32 + 4, 24 + IDS + 4 + MAX_IDS * 9 + MAX_REQUEST_BYTES),
            Self::PutResult => (5, 4 + MAX_IDS),
            Self::Block => (6, 6 + MAX_BLOCK_BYTES),
            Self::Sealed => (28, 36 + MAX_IDS),
            Self::SealMissing => (8, 4 + MAX_IDS * 4),
            Self::UsageOf => (4 + 17, 4 + MAX_USAGE_SESSIONS * 17),
            Self::Usage => (32, 32),
        }
    }

    /// Bounds of the payload in bytes; checked before anything is reserved.
    #[allow(
        clippy::cast_possible_truncation,
        clippy::arithmetic_side_effects,
        reason = "sums of constants below 16 MiB"
    )]
    pub const fn payload_bounds(self) -> (u32, u32) {
        let (min, max) = self.body_bounds();
        match self {
            Self::Handshake => (min as u32, max as u32),
            _ => ((PREFIX + min) as u32, (PREFIX + TRACE + max) as u32),
        }
    }
}

/// Reads opcode and length, and checks the length against both bounds.
///
/// # Errors
/// [`DecodeError::Opcode`], [`DecodeError::Length`].
pub fn decode_header(header: [u8; HEADER]) -> Result<(Opcode, u32), DecodeError> {
    let [byte, len @ ..] = header;
    let opcode = Opcode::from_byte(byte)?;
    let len = u32::from_le_bytes(len);
    let (min, max) = opcode.payload_bounds();
    if (min..=max).contains(&len) {
        Ok((opcode, len))
    } else {
        Err(DecodeError::Length {
            opcode: byte,
            len,
            min,
            max,
        })
    }
}

/// W3C trace context as it travels, byte by byte: version, trace id, span id, flags.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TraceField(pub [u8; TRACE]);

impl TraceField {
    /// A field of version 0.
    pub fn new(trace_id: [u8; 16], span_id: [u8; 8], flags: u8) -> Self {
        let mut bytes = [0; TRACE];
        let mut out: &mut [u8] = &mut bytes;
        out.put_u8(0);
        out.put_slice(&trace_id);
        out.put_slice(&span_id);
        out.put_u8(flags);
        Self(bytes)
    }

    /// Returns trace id, span id and flags.
    pub fn parts(&self) -> ([u8; 16], [u8; 8], u8) {
        let mut fields = Fields::new(&self.0);
        let mut read = || -> Result<_, CodecError> {
            fields.u8()?;
            Ok((fields.array()?, fields.array()?, fields.u8()?))
        };
        read().unwrap_or_default()
    }
}

/// First fields of every payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prefix {
    /// Matches answers to requests on one connection.
    pub request_id: u32,
    /// The sender's placement map; 0 in answers.
    pub map_version: MapVersion,
    /// Trace context of the caller.
    pub trace: Option<TraceField>,
    /// The answer may hold what version 3 brought: the nonce of a seal, and the error codes of
    /// disks and metadata in doubt. Programs from before it know neither.
    pub knows_version_3: bool,
}

impl Prefix {
    /// Makes the prefix of an answer.
    pub const fn answer(request_id: u32) -> Self {
        Self {
            request_id,
            map_version: MapVersion(0),
            trace: None,
            knows_version_3: false,
        }
    }

    pub(crate) fn encode(&self, out: &mut BytesMut) {
        out.put_u32_le(self.request_id);
        let trace = if self.trace.is_some() { FLAG_TRACE } else { 0 };
        let nonce = if self.knows_version_3 { FLAG_NONCE } else { 0 };
        out.put_u8(trace | nonce);
        out.put_u64_le(self.map_version.0);
        if let Some(TraceField(bytes)) = &self.trace {
            out.put_slice(bytes);
        }
    }

    pub(crate) fn decode(fields: &mut Payload) -> Result<Self, DecodeError> {
        let request_id = fields.u32()?;
        let flags = fields.u8()?;
        if flags & !(FLAG_TRACE | FLAG_NONCE) != 0 {
            return Err(DecodeError::Value {
                field: "flags",
                value: flags.into(),
            });
        }
        let map_version = MapVersion(fields.u64()?);
        let trace = if flags & FLAG_TRACE == 0 {
            None
        } else {
            Some(TraceField(fields.array()?))
        };
        Ok(Self {
            request_id,
            map_version,
            trace,
            knows_version_3: flags & FLAG_NONCE != 0,
        })
    }
}

/// Reader of a payload. Reads fields as [`Fields`] does, and hands out block bytes as slices of the
/// received buffer.
#[derive(Debug)]
pub(crate) struct Payload(Bytes);

impl Payload {
    pub(crate) fn new(payload: Bytes) -> Self {
        Self(payload)
    }

    pub(crate) fn remaining(&self) -> usize {
        self.0.len()
    }

    /// Takes `len` bytes without copying them.
    pub(crate) fn bytes(&mut self, len: usize) -> Result<Bytes, DecodeError> {
        let left = self.0.len();
        if len > left {
            return Err(CodecError::TooShort { needed: len, left }.into());
        }
        Ok(self.0.split_to(len))
    }

    pub(crate) fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let array = Fields::new(&self.0).array()?;
        self.0.advance(N);
        Ok(array)
    }

    pub(crate) fn u8(&mut self) -> Result<u8, DecodeError> {
        self.array().map(u8::from_le_bytes)
    }

    pub(crate) fn u16(&mut self) -> Result<u16, DecodeError> {
        self.array().map(u16::from_le_bytes)
    }

    pub(crate) fn u32(&mut self) -> Result<u32, DecodeError> {
        self.array().map(u32::from_le_bytes)
    }

    pub(crate) fn u64(&mut self) -> Result<u64, DecodeError> {
        self.array().map(u64::from_le_bytes)
    }

    /// A count of things that take at least `each` bytes: bounded, and all of them must be there.
    pub(crate) fn count(&mut self, field: &'static str, each: usize) -> Result<usize, DecodeError> {
        let count = self.u32()?;
        let n = usize::try_from(count).unwrap_or(usize::MAX);
        if n > MAX_IDS {
            return Err(DecodeError::Value {
                field,
                value: count.into(),
            });
        }
        if n.saturating_mul(each) > self.remaining() {
            return Err(DecodeError::Count(field));
        }
        Ok(n)
    }

    pub(crate) fn ids(&mut self) -> Result<Vec<BlockId>, DecodeError> {
        let n = self.count("number of ids", BlockId::LEN)?;
        if n == 0 {
            return Err(DecodeError::Value {
                field: "number of ids",
                value: 0,
            });
        }
        (0..n)
            .map(|_| self.array().map(BlockId::from_bytes))
            .collect()
    }

    pub(crate) fn end(&self) -> Result<(), DecodeError> {
        Ok(Fields::new(&self.0).end()?)
    }
}
