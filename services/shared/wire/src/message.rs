//! Typed messages and their encoding. Pure: bytes in, values out.

use bytes::{BufMut, Bytes, BytesMut};
use cstore_types::limits::{MAX_BLOCK_BYTES, MAX_REQUEST_BYTES};
use cstore_types::{BlockId, ErrorCode, PartNo, SealSeq, SessionId, StoreUuid};

use crate::error::{DecodeError, Refusal};
use crate::frame::{Fields, HEADER, MAX_ERROR_TEXT, Opcode, Prefix};

/// Added to an error code where 0 and 1 mean something else.
const STATUS_ERROR: u8 = 64;

/// What a block holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum BlockKind {
    /// Bytes of a file.
    Data,
    /// A leaf of a recipe.
    Manifest,
}

impl BlockKind {
    const fn byte(self) -> u8 {
        match self {
            Self::Data => 1,
            Self::Manifest => 2,
        }
    }

    fn from_byte(byte: u8) -> Result<Self, DecodeError> {
        match byte {
            1 => Ok(Self::Data),
            2 => Ok(Self::Manifest),
            other => Err(DecodeError::Value { field: "kind", value: other.into() }),
        }
    }
}

/// A block of PutBlocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WireBlock {
    /// Its identity.
    pub id: BlockId,
    /// What it holds.
    pub kind: BlockKind,
    /// 1 byte to 4 MiB.
    pub bytes: Bytes,
}

/// A block of PutSeal: which of the seal's ids it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlock {
    /// Position in the seal's ids.
    pub index: u32,
    /// What it holds.
    pub kind: BlockKind,
    /// 1 byte to 4 MiB.
    pub bytes: Bytes,
}

/// What a worker asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Which of these are here, synced and good? Pins those. Answered by AllHere or SomeMissing.
    HaveBlocks {
        /// The upload.
        session: SessionId,
        /// 1 to 8,192.
        ids: Vec<BlockId>,
    },
    /// Make these durable and pin them. Answered by PutResult.
    PutBlocks {
        /// The upload.
        session: SessionId,
        /// 1 to 8,192, together at most 8 MiB.
        blocks: Vec<WireBlock>,
    },
    /// Send these. Answered by one Block each, in any order.
    GetBlocks {
        /// 1 to 8,192.
        ids: Vec<BlockId>,
    },
    /// Write the reference set of a part if all of it is here. Answered by Sealed, SealMissing or SealConflict.
    Seal {
        /// The upload.
        session: SessionId,
        /// The part.
        part: PartNo,
        /// 1 to 8,192.
        ids: Vec<BlockId>,
    },
    /// Drop the pins of an upload; never its reference sets. Answered by Ok.
    Unpin {
        /// The upload.
        session: SessionId,
    },
    /// PutBlocks and Seal in one frame and one sync. Answered as Seal.
    PutSeal {
        /// The upload.
        session: SessionId,
        /// The part.
        part: PartNo,
        /// 1 to 8,192.
        ids: Vec<BlockId>,
        /// Those of them that are sent along, together at most 8 MiB.
        blocks: Vec<SealedBlock>,
    },
    /// Are you there? Answered by Ok.
    Ping,
    /// I close.
    Goodbye,
}

/// What became of a block of PutBlocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutStatus {
    /// Written and synced.
    Stored,
    /// It was here.
    Duplicate,
    /// Refused.
    Refused(ErrorCode),
}

/// One block of an answer to GetBlocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Position in the request's ids.
    pub index: u32,
    /// Whether it ends the answer.
    pub last: bool,
    /// Verified bytes, or why there are none.
    pub result: Result<Bytes, ErrorCode>,
}

/// What a storage node answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// Nothing to say.
    Ok,
    /// To HaveBlocks: nothing is missing.
    AllHere,
    /// To HaveBlocks: one entry per id, true when it is missing.
    SomeMissing(Vec<bool>),
    /// To PutBlocks: one entry per block.
    PutResult(Vec<PutStatus>),
    /// To GetBlocks.
    Block(Block),
    /// To Seal and PutSeal: the reference set is durable.
    Sealed {
        /// The disk.
        store: StoreUuid,
        /// Sequence of the seal on it.
        seal_seq: SealSeq,
        /// For each block that was sent along, whether it was new.
        new: Vec<bool>,
    },
    /// To Seal and PutSeal: positions of ids that are not here. Nothing was sealed.
    SealMissing(Vec<u32>),
    /// To Seal and PutSeal: the part was sealed with other ids.
    SealConflict,
    /// No.
    Error(Refusal),
}

