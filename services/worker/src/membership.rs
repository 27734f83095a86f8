//! The worker's life as a member: heartbeats, and the view of the cluster that the master streams.

use std::collections::HashMap;
use std::time::Duration;

use bytes::Bytes;
use cstore_mesh::MasterClient;
use cstore_node::admin::{PartState, Readiness};
use cstore_node::backoff::Backoff;
use cstore_node::shutdown::Shutdown;
use cstore_proto::{node_id, placement, placement_map, v1};
use tokio::sync::watch;
use tokio::time::Instant;

use crate::cluster::{Stores, View};
use crate::config::Config;
use crate::session::Active;

/// Sessions that one heartbeat names.
const MAX_ACTIVE: usize = 10_000;
const MAX_MISSED: u32 = 5;
/// For the last heartbeat, when nothing else is waited for.
const FAREWELL: Duration = Duration::from_secs(1);
/// How often readiness is looked at between two heartbeats.
const READINESS_CHECK: Duration = Duration::from_millis(100);

pub(crate) fn registration(config: &Config, addr: &str) -> v1::RegisterRequest {
    v1::RegisterRequest {
        role: v1::Role::Worker.into(),
        node_id: config.node.to_string(),
        addr: addr.to_owned(),
        failure_domain: String::new(),
        version: env!("CARGO_PKG_VERSION").to_owned(),
        storage: None,
    }
}

/// Follows the master's view of the cluster; starts anew when the stream ends.
pub(crate) async fn follow_view(
    master: MasterClient,
    config: Config,
    view: watch::Sender<View>,
    shutdown: Shutdown,
) {
    let mut backoff = Backoff::new(config.retry_step, None);
    while !shutdown.is_triggered() {
        let request = v1::WatchMapRequest { node_id: config.node.to_string() };
        let follow = async {
            let mut views = master.watch_map(request).await?;
            while let Some(found) = views.message().await? {
                backoff.reset();
                publish(&view, &found);
            }
            Ok::<(), tonic::Status>(())
        };
        tokio::select! {
            ended = follow => if let Err(error) = ended {
                tracing::info!(%error, "view of the cluster is interrupted");
            },
            () = shutdown.triggered() => return,
        }
        tokio::select! {
            () = tokio::time::sleep(backoff.next_delay()) => {}
            () = shutdown.triggered() => return,
        }
    }
}

fn publish(view: &watch::Sender<View>, found: &v1::ClusterView) {
    // A map takes a hash for each partition and node, and views change far more often than maps.
    let known = view.borrow().placement.clone();
    let known = known.filter(|known| Some(placement_map(known)) == found.map);
    let placement = match known.map_or_else(|| found.map.as_ref().map(placement).transpose(), |k| Ok(Some(k)))
    {
        Ok(placement) => placement,
        Err(error) => return tracing::error!(%error, "master sent a placement map that cannot be used"),
    };
    let storage = found.nodes.iter().filter(|node| node.role() == v1::Role::Storage);
    let addrs: HashMap<_, _> =
        storage.filter_map(|node| Some((node_id(&node.node_id).ok()?, node.addr.clone()))).collect();
    let next = View { placement, addrs };
    view.send_if_modified(|view| {
        let changed = *view != next;
        if changed {
            *view = next;
        }
        changed
    });
}

/// Sends heartbeats and keeps readiness: ready when registered, the map known and all its nodes connected.
#[derive(Debug)]
pub(crate) struct Member {
    pub(crate) master: MasterClient,
    pub(crate) config: Config,
    pub(crate) addr: String,
    pub(crate) stores: Stores,
    pub(crate) active: Active,
    pub(crate) readiness: Readiness,
    /// Triggered when the worker takes nothing new any more, but works on what it has.
    pub(crate) stopping: Shutdown,
}

impl Member {
    /// Until the shutdown; then says good-bye, so that nobody takes this worker for lost.
    pub(crate) async fn run(self, interval: Duration, shutdown: Shutdown) {
        self.beat_until(interval, shutdown).await;
        let farewell = self.beat(false, "stopping".to_owned(), true);
        if !matches!(tokio::time::timeout(FAREWELL, farewell).await, Ok(Ok(_))) {
            tracing::info!("the master did not hear that this worker leaves");
        }
    }

    async fn beat_until(&self, interval: Duration, shutdown: Shutdown) {
        let mut ticks = tokio::time::interval(interval.min(READINESS_CHECK));
        ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        let (mut missed, mut told, mut last) = (0u32, None, None::<Instant>);
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                () = shutdown.triggered() => return,
            }
            let mut away = self.stores.away();
            if self.stopping.is_triggered() {
                away.push("stopping".to_owned());
            }
            let ready = away.is_empty();
            let state = if ready { PartState::Ready } else { PartState::NotReady(away.join(", ")) };
            self.readiness.set("storage", state);
            // A change of readiness is told at once, everything else at the interval.
            if told == Some(ready) && last.is_some_and(|last| last.elapsed() < interval) {
                continue;
            }
            last = Some(Instant::now());
            // A master that is away must not hold up the end.
            let beat = tokio::select! {
                beat = self.beat(ready, away.join(", "), false) => beat,
                () = shutdown.triggered() => return,
            };
            match beat {
                Ok(registered) => {
                    missed = 0;
                    told = registered.then_some(ready);
                    self.readiness.set("master", PartState::Ready);
                }
                Err(error) => {
                    missed = missed.saturating_add(1);
                    if missed == MAX_MISSED {
                        tracing::warn!(%error, "master does not answer heartbeats");
                        let why = format!("master does not answer: {error}");
                        self.readiness.set("master", PartState::NotReady(why));
                    }
                }
            }
        }
    }

    /// One heartbeat. Answers whether the master knew this worker.
    async fn beat(
        &self,
        ready: bool,
        not_ready_reason: String,
        leaving: bool,
    ) -> Result<bool, tonic::Status> {
        let active_sessions: Vec<Bytes> = {
            let mut active = self.active.lock();
            active
                .drain()
                .take(MAX_ACTIVE)
                .map(|session| Bytes::copy_from_slice(session.as_bytes()))
                .collect()
        };
        let request = v1::HeartbeatRequest {
            role: v1::Role::Worker.into(),
            node_id: self.config.node.to_string(),
            ready,
            not_ready_reason,
            storage: None,
            worker: Some(v1::WorkerReport { active_sessions, leaving }),
        };
        let known = !self.master.heartbeat(request).await?.register_again;
        if !known && !leaving {
            self.master.register(registration(&self.config, &self.addr)).await?;
        }
        Ok(known)
    }
}
