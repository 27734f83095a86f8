//! Every backend returns what `md-5` returns.
//!
//! `CSTORE_SEED` picks the random blocks and `CSTORE_CASES` their number; `make lanes-proof` takes a
//! million. A backend that the processor does not have prints SKIP.

use std::io::Write;

use cstore_lanes::{Backend, md5_many};
use md5::{Digest, Md5};
use rand::rngs::StdRng;
use rand::{Rng, RngExt, SeedableRng};

/// Blocks of a call that fills all lanes of every backend, and then some lanes again.
const MANY: usize = 40;

/// Returns the backends that this processor has. Prints the others, past the capture of output.
fn backends() -> impl Iterator<Item = Backend> {
    Backend::ALL.into_iter().filter(|backend| {
        let is_available = backend.is_available();
        if !is_available {
            let line = format!("\nSKIP {backend:?}: this processor has no such instructions\n");
            let _ = std::io::stdout().write_all(line.as_bytes());
        }
        is_available
    })
}

fn judge(block: &[u8]) -> [u8; 16] {
    Md5::digest(block).into()
}

/// Checks the digests of one call of each backend.
fn check(blocks: &[&[u8]]) {
    let expected: Vec<[u8; 16]> = blocks.iter().map(|block| judge(block)).collect();
    for backend in backends() {
        let lengths = || blocks.iter().map(|block| block.len()).collect::<Vec<_>>();
        let digests = backend.md5_many(blocks);
        assert!(digests == expected, "{backend:?}: lengths {:?}", lengths());
    }
}

fn random_bytes(len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    StdRng::seed_from_u64(1).fill_bytes(&mut bytes);
    bytes
}

#[test]
fn digests_are_those_of_the_rfc() {
    let vectors = [
        ("", "d41d8cd98f00b204e9800998ecf8427e"),
        ("a", "0cc175b9c0f1b6a831c399e269772661"),
        ("abc", "900150983cd24fb0d6963f7d28e17f72"),
        ("message digest", "f96b697d7cb7938d525a2f31aaf161d0"),
        (
            "abcdefghijklmnopqrstuvwxyz",
            "c3fcd3d76192e4007dfb496cca67e13b",
        ),
        (
            "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789",
            "d174ab98d277d9f5a5611c2c9f419d9f",
        ),
        (
            "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
            "57edf4a22be3c955ac49da2e2107b67a",
        ),
    ];
    // Once, and often enough for all lanes.
    for repeats in [1, 6] {
        let vectors = vectors.repeat(repeats);
        let blocks: Vec<&[u8]> = vectors.iter().map(|(text, _)| text.as_bytes()).collect();
        for backend in backends() {
            for (digest, (text, expected)) in backend.md5_many(&blocks).into_iter().zip(&vectors) {
                let digest = u128::from_be_bytes(digest);
                assert_eq!(format!("{digest:032x}"), *expected, "{backend:?} {text:?}");
            }
        }
    }
}

#[test]
fn every_length_is_hashed_in_every_lane() {
    const LENGTHS: usize = 301;
    let bytes = random_bytes(LENGTHS + MANY);
    for count in [2, 3, 8, 9, 16, 17, 32, MANY] {
        for first in 0..LENGTHS {
            // Lanes are assigned by length, so the next call has this length in another lane.
            let block = |i: usize| &bytes[i..][..(first + i) % LENGTHS];
            let blocks: Vec<&[u8]> = (0..count).map(block).collect();
            check(&blocks);
        }
    }
}

#[test]
fn any_number_of_blocks_of_one_length_is_hashed() {
    let bytes = random_bytes(500);
    for len in [0, 1, 55, 56, 63, 64, 65, 119, 120, 128, 300] {
        for count in 0..=2 * MANY {
            let blocks: Vec<&[u8]> = (0..count).map(|i| &bytes[i..][..len]).collect();
            check(&blocks);
        }
    }
}

/// Draws a length: often around the borders of chunks, sometimes that of a real block.
fn random_length(random: &mut StdRng) -> usize {
    match random.random_range(0..100) {
        0..50 => random.random_range(0..300),
        50..85 => random.random_range(0..2_000),
        85..98 => random.random_range(0..8_192),
        _ => random.random_range(0..100_000),
    }
}

#[test]
fn random_blocks_have_the_digests_of_md5() {
    let (seed, cases) = cstore_testkit::seed_and_cases(1, 10_000);
    let mut random = StdRng::seed_from_u64(seed);
    let mut hashed = 0;
    while hashed < cases {
        let count = random.random_range(0..=2 * MANY);
        let blocks: Vec<Vec<u8>> = (0..count)
            .map(|_| {
                let mut block = vec![0; random_length(&mut random)];
                random.fill_bytes(&mut block);
                block
            })
            .collect();
        let blocks: Vec<&[u8]> = blocks.iter().map(Vec::as_slice).collect();
        check(&blocks);
        hashed += blocks.len() as u64;
    }
    println!("{hashed} blocks");
}

/// The number of bits does not fit in 32 bits.
#[test]
fn long_blocks_are_hashed() {
    // Pages of zeros that are only read take no memory.
    let zeros = vec![0; 1 << 29];
    let digest = u128::from_be_bytes(md5_many(&[&zeros, b"", &zeros])[2]);
    assert_eq!(format!("{digest:032x}"), "aa559b4e3523a6c931f08f4df52d58f2");
}

#[test]
fn a_backend_that_is_missing_is_replaced() {
    let expected = [judge(b"a"), judge(b"b"), judge(b"c")];
    for backend in Backend::ALL {
        assert_eq!(backend.md5_many(&[b"a", b"b", b"c"]), expected);
    }
    assert!(Backend::detect().is_available());
}