/// A frame as buffers for a vectored write.
#[derive(Debug, Clone)]
pub(crate) struct Encoded {
    pub(crate) buffers: Vec<Bytes>,
    pub(crate) len: usize,
}

fn finish(opcode: Opcode, mut head: BytesMut, payloads: Vec<Bytes>) -> Encoded {
    let bytes: usize = payloads.iter().map(Bytes::len).sum();
    let payload = head.len().saturating_sub(HEADER).saturating_add(bytes);
    if let Some(field) = head.first_chunk_mut::<HEADER>() {
        let [a, b, c, d] = u32_of(payload).to_le_bytes();
        *field = [opcode.byte(), a, b, c, d];
    }
    let len = head.len().saturating_add(bytes);
    let mut buffers = Vec::with_capacity(payloads.len().saturating_add(1));
    buffers.push(head.freeze());
    buffers.extend(payloads);
    Encoded { buffers, len }
}

fn begin(prefix: &Prefix) -> BytesMut {
    let mut head = BytesMut::with_capacity(64);
    head.put_slice(&[0; HEADER]);
    prefix.encode(&mut head);
    head
}

#[allow(clippy::cast_possible_truncation, reason = "lists and blocks are bounded far below 4 Gi")]
const fn u32_of(n: usize) -> u32 {
    n as u32
}

fn put_ids(head: &mut BytesMut, ids: &[BlockId]) {
    head.put_u32_le(u32_of(ids.len()));
    for id in ids {
        head.put_slice(id.as_bytes());
    }
}

impl Request {
    /// The opcode that it travels under.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::HaveBlocks { .. } => Opcode::HaveBlocks,
            Self::PutBlocks { .. } => Opcode::PutBlocks,
            Self::GetBlocks { .. } => Opcode::GetBlocks,
            Self::Seal { .. } => Opcode::Seal,
            Self::Unpin { .. } => Opcode::Unpin,
            Self::PutSeal { .. } => Opcode::PutSeal,
            Self::Ping => Opcode::Ping,
            Self::Goodbye => Opcode::Goodbye,
        }
    }

    pub(crate) fn encode(&self, prefix: &Prefix) -> Encoded {
        let mut head = begin(prefix);
        let mut payloads = Vec::new();
        match self {
            Self::HaveBlocks { session, ids } => {
                head.put_slice(session.as_bytes());
                put_ids(&mut head, ids);
            }
            Self::PutBlocks { session, blocks } => {
                head.put_slice(session.as_bytes());
                head.put_u32_le(u32_of(blocks.len()));
                for block in blocks {
                    head.put_slice(block.id.as_bytes());
                    head.put_u8(block.kind.byte());
                    head.put_u32_le(u32_of(block.bytes.len()));
                    payloads.push(block.bytes.clone());
                }
            }
            Self::GetBlocks { ids } => put_ids(&mut head, ids),
            Self::Seal { session, part, ids } => {
                head.put_slice(session.as_bytes());
                head.put_u32_le(part.0);
                put_ids(&mut head, ids);
            }
            Self::Unpin { session } => head.put_slice(session.as_bytes()),
            Self::PutSeal { session, part, ids, blocks } => {
                head.put_slice(session.as_bytes());
                head.put_u32_le(part.0);
                put_ids(&mut head, ids);
                head.put_u32_le(u32_of(blocks.len()));
                for block in blocks {
                    head.put_u32_le(block.index);
                    head.put_u8(block.kind.byte());
                    head.put_u32_le(u32_of(block.bytes.len()));
                    payloads.push(block.bytes.clone());
                }
            }
            Self::Ping | Self::Goodbye => {}
        }
        finish(self.opcode(), head, payloads)
    }

    /// The whole frame in one buffer; the connection writes its parts without joining them.
    pub fn to_bytes(&self, prefix: &Prefix) -> Bytes {
        self.encode(prefix).buffers.concat().into()
    }

    /// Reads a request whose opcode and length were checked.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Request`] would not encode to.
    pub fn decode(opcode: Opcode, payload: Bytes) -> Result<(Prefix, Self), DecodeError> {
        let mut fields = Fields::new(payload);
        let prefix = Prefix::decode(&mut fields)?;
        let session = |fields: &mut Fields| fields.array().map(SessionId::from_bytes);
        let request = match opcode {
            Opcode::HaveBlocks => Self::HaveBlocks { session: session(&mut fields)?, ids: fields.ids()? },
            Opcode::PutBlocks => {
                Self::PutBlocks { session: session(&mut fields)?, blocks: put_blocks(&mut fields)? }
            }
            Opcode::GetBlocks => Self::GetBlocks { ids: fields.ids()? },
            Opcode::Seal => {
                let (session, part) = (session(&mut fields)?, PartNo(fields.u32()?));
                Self::Seal { session, part, ids: fields.ids()? }
            }
            Opcode::Unpin => Self::Unpin { session: session(&mut fields)? },
            Opcode::PutSeal => {
                let (session, part, ids) = (session(&mut fields)?, PartNo(fields.u32()?), fields.ids()?);
                let blocks = sealed_blocks(&mut fields, ids.len())?;
                Self::PutSeal { session, part, ids, blocks }
            }
            Opcode::Ping => Self::Ping,
            Opcode::Goodbye => Self::Goodbye,
            other => return Err(DecodeError::Opcode(other.byte())),
        };
        fields.end()?;
        Ok((prefix, request))
    }
}

