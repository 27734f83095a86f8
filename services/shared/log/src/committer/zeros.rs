//! Zeros behind the frames of the active file.
//!
//! The space of a new file is allocated, but its blocks are unwritten extents. The first write of a
//! block changes the metadata of the file system, so the sync waits for the journal as well. The sync
//! of a block that was written before waits for the block only: half the time and half the processor
//! time on ext4. A small frame is therefore written with zeros behind it, in the same write and sync,
//! and the next frames overwrite the zeros. See ADR 22.
//!
//! Zeros cost bandwidth of the disk. The zeros behind a frame have at most as many bytes as the small
//! frames in a row, so all zeros together have at most twice the bytes of the small frames, in any
//! order of small and large frames. Large frames have no zeros: one change of metadata covers many
//! bytes. Recycled files have no zeros: their blocks are written.
//!
//! An unwritten block reads as zeros, too, so recovery finds the same bytes. One error differs: if the
//! medium cannot read a block of zeros behind the last frame, the block may have been a frame, and the
//! end of the file is in doubt.

use bytes::Bytes;

use crate::limits::{ZERO_AHEAD_BYTES, ZERO_AHEAD_FRAME_BYTES};

/// Zeros that the buffers of a write share.
const ZEROS: &[u8] = &[0; 64 << 10];

/// Position and size of the zeros in the active file.
#[derive(Debug, Default)]
pub(super) struct ZeroAhead {
    /// End of the written part of the file.
    until: u64,
    /// Bytes of small frames since the last large one.
    run: u64,
}

impl ZeroAhead {
    /// Returns the number of zeros to write behind a frame of `len` bytes that ends at offset `end`
    /// of a file of `size` bytes.
    pub(super) fn behind(&self, end: u64, len: u64, size: u64) -> u64 {
        if len > ZERO_AHEAD_FRAME_BYTES || end <= self.until {
            return 0;
        }
        (self.run + len)
            .min(ZERO_AHEAD_BYTES)
            .min(size.saturating_sub(end))
    }

    /// Records a frame of `len` bytes that ends at offset `end`, written with `zeros` zeros behind it.
    pub(super) fn advance(&mut self, end: u64, len: u64, zeros: u64) {
        self.until = self.until.max(end + zeros);
        self.run = match len > ZERO_AHEAD_FRAME_BYTES {
            true => 0,
            false => self.run.saturating_add(len),
        };
    }
}

/// Returns buffers of `count` zeros.
pub(super) fn zeros(count: u64) -> impl Iterator<Item = Bytes> {
    let whole = ZEROS.len() as u64;
    (0..count.div_ceil(whole)).map(move |part| {
        let left = count - part * whole;
        Bytes::from_static(&ZEROS[..left.min(whole) as usize])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const KIB: u64 = 1 << 10;

    /// Writes frames of these sizes one after the other. Returns the zeros behind each.
    fn zeros_behind(frames: &[u64], size: u64) -> Vec<u64> {
        let mut ahead = ZeroAhead::default();
        let mut end = 0;
        let write = |len: &u64| {
            end += len;
            let zeros = ahead.behind(end, *len, size);
            ahead.advance(end, *len, zeros);
            zeros
        };
        frames.iter().map(write).collect()
    }

    #[test]
    fn the_window_grows_with_the_run_of_small_frames_and_has_a_bound() {
        let found = zeros_behind(&[8 * KIB; 400], u64::MAX);
        let windows: Vec<u64> = found.into_iter().filter(|zeros| *zeros > 0).collect();
        let kib = [8, 24, 56, 120, 248, 504, 512, 512, 512, 512, 512];
        assert_eq!(windows, kib.map(|kib| kib * KIB));
    }

    #[test]
    fn large_frames_have_no_zeros_and_end_the_run() {
        let large = 65 * KIB;
        let found = zeros_behind(&[large, 8 * KIB, large, 8 * KIB, 8 * KIB], u64::MAX);
        assert_eq!(found, [0, 8 * KIB, 0, 8 * KIB, 0]);
    }

    #[test]
    fn zeros_end_with_the_file() {
        assert_eq!(zeros_behind(&[8 * KIB; 2], 12 * KIB), [4 * KIB, 0]);
    }

    #[test]
    fn zeros_are_at_most_twice_the_bytes_of_small_frames() {
        let mut state = 20_261_127_u64;
        let mut next = || {
            state = state
                .wrapping_mul(6_364_136_223_846_793_005)
                .wrapping_add(1);
            state >> 33
        };
        let frames: Vec<u64> = (0..20_000)
            .map(|_| match next() % 8 {
                0 => 256 * KIB,
                _ => (next() % 16 + 1) * 4 * KIB,
            })
            .collect();
        let zeros: u64 = zeros_behind(&frames, u64::MAX).iter().sum();
        let small: u64 = frames.iter().filter(|len| **len <= 64 * KIB).sum();
        assert!(zeros <= 2 * small, "{zeros} zeros behind {small} bytes");
    }

    #[test]
    fn buffers_have_the_length_that_is_asked_for() {
        for count in [0, 1, 64 * KIB, 64 * KIB + 1, 512 * KIB] {
            let len: u64 = zeros(count).map(|buffer| buffer.len() as u64).sum();
            assert_eq!(len, count);
        }
    }
}
