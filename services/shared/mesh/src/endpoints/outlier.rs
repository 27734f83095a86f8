//! Judges an endpoint by its answers: one that fails much is left alone for a while, longer each
//! time.
//!
//! A pure value: answers in, verdict out. Five faults in a row, or a share of faults above a fifth
//! of the last ten or so answers, are too many. A dead endpoint answers at once, so balancing by
//! load alone would send it everything.

use tokio::time::Instant;

use crate::limits::{
    EJECTING_ANSWERS, EJECTING_FAULTS, EJECTING_SHARE, FAULT_WEIGHT, MAX_EJECTION, MIN_EJECTION,
};

/// Record of one endpoint's answers.
#[derive(Debug, Default)]
pub(crate) struct Outlier {
    in_a_row: u32,
    answers: u32,
    /// Moving share of faults, 0 to 1.
    share: f64,
    times: u32,
    until: Option<Instant>,
}

impl Outlier {
    /// Takes an answer into account. Returns true if the endpoint should be ejected.
    pub(crate) fn record(&mut self, fault: bool) -> bool {
        self.answers = self.answers.saturating_add(1);
        self.in_a_row = if fault {
            self.in_a_row.saturating_add(1)
        } else {
            0
        };
        self.share += FAULT_WEIGHT * (f64::from(u8::from(fault)) - self.share);
        fault
            && (self.in_a_row >= EJECTING_FAULTS
                || (self.answers >= EJECTING_ANSWERS && self.share > EJECTING_SHARE))
    }

    /// Leaves the endpoint alone from now on. It comes back with a clean slate, and each time
    /// later.
    pub(crate) fn eject(&mut self, now: Instant) {
        let pause = MIN_EJECTION
            .saturating_mul(1 << self.times.min(6))
            .min(MAX_EJECTION);
        *self = Self {
            times: self.times.saturating_add(1),
            until: Some(now + pause),
            ..Self::default()
        };
    }

    pub(crate) fn is_ejected(&self, now: Instant) -> bool {
        self.until.is_some_and(|until| now < until)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn five_faults_in_a_row_are_too_many() {
        let mut outlier = Outlier::default();
        assert!((0..4).all(|_| !outlier.record(true)));
        assert!(outlier.record(true));
    }

    #[test]
    fn a_failing_third_is_too_many_and_a_rare_fault_is_not() {
        let mut third = Outlier::default();
        assert!((0..60).any(|n| third.record(n % 3 == 0)));
        let mut rare = Outlier::default();
        assert!(!(0..1_000).any(|n| rare.record(n % 20 == 19)));
    }

    #[tokio::test(start_paused = true)]
    async fn an_ejection_ends_and_the_next_takes_longer() {
        let mut outlier = Outlier::default();
        let start = Instant::now();
        outlier.eject(start);
        assert!(outlier.is_ejected(start) && !outlier.is_ejected(start + MIN_EJECTION));
        assert!(
            (0..4).all(|_| !outlier.record(true)),
            "it comes back with a clean slate"
        );
        outlier.eject(start);
        assert!(outlier.is_ejected(start + MIN_EJECTION));
        for _ in 0..100 {
            outlier.eject(start);
        }
        assert!(
            !outlier.is_ejected(start + MAX_EJECTION),
            "pauses are bounded"
        );
    }
}
