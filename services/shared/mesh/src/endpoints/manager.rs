//! Keeps the endpoints of one service: follows discovery, connects, watches health, connects again.
//!
//! One future for all of it, owned by the role that runs it. It ends when nobody can call any more.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use cstore_proto::error_chain;
use futures_util::StreamExt;
use futures_util::future::{AbortHandle, BoxFuture, abortable};
use futures_util::stream::FuturesUnordered;
use tokio::sync::{Notify, watch};
use tokio::time::{sleep, timeout};
use tonic::{Code, Status};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use crate::endpoints::balance::Table;
use crate::endpoints::discovery::{Class, Discovery, Endpoints};
use crate::endpoints::endpoint::{Endpoint, Gate};
use crate::telemetry::metrics::{EndpointState, ServiceMetrics};
use crate::transport::channel::GrpcChannel;
use crate::transport::dial::Target;

const FIRST_PAUSE: Duration = Duration::from_millis(20);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// For the first word of an endpoint about its health.
const HEALTH_TIMEOUT: Duration = Duration::from_secs(3);
/// How often states are counted for the metrics.
const COUNT_EVERY: Duration = Duration::from_secs(1);

pub(crate) type Connect = Arc<dyn Fn(&Target) -> Result<GrpcChannel, crate::MeshError> + Send + Sync>;

/// Keeps the endpoints of one service. Run it for as long as the role lives.
#[must_use = "without its keeper a service has no endpoints"]
pub struct Keeper {
    pub(crate) table: Arc<Table>,
    pub(crate) discovery: Discovery,
    pub(crate) connect: Connect,
    pub(crate) changes: watch::Sender<u64>,
    pub(crate) metrics: ServiceMetrics,
    /// Rung when the state of an endpoint changed.
    pub(crate) news: Arc<Notify>,
}

impl std::fmt::Debug for Keeper {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keeper").field("table", &self.table).finish_non_exhaustive()
    }
}

impl Keeper {
    /// Runs until all clients of the service are gone.
    pub async fn run(mut self) {
        let mut known = self.discovery.first();
        let mut watched: HashMap<Target, AbortHandle> = HashMap::new();
        let mut watchers: FuturesUnordered<BoxFuture<'static, ()>> = FuturesUnordered::new();
        let mut count = tokio::time::interval(COUNT_EVERY);
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
                self.table.remove(target);
            }
            keep
        });
        for (target, class) in wanted {
            match self.table.get(target) {
                Some(endpoint) => endpoint.set_class(*class),
                None => {
                    if let Some((handle, watcher)) = self.begin(target, *class) {
                        watched.insert(target.clone(), handle);
                        watchers.push(watcher);
                    }
                }
            }
        }
        self.changes.send_modify(|changes| *changes = changes.wrapping_add(1));
        self.news.notify_one();
    }

    fn begin(&self, target: &Target, class: Class) -> Option<(AbortHandle, BoxFuture<'static, ()>)> {
        let channel = match (self.connect)(target) {
            Ok(channel) => channel,
            Err(error) => {
                let error = error_chain(&error);
                tracing::error!(service = self.table.service, addr = target.addr, %error, "endpoint cannot be used");
                return None;
            }
        };
        let endpoint = Arc::new(Endpoint::new(target.clone(), class, channel));
        self.table.insert(endpoint.clone());
        let (watcher, handle) =
            abortable(watch_health(endpoint, self.connect.clone(), self.changes.clone(), self.news.clone()));
        let watcher = async {
            // Aborted when discovery drops the endpoint; it does not end otherwise.
            let _ = watcher.await;
        };
        Some((handle, Box::pin(watcher)))
    }

    fn count(&self) {
        let mut states = [0_i64; EndpointState::ALL.len()];
        for endpoint in self.table.all() {
            let state = match endpoint.gate() {
                Gate::Connecting => EndpointState::Connecting,
                Gate::Down(_) => EndpointState::Down,
                Gate::Serving if endpoint.is_ejected() => EndpointState::Ejected,
                Gate::Serving => EndpointState::Serving,
            };
            if let Some(count) = states.get_mut(state as usize) {
                *count += 1;
            }
        }
        self.metrics.endpoints(&states);
    }
}

/// Follows what one endpoint says of its health, for ever.
async fn watch_health(
    endpoint: Arc<Endpoint>,
    connect: Connect,
    changes: watch::Sender<u64>,
    news: Arc<Notify>,
) {
    let set = |gate: Gate| {
        let before = endpoint.gate();
        if before != gate {
            tracing::debug!(addr = endpoint.target.addr, ?gate, "endpoint");
            endpoint.set_gate(gate);
            changes.send_modify(|changes| *changes = changes.wrapping_add(1));
            news.notify_one();
        }
    };
    let mut pause = FIRST_PAUSE;
    loop {
        let ended = follow(&endpoint.channel(), |serving| {
            pause = FIRST_PAUSE;
            set(if serving { Gate::Serving } else { Gate::Down("it takes no work now".to_owned()) });
        })
        .await;
        set(Gate::Down(ended.message().to_owned()));
        // Whoever answers like that is not one of ours, or hangs. A name or a virtual address may lead elsewhere the next
        // time, but a connection that is kept never does.
        if matches!(ended.code(), Code::Unimplemented | Code::DeadlineExceeded)
            && let Ok(channel) = connect(&endpoint.target)
        {
            endpoint.renew(channel);
        }
        sleep(crate::jitter::jittered(pause)).await;
        pause = (pause * 2).min(LONGEST_PAUSE);
    }
}

/// One stream of health; returns how it ended.
async fn follow(channel: &GrpcChannel, mut say: impl FnMut(bool)) -> Status {
    let mut client = HealthClient::new(channel.clone());
    let opening = async {
        let mut stream = client.watch(HealthCheckRequest::default()).await?.into_inner();
        let first = stream.message().await?;
        Ok::<_, Status>((stream, first))
    };
    let (mut stream, mut next) = match timeout(HEALTH_TIMEOUT, opening).await {
        Ok(Ok(opened)) => opened,
        Ok(Err(status)) => return status,
        Err(_) => return Status::deadline_exceeded("it does not say how it is"),
    };
    loop {
        match next {
            Some(health) => say(health.status() == ServingStatus::Serving),
            None => return Status::unavailable("it ended its health stream"),
        }
        next = match stream.message().await {
            Ok(next) => next,
            Err(status) => return status,
        };
    }
}