fn block_len(fields: &mut Fields, total: &mut usize) -> Result<usize, DecodeError> {
    let len = fields.u32()?;
    let n = usize::try_from(len).unwrap_or(usize::MAX);
    *total = total.saturating_add(n);
    if n == 0 || n > MAX_BLOCK_BYTES || *total > MAX_REQUEST_BYTES {
        return Err(DecodeError::Value { field: "block length", value: len.into() });
    }
    Ok(n)
}

fn put_blocks(fields: &mut Fields) -> Result<Vec<WireBlock>, DecodeError> {
    let n = fields.count("number of blocks", 37)?;
    if n == 0 {
        return Err(DecodeError::Value { field: "number of blocks", value: 0 });
    }
    let mut heads = Vec::with_capacity(n);
    let mut total = 0;
    for _ in 0..n {
        let id = fields.array().map(BlockId::from_bytes)?;
        heads.push((id, BlockKind::from_byte(fields.u8()?)?, block_len(fields, &mut total)?));
    }
    heads.into_iter().map(|(id, kind, len)| Ok(WireBlock { id, kind, bytes: fields.bytes(len)? })).collect()
}

fn sealed_blocks(fields: &mut Fields, n_ids: usize) -> Result<Vec<SealedBlock>, DecodeError> {
    let n = fields.count("number of blocks", 9)?;
    let mut heads = Vec::with_capacity(n);
    let mut total = 0;
    for _ in 0..n {
        let index = fields.u32()?;
        if usize::try_from(index).unwrap_or(usize::MAX) >= n_ids {
            return Err(DecodeError::Value { field: "index", value: index.into() });
        }
        heads.push((index, BlockKind::from_byte(fields.u8()?)?, block_len(fields, &mut total)?));
    }
    heads
        .into_iter()
        .map(|(index, kind, len)| Ok(SealedBlock { index, kind, bytes: fields.bytes(len)? }))
        .collect()
}

