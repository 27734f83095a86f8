//! Storage node answers, and their bytes.

use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use cstore_types::{ErrorCode, Fault, SealSeq, SpaceUsage, StoreUuid, error_chain};

use super::{BlockReply, Encoded, PutStatus, begin, finish, flag, u32_of};
use crate::decode_error::DecodeError;
use crate::frame::{MAX_ERROR_TEXT, Opcode, Payload, Prefix};

/// Added to an error code where 0 and 1 mean something else.
const STATUS_ERROR: u8 = 64;

/// Answer of a storage node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Response {
    /// The request was carried out and has no result.
    Ok,
    /// To HaveBlocks: nothing is missing.
    AllHere,
    /// To HaveBlocks: one entry per id, true when it is missing.
    SomeMissing(Vec<bool>),
    /// To PutBlocks: one entry per block.
    PutResult(Vec<PutStatus>),
    /// To GetBlocks.
    Block(BlockReply),
    /// To Seal and PutSeal: the reference set is durable.
    Sealed {
        /// The disk.
        store: StoreUuid,
        /// Sequence of the seal on it.
        seal_seq: SealSeq,
        /// Nonce of the seal's epoch; 0 if the node does not say.
        nonce: u64,
        /// For each block that was sent along, whether it was new.
        new: Vec<bool>,
    },
    /// To Seal and PutSeal: positions of ids that are not here. Nothing was sealed.
    SealMissing(Vec<u32>),
    /// To Seal and PutSeal: the part was sealed with other ids.
    SealConflict,
    /// To Usage.
    Usage(SpaceUsage),
    /// The request was refused or failed.
    Error(Fault),
}

impl Response {
    /// Returns the opcode of the answer.
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
            Self::Usage(_) => Opcode::Usage,
            Self::Error(_) => Opcode::Error,
        }
    }

    /// Leaves out what programs before version 3 do not know.
    pub(crate) fn for_version_2(self) -> Self {
        match self {
            Self::Sealed {
                store,
                seal_seq,
                new,
                ..
            } => Self::Sealed {
                store,
                seal_seq,
                nonce: 0,
                new,
            },
            Self::Error(fault) => Self::Error(Fault {
                code: fault.code.for_earlier_peers(),
                ..fault
            }),
            Self::PutResult(statuses) => {
                let known = |status| match status {
                    PutStatus::Refused(code) => PutStatus::Refused(code.for_earlier_peers()),
                    other => other,
                };
                Self::PutResult(statuses.into_iter().map(known).collect())
            }
            other => other,
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
                    head.put_u8(
                        eight
                            .iter()
                            .rev()
                            .fold(0, |byte, bit| byte << 1 | u8::from(*bit)),
                    );
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
            Self::Sealed {
                store,
                seal_seq,
                nonce,
                new,
            } => {
                head.put_slice(store.as_bytes());
                head.put_u64_le(seal_seq.0);
                head.put_u32_le(u32_of(new.len()));
                new.iter().for_each(|new| head.put_u8((*new).into()));
                if *nonce != 0 {
                    head.put_u64_le(*nonce);
                }
            }
            Self::SealMissing(indices) => {
                head.put_u32_le(u32_of(indices.len()));
                indices.iter().for_each(|index| head.put_u32_le(*index));
            }
            Self::Usage(found) => {
                for number in [
                    found.blocks,
                    found.bytes,
                    found.shared_blocks,
                    found.shared_bytes,
                ] {
                    head.put_u64_le(number);
                }
            }
            Self::Error(fault) => put_error(&mut head, fault),
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
        let mut fields = Payload::new(payload);
        let prefix = Prefix::decode(&mut fields)?;
        let response = match opcode {
            Opcode::Ok => Self::Ok,
            Opcode::AllHere => Self::AllHere,
            Opcode::SealConflict => Self::SealConflict,
            Opcode::SomeMissing => Self::SomeMissing(bitmap(&mut fields)?),
            Opcode::PutResult => {
                let n = fields.count("number of blocks", 1)?;
                Self::PutResult(
                    (0..n)
                        .map(|_| put_status(fields.u8()?))
                        .collect::<Result<_, _>>()?,
                )
            }
            Opcode::Block => {
                let (index, last, status) = (fields.u32()?, flag(fields.u8()?)?, fields.u8()?);
                let result = if status == 0 {
                    Ok(fields.bytes(fields.remaining())?)
                } else {
                    Err(error_status(status)?)
                };
                Self::Block(BlockReply {
                    index,
                    last,
                    result,
                })
            }
            Opcode::Sealed => {
                let (store, seal_seq) = (
                    StoreUuid::from_bytes(fields.array()?),
                    SealSeq(fields.u64()?),
                );
                let n = fields.count("number of blocks", 1)?;
                let new = (0..n)
                    .map(|_| flag(fields.u8()?))
                    .collect::<Result<_, _>>()?;
                let nonce = match fields.remaining() {
                    0 => 0,
                    _ => nonce(fields.u64()?)?,
                };
                Self::Sealed {
                    store,
                    seal_seq,
                    nonce,
                    new,
                }
            }
            Opcode::SealMissing => {
                let n = fields.count("number of indices", 4)?;
                Self::SealMissing((0..n).map(|_| fields.u32()).collect::<Result<_, _>>()?)
            }
            Opcode::Usage => Self::Usage(SpaceUsage {
                blocks: fields.u64()?,
                bytes: fields.u64()?,
                shared_blocks: fields.u64()?,
                shared_bytes: fields.u64()?,
            }),
            Opcode::Error => Self::Error(error(&mut fields)?),
            other => return Err(DecodeError::Opcode(other.byte())),
        };
        fields.end()?;
        Ok((prefix, response))
    }
}

