//! The slowest that a client may be. Time counts only while somebody waits for it.

use std::time::Duration;

use crate::limits::PACE_WINDOW;

/// Bytes against the time that was waited for them.
#[derive(Debug, Clone)]
pub(crate) struct Pace {
    /// Bytes per second; 0 for none.
    least: u64,
    waited: Duration,
    moved: u64,
}

impl Pace {
    /// Demands `least` bytes per second of waiting; 0 demands nothing.
    pub(crate) fn new(least: u64) -> Self {
        Self {
            least,
            waited: Duration::ZERO,
            moved: 0,
        }
    }

    /// `bytes` moved after that wait. Answers whether the client is quick enough.
    pub(crate) fn keeps_up(&mut self, waited: Duration, bytes: u64) -> bool {
        self.waited += waited;
        self.moved = self.moved.saturating_add(bytes);
        if self.waited < PACE_WINDOW {
            return true;
        }
        let wanted = self.least.saturating_mul(self.waited.as_secs());
        let enough = self.moved >= wanted;
        (self.waited, self.moved) = (Duration::ZERO, 0);
        enough
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_drip_is_noticed_after_a_window_and_an_honest_slow_client_is_not() {
        let second = Duration::from_secs(1);
        let mut drip = Pace::new(1_000);
        assert_eq!((0..60).position(|_| !drip.keeps_up(second, 1)), Some(29));
        let mut slow = Pace::new(1_000);
        assert!((0..600).all(|_| slow.keeps_up(second, 1_000)));
        let mut bursts = Pace::new(1_000);
        assert!((0..100).all(|n| bursts.keeps_up(second, if n % 20 == 0 { 40_000 } else { 0 })));
    }

    #[test]
    fn time_in_which_nobody_waits_does_not_count_and_zero_demands_nothing() {
        let mut quick = Pace::new(1_000);
        assert!((0..1_000).all(|_| quick.keeps_up(Duration::from_millis(1), 1)));
        let mut none = Pace::new(0);
        assert!((0..1_000).all(|_| none.keeps_up(Duration::from_secs(9), 0)));
    }
}
