//! Requests of a worker, and their bytes.

use bytes::{BufMut, Bytes};
use cstore_types::limits::{MAX_BLOCK_BYTES, MAX_REQUEST_BYTES, MAX_USAGE_SESSIONS};
use cstore_types::{Block, BlockId, PartNo, SessionId, SessionUsage};

use super::{Encoded, SealedBlock, begin, finish, flag, kind, kind_byte, put_ids, u32_of};
use crate::decode_error::DecodeError;
use crate::frame::{Opcode, Payload, Prefix};

/// Request of a worker.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Asks which of these blocks are here, synced and good, and pins those. Answered by AllHere or
    /// SomeMissing.
    HaveBlocks {
        /// The upload.
        session: SessionId,
        /// 1 to 8,192.
        ids: Vec<BlockId>,
    },
    /// Makes blocks durable and pins them. Answered by PutResult.
    PutBlocks {
        /// The upload.
        session: SessionId,
        /// 1 to 8,192, together at most 8 MiB.
        blocks: Vec<Block>,
    },
    /// Asks for blocks. Answered by one Block each, in any order.
    GetBlocks {
        /// 1 to 8,192.
        ids: Vec<BlockId>,
    },
    /// Writes the reference set of a part if all its blocks are here. Answered by Sealed,
    /// SealMissing or SealConflict.
    Seal {
        /// The upload.
        session: SessionId,
        /// The part.
        part: PartNo,
        /// 1 to 8,192.
        ids: Vec<BlockId>,
    },
    /// Drops the pins of an upload; never its reference sets. Answered by Ok.
    Unpin {
        /// The upload.
        session: SessionId,
    },
    /// PutBlocks and Seal in one frame and one sync. Answered like Seal.
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
    /// Asks for the space that these sessions use here. Changes nothing. Answered by Usage.
    Usage {
        /// 1 to 4,096.
        sessions: Vec<SessionUsage>,
    },
    /// Asks for a sign of life. Answered by Ok.
    Ping,
    /// Announces that the sender closes the connection.
    Goodbye,
}

