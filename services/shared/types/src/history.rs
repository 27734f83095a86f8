//! Histories: which writes a master or a disk has done, and whether a point that somebody remembers
//! is one of them.
//!
//! A counter cannot tell a copy that took other writes from the original: the copy counts on, too,
//! and may even be ahead. So a history is a list of *lives*. A life is what one process wrote, and
//! has a random number. It begins with the first write of that process, in the same write, so that
//! an idle restart begins none. Two copies of a folder are one history until one of them is written
//! to. From then on they differ for ever, whichever is longer.
//!
//! ```text
//! positions   1 … 100 │ 101 … 120 │ 121 …            a point of life b at 130: Ahead, when b ended at 120
//! lives       a       │ b         │ c                a point of life d, which is not here: Fork
//! ```
//! A *process image* that is resumed twice (a virtual machine with its memory) writes on in one
//! life. The chain of its writes tells the copies apart, for as long as old links are known.

use std::fmt;

use crate::Incarnation;
use crate::codec::{CodecError, Fields};

/// A place in a history: everything that was written up to a position, and by whom. 40 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Point {
    /// Restores of the history so far. Grows with a restore from an older copy only.
    pub incarnation: Incarnation,
    /// Term of the leader that wrote it; 0 in a history without terms.
    pub term: u64,
    /// Random number of the life; 0 for what was written before lives were recorded.
    pub life: u64,
    /// Number of the last write; 0 before the first one.
    pub position: u64,
    /// Link of the chain at this position; 0 if it is not known.
    pub chain: u64,
}

/// The part of a history that one process wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Default)]
pub struct Life {
    /// Restores of the history when it began.
    pub incarnation: Incarnation,
    /// Term of the leader that wrote it; 0 in a history without terms.
    pub term: u64,
    /// Random number.
    pub life: u64,
    /// Number of its first write. The life before it ended one before.
    pub first: u64,
    /// Link of the chain in front of its first write.
    pub chain_before: u64,
}

/// Relation of a point to a history.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Place {
    /// The history has written everything up to the point.
    Contains,
    /// The history knows the life of the point, but ended it earlier: it is an older copy, or has
    /// lost its last writes.
    Ahead,
    /// The history never had the life of the point, or wrote something else at its position.
    Fork,
}

impl Point {
    /// Bytes of an encoded point.
    pub const LEN: usize = 40;

    /// Returns true for the point in front of everything, which every history contains.
    pub const fn is_origin(&self) -> bool {
        self.position == 0
    }

    /// Returns the bytes: five little-endian u64, in the order of the fields.
    pub fn to_bytes(&self) -> [u8; Self::LEN] {
        let fields = [
            self.incarnation.0,
            self.term,
            self.life,
            self.position,
            self.chain,
        ];
        let mut bytes = [0; Self::LEN];
        for (field, out) in fields.iter().zip(bytes.as_chunks_mut::<8>().0) {
            *out = field.to_le_bytes();
        }
        bytes
    }

    /// Takes a point off the front of `fields`.
    ///
    /// # Errors
    /// [`CodecError::TooShort`].
    pub fn take(fields: &mut Fields<'_>) -> Result<Self, CodecError> {
        Ok(Self {
            incarnation: Incarnation(fields.u64()?),
            term: fields.u64()?,
            life: fields.u64()?,
            position: fields.u64()?,
            chain: fields.u64()?,
        })
    }
}

/// `position@life`, with the incarnation and the term if there are any.
impl fmt::Display for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{:016x}", self.position, self.life)?;
        if self.incarnation.0 > 1 || self.term > 0 {
            write!(f, " (incarnation {}, term {})", self.incarnation, self.term)?;
        }
        Ok(())
    }
}

impl fmt::Debug for Point {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Point({self}, chain {:016x})", self.chain)
    }
}

/// Returns true if somebody who has noted `noted` of a history may go by an answer that tells a
/// history with these `lives` and this `head`: it contains what was noted, or a person has
/// `accepted` exactly that.
pub fn may_obey(noted: &Point, lives: &[Life], head: &Point, accepted: Option<&Point>) -> bool {
    let link_at = |position| (position == head.position && head.chain != 0).then_some(head.chain);
    accepted == Some(noted) || place(lives, head.position, link_at, noted) == Place::Contains
}

