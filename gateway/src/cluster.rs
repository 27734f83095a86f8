//! The cluster as the master shows it: which workers take work. Followed for life; a gap changes nothing but
//! readiness, because the last view is better than none.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use cstore_mesh::MasterClient;
use cstore_node::admin::{PartState, Readiness};
use cstore_node::{Backoff, Shutdown};
use cstore_proto::v1;
use tokio::sync::watch;
use tonic::Status;

/// Name of the gateway's part in its readiness.
pub(crate) const PART: &str = "cluster";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// What matters of a `ClusterView`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// Addresses of the workers that are ready.
    workers: Vec<String>,
    /// Addresses of those that are alive but miss a part of the cluster: they can still read the rest of it.
    partial: Vec<String>,
    map_known: bool,
}

impl View {
    fn new(view: &v1::ClusterView) -> Self {
        let in_state = |state| {
            let workers = view.nodes.iter().filter(|node| node.role() == v1::Role::Worker);
            workers.filter(|node| node.state() == state).map(|node| node.addr.clone()).collect()
        };
        Self {
            workers: in_state(v1::NodeState::Ready),
            partial: in_state(v1::NodeState::NotReady),
            map_known: view.map.is_some(),
        }
    }

    fn state(&self) -> PartState {
        if !self.map_known {
            return PartState::NotReady(
                "the storage nodes of the cluster have not all registered".to_owned(),
            );
        }
        if self.workers.is_empty() {
            return PartState::NotReady("no worker is ready".to_owned());
        }
        PartState::Ready
    }
}

/// The latest view, shared by all requests.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    view: Arc<watch::Sender<Arc<View>>>,
    turn: Arc<AtomicUsize>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self { view: Arc::new(watch::Sender::new(Arc::default())), turn: Arc::default() }
    }

    pub(crate) fn is_ready_worker(&self, addr: &str) -> bool {
        self.view.borrow().workers.iter().any(|worker| worker == addr)
    }

    /// All workers that may be able to read: the ready ones, beginning with the one whose turn it is, then those
    /// that miss a part of the cluster, because what is asked for may lie in the rest.
    pub(crate) fn readers(&self) -> Vec<String> {
        let view = self.view.borrow().clone();
        let turn = self.turn.fetch_add(1, Ordering::Relaxed);
        let turned = |workers: &[String]| {
            let mut workers = workers.to_vec();
            let first = turn.checked_rem(workers.len()).unwrap_or(0);
            workers.rotate_left(first);
            workers
        };
        [turned(&view.workers), turned(&view.partial)].concat()
    }

    /// Ends when uploads would succeed, as far as the master knows.
    pub(crate) async fn wait_ready(&self) {
        // It cannot fail: `self` holds a sender.
        let _ = self.view.subscribe().wait_for(|view| view.state() == PartState::Ready).await;
    }

    /// Follows the master until the shutdown.
    pub(crate) async fn follow(
        self,
        master: MasterClient,
        step: Duration,
        readiness: Readiness,
        shutdown: Shutdown,
    ) {
        let mut backoff = Backoff::new(step, None);
        loop {
            let lost = tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                status = self.watch(&master, &readiness, &mut backoff) => status,
            };
            let delay = backoff.next_delay();
            readiness.set(PART, PartState::NotReady("the master cannot be reached".to_owned()));
            let (error, tries) = (lost.message(), backoff.tries());
            tracing::info!(error, ?delay, tries, "lost sight of the cluster, trying again");
            tokio::select! {
                biased;
                () = shutdown.triggered() => return,
                () = tokio::time::sleep(delay) => {}
            }
        }
    }

    /// Takes in views until the stream ends, which it only does by failing.
    async fn watch(&self, master: &MasterClient, readiness: &Readiness, backoff: &mut Backoff) -> Status {
        let opened =
            tokio::time::timeout(CONNECT_TIMEOUT, master.watch_map(v1::WatchMapRequest::default())).await;
        let mut views = match opened {
            Ok(Ok(views)) => views,
            Ok(Err(status)) => return status,
            Err(_) => return Status::deadline_exceeded("the master did not answer in time"),
        };
        loop {
            match views.message().await {
                Ok(Some(view)) => {
                    backoff.reset();
                    let view = View::new(&view);
                    readiness.set(PART, view.state());
                    self.view.send_replace(Arc::new(view));
                }
                Ok(None) => return Status::unavailable("the master ended the stream"),
                Err(status) => return status,
            }
        }
    }

    #[cfg(test)]
    fn set(&self, workers: &[&str]) {
        let workers = workers.iter().map(|worker| (*worker).to_owned()).collect();
        self.view.send_replace(Arc::new(View { workers, partial: vec!["z:1".to_owned()], map_known: true }));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: v1::Role, state: v1::NodeState, addr: &str) -> v1::Node {
        v1::Node { role: role.into(), state: state.into(), addr: addr.to_owned(), ..v1::Node::default() }
    }

    #[test]
    fn only_ready_workers_with_a_known_map_make_it_ready() {
        let mut seen = v1::ClusterView {
            nodes: vec![
                node(v1::Role::Worker, v1::NodeState::Lost, "a:1"),
                node(v1::Role::Storage, v1::NodeState::Ready, "b:1"),
            ],
            map: Some(v1::PlacementMap::default()),
            ..v1::ClusterView::default()
        };
        assert_ne!(View::new(&seen).state(), PartState::Ready);
        seen.nodes.push(node(v1::Role::Worker, v1::NodeState::Ready, "c:1"));
        assert_eq!(View::new(&seen).state(), PartState::Ready);
        assert_eq!(View::new(&seen).workers, ["c:1"]);
        seen.map = None;
        assert_ne!(View::new(&seen).state(), PartState::Ready);
    }

    #[test]
    fn workers_take_turns() {
        let cluster = Cluster::new();
        assert!(cluster.readers().is_empty());
        cluster.set(&["a:1", "b:1"]);
        let firsts: Vec<_> = (0..4).map(|_| cluster.readers()[0].clone()).collect();
        assert!(firsts[0] != firsts[1] && firsts[..2] == firsts[2..], "{firsts:?}");
        assert_eq!(cluster.readers()[2], "z:1", "one that misses a part comes last");
        assert!(cluster.is_ready_worker("b:1") && !cluster.is_ready_worker("c:1"));
    }
}
