//! The sweeper: recycles segments in which nothing is needed, and drops pins of uploads that fell
//! silent.

use std::sync::Arc;
use std::time::Duration;

use cstore_node::backoff::Backoff;
use cstore_node::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio::time::MissedTickBehavior;

use crate::engine::{Engine, EngineError};
use crate::limits::PIN_SWEEP_TICKS;
use crate::run::RunError;

/// Sweeps at every tick of `interval`, and when `freed` says that segments may have died, until the
/// shutdown. A sweep that has begun then is finished first, because the disk is closed after it.
///
/// # Errors
/// A hold that could not be written twice: the node must end, because a restart finds every doubt
/// again, and this process could be the only one that knows of it. A write or sync of promised bytes
/// that failed: only the next open knows what the disk has.
pub(crate) async fn run(
    engine: Engine,
    interval: Duration,
    freed: Arc<Notify>,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let mut ticks = tokio::time::interval(interval);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut n_ticks = 0u64;
    loop {
        tokio::select! {
            biased;
            () = shutdown.triggered() => return Ok(()),
            _ = ticks.tick() => n_ticks += 1,
            () = freed.notified() => {
                engine.recycler().reclaim_aside().await;
                continue;
            }
        }
        if let Some(failure) = engine.failure() {
            return Err(failure.into());
        }
        let keeping = engine.clone();
        let keep = move || {
            keeping.keep_verdicts();
            keeping.hold().keep()
        };
        let kept = cstore_node::blocking(keep).await;
        kept.map_err(EngineError::from).flatten()?;
        engine.recycler().reclaim_aside().await;
        if n_ticks.is_multiple_of(PIN_SWEEP_TICKS) {
            let engine = engine.clone();
            if let Err(error) = cstore_node::blocking(move || engine.sweep_pins()).await {
                tracing::error!(%error, "sweep over old pins broke off");
            }
        }
    }
}

/// Looks from time to time whether a disk that is open for reads takes writes again, until the
/// shutdown.
///
/// # Errors
/// [`RunError::TakesWrites`] if it does: only a start opens it for writing.
pub(crate) async fn await_writes(
    engine: Engine,
    mut pauses: Backoff,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    loop {
        let pause = pauses.next_delay();
        tokio::select! {
            biased;
            () = shutdown.triggered() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
        let probing = engine.clone();
        let probed = cstore_node::blocking(move || probing.takes_writes_again()).await;
        if probed.map_err(EngineError::from)? {
            return Err(RunError::TakesWrites);
        }
    }
}
