//! Wait of a frame for more groups, if many callers commit at once.
//!
//! A sync takes processor time, and a fast disk ends it before the next group arrives. With many
//! callers on few processors nearly each group then has a sync of its own, which slows all callers
//! down. So a frame waits for as many groups as the last frames had, at most for two syncs. The
//! expected number decreases by one with each smaller frame. Frames of fewer than [`GATHER_LEAST`]
//! groups do not wait.
//!
//! PostgreSQL has `commit_delay` and `commit_siblings` for the same purpose; here both are measured.

use std::time::Duration;

use crate::limits::{GATHER_LEAST, MAX_GATHER};

/// Measured group sizes and sync durations, from which the next wait is planned.
#[derive(Debug, Clone, Default)]
pub struct Gather {
    expected: usize,
    last_sync: Duration,
}

/// A wait of the next frame for more groups.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Wait {
    /// Number of groups that ends the wait.
    pub groups: usize,
    /// Longest wait, counted from the first group.
    pub longest: Duration,
}

impl Gather {
    /// Returns the wait of the next frame; `None` if the frame is to be written at once.
    pub fn plan(&self) -> Option<Wait> {
        let has_many = self.expected >= GATHER_LEAST;
        has_many.then(|| Wait {
            groups: self.expected,
            longest: (2 * self.last_sync).min(MAX_GATHER),
        })
    }

    /// Records the number of groups that the writer took at once.
    pub fn taken(&mut self, groups: usize) {
        self.expected = groups.max(self.expected.saturating_sub(1));
    }

    /// Records the duration of a write and its sync.
    pub fn synced(&mut self, took: Duration) {
        self.last_sync = took;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SYNC: Duration = Duration::from_micros(100);

    fn after(turns: &[usize], took: Duration) -> Option<Wait> {
        let mut gather = Gather::default();
        gather.synced(took);
        turns.iter().for_each(|groups| gather.taken(*groups));
        gather.plan()
    }

    fn wait(groups: usize, longest: Duration) -> Option<Wait> {
        Some(Wait { groups, longest })
    }

    #[test]
    fn few_callers_never_wait() {
        assert_eq!(Gather::default().plan(), None);
        assert_eq!(after(&[1; 100], SYNC), None);
        assert_eq!(after(&[3, 1, 2, 3], SYNC), None);
    }

    #[test]
    fn as_many_groups_are_expected_as_there_were_of_late() {
        assert_eq!(after(&[4], SYNC), wait(4, 2 * SYNC));
        assert_eq!(after(&[9, 2, 3], SYNC), wait(7, 2 * SYNC));
    }

    #[test]
    fn a_lone_caller_waits_a_bounded_number_of_times_after_many() {
        let mut gather = Gather::default();
        gather.taken(10);
        let mut waits = 0;
        while gather.plan().is_some() && waits < 100 {
            gather.taken(1);
            waits += 1;
        }
        assert_eq!(waits, 10 - GATHER_LEAST + 1);
    }

    #[test]
    fn a_slow_disk_is_not_made_slower_by_much() {
        let slow = Duration::from_millis(20);
        assert_eq!(after(&[50], slow), wait(50, MAX_GATHER));
    }
}
