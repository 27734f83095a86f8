//! With AVX-512: 16 lanes in each of two groups, or 8 lanes in each of one or two.
//!
//! A rotation is one instruction, and so is any function of three operands. That makes vectors of 8
//! lanes faster, too (module `narrow`). They are used for up to 16 blocks: 16 lanes in one group
//! would wait for each other, and two half empty groups of 16 take longer than two full ones of 8.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_shuffle_i32x4,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use bytemuck::pod_read_unaligned;

use crate::rounds::define_compress;
use crate::schedule::{Batch, Chunk};

/// Lanes of a vector.
const LANES: usize = 16;

// The functions F to I of RFC 1321 as truth tables. Bit `4 * b + 2 * c + d` of a table is the
// result for these three bits.
const MIX_1: i32 = 0b1100_1010;
const MIX_2: i32 = 0b1110_0100;
const MIX_3: i32 = 0b1001_0110;
const MIX_4: i32 = 0b0011_1001;

/// Blocks from which lanes are faster than one block after the other.
const MIN_BLOCKS: usize = 2;

/// Returns the digest of each block.
#[target_feature(enable = "avx512f,avx512vl")]
pub(crate) fn md5_many(blocks: &[&[u8]]) -> Vec<[u8; 16]> {
    let mut batch = Batch::new(blocks);
    if blocks.len() > 2 * narrow::LANES {
        let least = 2 * narrow::LANES + 1;
        batch.run(least, |states, runs| compress::<2>(states, runs));
    }
    let least = narrow::LANES + 1;
    batch.run(least, |states, runs| narrow::compress::<2>(states, runs));
    batch.run(MIN_BLOCKS, |states, runs| {
        narrow::compress::<1>(states, runs)
    });
    batch.finish()
}

define_compress!("avx512f", __m512i, LANES);

/// Returns the 16 words of the chunks: each vector has one word of all lanes.
#[inline]
#[target_feature(enable = "avx512f")]
fn transpose(chunks: [&Chunk; LANES]) -> [__m512i; 16] {
    let rows = chunks.map(|chunk| pod_read_unaligned::<__m512i>(chunk));

    // Quarters of 128 bits are transposed inside of four rows each. Afterwards quarter q of
    // `fours[4 * n + w]` has word `4 * q + w` of the rows from `4 * n` on.
    let mut fours = [splat(0); 16];
    for n in (0..16).step_by(4) {
        let low_01 = _mm512_unpacklo_epi32(rows[n], rows[n + 1]);
        let high_01 = _mm512_unpackhi_epi32(rows[n], rows[n + 1]);
        let low_23 = _mm512_unpacklo_epi32(rows[n + 2], rows[n + 3]);
        let high_23 = _mm512_unpackhi_epi32(rows[n + 2], rows[n + 3]);
        fours[n] = _mm512_unpacklo_epi64(low_01, low_23);
        fours[n + 1] = _mm512_unpackhi_epi64(low_01, low_23);
        fours[n + 2] = _mm512_unpacklo_epi64(high_01, high_23);
        fours[n + 3] = _mm512_unpackhi_epi64(high_01, high_23);
    }

    // Then quarters as a whole are transposed.
    const EVEN: i32 = 0b10_00_10_00;
    const ODD: i32 = 0b11_01_11_01;
    let mut words = [splat(0); 16];
    for w in 0..4 {
        let even_01 = _mm512_shuffle_i32x4::<EVEN>(fours[w], fours[4 + w]);
        let odd_01 = _mm512_shuffle_i32x4::<ODD>(fours[w], fours[4 + w]);
        let even_23 = _mm512_shuffle_i32x4::<EVEN>(fours[8 + w], fours[12 + w]);
        let odd_23 = _mm512_shuffle_i32x4::<ODD>(fours[8 + w], fours[12 + w]);
        words[w] = _mm512_shuffle_i32x4::<EVEN>(even_01, even_23);
        words[4 + w] = _mm512_shuffle_i32x4::<EVEN>(odd_01, odd_23);
        words[8 + w] = _mm512_shuffle_i32x4::<ODD>(even_01, even_23);
        words[12 + w] = _mm512_shuffle_i32x4::<ODD>(odd_01, odd_23);
    }
    words
}

#[inline]
#[target_feature(enable = "avx512f")]
fn splat(value: u32) -> __m512i {
    _mm512_set1_epi32(value.cast_signed())
}

#[inline]
#[target_feature(enable = "avx512f")]
fn add(x: __m512i, y: __m512i) -> __m512i {
    _mm512_add_epi32(x, y)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn rotate<const LEFT: i32, const RIGHT: i32>(x: __m512i) -> __m512i {
    _mm512_rol_epi32::<LEFT>(x)
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mix_1(early: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(early, _mm512_ternarylogic_epi32::<MIX_1>(b, c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mix_2(early: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(early, _mm512_ternarylogic_epi32::<MIX_2>(b, c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mix_3(early: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(early, _mm512_ternarylogic_epi32::<MIX_3>(b, c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mix_4(early: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(early, _mm512_ternarylogic_epi32::<MIX_4>(b, c, d))
}

/// Vectors of 8 lanes with the instructions of AVX-512.
mod narrow {
    use std::arch::x86_64::{__m256i, _mm256_rol_epi32, _mm256_ternarylogic_epi32};

    pub(super) use crate::avx2::LANES;
    use crate::avx2::{add, splat, transpose};
    use crate::rounds::define_compress;

    define_compress!("avx512f,avx512vl", __m256i, LANES);

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn rotate<const LEFT: i32, const RIGHT: i32>(x: __m256i) -> __m256i {
        _mm256_rol_epi32::<LEFT>(x)
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn mix_1(early: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
        add(
            early,
            _mm256_ternarylogic_epi32::<{ super::MIX_1 }>(b, c, d),
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn mix_2(early: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
        add(
            early,
            _mm256_ternarylogic_epi32::<{ super::MIX_2 }>(b, c, d),
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn mix_3(early: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
        add(
            early,
            _mm256_ternarylogic_epi32::<{ super::MIX_3 }>(b, c, d),
        )
    }

    #[inline]
    #[target_feature(enable = "avx512f,avx512vl")]
    fn mix_4(early: __m256i, b: __m256i, c: __m256i, d: __m256i) -> __m256i {
        add(
            early,
            _mm256_ternarylogic_epi32::<{ super::MIX_4 }>(b, c, d),
        )
    }
}
