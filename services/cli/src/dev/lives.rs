//! The lives of a role of `cstore dev`: after a failure of its disk it is started again, and the
//! other roles go on.

use std::time::Duration;

use cstore_mesh::RoleMetrics;
use cstore_node::admin::Readiness;
use cstore_node::backoff::Backoff;
use cstore_node::metrics::empty_registry;
use cstore_node::{Shutdown, listen};
use cstore_types::{ClusterSecret, error_chain};
use tokio::net::TcpListener;
use tokio::time::{Instant, sleep};

use crate::limits::{RESTART_STEP, SETTLED_LIFE};
use crate::role::{Plan, is_healed_by_a_start, may_pass};

/// A role with all that a life of it needs.
pub(super) struct Lives {
    pub(super) plan: Plan,
    /// Host and port, the same ones in each life.
    pub(super) addr: (String, u16),
    pub(super) node: String,
    pub(super) secret: ClusterSecret,
    pub(super) readiness: Readiness,
    pub(super) metrics: RoleMetrics,
}

impl Lives {
    /// Runs the role until `stop`, or an error that no later start can heal.
    ///
    /// # Errors
    /// The role's, and that of opening its port again.
    pub(super) async fn run(mut self, listener: TcpListener, stop: Shutdown) -> anyhow::Result<()> {
        let mut pauses = Backoff::new(RESTART_STEP, None);
        let mut listener = Some(listener);
        let mut is_first = true;
        loop {
            let begun = Instant::now();
            let Err(error) = self.live(listener.take(), stop.child()).await else {
                return Ok(());
            };
            if !goes_on(&error, is_first) || stop.is_triggered() {
                return Err(error);
            }
            is_first = false;
            self.plan.keep_data();
            if begun.elapsed() >= SETTLED_LIFE {
                pauses.reset();
            }
            let pause = pauses.next_delay();
            self.tell(&error, pause);
            tokio::select! {
                biased;
                () = stop.triggered() => return Ok(()),
                () = sleep(pause) => {}
            }
        }
    }

    async fn live(&self, listener: Option<TcpListener>, stop: Shutdown) -> anyhow::Result<()> {
        let (host, port) = (self.addr.0.as_str(), self.addr.1);
        let listener = match listener {
            Some(listener) => listener,
            None => listen::bind(self.plan.role().port().0, host, port).await?,
        };
        let work = self.plan.clone().work(
            self.secret.clone(),
            listener,
            self.readiness.clone(),
            self.metrics.clone(),
            stop,
        );
        let ended = work.await;
        // Collectors of metrics keep the disk open and locked: drop them before the next life opens
        // it.
        *self.metrics.registry.lock() = empty_registry();
        ended
    }

    fn tell(&self, error: &anyhow::Error, pause: Duration) {
        let error = error_chain(error.as_ref());
        tracing::error!(node = self.node, %error, ?pause, "role ended and is started again");
    }
}

/// Returns true if a role that ended with `error` is started again.
///
/// After a failure of its disk a role is always started once more. An error of that start is retried
/// only if it may pass by itself; otherwise the role would be started for ever.
fn goes_on(error: &anyhow::Error, is_first: bool) -> bool {
    is_healed_by_a_start(error) || (!is_first && may_pass(error))
}

#[cfg(test)]
mod tests {
    use std::io;

    use anyhow::Error;
    use cstore_master::RunError as Master;
    use cstore_storage::{EngineError, OpenError, RunError as Storage};
    use cstore_types::StoreUuid;

    use super::*;

    fn eio() -> io::Error {
        io::Error::from_raw_os_error(5)
    }

    fn of_open(error: OpenError) -> Error {
        Error::new(Storage::Open(error))
    }

    #[test]
    fn i12_a_role_is_not_started_for_ever_after_an_error_that_no_start_heals() {
        let path = || "disk".to_owned();
        let errors = [
            of_open(OpenError::Mismatch {
                path: path(),
                what: "node",
                found: "storage-2".to_owned(),
                expected: "storage-1".to_owned(),
            }),
            of_open(OpenError::TooSmall {
                wanted: 1,
                allocated: 2,
                least: 3,
            }),
            of_open(OpenError::HoldsFiles {
                sessions: 1,
                store: StoreUuid::from_bytes([1; 16]),
            }),
            of_open(OpenError::Foreign {
                path: path(),
                found: "letter.txt".to_owned(),
            }),
            of_open(OpenError::Capacity {
                wanted: 1,
                least: 2,
            }),
            of_open(OpenError::Keys(3)),
            of_open(OpenError::Segments(EngineError::Invalid(path()))),
            Error::new(Storage::Nameless { path: path() }),
            Error::new(Master::Rules(cstore_types::Fault::new(
                cstore_types::ErrorCode::Internal,
                "no rules",
            ))),
            Error::msg("unknown"),
        ];
        for error in errors {
            for is_first in [true, false] {
                assert!(!goes_on(&error, is_first), "{error:?}");
            }
        }
    }

    #[test]
    fn i12_a_role_whose_disk_failed_is_started_until_its_disk_is_free_and_there() {
        let failed = Error::new(Storage::Disk(EngineError::NotFound));
        assert!(goes_on(&failed, true));
        let errors = [
            failed,
            Error::new(Storage::TakesWrites),
            of_open(OpenError::InUse("disk".to_owned())),
            of_open(OpenError::Lock {
                path: "LOCK".to_owned(),
                source: eio(),
            }),
            of_open(OpenError::Io {
                doing: "measure disk",
                source: eio(),
            }),
            Error::new(Master::InUse("master".into())),
            Error::new(Master::Io(eio())),
            Error::new(Master::TakesWrites),
        ];
        for error in errors {
            assert!(goes_on(&error, false), "{error:?}");
        }
    }
}
