//! A block as worker, frames and disk hand it on.

use bytes::Bytes;

use crate::block_id::BlockId;

/// The content of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum BlockKind {
    /// Bytes of a file.
    Data,
    /// A leaf of a recipe.
    Manifest,
}

/// A block with its identity. Cloning shares the bytes.
///
/// The id is a claim until [`BlockId::matches`] was asked: the storage node checks it BEFORE a
/// block is written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Block {
    /// Identity.
    pub id: BlockId,
    /// Content.
    pub kind: BlockKind,
    /// 1 byte to 4 MiB.
    pub bytes: Bytes,
}