impl Request {
    /// Returns the opcode of the request.
    pub const fn opcode(&self) -> Opcode {
        match self {
            Self::HaveBlocks { .. } => Opcode::HaveBlocks,
            Self::PutBlocks { .. } => Opcode::PutBlocks,
            Self::GetBlocks { .. } => Opcode::GetBlocks,
            Self::Seal { .. } => Opcode::Seal,
            Self::Unpin { .. } => Opcode::Unpin,
            Self::PutSeal { .. } => Opcode::PutSeal,
            Self::Usage { .. } => Opcode::UsageOf,
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
                    head.put_u8(kind_byte(block.kind));
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
            Self::PutSeal {
                session,
                part,
                ids,
                blocks,
            } => {
                head.put_slice(session.as_bytes());
                head.put_u32_le(part.0);
                put_ids(&mut head, ids);
                head.put_u32_le(u32_of(blocks.len()));
                for block in blocks {
                    head.put_u32_le(block.index);
                    head.put_u8(kind_byte(block.kind));
                    head.put_u32_le(u32_of(block.bytes.len()));
                    payloads.push(block.bytes.clone());
                }
            }
            Self::Usage { sessions } => {
                head.put_u32_le(u32_of(sessions.len()));
                for of in sessions {
                    head.put_slice(of.session.as_bytes());
                    head.put_u8(of.ends.into());
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

    /// Returns the bytes of ids and blocks, which is nearly all of the request as a frame.
    pub(crate) fn weight(&self) -> usize {
        /// Bytes of a session and its flag.
        const SESSION_USAGE: usize = 17;

        let of_ids = |ids: &[BlockId]| ids.len().saturating_mul(BlockId::LEN);
        match self {
            Self::HaveBlocks { ids, .. } | Self::GetBlocks { ids } | Self::Seal { ids, .. } => {
                of_ids(ids)
            }
            Self::PutBlocks { blocks, .. } => {
                let bytes = blocks.iter().map(|block| block.bytes.len());
                bytes.fold(0, usize::saturating_add)
            }
            Self::PutSeal { ids, blocks, .. } => {
                let bytes = blocks.iter().map(|block| block.bytes.len());
                bytes.fold(of_ids(ids), usize::saturating_add)
            }
            Self::Usage { sessions } => sessions.len().saturating_mul(SESSION_USAGE),
            Self::Unpin { .. } | Self::Ping | Self::Goodbye => 0,
        }
    }

    /// Reads a request whose opcode and length were checked.
    ///
    /// # Errors
    /// [`DecodeError`] for anything that [`Request`] would not encode to.
    pub fn decode(opcode: Opcode, payload: Bytes) -> Result<(Prefix, Self), DecodeError> {
        let mut fields = Payload::new(payload);
        let prefix = Prefix::decode(&mut fields)?;
        let session = |fields: &mut Payload| fields.array().map(SessionId::from_bytes);
        let request = match opcode {
            Opcode::HaveBlocks => Self::HaveBlocks {
                session: session(&mut fields)?,
                ids: fields.ids()?,
            },
            Opcode::PutBlocks => Self::PutBlocks {
                session: session(&mut fields)?,
                blocks: put_blocks(&mut fields)?,
            },
            Opcode::GetBlocks => Self::GetBlocks { ids: fields.ids()? },
            Opcode::Seal => {
                let (session, part) = (session(&mut fields)?, PartNo(fields.u32()?));
                Self::Seal {
                    session,
                    part,
                    ids: fields.ids()?,
                }
            }
            Opcode::Unpin => Self::Unpin {
                session: session(&mut fields)?,
            },
            Opcode::PutSeal => {
                let (session, part, ids) =
                    (session(&mut fields)?, PartNo(fields.u32()?), fields.ids()?);
                let blocks = sealed_blocks(&mut fields, ids.len())?;
                Self::PutSeal {
                    session,
                    part,
                    ids,
                    blocks,
                }
            }
            Opcode::UsageOf => Self::Usage {
                sessions: sessions(&mut fields)?,
            },
            Opcode::Ping => Self::Ping,
            Opcode::Goodbye => Self::Goodbye,
            other => return Err(DecodeError::Opcode(other.byte())),
        };
        fields.end()?;
        Ok((prefix, request))
    }
}

fn sessions(fields: &mut Payload) -> Result<Vec<SessionUsage>, DecodeError> {
    let n = fields.count("number of sessions", 17)?;
    if !(1..=MAX_USAGE_SESSIONS).contains(&n) {
        let value = u64::try_from(n).unwrap_or(u64::MAX);
        return Err(DecodeError::Value {
            field: "number of sessions",
            value,
        });
    }
    let session = |_| {
        Ok(SessionUsage {
            session: SessionId::from_bytes(fields.array()?),
            ends: flag(fields.u8()?)?,
        })
    };
    (0..n).map(session).collect()
}

fn block_len(fields: &mut Payload, total: &mut usize) -> Result<usize, DecodeError> {
    let len = fields.u32()?;
    let n = usize::try_from(len).unwrap_or(usize::MAX);
    *total = total.saturating_add(n);
    if n == 0 || n > MAX_BLOCK_BYTES || *total > MAX_REQUEST_BYTES {
        return Err(DecodeError::Value {
            field: "block length",
            value: len.into(),
        });
    }
    Ok(n)
}

fn put_blocks(fields: &mut Payload) -> Result<Vec<Block>, DecodeError> {
    let n = fields.count("number of blocks", 37)?;
    if n == 0 {
        return Err(DecodeError::Value {
            field: "number of blocks",
            value: 0,
        });
    }
    let mut heads = Vec::with_capacity(n);
    let mut total = 0;
    for _ in 0..n {
        let id = fields.array().map(BlockId::from_bytes)?;
        heads.push((id, kind(fields.u8()?)?, block_len(fields, &mut total)?));
    }
    heads
        .into_iter()
        .map(|(id, kind, len)| {
            Ok(Block {
                id,
                kind,
                bytes: fields.bytes(len)?,
            })
        })
        .collect()
}

fn sealed_blocks(fields: &mut Payload, n_ids: usize) -> Result<Vec<SealedBlock>, DecodeError> {
    let n = fields.count("number of blocks", 9)?;
    let mut heads = Vec::with_capacity(n);
    let mut total = 0;
    for _ in 0..n {
        let index = fields.u32()?;
        if usize::try_from(index).unwrap_or(usize::MAX) >= n_ids {
            return Err(DecodeError::Value {
                field: "index",
                value: index.into(),
            });
        }
        heads.push((index, kind(fields.u8()?)?, block_len(fields, &mut total)?));
    }
    heads
        .into_iter()
        .map(|(index, kind, len)| {
            Ok(SealedBlock {
                index,
                kind,
                bytes: fields.bytes(len)?,
            })
        })
        .collect()
}
