//! Epochs: which opens of a disk have written which sequences.
//!
//! A sequence is a number of 64 bits: the epoch in the upper 24, a counter from 1 on in the lower
//! 40. So sequences grow with the log, whatever the epoch. Each open that writes begins the next
//! epoch, with a random nonce, and fixes where the epoch before it has ended. A disk that lost its
//! last frames can therefore not make up for them by writing on: what it writes lies in another
//! epoch, and the end of the one that it lost frames of stays where it was found.
//!
//! ```text
//! the disk         epoch 1, nonce a: 1 … 40
//! its older copy   epoch 1, nonce a: 1 … 36 │ epoch 2, nonce b: 1 …
//! a seal (1, a) 40 is Ahead for the copy, and a seal (2, c) of another open is a Fork
//! ```

use crate::SealSeq;
use crate::codec::{CodecError, Fields};
use crate::history::Place;

/// Bits of a sequence that count frames within an epoch.
const COUNTER_BITS: u32 = 40;
/// Highest number of an epoch.
pub const LAST_EPOCH: u32 = (1 << (u64::BITS - COUNTER_BITS)) - 1;

/// Returns the epoch of a sequence.
pub const fn epoch_of(seq: u64) -> u32 {
    (seq >> COUNTER_BITS) as u32
}

/// Returns the first sequence of an epoch.
pub const fn first_seq(epoch: u32) -> u64 {
    ((epoch as u64) << COUNTER_BITS) | 1
}

/// An epoch of one disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Epoch {
    /// Number; 0 for what was written before epochs were recorded.
    pub number: u32,
    /// Random number of the open that began it.
    pub nonce: u64,
    /// Last sequence in front of it, of whichever epoch.
    pub end_before: u64,
}

/// A seal of one disk: its sequence, and the nonce of its epoch.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default, PartialOrd, Ord)]
pub struct SealPoint {
    /// Sequence.
    pub seq: SealSeq,
    /// Nonce of the epoch; 0 for epoch 0, or if it is not known.
    pub nonce: u64,
}

/// Seals of one disk that the master remembers because files rest on them. The right disk holds
/// both.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct SeenSeals {
    /// Newest one that was committed while the disk was not in doubt.
    pub newest: SealPoint,
    /// Last one that was committed while the disk was in doubt because of its age. It never raises
    /// the other one, which the disk may lack; and another copy of the disk may lack it.
    pub in_doubt: SealPoint,
}

impl SeenSeals {
    /// Returns what is left to remember when a person has accepted that a disk goes on without the
    /// seals `accepted`. `head` is its newest seal, and `holds` says what else it has.
    #[must_use]
    pub fn without(
        &self,
        accepted: &[SealPoint],
        head: SealPoint,
        holds: impl Fn(&SealPoint) -> bool,
    ) -> Self {
        // An accept covers what lies in front of its seal, in the same epoch.
        let covers =
            |other: &SealPoint, seal: &SealPoint| other.nonce == seal.nonce && other >= seal;
        let is_settled =
            |seal: &SealPoint| holds(seal) || accepted.iter().any(|other| covers(other, seal));
        let mut left = *self;
        if is_settled(&self.newest) {
            left.newest = head;
        }
        if is_settled(&self.in_doubt) {
            left.in_doubt = SealPoint::default();
        }
        left
    }

    /// Returns both seals.
    pub const fn all(&self) -> [SealPoint; 2] {
        [self.newest, self.in_doubt]
    }
}

/// The seals of a disk that was never in doubt.
impl From<SealPoint> for SeenSeals {
    fn from(newest: SealPoint) -> Self {
        Self {
            newest,
            in_doubt: SealPoint::default(),
        }
    }
}

impl SealPoint {
    /// Bytes of an encoded point.
    pub const LEN: usize = 16;

    /// Returns the bytes: sequence and nonce, little-endian.
    pub fn to_bytes(self) -> [u8; Self::LEN] {
        let mut bytes = [0; Self::LEN];
        let (seq, nonce) = bytes.split_at_mut(8);
        seq.copy_from_slice(&self.seq.0.to_le_bytes());
        nonce.copy_from_slice(&self.nonce.to_le_bytes());
        bytes
    }

    /// Takes a point off the front of `fields`.
    ///
    /// # Errors
    /// [`CodecError::TooShort`].
    pub fn take(fields: &mut Fields<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            seq: SealSeq(fields.u64()?),
            nonce: fields.u64()?,
        })
    }
}

/// `sequence of epoch/nonce`, as messages show it; without the nonce in the alternate form.
impl std::fmt::Display for SealPoint {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let counter = self.seq.0 & ((1 << COUNTER_BITS) - 1);
        let (epoch, nonce) = (epoch_of(self.seq.0), self.nonce);
        match f.alternate() {
            true => write!(f, "{counter} of epoch {epoch}"),
            false => write!(f, "{counter} of epoch {epoch}/{nonce:016x}"),
        }
    }
}

/// Judges `point` by the `epochs` of a disk, which are in the order of their numbers, and by the
/// `head` of its log, which is its last durable sequence. A nonce of 0 is not known, and not
/// compared.
///
/// Where an epoch ended stands in the one after it. If that was forgotten, or the list has a hole
/// there, the end is not known, and the point does not count as contained.
pub fn place(epochs: &[Epoch], head: u64, point: &SealPoint) -> Place {
    let seq = point.seq.0;
    if seq == 0 {
        return Place::Contains;
    }
    let number = epoch_of(seq);
    let upto = |end: u64| match seq <= end && epoch_of(end) == number {
        true => Place::Contains,
        false => Place::Ahead,
    };
    let Some(first) = epochs.first() else {
        return upto(head);
    };
    if number < first.number {
        return upto(first.end_before);
    }
    let Some(at) = epochs.iter().position(|epoch| epoch.number == number) else {
        return Place::Fork;
    };
    let nonce = point.nonce;
    let is_ours = epochs
        .get(at)
        .is_some_and(|ours| nonce == 0 || ours.nonce == nonce);
    if !is_ours {
        return Place::Fork;
    }
    upto(epochs.get(at + 1).map_or(head, |next| next.end_before))
}

