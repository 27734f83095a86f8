//! When a request is tried again: a bounded number of times, with growing pauses that differ between clients.

use std::time::Duration;

use tokio::time::sleep;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);

/// What is left of the tries for one thing.
#[derive(Debug, Clone)]
pub(crate) struct Again {
    retries: u32,
    used: u32,
}

impl Again {
    pub(crate) fn new(retries: u32) -> Self {
        Self { retries, used: 0 }
    }

    /// Pauses before the next try, or answers at once that there is none. A gateway's own wish counts more.
    pub(crate) async fn pause(&mut self, wished: Option<Duration>) -> bool {
        if self.used >= self.retries {
            return false;
        }
        let pause =
            wished.unwrap_or_else(|| spread(FIRST.saturating_mul(1 << self.used.min(8)).min(LONGEST)));
        self.used += 1;
        sleep(pause).await;
        true
    }

    /// Something was achieved, so that the count begins anew.
    pub(crate) fn progressed(&mut self) {
        self.used = 0;
    }
}

/// From half to the whole: clients that failed together do not come back together.
fn spread(pause: Duration) -> Duration {
    let random = getrandom::u32().unwrap_or(u32::MAX);
    pause / 2 + (pause / 2).mul_f64(f64::from(random) / f64::from(u32::MAX))
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
        while again.pause(None).await {
            n += 1;
            assert!(begun.elapsed() - last <= LONGEST);
            last = begun.elapsed();
        }
        assert!(n == 20 && last > LONGEST * 6, "{n} pauses of {last:?} together");
        assert!(!again.pause(Some(Duration::ZERO)).await);
        again.progressed();
        assert!(
            again.pause(Some(Duration::from_secs(9))).await
                && begun.elapsed() - last >= Duration::from_secs(9)
        );
    }
}
