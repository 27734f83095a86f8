//! Which endpoint gets a call: of two that are drawn, the one with fewer calls in work (power of two choices).
//!
//! Drawn from are endpoints that are SERVING and not ejected, of the best class that has any, and not yet tried by this
//! call if others are left. When every one is ejected, ejection is ignored: all of them may fail for a reason of the
//! caller's. When none is SERVING, a call waits a moment for one, then fails as Unavailable and says why.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{Request, Response};
use parking_lot::{Mutex, RwLock};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::endpoints::endpoint::{self, Endpoint, Gate, OnOutlier};
use crate::jitter;
use crate::transport::dial::Target;

/// How long a call waits for an endpoint that serves.
const PATIENCE: Duration = Duration::from_secs(1);
/// Of all endpoints so many thirds may be ejected at a time.
const EJECTED_THIRDS: usize = 2;

/// What the attempts of one call tell each other.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tried(Arc<Mutex<History>>);

#[derive(Debug, Default)]
struct History {
    endpoints: Vec<Target>,
    waited: bool,
}

impl Tried {
    fn add(&self, target: &Target) {
        self.0.lock().endpoints.push(target.clone());
    }

    fn contains(&self, target: &Target) -> bool {
        self.0.lock().endpoints.contains(target)
    }

    /// How long this attempt may wait for an endpoint: a call waits in vain only once.
    fn patience(&self) -> Duration {
        let waited = std::mem::replace(&mut self.0.lock().waited, true);
        if waited { Duration::ZERO } else { PATIENCE }
    }
}

/// The endpoints of one service, as its keeper keeps them.
pub(crate) struct Table {
    pub(crate) service: &'static str,
    endpoints: RwLock<BTreeMap<Target, Arc<Endpoint>>>,
    on_outlier: OnOutlier,
}

impl Table {
    pub(crate) fn new(service: &'static str, on_outlier: OnOutlier) -> Self {
        Self { service, endpoints: RwLock::default(), on_outlier }
    }

    pub(crate) fn all(&self) -> Vec<Arc<Endpoint>> {
        self.endpoints.read().values().cloned().collect()
    }

    pub(crate) fn insert(&self, endpoint: Arc<Endpoint>) {
        self.endpoints.write().insert(endpoint.target.clone(), endpoint);
    }

    pub(crate) fn remove(&self, target: &Target) {
        self.endpoints.write().remove(target);
    }

    pub(crate) fn get(&self, target: &Target) -> Option<Arc<Endpoint>> {
        self.endpoints.read().get(target).cloned()
    }

    /// The endpoint for the next attempt of a call.
    fn pick(&self, tried: &Tried) -> Option<Arc<Endpoint>> {
        let endpoints = self.endpoints.read();
        let serving: Vec<&Arc<Endpoint>> = endpoints.values().filter(|one| one.is_serving()).collect();
        let fit: Vec<_> = serving.iter().copied().filter(|one| !one.is_ejected()).collect();
        let fit = if fit.is_empty() { serving } else { fit };
        let fresh: Vec<_> = fit.iter().copied().filter(|one| !tried.contains(&one.target)).collect();
        let fresh = if fresh.is_empty() { fit } else { fresh };
        let best = fresh.iter().map(|one| one.class()).min()?;
        let best: Vec<_> = fresh.into_iter().filter(|one| one.class() == best).collect();
        let first = jitter::place(best.len());
        let other = (first + 1 + jitter::place(best.len().max(2) - 1)) % best.len();
        let pair = [best.get(first)?, best.get(other)?];
        pair.into_iter().min_by_key(|one| one.pending()).map(|one| Arc::clone(one))
    }

    /// Ejects an endpoint that failed too much, if enough others are left. Whether it did.
    pub(crate) fn eject(&self, endpoint: &Endpoint) -> bool {
        let endpoints = self.endpoints.read();
        let ejected = endpoints.values().filter(|one| one.is_ejected()).count();
        let may = !endpoint.is_ejected() && ejected < endpoints.len() * EJECTED_THIRDS / 3;
        if may {
            endpoint.eject();
        }
        may
    }

    /// Why nobody can be called.
    fn why(&self) -> Status {
        let reasons: Vec<String> = self
            .all()
            .iter()
            .map(|one| match one.gate() {
                Gate::Connecting => format!("{} is being connected", one.target.addr),
                Gate::Serving => format!("{} serves again", one.target.addr),
                Gate::Down(why) => format!("{}: {why}", one.target.addr),
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

impl std::fmt::Debug for Table {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Table").field("service", &self.service).finish_non_exhaustive()
    }
}

/// Sends each call to an endpoint. Always ready; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Balance {
    table: Arc<Table>,
    /// Counts changes of the table. While it is held, the keeper keeps.
    changes: watch::Receiver<u64>,
    /// Only this endpoint will do.
    pinned: Option<Target>,
}

impl Balance {
    pub(crate) fn new(table: Arc<Table>, changes: watch::Receiver<u64>) -> Self {
        Self { table, changes, pinned: None }
    }

    /// The same endpoints, but only this one will do.
    pub(crate) fn pin(&self, target: Target) -> Self {
        Self { pinned: Some(target), ..self.clone() }
    }

    fn pick(&self, tried: &Tried) -> Option<Arc<Endpoint>> {
        match &self.pinned {
            None => self.table.pick(tried),
            // What is pinned is not judged: there is no other.
            Some(target) => self.table.get(target).filter(|one| one.is_serving()),
        }
    }

    /// Whether waiting can help: an endpoint that is known to be down is not waited for when it is pinned.
    pub(crate) fn may_come(&self) -> bool {
        match &self.pinned {
            None => true,
            Some(target) => self.table.get(target).is_none_or(|one| !matches!(one.gate(), Gate::Down(_))),
        }
    }

    fn why(&self) -> Status {
        match self.pinned.as_ref().map(|target| (target, self.table.get(target))) {
            None => self.table.why(),
            Some((target, found)) => {
                let why = match found.map(|one| one.gate()) {
                    None => "is not known".to_owned(),
                    Some(Gate::Down(why)) => format!("cannot be reached: {why}"),
                    Some(Gate::Connecting | Gate::Serving) => "is being connected".to_owned(),
                };
                Status::unavailable(format!("{} {} {why}", self.table.service, target.addr))
            }
        }
    }

    async fn wait(&mut self, tried: &Tried) -> Result<Arc<Endpoint>, Status> {
        let waiting = async {
            loop {
                self.changes.borrow_and_update();
                if let Some(found) = self.pick(tried) {
                    return Some(found);
                }
                if !self.may_come() || self.changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(tried.patience(), waiting).await {
            Ok(Some(found)) => Ok(found),
            Ok(None) | Err(_) => Err(self.why()),
        }
    }
}

impl Service<Request<Body>> for Balance {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let tried = request.extensions().get::<Tried>().cloned().unwrap_or_default();
        let on_outlier = self.table.on_outlier.clone();
        if let Some(found) = self.pick(&tried) {
            tried.add(&found.target);
            return endpoint::call(found, on_outlier, request);
        }
        let mut this = self.clone();
        Box::pin(async move {
            let found = this.wait(&tried).await?;
            tried.add(&found.target);
            endpoint::call(found, on_outlier, request).await
        })
    }
}
