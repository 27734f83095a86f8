//! MD5 (RFC 1321) of many blocks at once.
//!
//! The steps of one MD5 wait for each other, so one digest cannot be made faster. Digests of
//! different blocks do not depend on each other: each gets a lane of the vector registers, and one
//! instruction makes a step of all lanes.
//!
//! * `backend`: choice of the instructions at run time.
//! * `schedule`: assignment of blocks of any lengths to lanes; padding.
//! * `rounds`: the steps, for vectors of any width.
//! * `avx2`, `avx512`: vectors of 8 and 16 lanes.
//!
//! Invariants:
//!
//! * Every backend returns what the crate `md-5` returns. Tests compare them, and `make
//!   lanes-proof` compares a million random blocks.
//! * The only `unsafe` are the two calls in `backend`, each after the check that the processor has
//!   the instructions. All memory is accessed through slices and arrays with their bounds checked.

#[cfg(target_arch = "x86_64")]
mod avx2;
#[cfg(target_arch = "x86_64")]
mod avx512;
mod backend;
#[cfg(target_arch = "x86_64")]
mod rounds;
#[cfg(target_arch = "x86_64")]
mod schedule;

pub use backend::Backend;

/// Returns the MD5 of each block, in order, with the fastest instructions that this processor has.
///
/// Blocks may have any lengths. The more blocks a call has, the faster each is hashed, up to 32.
pub fn md5_many(blocks: &[&[u8]]) -> Vec<[u8; 16]> {
    Backend::detect().md5_many(blocks)
}

/// Returns the MD5 of one block.
fn md5_one(block: &[u8]) -> [u8; 16] {
    use md5::Digest;
    md5::Md5::digest(block).into()
}
