//! Cuts a stream of chunks into blocks. A value: bytes in, blocks out.

use bytes::{Bytes, BytesMut};
use cstore_types::Chunking;

/// Holds less than one block between two calls.
#[derive(Debug)]
pub(crate) struct Chunker {
    size: usize,
    /// Bytes of the next block so far, as a slice of the last chunk.
    held: Bytes,
    /// Bytes of the next block so far, copied from several chunks. Empty while `held` is not.
    partial: BytesMut,
}

impl Chunker {
    pub(crate) fn new(chunking: Chunking) -> Self {
        let Chunking::Fixed(size) = chunking;
        Self {
            size: size as usize,
            held: Bytes::new(),
            partial: BytesMut::new(),
        }
    }

    /// Takes the next bytes and hands out every block that is whole. A block inside of one chunk is
    /// a slice of it; one that straddles two is copied once.
    pub(crate) fn push(&mut self, mut chunk: Bytes, block: &mut impl FnMut(Bytes)) {
        if chunk.is_empty() {
            return;
        }
        if !self.held.is_empty() {
            self.partial.reserve(self.size);
            self.partial
                .extend_from_slice(&std::mem::take(&mut self.held));
        }
        if !self.partial.is_empty() {
            let missing = self.size - self.partial.len();
            self.partial
                .extend_from_slice(&chunk.split_to(missing.min(chunk.len())));
            if self.partial.len() < self.size {
                return;
            }
            block(std::mem::take(&mut self.partial).freeze());
        }
        while chunk.len() >= self.size {
            block(chunk.split_to(self.size));
        }
        self.held = chunk;
    }

    /// The last, shorter block, if there is one.
    pub(crate) fn finish(&mut self) -> Option<Bytes> {
        let held = std::mem::take(&mut self.held);
        let partial = std::mem::take(&mut self.partial).freeze();
        [held, partial].into_iter().find(|block| !block.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn cut(size: u32, chunks: &[Vec<u8>]) -> Vec<Bytes> {
        let mut chunker = Chunker::new(Chunking::Fixed(size));
        let mut blocks = Vec::new();
        for chunk in chunks {
            chunker.push(Bytes::copy_from_slice(chunk), &mut |block| {
                blocks.push(block)
            });
        }
        blocks.extend(chunker.finish());
        blocks
    }

    proptest! {
        #[test]
        fn blocks_do_not_depend_on_how_the_stream_was_split(
            size in 1u32..50,
            chunks in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..120), 0..12),
        ) {
            let whole = chunks.concat();
            let expected: Vec<&[u8]> = whole.chunks(size as usize).collect();
            prop_assert_eq!(cut(size, &chunks), expected);
        }
    }
}