/// Judges `point` by a history: its `lives` in the order of their first positions, the position
/// `head` of its last write, and the links of its chain that are still known. The end of a life is
/// known from the life behind it.
///
/// A history that recorded no lives yet has one of number 0 that began at 0.
pub fn place(
    lives: &[Life],
    head: u64,
    chain_at: impl FnOnce(u64) -> Option<u64>,
    point: &Point,
) -> Place {
    if point.is_origin() {
        return Place::Contains;
    }
    let Some(at) = lives
        .iter()
        .position(|life| life.term == point.term && life.life == point.life)
    else {
        return Place::Fork;
    };
    let Some(life) = lives.get(at) else {
        return Place::Fork;
    };

    let next = lives.get(at + 1);
    let end = next.map_or(head, |next| next.first.saturating_sub(1));
    if point.position > end {
        return Place::Ahead;
    }
    // A life never wrote in front of its first position.
    if point.position < life.first {
        return Place::Fork;
    }
    let chain = match next {
        Some(next) if point.position == end && next.chain_before != 0 => Some(next.chain_before),
        _ => chain_at(point.position),
    };
    if point.chain != 0 && chain.is_some_and(|link| link != point.chain) {
        Place::Fork
    } else {
        Place::Contains
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn life(number: u64, first: u64) -> Life {
        Life {
            life: number,
            first,
            ..Life::default()
        }
    }

    fn point(number: u64, position: u64) -> Point {
        Point {
            life: number,
            position,
            ..Point::default()
        }
    }

    fn judge(lives: &[Life], head: u64, point: &Point) -> Place {
        place(lives, head, |_| None, point)
    }

    const A: u64 = 0xa;
    const B: u64 = 0xb;

    #[test]
    fn a_history_contains_what_it_wrote_up_to_its_head() {
        let lives = [life(0, 0), life(A, 101), life(B, 121)];
        for (of, position) in [(0, 1), (0, 100), (A, 101), (A, 120), (B, 121), (B, 130)] {
            assert_eq!(judge(&lives, 130, &point(of, position)), Place::Contains);
        }
        assert_eq!(judge(&[], 0, &Point::default()), Place::Contains);
        assert_eq!(judge(&lives, 130, &Point::default()), Place::Contains);
    }

    #[test]
    fn i4_lost_writes_are_seen_for_every_number_of_them_and_after_any_overtaking() {
        // A had written up to 120. Its copy ends at 120 - lost, and life B goes on from there.
        for lost in 1..=20 {
            let copy = [life(A, 1)];
            let noted = point(A, 120);
            assert_eq!(
                judge(&copy, 120 - lost, &noted),
                Place::Ahead,
                "{lost} lost"
            );
            for written in [1, lost, 1_000] {
                let overtaken = [life(A, 1), life(B, 121 - lost)];
                let head = 120 - lost + written;
                assert_eq!(judge(&overtaken, head, &noted), Place::Ahead, "{lost} lost");
            }
        }
    }

    #[test]
    fn i4_a_fork_is_seen_from_both_sides() {
        let (ours, theirs) = ([life(A, 1)], [life(A, 1), life(B, 101)]);
        assert_eq!(judge(&ours, 150, &point(B, 110)), Place::Fork);
        assert_eq!(judge(&theirs, 150, &point(A, 110)), Place::Ahead);
        // Before they parted they are one history.
        assert_eq!(judge(&ours, 150, &point(A, 100)), Place::Contains);
        assert_eq!(judge(&theirs, 150, &point(A, 100)), Place::Contains);
    }

    #[test]
    fn a_point_of_a_life_in_front_of_its_first_write_is_no_point_of_this_history() {
        let lives = [life(A, 1), life(B, 121)];
        assert_eq!(judge(&lives, 130, &point(B, 120)), Place::Fork);
    }

    #[test]
    fn the_same_number_in_another_term_is_another_life() {
        let lives = [Life {
            term: 2,
            ..life(A, 1)
        }];
        assert_eq!(judge(&lives, 9, &point(A, 5)), Place::Fork);
        let in_term = Point {
            term: 2,
            ..point(A, 5)
        };
        assert_eq!(judge(&lives, 9, &in_term), Place::Contains);
    }

    #[test]
    fn an_image_that_was_resumed_twice_is_told_by_its_chain_while_the_link_is_known() {
        let lives = [life(A, 1)];
        let point = Point {
            chain: 7,
            ..point(A, 5)
        };
        let judge = |link: Option<u64>| place(&lives, 9, |_| link, &point);
        assert_eq!(judge(Some(7)), Place::Contains);
        assert_eq!(judge(Some(8)), Place::Fork);
        assert_eq!(judge(None), Place::Contains);

        // The life behind it knows the link at which it ended.
        let lives = |chain_before| {
            let next = Life {
                chain_before,
                ..life(B, 6)
            };
            [life(A, 1), next]
        };
        let judge = |chain_before| place(&lives(chain_before), 9, |_| None, &point);
        assert_eq!(judge(7), Place::Contains);
        assert_eq!(judge(8), Place::Fork);
        assert_eq!(judge(0), Place::Contains);
    }

    #[test]
    fn a_point_keeps_its_bytes() {
        let point = Point {
            incarnation: Incarnation(1),
            term: 2,
            life: 3,
            position: 4,
            chain: 0x0102_0304_0506_0708,
        };
        let bytes = point.to_bytes();
        assert_eq!(bytes[..8], [1, 0, 0, 0, 0, 0, 0, 0]);
        assert_eq!(bytes[32..], [8, 7, 6, 5, 4, 3, 2, 1]);
        let mut fields = Fields::new(&bytes);
        assert_eq!(Point::take(&mut fields), Ok(point));
        assert!(fields.rest().is_empty());
    }
}
