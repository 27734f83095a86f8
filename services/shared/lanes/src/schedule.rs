//! Assignment of blocks to lanes.
//!
//! ```text
//! waiting blocks, longest first ─▶ lane 0 │ body, 64 bytes a chunk … │ tail │ next block …
//!                                  lane 1 │ body …          │ tail │ next block …
//!                                         ◀── one pass ────▶ compressed in all lanes at once
//! ```
//! A pass is as long as the shortest run of chunks in any lane. Then the lane with that run goes on
//! with its tail, or with the longest waiting block, so lanes stay full whatever the lengths are.
//! Blocks are taken longest first: otherwise a long block that is taken last would be compressed
//! with all other lanes idle.

use crate::rounds::INITIAL;

/// Unit in which MD5 consumes a block.
pub(crate) type Chunk = [u8; 64];

/// Offset of the length in the last chunk of a tail.
const LENGTH_OFFSET: usize = 56;

/// States of `G` groups of `L` lanes: for each group the four words of the state, for each word one
/// entry per lane.
pub(crate) type States<const L: usize, const G: usize> = [[[u32; L]; 4]; G];

/// Chunks of each lane in one pass. All have the same number, which is not 0.
pub(crate) type Runs<'a, const L: usize, const G: usize> = [[&'a [Chunk]; L]; G];

/// A block whose digest was begun.
struct Lane<'a> {
    /// Position of the block in the call.
    index: usize,
    state: [u32; 4],
    /// Whole chunks of the block that were not compressed yet.
    body: &'a [Chunk],
    /// End of the block with padding and length.
    tail: [Chunk; 2],
    /// Chunks of the tail that are unused or compressed: a short tail is only in the second one.
    tail_offset: usize,
}

impl<'a> Lane<'a> {
    /// Splits a block and pads its end: a bit 1, zeros, and the number of bits modulo 2^64.
    fn new(index: usize, block: &'a [u8]) -> Self {
        let (body, rest) = block.as_chunks();
        let mut tail = [[0; 64]; 2];
        let tail_offset = usize::from(rest.len() < LENGTH_OFFSET);
        let bytes = tail[tail_offset..].as_flattened_mut();

        bytes[..rest.len()].copy_from_slice(rest);
        bytes[rest.len()] = 0x80;
        tail[1][LENGTH_OFFSET..].copy_from_slice(&bit_length(block.len() as u64));
        Self {
            index,
            state: INITIAL,
            body,
            tail,
            tail_offset,
        }
    }

    /// Returns the chunks that follow each other in memory: the rest of the body, then that of the
    /// tail. Empty after the last chunk.
    fn run(&self) -> &[Chunk] {
        if self.body.is_empty() {
            &self.tail[self.tail_offset..]
        } else {
            self.body
        }
    }

    /// Skips `n` chunks of the run.
    fn advance(&mut self, n: usize) {
        if self.body.is_empty() {
            self.tail_offset += n;
        } else {
            self.body = &self.body[n..];
        }
    }
}

/// Encodes the length of a block in bits, modulo 2^64, as the last bytes of its tail.
fn bit_length(bytes: u64) -> [u8; 8] {
    bytes.wrapping_mul(8).to_le_bytes()
}

fn digest_of(state: [u32; 4]) -> [u8; 16] {
    let mut digest = [0; 16];
    for (bytes, word) in digest.chunks_exact_mut(4).zip(state) {
        bytes.copy_from_slice(&word.to_le_bytes());
    }
    digest
}

/// Blocks of one call.
///
/// Call [`Batch::run`] with fewer and fewer lanes, then [`Batch::finish`].
pub(crate) struct Batch<'a> {
    blocks: &'a [&'a [u8]],
    /// Blocks that were not begun, the longest one last.
    waiting: Vec<usize>,
    /// Blocks that were begun and are not complete.
    lanes: Vec<Lane<'a>>,
    /// Digest of each complete block, zeros for others.
    digests: Vec<[u8; 16]>,
}

