//! Compaction in the background: how hard it works follows from how full the disk is.
//!
//! | free | what is emptied | copied |
//! |---|---|---|
//! | a quarter or more | segments that are half dead | 16 MiB a second |
//! | less | the same | 64 MiB a second |
//! | less than an eighth | segments that are a tenth dead | as fast as the disk takes it |
//!
//! Requests that find no room compact for themselves (`Room`), so the background never has to hurry
//! for them.

use std::time::Duration;

use cstore_node::shutdown::Shutdown;
use cstore_types::error_chain;

use super::super::error::EngineError;
use super::super::space::Space;
use super::{CompactStep, Compactor, Need};
use crate::limits::{
    AMPLE_BYTES_PER_SECOND, COMPACTION_FAILED_PAUSE, COMPACTION_PAUSE, LESS_BYTES_PER_SECOND,
};

/// The effort that a fill of the disk asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pace {
    need: Need,
    /// Copied bytes per second; `None` for no limit.
    bytes_per_second: Option<u64>,
}

impl Pace {
    fn of(space: Space) -> Self {
        let (need, bytes_per_second) = match space.free {
            free if free < space.capacity / 8 => (Need::Short, None),
            free if free < space.capacity / 4 => (Need::Ample, Some(LESS_BYTES_PER_SECOND)),
            _ => (Need::Ample, Some(AMPLE_BYTES_PER_SECOND)),
        };
        Self {
            need,
            bytes_per_second,
        }
    }

    fn pause(self, step: &Result<CompactStep, EngineError>) -> Duration {
        match (step, self.bytes_per_second) {
            (Ok(CompactStep::Idle), _) => COMPACTION_PAUSE,
            (Err(_), _) => COMPACTION_FAILED_PAUSE,
            (Ok(CompactStep::Moved(bytes)), Some(rate)) => pause_after(*bytes, rate),
            (Ok(CompactStep::Moved(_) | CompactStep::Emptied), _) => Duration::ZERO,
        }
    }
}

/// Returns the pause after `bytes` of background work that keeps it to `rate` bytes per second.
pub(in crate::engine) fn pause_after(bytes: u64, rate: u64) -> Duration {
    Duration::from_millis(bytes.saturating_mul(1_000) / rate)
}

impl Compactor {
    /// Compacts until the shutdown. A step that runs then either completes or leaves everything as
    /// it was.
    pub(crate) async fn run(self, shutdown: Shutdown) {
        loop {
            let pace = Pace::of(self.space());
            let step = tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                step = self.step(pace.need) => step,
            };
            if let Err(error) = &step {
                tracing::debug!(error = %error_chain(error), "compaction rests");
            }

            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                () = tokio::time::sleep(pace.pause(&step)) => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pace(free: u64) -> Pace {
        Pace::of(Space {
            capacity: 800,
            free,
            allocated: 0,
            shared: None,
        })
    }

    #[test]
    fn a_fuller_disk_is_compacted_harder() {
        assert_eq!(
            pace(500),
            Pace {
                need: Need::Ample,
                bytes_per_second: Some(AMPLE_BYTES_PER_SECOND)
            }
        );
        assert_eq!(
            pace(150),
            Pace {
                need: Need::Ample,
                bytes_per_second: Some(LESS_BYTES_PER_SECOND)
            }
        );
        assert_eq!(
            pace(99),
            Pace {
                need: Need::Short,
                bytes_per_second: None
            }
        );
    }

    #[test]
    fn a_mebibyte_costs_a_sixteenth_of_a_second_while_there_is_space() {
        let moved = Ok(CompactStep::Moved(1 << 20));
        assert_eq!(pace(500).pause(&moved), Duration::from_millis(62));
        assert_eq!(pace(50).pause(&moved), Duration::ZERO);
        assert_eq!(pace(50).pause(&Ok(CompactStep::Idle)), COMPACTION_PAUSE);
    }
}
