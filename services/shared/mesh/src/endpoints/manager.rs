//! Manages the endpoints of one service: follows discovery, adds and removes endpoints, watches
//! their health.
//!
//! One future for all of it, owned by the role that runs it. It ends with the last client of the
//! service.

use std::collections::HashMap;
use std::sync::Arc;

use cstore_proto::error_chain;
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, BoxFuture, abortable};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};

use crate::endpoints::discovery::{Class, Discovery, Endpoints};
use crate::endpoints::endpoint::{Endpoint, HealthState};
use crate::endpoints::health::{Connect, watch_health};
use crate::endpoints::set::EndpointSet;
use crate::limits::ENDPOINT_COUNT_INTERVAL;
use crate::telemetry::metrics::{EndpointState, ServiceMetrics};
use crate::transport::io::Target;

/// Manager of the endpoints of one service. MUST run as long as the role lives.
#[must_use = "without its manager a service has no endpoints"]
pub struct EndpointManager {
    pub(crate) set: Arc<EndpointSet>,
    pub(crate) discovery: Discovery,
    pub(crate) connect: Connect,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) metrics: ServiceMetrics,
    /// Rung when the state of an endpoint changed.
    pub(crate) news: Arc<Notify>,
}

impl std::fmt::Debug for EndpointManager {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointManager")
            .field("set", &self.set)
            .finish_non_exhaustive()
    }
}

impl EndpointManager {
    /// Runs until all clients of the service are gone.
    pub async fn run(mut self) {
        let mut known = self.discovery.first();
        let mut watched: HashMap<Target, AbortHandle> = HashMap::new();
        let mut watchers: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut count = tokio::time::interval(ENDPOINT_COUNT_INTERVAL);
        let news = self.news.clone();
        self.reconcile(&known, &mut watched, &mut watchers);
        loop {
            tokio::select! {
                biased;
                found = self.discovery.next(&known) => {
                    known = found;
                    self.reconcile(&known, &mut watched, &mut watchers);
                }
                Some(()) = watchers.next() => {}
                _ = count.tick() => self.count(),
                () = news.notified() => self.count(),
                () = self.changes.closed() => return,
            }
        }
    }

    fn reconcile(
        &self,
        wanted: &Endpoints,
        watched: &mut HashMap<Target, AbortHandle>,
        watchers: &mut FuturesUnordered<BoxFuture<'static, ()>>,
    ) {
        watched.retain(|target, watcher| {
            let keep = wanted.contains_key(target);
            if !keep {
                watcher.abort();
                self.set.remove(target);
            }
            keep
        });
        for (target, class) in wanted {
            match self.set.get(target) {
                Some(endpoint) => endpoint.set_class(*class),
                None => {
                    if let Some((handle, watcher)) = self.begin(target, *class) {
                        watched.insert(target.clone(), handle);
                        watchers.push(watcher);
                    }
                }
            }
        }
        self.changes
            .send_modify(|changes| *changes = changes.wrapping_add(1));
        self.news.notify_one();
    }

    fn begin(
        &self,
        target: &Target,
        class: Class,
    ) -> Option<(AbortHandle, BoxFuture<'static, ()>)> {
        let channel = match (self.connect)(target) {
            Ok(channel) => channel,
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(service = self.set.service, addr = target.addr, %error, "endpoint cannot be used");
                return None;
            }
        };
        let endpoint = Arc::new(Endpoint::new(target.clone(), class, channel));
        self.set.insert(endpoint.clone());
        let (watcher, handle) = abortable(watch_health(
            endpoint,
            self.connect.clone(),
            self.changes.clone(),
            self.news.clone(),
        ));
        let watcher = async {
            // Aborted when discovery drops the endpoint; it does not end otherwise.
            let _ = watcher.await;
        };
        Some((handle, Box::pin(watcher)))
    }

    fn count(&self) {
        let mut states = [0_i64; EndpointState::ALL.len()];
        for endpoint in self.set.all() {
            let state = match endpoint.health() {
                HealthState::Connecting => EndpointState::Connecting,
                HealthState::Down(_) => EndpointState::Down,
                HealthState::Serving if endpoint.is_ejected() => EndpointState::Ejected,
                HealthState::Serving => EndpointState::Serving,
            };
            if let Some(count) = states.get_mut(state as usize) {
                *count += 1;
            }
        }
        self.metrics.endpoints(&states);
    }
}
