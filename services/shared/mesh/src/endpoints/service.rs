//! The lower half of the client stack: the endpoints of one service behind one channel.

use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tower::util::BoxCloneSyncService;

use crate::endpoints::balance::Balance;
use crate::endpoints::discovery::Discovery;
use crate::endpoints::endpoint::Endpoint;
use crate::endpoints::manager::EndpointManager;
use crate::endpoints::set::EndpointSet;
use crate::telemetry::metrics::ServiceMetrics;
use crate::transport::channel::{ClientOptions, GrpcChannel, connection};
use crate::transport::io::Target;

/// All endpoints of one service, called as one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    balance: Balance,
    pub(crate) metrics: ServiceMetrics,
}

impl Service {
    /// Returns the service `name` with the endpoints that `discovery` finds, and their manager. The
    /// caller MUST run the manager, otherwise the service has no endpoints.
    pub fn new(
        name: &'static str,
        discovery: Discovery,
        options: &ClientOptions,
    ) -> (Self, EndpointManager) {
        let metrics = options.metrics.service(options.role, name);
        let set = {
            let metrics = metrics.clone();
            Arc::new_cyclic(|set: &Weak<EndpointSet>| {
                let set = set.clone();
                let eject = move |endpoint: &Endpoint| {
                    if set.upgrade().is_some_and(|set| set.eject(endpoint)) {
                        tracing::warn!(
                            service = name,
                            addr = endpoint.target.addr,
                            "endpoint fails and is left alone"
                        );
                        metrics.ejected();
                    }
                };
                EndpointSet::new(name, Arc::new(eject))
            })
        };
        let changes = watch::Sender::new(0);
        let balance = Balance::new(set.clone(), changes.subscribe());
        let connect = {
            let options = options.clone();
            Arc::new(move |target: &Target| connection(target, &options))
        };
        let news = Arc::default();
        let manager = EndpointManager {
            set,
            discovery,
            connect,
            changes,
            metrics: metrics.clone(),
            news,
        };
        (Self { balance, metrics }, manager)
    }

    /// Returns a channel that sends each call to an endpoint with few calls in flight.
    pub fn channel(&self) -> GrpcChannel {
        BoxCloneSyncService::new(self.balance.clone())
    }

    /// Returns whether a call to `target` is worth a try: false only if the endpoint is known to be
    /// down.
    pub(crate) fn may_serve(&self, target: &Target) -> bool {
        self.balance.pin(target.clone()).may_come()
    }

    /// Returns a channel to one endpoint of the service.
    pub(crate) fn pinned(&self, target: Target) -> GrpcChannel {
        BoxCloneSyncService::new(self.balance.pin(target))
    }
}
