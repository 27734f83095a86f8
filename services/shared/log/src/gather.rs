//! Waiting for more groups before a sync, while many callers commit at once.
//!
//! A sync costs processor time, and it is often over before the next group comes. Where many callers
//! commit at once that ends in a sync for each of them, on processors that they all wait for. So the
//! next frame waits for as many groups as frames had of late, but not longer than twice a sync. The
//! number falls by one with each smaller frame. A few callers never wait: their frames have less than
//! [`GATHER_LEAST`] groups.
//!
//! PostgreSQL has `commit_delay` and `commit_siblings` for the same purpose; here both are measured.

use std::time::Duration;

use crate::limits::{GATHER_LEAST, MAX_GATHER};

/// Measurements from which the wait of the next frame follows.
#[derive(Debug, Clone, Default)]
pub struct Gather {
    expected: usize,
    last_sync: Duration,
}

impl Gather {
    /// Returns the number of groups to wait for, and the longest wait; `None` if the next frame is to
    /// be written at once.
    pub fn plan(&self) -> Option<(usize, Duration)> {
        let are_many = self.expected >= GATHER_LEAST;
        are_many.then(|| (self.expected, (2 * self.last_sync).min(MAX_GATHER)))
    }

    /// Notes that a turn of the writer had `groups` groups, and the duration of the last sync.
    pub fn note(&mut self, groups: usize, last_sync: Duration) {
        self.expected = groups.max(self.expected.saturating_sub(1));
        self.last_sync = last_sync;
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
        while gather.plan().is_some() && waits < 100 {
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
