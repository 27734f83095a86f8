//! Typed messages and their encoding. Pure: bytes in, values out.

mod request;
mod response;

use bytes::{BufMut, Bytes, BytesMut};
use cstore_types::{BlockId, BlockKind, ErrorCode};

use crate::decode_error::DecodeError;
use crate::frame::{HEADER, Opcode, Prefix};

pub use request::Request;
pub use response::Response;

/// A block of PutSeal: which of the seal's ids it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SealedBlock {
    /// Position in the seal's ids.
    pub index: u32,
    /// Kind of the block's content.
    pub kind: BlockKind,
    /// 1 byte to 4 MiB.
    pub bytes: Bytes,
}

/// Result for one block of PutBlocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PutStatus {
    /// Written and synced.
    Stored,
    /// The block was here already.
    Duplicate,
    /// Refused.
    Refused(ErrorCode),
}

/// One block of an answer to GetBlocks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BlockReply {
    /// Position in the request's ids.
    pub index: u32,
    /// True for the last block of the answer.
    pub last: bool,
    /// Verified bytes, or the reason why there are none.
    pub result: Result<Bytes, ErrorCode>,
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

#[allow(
    clippy::cast_possible_truncation,
    reason = "lists and blocks are bounded far below 4 Gi"
)]
const fn u32_of(n: usize) -> u32 {
    n as u32
}

fn put_ids(head: &mut BytesMut, ids: &[BlockId]) {
    head.put_u32_le(u32_of(ids.len()));
    for id in ids {
        head.put_slice(id.as_bytes());
    }
}

const fn kind_byte(kind: BlockKind) -> u8 {
    match kind {
        BlockKind::Data => 1,
        BlockKind::Manifest => 2,
    }
}

fn kind(byte: u8) -> Result<BlockKind, DecodeError> {
    match byte {
        1 => Ok(BlockKind::Data),
        2 => Ok(BlockKind::Manifest),
        other => Err(DecodeError::Value {
            field: "kind",
            value: other.into(),
        }),
    }
}

fn flag(byte: u8) -> Result<bool, DecodeError> {
    match byte {
        0 => Ok(false),
        1 => Ok(true),
        other => Err(DecodeError::Value {
            field: "flag",
            value: other.into(),
        }),
    }
}
