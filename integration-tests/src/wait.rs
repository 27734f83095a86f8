//! Tests never sleep: they await a condition with a deadline. This is the one place that pauses
//! between two looks.

use std::time::{Duration, Instant};

/// Deadline of every wait for something that must happen.
///
/// Far beyond what any of it takes on an idle machine: a test must not fail because other work runs
/// beside it. Only a defect meets this deadline.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Looks until `condition` answers something.
///
/// # Panics
/// When nothing came within `deadline`; `what` says what was awaited.
pub fn until<T>(what: &str, deadline: Duration, mut condition: impl FnMut() -> Option<T>) -> T {
    let end = Instant::now() + deadline;
    loop {
        if let Some(found) = condition() {
            return found;
        }
        assert!(
            Instant::now() < end,
            "{what} did not happen within {deadline:?}"
        );
        pause();
    }
}

#[allow(
    clippy::disallowed_methods,
    reason = "bounded by the deadline of the condition that is awaited"
)]
fn pause() {
    std::thread::sleep(Duration::from_millis(10));
}
