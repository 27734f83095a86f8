//! The choice of the next segment to empty: the one that gives the most space for the cost of its
//! copy.
//!
//! Cost-benefit as in Rosenblum and Ousterhout, "The design and implementation of a log-structured
//! file system" (1992): with u the part of a segment that is needed, cleaning costs 1 to read and u
//! to write and frees 1 − u, and space that stayed free for long so far will stay free; so the
//! largest (1 − u) · age / (1 + u) goes first. When somebody waits for space, age does not count.

use crate::limits::{MIN_GAIN, MIN_SHORT_GAIN};

/// The urgency of a request for space.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Need {
    /// There is enough: only segments that are at least half dead.
    Ample,
    /// It becomes short: segments that give back a tenth.
    Short,
    /// A request waits for it: as [`Self::Short`], and the cheapest first.
    Now,
}

/// A segment that could be emptied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Candidate {
    pub(super) file: u32,
    /// Bytes that come back when the segment is retired.
    pub(super) size: u64,
    /// Bytes of its needed records, with directory entries.
    pub(super) live: u64,
    /// Group commits since the last one in it.
    pub(super) age: u64,
}

/// Frames start on boundaries of this many bytes.
const FRAME: u64 = 4 << 10;

/// Sizes that decide how much room a copy takes.
#[derive(Debug, Clone, Copy)]
pub(super) struct Sizes {
    /// Limit of the payload bytes of a group of records.
    pub(super) group: u64,
    /// Bytes of a segment.
    pub(super) segment: u64,
}

/// Segments that a copy may go to: the rest of the active one, and the room after it, in two pieces
/// at worst.
const ROLLS: u64 = 2;
/// Bytes that a segment takes for itself: header, and the padding of its footer.
const SEGMENT: u64 = 3 * FRAME;

impl Sizes {
    /// Returns the room that MUST be free beyond the bytes of a copy, so that the copy can always
    /// be finished. The end of a segment in which a group finds no room is lost up to a sixteenth
    /// of it, and cut off beyond that.
    fn margin(&self) -> u64 {
        ROLLS * (self.segment / 16 + SEGMENT)
    }
}

impl Candidate {
    /// Returns the bytes that the copy of the needed records takes, in groups of `group` bytes.
    pub(super) fn cost(&self, group: u64) -> u64 {
        self.live + self.live.div_ceil(group.max(1)) * FRAME
    }

    /// Returns the room that MUST be free before the copy begins.
    pub(super) fn room(&self, sizes: &Sizes) -> u64 {
        self.cost(sizes.group) + sizes.margin()
    }

    fn gain(&self, group: u64) -> u64 {
        self.size.saturating_sub(self.cost(group))
    }

    fn is_worth_it(&self, need: Need, group: u64) -> bool {
        let least = match need {
            Need::Ample => MIN_GAIN.max(self.size / 2),
            Need::Short | Need::Now => MIN_SHORT_GAIN.max(self.size / 10).min(self.size / 4),
        };
        self.gain(group) >= least
    }

    fn score(&self, need: Need, group: u64) -> u128 {
        let age = if need == Need::Now {
            1
        } else {
            self.age.max(1)
        };
        let benefit = (u128::from(self.gain(group)) * u128::from(age)) << 16;
        benefit / u128::from((self.size + self.cost(group)).max(1))
    }
}

/// Returns the best of the candidates whose copy fits `room`; the first of equals. A copy that does
/// not fit would end half-way, and the room that it had taken would be missing for the next one.
pub(super) fn best(
    candidates: impl Iterator<Item = Candidate>,
    need: Need,
    room: u64,
    sizes: &Sizes,
) -> Option<Candidate> {
    let group = sizes.group;
    candidates
        .filter(|candidate| candidate.is_worth_it(need, group) && candidate.room(sizes) <= room)
        .min_by_key(|candidate| {
            (
                std::cmp::Reverse(candidate.score(need, group)),
                candidate.file,
            )
        })
}

