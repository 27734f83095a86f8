//! The check of blocks that arrive: every byte is hashed before anything is promised.

use cstore_types::limits::MAX_BLOCK_BYTES;
use cstore_types::{Block, DedupKey};

use crate::engine::error::EngineError;
use crate::limits::INLINE_CHECK_BYTES;

/// Blocks with one verdict each.
#[derive(Debug)]
pub(super) struct Checked {
    pub(super) blocks: Vec<Block>,
    /// For each block, whether its bytes are what its id says.
    pub(super) good: Vec<bool>,
}

/// Checks the length and the keyed half of every block's id.
///
/// # Errors
/// [`EngineError::Task`] if the check panicked. Nothing is known of any block then.
pub(super) async fn check(key: &DedupKey, blocks: Vec<Block>) -> Result<Checked, EngineError> {
    let key = key.clone();
    let is_good = move |block: &Block| {
        (1..=MAX_BLOCK_BYTES).contains(&block.bytes.len()) && block.id.matches(&key, &block.bytes)
    };
    check_with(blocks, is_good).await
}

async fn check_with(
    blocks: Vec<Block>,
    is_good: impl Fn(&Block) -> bool + Send + 'static,
) -> Result<Checked, EngineError> {
    let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
    let check = move || {
        let good = blocks.iter().map(is_good).collect();
        Checked { blocks, good }
    };
    if bytes <= INLINE_CHECK_BYTES {
        Ok(check())
    } else {
        Ok(cstore_node::blocking(check).await?)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use cstore_types::{BlockId, BlockKind, ErrorCode};

    use super::*;

    fn block(len: usize) -> Block {
        let bytes = Bytes::from(vec![7; len]);
        let id = BlockId::of_many(&DedupKey::from_bytes([1; 32]), &[&bytes])[0];
        Block {
            id,
            kind: BlockKind::Data,
            bytes,
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn every_block_gets_a_verdict_wherever_it_is_checked() {
        for len in [1, INLINE_CHECK_BYTES] {
            let blocks = vec![block(len), block(len + 1)];
            let is_good = move |block: &Block| block.bytes.len() == len;
            let checked = check_with(blocks.clone(), is_good).await.unwrap();
            assert_eq!(checked.blocks.len(), blocks.len());
            assert_eq!(checked.good, [true, false]);
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_of_the_check_is_an_internal_error_and_not_an_answer_without_outcomes() {
        let checked = check_with(vec![block(INLINE_CHECK_BYTES + 1)], |_| {
            panic!("on purpose")
        })
        .await;
        assert_eq!(checked.unwrap_err().code(), ErrorCode::Internal);
    }
}
