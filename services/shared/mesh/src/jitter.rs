//! Random draws: jitter of pauses, and indexes. A simulation seeds them.

use std::ops::Range;
use std::time::Duration;

#[cfg(feature = "simulated")]
thread_local! {
    static SEEDED: std::cell::RefCell<Option<rand::rngs::StdRng>> = const { std::cell::RefCell::new(None) };
}

/// From now on the draws of this thread follow from `seed`. For simulations only.
#[cfg(feature = "simulated")]
pub fn seed_chance(seed: u64) {
    SEEDED.set(Some(rand::SeedableRng::seed_from_u64(seed)));
}

fn draw<T: rand::distr::uniform::SampleUniform + PartialOrd + Clone>(range: Range<T>) -> T {
    #[cfg(feature = "simulated")]
    if let Some(drawn) = SEEDED.with_borrow_mut(|rng| {
        rng.as_mut()
            .map(|rng| rand::RngExt::random_range(rng, range.clone()))
    }) {
        return drawn;
    }
    rand::random_range(range)
}

/// Returns half to one and a half of `pause`.
pub(crate) fn jittered(pause: Duration) -> Duration {
    pause.mul_f64(draw(0.5..1.5))
}

/// Draws an index below `count`, which MUST NOT be 0: otherwise the range is empty and the draw
/// panics.
pub(crate) fn draw_index(count: usize) -> usize {
    draw(0..count)
}
