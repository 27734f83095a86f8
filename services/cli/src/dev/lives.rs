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
use crate::role::{Plan, is_healed_by_a_start};

/// A role with all that a life of it needs.
pub(super) struct Lives {
    pub(super) plan: Plan,
    /// Host and port, the same ones in each life.
    pub(super) addr: (&'static str, u16),
    pub(super) node: String,
    pub(super) secret: ClusterSecret,
    pub(super) readiness: Readiness,
    pub(super) metrics: RoleMetrics,
}

impl Lives {
    /// Runs the role until `stop`, or an error that a start does not heal.
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
            // The next start deals with a failed disk. An error of a later start is repeated as
            // well: the failed life may hold the disk for a moment longer.
            let is_healed = is_healed_by_a_start(&error) || !is_first;
            if !is_healed || stop.is_triggered() {
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
        let (host, port) = self.addr;
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
