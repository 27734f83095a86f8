//! 16 lanes in each of one or two groups, with AVX-512F.

use std::arch::x86_64::{
    __m512i, _mm512_add_epi32, _mm512_rol_epi32, _mm512_set1_epi32, _mm512_shuffle_i32x4,
    _mm512_ternarylogic_epi32, _mm512_unpackhi_epi32, _mm512_unpackhi_epi64, _mm512_unpacklo_epi32,
    _mm512_unpacklo_epi64,
};

use bytemuck::{cast, pod_read_unaligned};

use crate::rounds::md5_steps;
use crate::schedule::{Batch, Chunk, Runs, States};

/// Lanes of a vector.
const LANES: usize = 16;

/// Returns the digest of each block.
#[target_feature(enable = "avx512f")]
pub(crate) fn md5_many(blocks: &[&[u8]], least: usize) -> Vec<[u8; 16]> {
    let mut batch = Batch::new(blocks);
    if blocks.len() > LANES {
        batch.run(LANES + 1, |states, runs| compress::<2>(states, runs));
    }
    batch.run(least, |states, runs| compress::<1>(states, runs));
    batch.finish()
}

/// Compresses the runs of one pass.
#[target_feature(enable = "avx512f")]
fn compress<const G: usize>(states: &mut States<LANES, G>, runs: &Runs<'_, LANES, G>) {
    let vectors = |word: usize| std::array::from_fn::<__m512i, G, _>(|g| cast(states[g][word]));
    let (mut a, mut b, mut c, mut d) = (vectors(0), vectors(1), vectors(2), vectors(3));
    for i in 0..runs[0][0].len() {
        let mut words = [[splat(0); 16]; G];
        for group in 0..G {
            words[group] = transpose(runs[group].map(|run| &run[i]));
        }
        let (a0, b0, c0, d0) = (a, b, c, d);
        md5_steps!(G, words, a, b, c, d);
        for group in 0..G {
            a[group] = add(a[group], a0[group]);
            b[group] = add(b[group], b0[group]);
            c[group] = add(c[group], c0[group]);
            d[group] = add(d[group], d0[group]);
        }
    }
    for group in 0..G {
        states[group] = [a, b, c, d].map(|word| cast(word[group]));
    }
}

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

// The functions F to I of RFC 1321 as truth tables, each added to the rest of the sum. Bit
// `4 * b + 2 * c + d` of a table is the result for these three bits.

#[inline]
#[target_feature(enable = "avx512f")]
fn mix_1(early: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(early, _mm512_ternarylogic_epi32::<0b1100_1010>(b, c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mix_2(early: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(early, _mm512_ternarylogic_epi32::<0b1110_0100>(b, c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mix_3(early: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(early, _mm512_ternarylogic_epi32::<0b1001_0110>(b, c, d))
}

#[inline]
#[target_feature(enable = "avx512f")]
fn mix_4(early: __m512i, b: __m512i, c: __m512i, d: __m512i) -> __m512i {
    add(early, _mm512_ternarylogic_epi32::<0b0011_1001>(b, c, d))
}
