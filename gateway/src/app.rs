//! State of a gateway that all requests share.

use std::sync::Arc;

use cstore_mesh::{MasterClient, WorkerClients};
use cstore_node::admin::Readiness;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::auth::bearer::Auth;
use crate::cluster::tickets::Tickets;
use crate::cluster::view::Cluster;
use crate::config::Config;
use crate::limits::COLLECTED_BYTES;
use crate::metrics::Metrics;

/// Clients, the view of the cluster and the settings of one gateway.
pub(crate) struct App {
    pub(crate) config: Config,
    pub(crate) auth: Auth,
    pub(crate) master: MasterClient,
    pub(crate) workers: WorkerClients,
    pub(crate) cluster: Cluster,
    pub(crate) tickets: Tickets,
    pub(crate) bodies: BodyBudget,
    pub(crate) metrics: Metrics,
    /// Readiness of the role. Also tells that the process is about to end.
    pub(crate) readiness: Readiness,
    /// Set once, when the gateway could serve for the first time; later failures are told request
    /// by request.
    pub(crate) started: std::sync::atomic::AtomicBool,
}

/// Memory of the bodies that are collected for uploads in one call.
#[derive(Debug)]
pub(crate) struct BodyBudget(Arc<Semaphore>);

impl Default for BodyBudget {
    fn default() -> Self {
        Self(Arc::new(Semaphore::new(COLLECTED_BYTES)))
    }
}

impl BodyBudget {
    /// Takes `bytes` until the result is dropped. `None` if other bodies hold them.
    pub(crate) fn try_hold(&self, bytes: usize) -> Option<OwnedSemaphorePermit> {
        let bytes = u32::try_from(bytes).ok()?;
        self.0.clone().try_acquire_many_owned(bytes).ok()
    }
}

/// Handle by which the routes share the [`App`].
pub(crate) type Shared = Arc<App>;

impl App {
    /// Returns true if an upload to this worker is worth a try.
    pub(crate) fn is_usable(&self, worker: &str) -> bool {
        self.cluster.is_ready_worker(worker) && self.workers.may_serve(worker)
    }

    /// Returns true if an upload with a ticket in stock for this worker is worth a try. While the
    /// master writes nothing none is: it says why when it is asked for another one, which is sooner
    /// than a commit that is repeated.
    pub(crate) fn is_usable_in_stock(&self, worker: &str) -> bool {
        self.cluster.is_writable() && self.is_usable(worker)
    }
}