impl<'a> Batch<'a> {
    pub(crate) fn new(blocks: &'a [&'a [u8]]) -> Self {
        let mut waiting: Vec<usize> = (0..blocks.len()).collect();
        waiting.sort_by_key(|index| blocks[*index].len());
        Self {
            blocks,
            waiting,
            lanes: Vec::new(),
            digests: vec![[0; 16]; blocks.len()],
        }
    }

    /// Compresses in `G` groups of `L` lanes until fewer than `least` blocks are incomplete.
    ///
    /// Idle lanes compress the chunks of another lane, and their states are not used. `least` MUST
    /// be at least 1.
    pub(crate) fn run<const L: usize, const G: usize>(
        &mut self,
        least: usize,
        compress: impl Fn(&mut States<L, G>, &Runs<'_, L, G>),
    ) {
        while self.lanes.len() < L * G
            && let Some(index) = self.waiting.pop()
        {
            self.lanes.push(Lane::new(index, self.blocks[index]));
        }
        let mut states = [[[0; L]; 4]; G];
        for (slot, lane) in self.lanes.iter().enumerate() {
            set_state(&mut states, slot, lane.state);
        }

        while self.lanes.len() >= least {
            let shortest = self.lanes.iter().map(|lane| lane.run().len()).min();
            let n = shortest.unwrap_or_default();
            let run_of = |slot: usize| {
                let lane = self.lanes.get(slot).unwrap_or(&self.lanes[0]);
                &lane.run()[..n]
            };
            let runs = std::array::from_fn(|group| std::array::from_fn(|i| run_of(group * L + i)));
            compress(&mut states, &runs);
            self.advance(n, &mut states);
        }

        for (slot, lane) in self.lanes.iter_mut().enumerate() {
            lane.state = state_of(&states, slot);
        }
    }

    /// Skips `n` chunks in all lanes, and replaces the blocks that are complete by waiting ones.
    fn advance<const L: usize, const G: usize>(&mut self, n: usize, states: &mut States<L, G>) {
        // Backwards, as a removal moves the last lane to the slot of the removed one.
        for slot in (0..self.lanes.len()).rev() {
            let lane = &mut self.lanes[slot];
            lane.advance(n);
            if !lane.run().is_empty() {
                continue;
            }
            self.digests[lane.index] = digest_of(state_of(states, slot));

            if let Some(index) = self.waiting.pop() {
                *lane = Lane::new(index, self.blocks[index]);
                set_state(states, slot, INITIAL);
            } else {
                self.lanes.swap_remove(slot);
                let moved = state_of(states, self.lanes.len());
                set_state(states, slot, moved);
            }
        }
    }

    /// Compresses what is left one by one. Returns the digest of each block, in order of the call.
    pub(crate) fn finish(mut self) -> Vec<[u8; 16]> {
        for mut lane in self.lanes {
            md5::block_api::compress(&mut lane.state, lane.body);
            md5::block_api::compress(&mut lane.state, &lane.tail[lane.tail_offset..]);
            self.digests[lane.index] = digest_of(lane.state);
        }
        for index in self.waiting {
            self.digests[index] = crate::md5_one(self.blocks[index]);
        }
        self.digests
    }
}

fn state_of<const L: usize, const G: usize>(states: &States<L, G>, slot: usize) -> [u32; 4] {
    states[slot / L].map(|word| word[slot % L])
}

fn set_state<const L: usize, const G: usize>(
    states: &mut States<L, G>,
    slot: usize,
    state: [u32; 4],
) {
    for (word, value) in states[slot / L].iter_mut().zip(state) {
        word[slot % L] = value;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Compresses lane by lane, so that the assignment can be tested without vectors.
    fn compress<const L: usize, const G: usize>(states: &mut States<L, G>, runs: &Runs<'_, L, G>) {
        let n = runs[0][0].len();
        assert!(n > 0, "a pass has a chunk");
        for (slot, run) in runs.as_flattened().iter().enumerate() {
            assert_eq!(run.len(), n, "runs of a pass have one length");
            let mut state = state_of(states, slot);
            md5::block_api::compress(&mut state, run);
            set_state(states, slot, state);
        }
    }

    #[test]
    fn any_number_of_blocks_passes_through_any_number_of_lanes() {
        for count in 0..20 {
            let bytes: Vec<u8> = (0..=255).cycle().take(2_000).collect();
            let length = |i: usize| (i * 389) % 2_000;
            let blocks: Vec<&[u8]> = (0..count).map(|i| &bytes[..length(i)]).collect();
            let expected: Vec<_> = blocks.iter().map(|block| crate::md5_one(block)).collect();
            for least in 1..5 {
                let mut batch = Batch::new(&blocks);
                batch.run::<3, 2>(4, compress);
                assert!(batch.lanes.len() < 4 && batch.waiting.is_empty());
                batch.run::<3, 1>(least, compress);
                assert_eq!(batch.finish(), expected, "{count} blocks, least {least}");
            }
            assert_eq!(Batch::new(&blocks).finish(), expected);
        }
    }

    #[test]
    fn a_tail_is_padded_to_one_chunk_if_the_length_fits() {
        for (len, chunks) in [
            (0, 1),
            (55, 1),
            (56, 2),
            (63, 2),
            (64, 1),
            (119, 1),
            (120, 2),
        ] {
            let block = vec![0xff; len];
            let lane = Lane::new(0, &block);
            assert_eq!(lane.body.len(), len / 64);
            assert_eq!(lane.tail[lane.tail_offset..].len(), chunks, "{len} bytes");
        }
    }

    #[test]
    fn the_length_is_counted_in_bits_modulo_two_to_the_64() {
        assert_eq!(bit_length(1 << 29), [0, 0, 0, 0, 1, 0, 0, 0]);
        assert_eq!(bit_length((1 << 61) + 1), [8, 0, 0, 0, 0, 0, 0, 0]);
    }
}
