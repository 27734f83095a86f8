//! Waits for a condition. Tests never sleep for a fixed time: a busy machine takes longer, and an
//! idle one would wait for nothing.

#![allow(
    clippy::disallowed_types,
    reason = "the deadline is of the wall clock, also where a test pauses tokio's"
)]

use std::time::{Duration, Instant};

/// Deadline of every wait for an event that must happen.
///
/// Far beyond the time that the event takes on an idle machine: a test must not fail because other
/// work runs beside it. Only a defect meets this deadline.
pub const PATIENCE: Duration = Duration::from_secs(120);

/// Time between two looks at a condition. A loop without a pause would take the processor from the
/// work that is awaited.
const PAUSE: Duration = Duration::from_millis(5);

/// Result of one look at a condition: `bool`, or `Option` where the wait has a value.
pub trait Condition {
    /// Value of the condition once it holds.
    type Value;

    /// Returns the value if the condition holds.
    fn value(self) -> Option<Self::Value>;
}

impl Condition for bool {
    type Value = ();

    fn value(self) -> Option<()> {
        self.then_some(())
    }
}

impl<T> Condition for Option<T> {
    type Value = T;

    fn value(self) -> Self {
        self
    }
}

/// Waits until `look` returns true or a value, and returns the value.
///
/// In paused time the deadline still counts real time: what is awaited may be the work of a thread
/// that paused time runs ahead of.
///
/// # Panics
/// If the condition does not hold within [`PATIENCE`]. `what` names the awaited event.
pub async fn until<C: Condition>(what: &str, mut look: impl FnMut() -> C) -> C::Value {
    let begun = Instant::now();
    loop {
        if let Some(value) = look().value() {
            return value;
        }
        check_deadline(what, begun, PATIENCE);
        tokio::time::sleep(PAUSE).await;
        std::thread::yield_now();
    }
}

/// Blocks until `look` returns true or a value, and returns the value.
///
/// # Panics
/// If the condition does not hold within [`PATIENCE`]. `what` names the awaited event.
pub fn until_blocking<C: Condition>(what: &str, look: impl FnMut() -> C) -> C::Value {
    until_within(what, PATIENCE, look)
}

/// Like [`until_blocking`], with a deadline that follows from the amount of work.
///
/// # Panics
/// If the condition does not hold within `deadline`.
pub fn until_within<C: Condition>(
    what: &str,
    deadline: Duration,
    mut look: impl FnMut() -> C,
) -> C::Value {
    let begun = Instant::now();
    loop {
        if let Some(value) = look().value() {
            return value;
        }
        check_deadline(what, begun, deadline);
        pause();
    }
}

fn check_deadline(what: &str, begun: Instant, deadline: Duration) {
    assert!(
        begun.elapsed() < deadline,
        "{what} did not happen within {deadline:?}"
    );
}

#[allow(
    clippy::disallowed_methods,
    reason = "bounded by the deadline of the condition that is awaited"
)]
fn pause() {
    std::thread::sleep(PAUSE);
}