impl Response {
    /// The opcode that it travels under.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::Ok => Opcode::Ok,
            Self::AllHere => Opcode::AllHere,
            Self::SomeMissing(_) => Opcode::SomeMissing,
            Self::PutResult(_) => Opcode::PutResult,
            Self::Block(_) => Opcode::Block,
            Self::Sealed { .. } => Opcode::Sealed,
            Self::SealMissing(_) => Opcode::SealMissing,
            Self::SealConflict => Opcode::SealConflict,
            Self::Error(_) => Opcode::Error,
        }
    }

    pub(crate) fn encode(&self, prefix: &Prefix) -> Encoded {
        let mut head = begin(prefix);
        let mut payloads = Vec::new();
        match self {
            Self::Ok | Self::AllHere | Self::SealConflict => {}
            Self::SomeMissing(missing) => {
                head.put_u32_le(u32_of(missing.len()));
                for eight in missing.chunks(8) {
                    head.put_u8(eight.iter().rev().fold(0, |byte, bit| byte << 1 | u8::from(*bit)));
                }
            }
            Self::PutResult(statuses) => {
                head.put_u32_le(u32_of(statuses.len()));
                for status in statuses {
                    head.put_u8(match status {
                        PutStatus::Stored => 0,
                        PutStatus::Duplicate => 1,
                        PutStatus::Refused(code) => STATUS_ERROR | code.wire_byte(),
                    });
                }
            }
            Self::Block(block) => {
                head.put_u32_le(block.index);
                head.put_u8(block.last.into());
                match &block.result {
                    Ok(bytes) => {
                        head.put_u8(0);
                        payloads.push(bytes.clone());
                    }
                    Err(code) => head.put_u8(STATUS_ERROR | code.wire_byte()),
                }
            }
            Self::Sealed { store, seal_seq, new } => {
                head.put_slice(store.as_bytes());
                head.put_u64_le(seal_seq.0);
                head.put_u32_le(u32_of(new.len()));
                new.iter().for_each(|new| head.put_u8((*new).into()));
            }
            Self::SealMissing(indices) => {
                head.put_u32_le(u32_of(indices.len()));
                indices.iter().for_each(|index| head.put_u32_le(*index));
            }
            Self::Error(refusal) => put_error(&mut head, refusal),
        }
        finish(self.opcode(), head, payloads)
    }

    /// The whole frame in one buffer; the connection writes its parts without joining them.
    pub fn to_bytes(&self, prefix: &Prefix) -> Bytes {
        self.encode(prefix).buffers.concat().into()
    }

    /// Reads an answer whose opcode and length were checked.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Response`] would not encode to.
    pub fn decode(opcode: Opcode, payload: Bytes) -> Result<(Prefix, Self), DecodeError> {
        let mut fields = Fields::new(payload);
        let prefix = Prefix::decode(&mut fields)?;
        let response = match opcode {
            Opcode::Ok => Self::Ok,
            Opcode::AllHere => Self::AllHere,
            Opcode::SealConflict => Self::SealConflict,
            Opcode::SomeMissing => Self::SomeMissing(bitmap(&mut fields)?),
            Opcode::PutResult => {
                let n = fields.count("number of blocks", 1)?;
                Self::PutResult((0..n).map(|_| put_status(fields.u8()?)).collect::<Result<_, _>>()?)
            }
            Opcode::Block => {
                let (index, last, status) = (fields.u32()?, flag(fields.u8()?)?, fields.u8()?);
                let result = if status == 0 {
                    Ok(fields.bytes(fields.remaining())?)
                } else {
                    Err(error_status(status)?)
                };
                Self::Block(Block { index, last, result })
            }
            Opcode::Sealed => {
                let (store, seal_seq) = (StoreUuid::from_bytes(fields.array()?), SealSeq(fields.u64()?));
                let n = fields.count("number of blocks", 1)?;
                let new = (0..n).map(|_| flag(fields.u8()?)).collect::<Result<_, _>>()?;
                Self::Sealed { store, seal_seq, new }
            }
            Opcode::SealMissing => {
                let n = fields.count("number of indices", 4)?;
                Self::SealMissing((0..n).map(|_| fields.u32()).collect::<Result<_, _>>()?)
            }
            Opcode::Error => Self::Error(error(&mut fields)?),
            other => return Err(DecodeError::Opcode(other.byte())),
        };
        fields.end()?;
        Ok((prefix, response))
    }
}

fn put_error(head: &mut BytesMut, refusal: &Refusal) {
    let mut end = refusal.message.len().min(MAX_ERROR_TEXT);
    while !refusal.message.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let text = refusal.message.get(..end).unwrap_or_default();
    head.put_u8(refusal.code.wire_byte());
    head.put_u32_le(refusal.retry_after_ms);
    head.put_u16_le(u16::try_from(text.len()).unwrap_or_default());
    head.put_slice(text.as_bytes());
}

fn error(fields: &mut Fields) -> Result<Refusal, DecodeError> {
    let byte = fields.u8()?;
    let code = ErrorCode::from_wire_byte(byte)
        .ok_or_else(|| DecodeError::Value { field: "error code", value: byte.into() })?;
    let retry_after_ms = fields.u32()?;
    let len = fields.u16()?;
    let message = String::from_utf8_lossy(&fields.bytes(len.into())?).into_owned();
    Ok(Refusal { code, retry_after_ms, message })
}

fn bitmap(fields: &mut Fields) -> Result<Vec<bool>, DecodeError> {
    let n = fields.count("number of ids", 0)?;
    let bytes = fields.bytes(n.div_ceil(8))?;
    let bits = bytes.iter().flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    Ok(bits.take(n).collect())
}

fn flag(byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Value { field: "flag", value: other.into() }),
    }
}

fn error_status(byte: u8) -> Result<ErrorCode, DecodeError> {
    let code = byte.checked_sub(STATUS_ERROR).and_then(ErrorCode::from_wire_byte);
    code.ok_or_else(|| DecodeError::Value { field: "status", value: byte.into() })
}

fn put_status(byte: u8) -> Result<PutStatus, DecodeError> {
    match byte {
        0 => Ok(PutStatus::Stored),
        1 => Ok(PutStatus::Duplicate),
        other => error_status(other).map(PutStatus::Refused),
    }
}
