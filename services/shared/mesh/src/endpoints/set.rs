//! The endpoints of one service, and which of them gets a call: of two that are drawn, the one with
//! fewer calls in flight (power of two choices).
//!
//! The draw is among the endpoints that are serving and not ejected, of the best class that has
//! any, without those that this call has tried already if others are left. If all serving endpoints
//! are ejected, ejection is ignored: they may all fail for a reason of the caller's.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::RwLock;
use tonic::Status;

use crate::endpoints::endpoint::{Endpoint, HealthState, OnOutlier};
use crate::endpoints::history::AttemptHistory;
use crate::jitter;
use crate::limits::EJECTED_THIRDS;
use crate::transport::io::Target;

/// The endpoints of one service. Their manager inserts and removes them, calls pick one of them.
pub(crate) struct EndpointSet {
    pub(crate) service: &'static str,
    endpoints: RwLock<BTreeMap<Target, Arc<Endpoint>>>,
    pub(super) on_outlier: OnOutlier,
}

impl EndpointSet {
    pub(crate) fn new(service: &'static str, on_outlier: OnOutlier) -> Self {
        Self {
            service,
            endpoints: RwLock::default(),
            on_outlier,
        }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.read().values().cloned().collect()
    }

    pub(crate) fn insert(&self, endpoint: Arc<Endpoint>) {
        self.endpoints
            .write()
            .insert(endpoint.target.clone(), endpoint);
    }

    pub(crate) fn remove(&self, target: &Target) {
        self.endpoints.write().remove(target);
    }

    pub(crate) fn get(&self, target: &Target) -> Option<Arc<Endpoint>> {
        self.endpoints.read().get(target).cloned()
    }

    /// Returns an endpoint for the next attempt of a call, `None` if no endpoint is serving.
    pub(super) fn pick(&self, history: &AttemptHistory) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.read();
        let serving: Vec<&Arc<Endpoint>> =
            endpoints.values().filter(|one| one.is_serving()).collect();
        let fit: Vec<_> = serving
            .iter()
            .copied()
            .filter(|one| !one.is_ejected())
            .collect();
        let fit = if fit.is_empty() { serving } else { fit };
        let fresh: Vec<_> = fit
            .iter()
            .copied()
            .filter(|one| !history.contains(&one.target))
            .collect();
        let fresh = if fresh.is_empty() { fit } else { fresh };
        let best = fresh.iter().map(|one| one.class()).min()?;
        let best: Vec<_> = fresh
            .into_iter()
            .filter(|one| one.class() == best)
            .collect();
        let first = jitter::draw_index(best.len());
        let other = (first + 1 + jitter::draw_index(best.len().max(2) - 1)) % best.len();
        let pair = [best.get(first)?, best.get(other)?];
        pair.into_iter()
            .min_by_key(|one| one.pending())
            .map(|one| Arc::clone(one))
    }

    /// Ejects an endpoint that failed too much, if enough others are left. Returns whether it was
    /// ejected.
    pub(crate) fn eject(&self, endpoint: &Endpoint) -> bool {
        let endpoints = self.endpoints.read();
        let ejected = endpoints.values().filter(|one| one.is_ejected()).count();
        let may = !endpoint.is_ejected() && ejected < endpoints.len() * EJECTED_THIRDS / 3;
        if may {
            endpoint.eject();
        }
        may
    }

    /// Returns the status of a call for which no endpoint is serving.
    pub(super) fn why(&self) -> Status {
        let reasons: Vec<String> = self
            .all()
            .iter()
            .map(|one| match one.health() {
                HealthState::Connecting => format!("{} is being connected", one.target.addr),
                HealthState::Serving => format!("{} serves again", one.target.addr),
                HealthState::Down(why) => format!("{}: {why}", one.target.addr),
            })
            .take(4)
            .collect();
        let service = self.service;
        Status::unavailable(match reasons.as_slice() {
            [] => format!("no {service} is known"),
            reasons => format!("no {service} can be reached: {}", reasons.join("; ")),
        })
    }
}

impl std::fmt::Debug for EndpointSet {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EndpointSet")
            .field("service", &self.service)
            .finish_non_exhaustive()
    }
}
