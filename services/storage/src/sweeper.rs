//! The sweeper: recycles segments in which nothing is needed, and drops pins of uploads that fell
//! silent.

use std::sync::Arc;
use std::time::Duration;

use cstore_node::backoff::Backoff;
use cstore_node::shutdown::Shutdown;
use tokio::sync::Notify;
use tokio::time::{Instant, MissedTickBehavior};

use crate::engine::{Engine, EngineError};
use crate::limits::{PIN_SWEEP_TICKS, READS_AT_LEAST};
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
/// shutdown. If it takes them from the beginning, the open failed for a reason that a probe does not
/// meet, such as one file that cannot be written: the node serves reads for [`READS_AT_LEAST`] then.
/// Otherwise the starts would follow each other so quickly that no read is served.
///
/// # Errors
/// [`RunError::TakesWrites`] if it does: only a start opens it for writing.
pub(crate) async fn await_writes(
    engine: Engine,
    mut pauses: Backoff,
    shutdown: Shutdown,
) -> Result<(), RunError> {
    let begun = Instant::now();
    let mut was_refused = false;
    loop {
        let probing = engine.clone();
        let probed = cstore_node::blocking(move || probing.takes_writes_again()).await;
        let takes_writes = probed.map_err(EngineError::from)?;
        if takes_writes && (was_refused || begun.elapsed() >= READS_AT_LEAST) {
            return Err(RunError::TakesWrites);
        }
        was_refused |= !takes_writes;

        let pause = pauses.next_delay();
        tokio::select! {
            biased;
            () = shutdown.triggered() => return Ok(()),
            () = tokio::time::sleep(pause) => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use cstore_log::FaultyDisk;

    use super::*;
    use crate::engine::small_disk;

    /// A disk that was opened while it took no writes.
    fn for_reads() -> (FaultyDisk, Engine) {
        let (identity, options) = small_disk();
        let disk = FaultyDisk::new();
        let open = || Engine::open(Arc::new(disk.clone()), "memory", &identity, &options).unwrap();
        drop(open());
        disk.refuse_writes(true);
        let engine = open();
        assert!(engine.is_for_reads());
        (disk, engine)
    }

    #[tokio::test(start_paused = true)]
    async fn i12_a_disk_for_reads_is_served_for_a_while_although_its_probe_succeeds() {
        for is_refused_first in [true, false] {
            let (disk, engine) = for_reads();
            disk.refuse_writes(is_refused_first);
            let begun = Instant::now();
            let pauses = Backoff::new(Duration::from_secs(1), None);
            let waiting = await_writes(engine, pauses, Shutdown::new());
            let heal = async {
                tokio::time::sleep(Duration::from_millis(100)).await;
                disk.refuse_writes(false);
            };
            let (ended, ()) = tokio::join!(waiting, heal);
            assert!(matches!(ended, Err(RunError::TakesWrites)), "{ended:?}");
            let lasted = begun.elapsed();
            assert_eq!(lasted < READS_AT_LEAST, is_refused_first, "{lasted:?}");
        }
    }
}
