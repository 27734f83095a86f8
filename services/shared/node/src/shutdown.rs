//! How tasks start and how the process stops.
//!
//! ```text
//! running ── first SIGTERM/SIGINT, or trigger() ──> draining ── tasks ended, or the deadline passed ──> stopped
//!                                                      └── second signal ──> exit at once
//! ```
//! Every task starts in [`spawn`] or in a [`TaskGroup`]: it keeps the span of the one who starts
//! it, and a panic in it is logged with the task's name.

use std::{future::Future, io, panic::AssertUnwindSafe, time::Duration};

use futures_util::FutureExt;
use tokio::{
    signal::unix::{Signal, SignalKind, signal},
    task::JoinHandle,
    time::timeout,
};
use tokio_util::{sync::CancellationToken, task::TaskTracker};
use tracing::Instrument;

use crate::env::Env;
use crate::limits::DRAIN_TIMEOUT;

/// `CSTORE_DRAIN_TIMEOUT_MS`: how long what runs at a stop may take to its end, in every role.
pub fn drain_timeout(env: &mut Env<'_>) -> Duration {
    let range = Duration::from_millis(100)..=Duration::from_secs(3_600);
    env.duration_ms("CSTORE_DRAIN_TIMEOUT_MS", DRAIN_TIMEOUT, range)
}

/// `CSTORE_DRAIN_DELAY_MS`: how long a role says that it is not ready, and serves on, before it
/// drains. Balancers that look at readiness, or hear of the stop from an orchestrator, move away
/// meanwhile.
pub fn drain_delay(env: &mut Env<'_>) -> Duration {
    env.duration_ms(
        "CSTORE_DRAIN_DELAY_MS",
        Duration::ZERO,
        Duration::ZERO..=Duration::from_secs(300),
    )
}

/// The wish that a part of the process ends. Clones share it; it never turns back.
#[derive(Debug, Clone, Default)]
pub struct Shutdown(CancellationToken);

impl Shutdown {
    pub fn new() -> Self {
        Self::default()
    }

    /// A part that can be stopped alone, and stops with the whole.
    #[must_use]
    pub fn child(&self) -> Self {
        Self(self.0.child_token())
    }

    pub fn trigger(&self) {
        self.0.cancel();
    }

    pub fn is_triggered(&self) -> bool {
        self.0.is_cancelled()
    }

    /// Ends when the shutdown is triggered, at once when it already was. Cancel safe.
    pub async fn triggered(&self) {
        self.0.cancelled().await;
    }
}

/// Starts a task in the current span. Its owner holds the handle; most tasks belong in a
/// [`TaskGroup`].
#[allow(
    clippy::disallowed_methods,
    reason = "this is the one place that every task comes through"
)]
pub fn spawn<F>(name: &'static str, future: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    // The future of a request has several KiB, and every wrapper around it would copy them.
    let future = Box::pin(future);
    tokio::spawn(named(name, future).in_current_span())
}

/// Tasks that end together: asked by a [`Shutdown`], waited for with a deadline, aborted after it.
#[derive(Debug, Clone)]
pub struct TaskGroup {
    tracker: TaskTracker,
    shutdown: Shutdown,
    abort: CancellationToken,
}

impl TaskGroup {
    pub fn new(shutdown: Shutdown) -> Self {
        Self {
            tracker: TaskTracker::new(),
            shutdown,
            abort: CancellationToken::new(),
        }
    }

    pub fn shutdown(&self) -> &Shutdown {
        &self.shutdown
    }

    /// Starts a task of the group; its handle answers `None` when the task was aborted at the
    /// deadline.
    pub fn spawn<F>(&self, name: &'static str, future: F) -> JoinHandle<Option<F::Output>>
    where
        F: Future + Send + 'static,
        F::Output: Send + 'static,
    {
        let abort = self.abort.clone();
        spawn(
            name,
            self.tracker
                .track_future(async move { abort.run_until_cancelled(future).await }),
        )
    }

    pub fn len(&self) -> usize {
        self.tracker.len()
    }

    pub fn is_empty(&self) -> bool {
        self.tracker.is_empty()
    }

    /// Triggers the shutdown, waits for the tasks, aborts those that are not done in time and says
    /// how many.
    pub async fn drain(&self, deadline: Duration) -> usize {
        self.shutdown.trigger();
        self.tracker.close();
        if timeout(deadline, self.tracker.wait()).await.is_ok() {
            return 0;
        }
        let late = self.tracker.len();
        self.abort.cancel();
        late
    }
}

/// Triggers the shutdown at the first SIGTERM or SIGINT; the second one ends the process at once
/// with 128 + signal. Only `main` calls it: the signal belongs to the process, not to a role.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn on_signal(shutdown: Shutdown) -> io::Result<JoinHandle<()>> {
    let mut signals = Signals::install()?;
    Ok(spawn("signals", async move {
        let (name, _) = signals.next().await;
        tracing::info!(signal = name, "shutting down, a second signal ends at once");
        shutdown.trigger();
        let (name, number) = signals.next().await;
        tracing::warn!(signal = name, "ending at once");
        std::process::exit(128 + number);
    }))
}

struct Signals {
    term: Signal,
    int: Signal,
}

impl Signals {
    fn install() -> io::Result<Self> {
        Ok(Self {
            term: signal(SignalKind::terminate())?,
            int: signal(SignalKind::interrupt())?,
        })
    }

    async fn next(&mut self) -> (&'static str, i32) {
        tokio::select! {
            _ = self.term.recv() => ("SIGTERM", SignalKind::terminate().as_raw_value()),
            _ = self.int.recv() => ("SIGINT", SignalKind::interrupt().as_raw_value()),
        }
    }
}

/// A panic would otherwise sleep in a handle that nobody awaits: log it with the name, then let it
/// go on.
async fn named<F: Future>(name: &'static str, future: F) -> F::Output {
    match AssertUnwindSafe(future).catch_unwind().await {
        Ok(output) => output,
        Err(panic) => {
            tracing::error!(task = name, "task panicked");
            std::panic::resume_unwind(panic)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_child_stops_with_the_whole_and_not_the_other_way() {
        let whole = Shutdown::new();
        let (one, other) = (whole.child(), whole.child());
        one.trigger();
        assert!(one.is_triggered() && !other.is_triggered() && !whole.is_triggered());
        whole.trigger();
        other.triggered().await;
    }

    #[tokio::test]
    async fn drain_asks_the_tasks_to_end_and_waits_for_them() {
        let group = TaskGroup::new(Shutdown::new());
        let shutdown = group.shutdown().clone();
        let polite = group.spawn("polite", async move { shutdown.triggered().await });
        assert_eq!(group.drain(Duration::from_secs(60)).await, 0);
        assert!(group.is_empty());
        assert_eq!(polite.await.unwrap(), Some(()));
    }

    #[tokio::test]
    async fn a_task_that_does_not_listen_is_aborted_at_the_deadline() {
        let group = TaskGroup::new(Shutdown::new());
        let deaf = group.spawn("deaf", std::future::pending::<()>());
        assert_eq!(group.drain(Duration::ZERO).await, 1);
        assert_eq!(deaf.await.unwrap(), None);
    }

    #[tokio::test]
    async fn a_panic_reaches_the_owner_of_the_task() {
        let handle = spawn("broken", async {
            assert!(Shutdown::new().is_triggered(), "on purpose")
        });
        assert!(handle.await.unwrap_err().is_panic());
    }
}
