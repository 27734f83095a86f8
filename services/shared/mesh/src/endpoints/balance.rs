//! Sends each call to one endpoint of a service, picked by `EndpointSet`. If no endpoint is
//! serving, a call waits up to a second for one, then fails as Unavailable and says why.

use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use http::{Request, Response};
use tokio::sync::watch;
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tower::Service;

use crate::endpoints::endpoint::{self, Endpoint, HealthState};
use crate::endpoints::history::AttemptHistory;
use crate::endpoints::set::EndpointSet;
use crate::transport::io::Target;

/// Sends each call to an endpoint. Always ready; cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Balance {
    set: Arc<EndpointSet>,
    /// Counts changes of the set. The manager runs as long as a receiver exists.
    changes: watch::Receiver<u64>,
    /// Target of all calls. `None` if any endpoint will do.
    pinned: Option<Target>,
}

impl Balance {
    pub(crate) fn new(set: Arc<EndpointSet>, changes: watch::Receiver<u64>) -> Self {
        Self {
            set,
            changes,
            pinned: None,
        }
    }

    /// Returns a balancer over the same endpoints that calls only `target`.
    pub(crate) fn pin(&self, target: Target) -> Self {
        Self {
            pinned: Some(target),
            ..self.clone()
        }
    }

    fn pick(&self, history: &AttemptHistory) -> Option<Arc<Endpoint>> {
        match &self.pinned {
            None => self.set.pick(history),
            // Ejection does not apply to a pinned endpoint: there is no other.
            Some(target) => self.set.get(target).filter(|one| one.is_serving()),
        }
    }

    /// Returns true if waiting can help. A pinned endpoint that is known to be down is not waited
    /// for.
    pub(crate) fn may_come(&self) -> bool {
        match &self.pinned {
            None => true,
            Some(target) => self
                .set
                .get(target)
                .is_none_or(|one| !matches!(one.health(), HealthState::Down(_))),
        }
    }

    fn why(&self) -> Status {
        match self
            .pinned
            .as_ref()
            .map(|target| (target, self.set.get(target)))
        {
            None => self.set.why(),
            Some((target, found)) => {
                let why = match found.map(|one| one.health()) {
                    None => "is not known".to_owned(),
                    Some(HealthState::Down(why)) => format!("cannot be reached: {why}"),
                    Some(HealthState::Connecting | HealthState::Serving) => {
                        "is being connected".to_owned()
                    }
                };
                Status::unavailable(format!("{} {} {why}", self.set.service, target.addr))
            }
        }
    }

    async fn wait(&mut self, history: &AttemptHistory) -> Result<Arc<Endpoint>, Status> {
        let waiting = async {
            loop {
                self.changes.borrow_and_update();
                if let Some(found) = self.pick(history) {
                    return Some(found);
                }
                if !self.may_come() || self.changes.changed().await.is_err() {
                    return None;
                }
            }
        };
        match timeout(history.max_wait(), waiting).await {
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
        let history = request
            .extensions()
            .get::<AttemptHistory>()
            .cloned()
            .unwrap_or_default();
        let on_outlier = self.set.on_outlier.clone();
        if let Some(found) = self.pick(&history) {
            history.add(&found.target);
            return endpoint::call(found, on_outlier, request);
        }
        let mut this = self.clone();
        Box::pin(async move {
            let found = this.wait(&history).await?;
            history.add(&found.target);
            endpoint::call(found, on_outlier, request).await
        })
    }
}