/// Returns the bytes that compaction could free for a waiting write: the sum of all gains, minus
/// what is needed to refill compaction's reserve. Zero if no candidate fits the room for copies.
pub(super) fn reclaimable(candidates: &[Candidate], room: u64, missing: u64, sizes: &Sizes) -> u64 {
    let worth = || {
        candidates
            .iter()
            .filter(|candidate| candidate.is_worth_it(Need::Now, sizes.group))
    };
    if !worth().any(|candidate| candidate.room(sizes) <= room) {
        return 0;
    }
    worth()
        .map(|candidate| candidate.gain(sizes.group))
        .sum::<u64>()
        .saturating_sub(missing)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIZES: Sizes = Sizes {
        group: 1 << 20,
        segment: 8 << 20,
    };
    const ROOM: u64 = 1 << 40;

    fn candidate(file: u32, live_percent: u64, age: u64) -> Candidate {
        let size = 8 << 20;
        Candidate {
            file,
            size,
            live: size * live_percent / 100,
            age,
        }
    }

    fn choice(need: Need, room: u64, candidates: &[Candidate]) -> Option<u32> {
        best(candidates.iter().copied(), need, room, &SIZES).map(|candidate| candidate.file)
    }

    #[test]
    fn the_emptiest_of_one_age_goes_first_and_a_full_one_never() {
        let all = [
            candidate(1, 40, 9),
            candidate(2, 10, 9),
            candidate(3, 30, 9),
        ];
        assert_eq!(choice(Need::Ample, ROOM, &all), Some(2));
        assert_eq!(
            choice(
                Need::Now,
                ROOM,
                &[candidate(1, 95, 9), candidate(2, 100, 9)]
            ),
            None
        );
    }

    #[test]
    fn old_free_space_counts_more_than_new_unless_somebody_waits() {
        let all = [candidate(1, 20, 10), candidate(2, 40, 1_000)];
        assert_eq!(choice(Need::Ample, ROOM, &all), Some(2));
        assert_eq!(choice(Need::Now, ROOM, &all), Some(1));
    }

    #[test]
    fn only_half_dead_segments_are_touched_while_there_is_space() {
        let all = [candidate(1, 60, 10)];
        assert_eq!(choice(Need::Ample, ROOM, &all), None);
        assert_eq!(choice(Need::Short, ROOM, &all), Some(1));
    }

    #[test]
    fn a_copy_that_does_not_fit_waits_for_one_that_does() {
        let all = [candidate(1, 20, 10), candidate(2, 50, 10)];
        assert_eq!(choice(Need::Now, 3 << 20, &all), Some(1));
        assert_eq!(
            choice(Need::Now, 2 << 20, &all),
            None,
            "it would lose the ends of two segments"
        );
    }

    #[test]
    fn what_no_copy_can_begin_with_is_not_promised_nor_what_the_reserve_lacks() {
        let all = [
            candidate(1, 50, 10),
            candidate(2, 50, 10),
            candidate(3, 99, 10),
        ];
        let each = all[0].gain(SIZES.group);
        assert_eq!(reclaimable(&all, ROOM, 0, &SIZES), 2 * each);
        assert_eq!(reclaimable(&all, ROOM, each, &SIZES), each);
        assert_eq!(reclaimable(&all, ROOM, 3 * each, &SIZES), 0);
        assert_eq!(
            reclaimable(&all, 2 << 20, 0, &SIZES),
            0,
            "no copy can be finished"
        );
    }

    #[test]
    fn many_small_files_of_restarts_are_merged_when_space_is_short() {
        let small = Candidate {
            file: 1,
            size: 24 << 10,
            live: 200,
            age: 10,
        };
        assert_eq!(choice(Need::Ample, ROOM, &[small]), None);
        assert_eq!(choice(Need::Short, ROOM, &[small]), Some(1));
        let tiny = Candidate {
            size: 8 << 10,
            live: 52,
            ..small
        };
        assert_eq!(choice(Need::Now, ROOM, &[tiny]), Some(1));
    }
}