/// Checks a nonce that was sent: one that is not known is left out.
fn nonce(value: u64) -> Result<u64, DecodeError> {
    match value {
        0 => Err(DecodeError::Value {
            field: "nonce",
            value,
        }),
        nonce => Ok(nonce),
    }
}

/// Writes a fault with the texts of its causes, which do not travel otherwise.
fn put_error(head: &mut BytesMut, fault: &Fault) {
    let message = error_chain(fault).to_string();
    let mut end = message.len().min(MAX_ERROR_TEXT);
    while !message.is_char_boundary(end) {
        end = end.saturating_sub(1);
    }
    let text = message.get(..end).unwrap_or_default();
    // 0 means that the server does not say.
    let retry_after = fault.retry_after.unwrap_or_default().as_millis();
    head.put_u8(fault.code.wire_byte());
    head.put_u32_le(u32::try_from(retry_after).unwrap_or(u32::MAX));
    head.put_u16_le(u16::try_from(text.len()).unwrap_or_default());
    head.put_slice(text.as_bytes());
}

fn error(fields: &mut Payload) -> Result<Fault, DecodeError> {
    let byte = fields.u8()?;
    let code = ErrorCode::from_wire_byte(byte).ok_or_else(|| DecodeError::Value {
        field: "error code",
        value: byte.into(),
    })?;
    let retry_after_ms = fields.u32()?;
    let len = fields.u16()?;
    let message = String::from_utf8_lossy(&fields.bytes(len.into())?).into_owned();
    let fault = Fault::new(code, message);
    Ok(match retry_after_ms {
        0 => fault,
        delay => fault.retry_after(Duration::from_millis(delay.into())),
    })
}

fn bitmap(fields: &mut Payload) -> Result<Vec<bool>, DecodeError> {
    let n = fields.count("number of ids", 0)?;
    let bytes = fields.bytes(n.div_ceil(8))?;
    let bits = bytes
        .iter()
        .flat_map(|byte| (0..8).map(move |bit| byte >> bit & 1 == 1));
    Ok(bits.take(n).collect())
}

fn error_status(byte: u8) -> Result<ErrorCode, DecodeError> {
    let code = byte
        .checked_sub(STATUS_ERROR)
        .and_then(ErrorCode::from_wire_byte);
    code.ok_or_else(|| DecodeError::Value {
        field: "status",
        value: byte.into(),
    })
}

fn put_status(byte: u8) -> Result<PutStatus, DecodeError> {
    match byte {
        0 => Ok(PutStatus::Stored),
        1 => Ok(PutStatus::Duplicate),
        other => error_status(other).map(PutStatus::Refused),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_of_version_2_get_the_codes_that_they_know() {
        for code in ErrorCode::ALL {
            let sent = match code {
                ErrorCode::StorageHold | ErrorCode::MetadataOlder => ErrorCode::Unavailable,
                ErrorCode::RateLimited => ErrorCode::Overloaded,
                ErrorCode::LengthRequired => ErrorCode::InvalidArgument,
                known => known,
            };
            let refused = Response::Error(Fault::new(code, "why"));
            let expected = Response::Error(Fault::new(sent, "why"));
            assert_eq!(refused.for_version_2(), expected);
            let statuses = vec![PutStatus::Stored, PutStatus::Refused(code)];
            let expected = vec![PutStatus::Stored, PutStatus::Refused(sent)];
            let put = Response::PutResult(statuses).for_version_2();
            assert_eq!(put, Response::PutResult(expected));
        }
    }
}
