//! Waiting for more groups before a sync, while many callers commit at once.
//!
//! A sync costs processor time, and it is often over before the next group comes. Where many callers
//! commit at once that ends in a sync for each of them, on processors that they all wait for. So the
//! next frame waits for as many groups as the frames before had, but not longer than twice a sync. A
//! few callers never wait: their frames have less than [`GATHER_LEAST`] groups.
//!
//! The same idea as `commit_delay` and `commit_siblings` of PostgreSQL, measured instead of set.

use std::time::Duration;

use crate::limits::{GATHER_LEAST, MAX_GATHER};

/// Number of groups that the next frame is expected to have, from those before it.
#[derive(Debug, Clone, Default)]
pub struct Gather {
    expected: usize,
    /// Duration of the last write and sync.
    took: Duration,
}

impl Gather {
    /// Returns the number of groups to wait for, and the longest wait; `None` if the next frame is to
    /// be written at once.
    pub fn plan(&self) -> Option<(usize, Duration)> {
        let is_worth = self.expected >= GATHER_LEAST;
        is_worth.then(|| (self.expected, (2 * self.took).min(MAX_GATHER)))
    }

    /// Counts a turn of the writer that had so many groups, whose last frame took so long.
    pub fn note(&mut self, groups: usize, took: Duration) {
        self.expected = groups.max(self.expected.saturating_sub(1));
        self.took = took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_micros(100);

    fn after(turns: &[usize], took: Duration) -> Option<(usize, Duration)> {
        let mut gather = Gather::default();
        turns.iter().for_each(|groups| gather.note(*groups, took));
        gather.plan()
    }

    #[test]
    fn few_callers_never_wait() {
        assert_eq!(Gather::default().plan(), None);
        assert_eq!(after(&[1; 100], SYNC), None);
        assert_eq!(after(&[3, 1, 2, 3], SYNC), None);
    }

    #[test]
    fn as_many_groups_are_expected_as_there_were_of_late() {
        assert_eq!(after(&[4], SYNC), Some((4, 2 * SYNC)));
        assert_eq!(after(&[9, 2, 3], SYNC), Some((7, 2 * SYNC)));
    }

    #[test]
    fn a_lone_caller_waits_a_bounded_number_of_times_after_many() {
        let mut gather = Gather::default();
        gather.note(10, SYNC);
        let mut waits = 0;
        while gather.plan().is_some() {
            gather.note(1, SYNC);
            waits += 1;
        }
        assert_eq!(waits, 10 - GATHER_LEAST + 1);
    }

    #[test]
    fn a_slow_disk_is_not_made_slower_by_much() {
        let slow = Duration::from_millis(20);
        assert_eq!(after(&[50], slow), Some((50, MAX_GATHER)));
    }
}
