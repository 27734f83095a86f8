//! How long to wait before the next try: 1×, 2×, 3× … 12× the step, then 12× for ever, each ±20 %.
//!
//! Linear, because a peer that starts needs seconds, not minutes; for ever, because a cluster heals
//! without an operator; jittered, so that all workers of a restarted master do not come back in one
//! moment.

use std::{
    future::Future,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::sleep;

use crate::limits::GROWING_TRIES;
use crate::shutdown::Shutdown;

#[cfg(feature = "seeded")]
thread_local! {
    static SEEDED: std::cell::Cell<Option<u64>> = const { std::cell::Cell::new(None) };
}

/// From now on the jitter of this thread follows from `seed`. For simulations only.
#[cfg(feature = "seeded")]
pub fn seed_jitter(seed: u64) {
    SEEDED.set(Some(seed));
}

fn random_seed() -> u64 {
    #[cfg(feature = "seeded")]
    if let Some(seed) = SEEDED.get() {
        SEEDED.set(Some(seed.wrapping_add(1)));
        return seed;
    }
    RandomState::new().hash_one("backoff")
}

/// The sequence of waits. Pure: the same step and seed give the same waits.
#[derive(Debug, Clone)]
pub struct Backoff {
    step: Duration,
    tries: u32,
    random: u64,
}

impl Backoff {
    /// Without a seed each sequence has its own jitter.
    pub fn new(step: Duration, seed: Option<u64>) -> Self {
        let random = seed.unwrap_or_else(random_seed);
        Self {
            step,
            tries: 0,
            random,
        }
    }

    /// Counts one failed try and returns how long to wait after it.
    pub fn next_delay(&mut self) -> Duration {
        self.tries = self.tries.saturating_add(1);
        let whole = self.step.saturating_mul(self.tries.min(GROWING_TRIES));
        // 800..=1200 per mille.
        let per_mille = u32::try_from(800 + self.next_random() % 401).unwrap_or(1000);
        whole.saturating_mul(per_mille) / 1000
    }

    /// Returns the number of failed tries since the start or the last [`Backoff::reset`].
    pub fn tries(&self) -> u32 {
        self.tries
    }

    /// Returns true if the waits do not grow any more.
    pub fn is_settled(&self) -> bool {
        self.tries >= GROWING_TRIES
    }

    /// Begins anew after a success.
    pub fn reset(&mut self) {
        self.tries = 0;
    }

    /// SplitMix64: jitter needs spread, not secrecy.
    fn next_random(&mut self) -> u64 {
        self.random = self.random.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.random;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// Tries until it succeeds; `None` when the shutdown came first. The back-off is reset by success.
/// `what` completes "cannot … yet" in the log, which is a warning once, when the growing waits are
/// used up.
pub async fn retry_until<T, E, F>(
    what: &str,
    shutdown: &Shutdown,
    backoff: &mut Backoff,
    mut op: impl FnMut() -> F,
) -> Option<T>
where
    E: std::fmt::Display,
    F: Future<Output = Result<T, E>>,
{
    loop {
        let outcome = tokio::select! {
            biased;
            () = shutdown.triggered() => return None,
            outcome = op() => outcome,
        };
        let error = match outcome {
            Ok(value) => {
                backoff.reset();
                return Some(value);
            }
            Err(error) => error,
        };
        let delay = backoff.next_delay();
        let tries = backoff.tries();
        if tries == GROWING_TRIES {
            tracing::warn!(tries, %error, "cannot {what} yet, trying on");
        } else {
            tracing::info!(tries, %error, ?delay, "cannot {what} yet");
        }
        tokio::select! {
            biased;
            () = shutdown.triggered() => return None,
            () = sleep(delay) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::limits::DEFAULT_RETRY_STEP;

    fn seed() -> u64 {
        cstore_testkit::seed(RandomState::new().hash_one(0))
    }

    #[test]
    fn waits_grow_by_one_step_twelve_times_and_then_stay() {
        let mut backoff = Backoff::new(DEFAULT_RETRY_STEP, Some(seed()));
        for n in (1..=12).chain([12; 30]) {
            let delay = backoff.next_delay();
            let whole = DEFAULT_RETRY_STEP * n;
            assert!(
                delay >= whole * 8 / 10 && delay <= whole * 12 / 10,
                "{delay:?} is not about {whole:?}"
            );
        }
        assert_eq!(backoff.tries(), 42);
        assert!(backoff.is_settled());
        backoff.reset();
        assert!(!backoff.is_settled() && backoff.next_delay() <= DEFAULT_RETRY_STEP * 12 / 10);
    }

    #[test]
    fn the_jitter_spreads_over_its_range_and_repeats_with_its_seed() {
        let seed = seed();
        let waits = |seed| {
            let mut backoff = Backoff::new(Duration::from_secs(1), Some(seed));
            (0..1000)
                .map(|_| {
                    backoff.reset();
                    backoff.next_delay()
                })
                .collect::<Vec<_>>()
        };
        assert_eq!(waits(seed), waits(seed));
        assert_ne!(waits(seed), waits(seed.wrapping_add(1)));
        assert!(waits(seed).iter().any(|d| *d < Duration::from_millis(850)));
        assert!(waits(seed).iter().any(|d| *d > Duration::from_millis(1150)));
    }

    #[tokio::test]
    async fn retrying_ends_with_success() {
        let mut backoff = Backoff::new(Duration::ZERO, Some(1));
        let (mut calls, shutdown) = (0, Shutdown::new());
        let got = retry_until("reach the master", &shutdown, &mut backoff, || {
            calls += 1;
            let outcome = if calls < 20 { Err("absent") } else { Ok(calls) };
            async move { outcome }
        });
        assert_eq!(got.await, Some(20));
        assert_eq!(backoff.tries(), 0);
    }

    #[tokio::test]
    async fn a_shutdown_ends_the_wait_between_two_tries() {
        let shutdown = Shutdown::new();
        let mut backoff = Backoff::new(Duration::from_secs(3600), Some(1));
        let op = || async { Err::<(), _>("absent") };
        let (got, ()) = tokio::join!(retry_until("wait", &shutdown, &mut backoff, op), async {
            tokio::task::yield_now().await;
            shutdown.trigger();
        });
        assert_eq!(got, None);
    }
}
