//! When a request is tried again: a bounded number of times, with growing pauses that differ
//! between clients.

use std::time::Duration;

use tokio::time::sleep;

use crate::limits::{AWAY_PAUSE, MAX_RETRY_PAUSE, RETRY_PAUSE, SILENCE_NOTICE};

/// Time before a request is repeated.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Wait {
    /// Short pauses that grow.
    Usual,
    /// Longer pauses that grow: the gateway cannot be reached.
    Away,
    /// The time that the gateway asks for.
    Wished(Duration),
    /// The request is not repeated: the result would be the same.
    Never,
}

/// Retries of one operation: how many are allowed, and how many were used.
#[derive(Debug, Clone)]
pub(crate) struct Again {
    retries: u32,
    used: u32,
}

impl Again {
    pub(crate) fn new(retries: u32) -> Self {
        Self { retries, used: 0 }
    }

    /// Returns true if the next pause is long enough to tell the user about it: the gateway is away,
    /// asks for a pause, or has failed several times.
    pub(crate) fn is_telling(&self, wait: Wait) -> bool {
        let is_long = match wait {
            Wait::Away => true,
            Wait::Wished(pause) => pause >= SILENCE_NOTICE,
            Wait::Usual => self.used >= 2,
            Wait::Never => false,
        };
        is_long && self.used < self.retries
    }

    /// Waits until the next try may begin. Returns false without a wait if no try is left.
    pub(crate) async fn pause(&mut self, wait: Wait) -> bool {
        if self.used >= self.retries {
            return false;
        }
        let grown = |first: Duration| {
            spread(
                first
                    .saturating_mul(1 << self.used.min(8))
                    .min(MAX_RETRY_PAUSE),
            )
        };
        let pause = match wait {
            Wait::Usual => grown(RETRY_PAUSE),
            Wait::Away => grown(AWAY_PAUSE),
            Wait::Wished(pause) => pause,
            Wait::Never => return false,
        };
        self.used += 1;
        sleep(pause).await;
        true
    }

    /// Notes progress: the count of retries begins anew.
    pub(crate) fn progressed(&mut self) {
        self.used = 0;
    }
}

/// Shortens a pause to between three quarters and the whole, so that clients that failed together
/// do not come back together.
fn spread(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 4 * 3 + (pause / 4).mul_f64(f64::from(random) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::time::Instant;

    #[tokio::test(start_paused = true)]
    async fn pauses_grow_are_bounded_and_end() {
        let (mut again, begun) = (Again::new(20), Instant::now());
        let mut last = Duration::ZERO;
        let mut n = 0;
        while again.pause(Wait::Usual).await {
            n += 1;
            assert!(begun.elapsed() - last <= MAX_RETRY_PAUSE);
            last = begun.elapsed();
        }
        assert!(
            n == 20 && last > MAX_RETRY_PAUSE * 6,
            "{n} pauses of {last:?} together"
        );
        assert!(!again.pause(Wait::Wished(Duration::ZERO)).await);
        again.progressed();
        assert!(
            again.pause(Wait::Wished(Duration::from_secs(9))).await
                && begun.elapsed() - last >= Duration::from_secs(9)
        );
        assert!(!again.pause(Wait::Never).await);
    }

    #[tokio::test(start_paused = true)]
    async fn a_pause_is_told_if_a_user_would_notice_it() {
        let mut again = Again::new(4);
        assert!(again.is_telling(Wait::Away));
        assert!(again.is_telling(Wait::Wished(SILENCE_NOTICE)));
        assert!(!again.is_telling(Wait::Wished(Duration::ZERO)));
        assert!(!again.is_telling(Wait::Usual) && !again.is_telling(Wait::Never));
        // By then a gateway that breaks connections has done so for more than half a second.
        assert!(again.pause(Wait::Usual).await && again.pause(Wait::Usual).await);
        assert!(again.is_telling(Wait::Usual));
        assert!(!Again::new(0).is_telling(Wait::Away), "nothing is repeated");
    }

    #[tokio::test(start_paused = true)]
    async fn the_usual_repeats_outlast_the_restart_of_a_gateway() {
        let (mut again, begun) = (Again::new(4), Instant::now());
        while again.pause(Wait::Away).await {}
        let waited = begun.elapsed();
        assert!(
            (Duration::from_secs(10)..=Duration::from_secs(15)).contains(&waited),
            "{waited:?}"
        );
    }
}