/// Returns true if a disk holds `point`, as far as it has told: these `epochs`, the last of which
/// is that of its open, and the `head` of its log. It goes on in its current epoch, so a seal
/// beyond the head counts as held there.
pub fn is_held(epochs: &[Epoch], head: u64, point: &SealPoint) -> bool {
    let is_current = epochs.last().is_some_and(|current| {
        current.number == epoch_of(point.seq.0) && current.nonce == point.nonce
    });
    is_current || place(epochs, head, point) == Place::Contains
}

#[cfg(test)]
mod tests {
    use super::*;

    const A: u64 = 0xa;
    const B: u64 = 0xb;
    const C: u64 = 0xc;

    fn seq(epoch: u32, counter: u64) -> u64 {
        first_seq(epoch) - 1 + counter
    }

    fn epoch(number: u32, nonce: u64, end_before: u64) -> Epoch {
        Epoch {
            number,
            nonce,
            end_before,
        }
    }

    fn point(epoch: u32, nonce: u64, counter: u64) -> SealPoint {
        SealPoint {
            seq: SealSeq(seq(epoch, counter)),
            nonce,
        }
    }

    #[test]
    fn a_sequence_grows_with_the_log_whatever_its_epoch() {
        assert!(first_seq(2) > seq(1, (1 << COUNTER_BITS) - 1));
        assert_eq!((epoch_of(first_seq(7)), epoch_of(9)), (7, 0));
        assert_eq!(epoch_of(u64::MAX), LAST_EPOCH);
    }

    #[test]
    fn i4_lost_frames_are_seen_for_every_number_of_them_and_after_every_number_of_opens() {
        let seen = point(1, A, 40);
        for lost in 1..=8 {
            let head = seq(1, 40 - lost);
            let copy = [epoch(1, A, 0)];
            assert_eq!(place(&copy, head, &seen), Place::Ahead, "{lost} lost");
            let mut epochs = copy.to_vec();
            let mut end_before = head;
            for opens in 1..=4 {
                epochs.push(epoch(1 + opens, B + u64::from(opens), end_before));
                for written in [1, lost, 1_000] {
                    let head = seq(1 + opens, written);
                    assert_eq!(place(&epochs, head, &seen), Place::Ahead, "{lost} lost");
                }
                end_before = seq(1 + opens, 1_000);
            }
        }
    }

    #[test]
    fn i4_an_epoch_of_the_same_number_that_another_open_began_is_a_fork() {
        let epochs = [epoch(1, A, 0), epoch(2, B, seq(1, 36))];
        assert_eq!(place(&epochs, seq(2, 9), &point(2, C, 1)), Place::Fork);
        assert_eq!(place(&epochs, seq(2, 9), &point(3, C, 1)), Place::Fork);
        assert_eq!(place(&epochs, seq(2, 9), &point(2, B, 9)), Place::Contains);
        assert_eq!(place(&epochs, seq(2, 9), &point(2, B, 10)), Place::Ahead);
        assert_eq!(place(&epochs, seq(2, 9), &point(1, A, 36)), Place::Contains);
    }

    #[test]
    fn an_epoch_that_was_begun_and_took_no_frame_contains_nothing() {
        let epochs = [
            epoch(1, A, 0),
            epoch(2, B, seq(1, 5)),
            epoch(3, C, seq(1, 5)),
        ];
        assert_eq!(place(&epochs, seq(3, 1), &point(2, B, 1)), Place::Ahead);
        assert_eq!(place(&epochs, seq(3, 1), &point(1, A, 5)), Place::Contains);
    }

    #[test]
    fn i4_an_epoch_whose_end_was_forgotten_contains_nothing() {
        let end = seq(2, 7);
        let in_front = [epoch(3, C, end)];
        assert_eq!(
            place(&in_front, seq(3, 9), &point(2, B, 7)),
            Place::Contains
        );
        assert_eq!(place(&in_front, seq(3, 9), &point(2, B, 8)), Place::Ahead);
        assert_eq!(place(&in_front, seq(3, 9), &point(1, A, 1)), Place::Ahead);
        let with_a_hole = [epoch(1, A, 0), epoch(3, C, end)];
        assert_eq!(
            place(&with_a_hole, seq(3, 9), &point(1, A, 1)),
            Place::Ahead
        );
    }

    #[test]
    fn a_nonce_that_is_not_known_is_not_compared() {
        let epochs = [epoch(1, A, 0), epoch(2, B, seq(1, 36))];
        assert_eq!(place(&epochs, seq(2, 9), &point(2, 0, 9)), Place::Contains);
        assert_eq!(place(&epochs, seq(2, 9), &point(1, 0, 37)), Place::Ahead);
    }

    #[test]
    fn what_was_written_before_epochs_is_judged_by_where_it_ended() {
        let before = |counter| SealPoint {
            seq: SealSeq(counter),
            nonce: 0,
        };
        assert_eq!(place(&[], 36, &before(36)), Place::Contains);
        assert_eq!(place(&[], 36, &before(37)), Place::Ahead);
        let epochs = [epoch(1, A, 36)];
        assert_eq!(place(&epochs, seq(1, 9), &before(36)), Place::Contains);
        assert_eq!(place(&epochs, seq(1, 9), &before(37)), Place::Ahead);
        assert_eq!(place(&epochs, 0, &before(0)), Place::Contains);
    }
}
