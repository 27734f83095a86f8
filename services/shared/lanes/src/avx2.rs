//! 8 lanes in each of one or two groups, with AVX2.

use std::arch::x86_64::{
    __m256i, _mm256_add_epi32, _mm256_and_si256, _mm256_andnot_si256, _mm256_or_si256,
    _mm256_permute2x128_si256, _mm256_set1_epi32, _mm256_slli_epi32, _mm256_srli_epi32,
    _mm256_unpackhi_epi32, _mm256_unpackhi_epi64, _mm256_unpacklo_epi32, _mm256_unpacklo_epi64,
    _mm256_xor_si256,
};

use bytemuck::pod_read_unaligned;

use crate::rounds::define_compress;
use crate::schedule::{Batch, Chunk};

/// Lanes of a vector.
pub(crate) const LANES: usize = 8;

/// Blocks from which lanes are faster than one block after the other: two lanes with the four more
/// instructions of a step only equal it.
const MIN_BLOCKS: usize = 3;

/// Returns the digest of each block.
#[target_feature(enable = "avx2")]
pub(crate) fn md5_many(blocks: &[&[u8]]) -> Vec<[u8; 16]> {
    let mut batch = Batch::new(blocks);
    batch.run(LANES + 1, |states, runs| compress::<2>(states, runs));
    batch.run(MIN_BLOCKS, |states, runs| compress::<1>(states, runs));
    batch.finish()
}

define_compress!("avx2", __m256i, LANES);

/// Returns the 16 words of the chunks: each vector has one word of all lanes.
#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn transpose(chunks: [&Chunk; LANES]) -> [__m256i; 16] {
    let mut words = [splat(0); 16];
    // The halves of the chunks one after the other: a vector holds half a chunk.
    for half in 0..2 {
        let rows = chunks.map(|chunk| pod_read_unaligned::<__m256i>(&chunk[32 * half..][..32]));

        // Quarters of 128 bits are transposed inside of four rows each. Afterwards quarter q of
        // `fours[4 * n + w]` has word `4 * q + w` of the rows from `4 * n` on.
        let mut fours = [splat(0); 8];
        for n in [0, 4] {
            let low_01 = _mm256_unpacklo_epi32(rows[n], rows[n + 1]);
            let high_01 = _mm256_unpackhi_epi32(rows[n], rows[n + 1]);
            let low_23 = _mm256_unpacklo_epi32(rows[n + 2], rows[n + 3]);
            let high_23 = _mm256_unpackhi_epi32(rows[n + 2], rows[n + 3]);
            fours[n] = _mm256_unpacklo_epi64(low_01, low_23);
            fours[n + 1] = _mm256_unpackhi_epi64(low_01, low_23);
            fours[n + 2] = _mm256_unpacklo_epi64(high_01, high_23);
            fours[n + 3] = _mm256_unpackhi_epi64(high_01, high_23);
        }

        // Then quarters as a whole are transposed.
        const LOW: i32 = 0x20;
        const HIGH: i32 = 0x31;
        for w in 0..4 {
            words[8 * half + w] = _mm256_permute2x128_si256::<LOW>(fours[w], fours[4 + w]);
            words[8 * half + 4 + w] = _mm256_permute2x128_si256::<HIGH>(fours[w], fours[4 + w]);
        }
    }
    words
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn splat(value: u32) -> __m256i {
    _mm256_set1_epi32(value.cast_signed())
}

#[inline]
#[target_feature(enable = "avx2")]
pub(crate) fn add(x: __m256i, y: __m256i) -> __m256i {
    _mm256_add_epi32(x, y)
}

#[inline]
#[target_feature(enable = "avx2")]
fn rotate<const LEFT: i32, const RIGHT: i32>(x: __m256i) -> __m256i {
    _mm256_or_si256(_mm256_slli_epi32::<LEFT>(x), _mm256_srli_epi32::<RIGHT>(x))
}

// The functions F to I of RFC 1321, each added to the rest of the sum. `b` is the result of the
// step before, so each has as few operations after `b` as possible.

#[inline]
#[target_feature(enable = "avx2")]
fn mix_1(early: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    let mixed = _mm256_xor_si256(d, _mm256_and_si256(b, _mm256_xor_si256(c, d)));
    add(early, mixed)
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_2(early: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    // Both operands of the OR never have a bit in common, so each is added for itself.
    let early = add(early, _mm256_andnot_si256(d, c));
    add(early, _mm256_and_si256(b, d))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_3(early: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    add(early, _mm256_xor_si256(b, _mm256_xor_si256(c, d)))
}

#[inline]
#[target_feature(enable = "avx2")]
fn mix_4(early: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
    let not_d = _mm256_xor_si256(d, splat(u32::MAX));
    add(early, _mm256_xor_si256(c, _mm256_or_si256(b, not_d)))
}
