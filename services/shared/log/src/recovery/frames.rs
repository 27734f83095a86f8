//! The frames of one file, with the sequences that recovery needs for each hole.
//!
//! A badly damaged file has as many holes as frames. Walking over all frames for each hole would take
//! quadratic time, so the sequences are kept up to date with the list.

use std::ops::Deref;

use super::Standing;
use super::found::Frame;

/// The frames of a file in their order. Read as a slice; changed only by methods that keep the
/// sequences up to date.
#[derive(Debug, Clone, Default)]
pub(super) struct Frames {
    list: Vec<Frame>,
    /// Highest sequence.
    last: Option<u64>,
    /// Sequence of the last frame that is verified.
    last_verified: Option<u64>,
}

impl Deref for Frames {
    type Target = [Frame];

    fn deref(&self) -> &[Frame] {
        &self.list
    }
}

impl Frames {
    /// Returns the highest sequence. Takes constant time.
    pub(super) fn last_seq(&self) -> Option<u64> {
        self.last
    }

    /// Returns the sequence of the last frame that is verified. Takes constant time.
    pub(super) fn last_verified(&self) -> Option<u64> {
        self.last_verified
    }

    /// Appends a frame.
    pub(super) fn push(&mut self, frame: Frame) {
        self.note(&frame);
        self.list.push(frame);
    }

    /// Appends frames.
    pub(super) fn extend(&mut self, frames: &[Frame]) {
        for frame in frames {
            self.push(*frame);
        }
    }

    /// Counts a record of a frame of a footer, which lists the records in the order of the frames.
    pub(super) fn count_record(&mut self, seq: u64) {
        match self.list.last_mut() {
            Some(frame) if frame.seq == seq => frame.records += 1,
            _ => self.push(Frame {
                seq,
                start: 0,
                disk_len: 0,
                records: 1,
                standing: Standing::Verified,
            }),
        }
    }

    /// Takes out the frames from place `at` on. Walks over the others.
    pub(super) fn split_off(&mut self, at: usize) -> Vec<Frame> {
        let taken = self.list.split_off(at);
        self.note_all();
        taken
    }

    /// Takes out the frames for which `goes` returns true. Walks over all.
    pub(super) fn extract(&mut self, goes: impl Fn(&Frame) -> bool) -> Vec<Frame> {
        let taken = self.list.extract_if(.., |frame| goes(frame)).collect();
        self.note_all();
        taken
    }

    fn note(&mut self, frame: &Frame) {
        self.last = self.last.max(Some(frame.seq));
        if frame.standing == Standing::Verified {
            self.last_verified = Some(frame.seq);
        }
    }

    fn note_all(&mut self) {
        let list = std::mem::take(&mut self.list);
        *self = Self::default();
        list.iter().for_each(|frame| self.note(frame));
        self.list = list;
    }
}

#[cfg(test)]
mod tests {
    use rand::rngs::StdRng;
    use rand::{RngExt, SeedableRng};

    use super::*;

    fn frame(seq: u64, standing: Standing) -> Frame {
        Frame {
            seq,
            start: 0,
            disk_len: 0,
            records: 1,
            standing,
        }
    }

    fn assert_kept(frames: &Frames) {
        let last = frames.iter().map(|frame| frame.seq).max();
        assert_eq!(frames.last_seq(), last);
        let verified = frames
            .iter()
            .rev()
            .find(|frame| frame.standing == Standing::Verified);
        assert_eq!(frames.last_verified(), verified.map(|frame| frame.seq));
    }

    #[test]
    fn sequences_that_are_kept_are_those_of_the_frames() {
        let mut rng = StdRng::seed_from_u64(5);
        let standings = [Standing::Verified, Standing::Searched, Standing::Damaged];
        for _ in 0..200 {
            let mut frames = Frames::default();
            for _ in 0..rng.random_range(0..40) {
                let some = frame(rng.random_range(1..30), standings[rng.random_range(0..3)]);
                match rng.random_range(0..8) {
                    0 => drop(frames.split_off(rng.random_range(0..=frames.len()))),
                    1 => drop(frames.extract(|frame| frame.seq == some.seq)),
                    2 => frames.count_record(some.seq),
                    3 => frames.extend(&[some, frame(some.seq + 1, Standing::Damaged)]),
                    _ => frames.push(some),
                }
                assert_kept(&frames);
            }
        }
    }
}
