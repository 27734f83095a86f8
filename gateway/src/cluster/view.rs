//! The cluster as the master shows it: which workers take work. Followed for life; a gap changes
//! nothing but readiness, because the last view is better than none.

use std::sync::Arc;

use cstore_mesh::member::ViewObserver;
use cstore_mesh::{Class, Endpoints, Target};
use cstore_node::admin::{PartState, Readiness};
use cstore_proto::v1;
use cstore_types::limits::{MAX_SMALL_BYTES, UNADVERTISED_SMALL_BYTES};
use tokio::sync::watch;

/// Name of the gateway's part in its readiness.
pub(crate) const PART: &str = "cluster";

/// Name of the master's metadata in the gateway's readiness.
const METADATA: &str = "metadata";

/// Name of the doubts of storage disks in the gateway's readiness.
const HOLD: &str = "hold";

/// Returns the part of the readiness that lists storage disks on hold. The part is always ready,
/// because reads go on, and an upload that a hold stops is refused with its own reason.
///
/// Names one disk with its first doubt and counts the others, which `/api/cluster` lists.
fn hold_state(view: &v1::ClusterView) -> PartState {
    let is_open = |doubt: &&v1::Doubt| !doubt.accepted;
    let mut held = view
        .nodes
        .iter()
        .filter_map(|node| Some((node, node.doubts.iter().find(is_open)?)));
    let Some((node, doubt)) = held.next() else {
        return PartState::Ready;
    };
    let others = match held.count() {
        0 => String::new(),
        1 => "; and 1 more disk is".to_owned(),
        many => format!("; and {many} more disks are"),
    };
    let (id, detail) = (&node.node_id, &doubt.detail);
    PartState::Limited(format!(
        "{id} is on hold, nothing is freed: {detail}{others}"
    ))
}

/// Members of the cluster, as far as a gateway needs them.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct View {
    /// The workers that live: those that are ready, and those that miss a part of the cluster and
    /// can still read the rest of it.
    workers: Endpoints,
    /// Largest body that each of these workers takes in one call.
    max_small_bytes: u64,
    map_known: bool,
    /// The master can write.
    is_writable: bool,
}

impl View {
    fn new(view: &v1::ClusterView) -> Self {
        let live = |node: &v1::Node| {
            let class = match node.state() {
                v1::NodeState::Ready => Class::Whole,
                v1::NodeState::NotReady => Class::Partial,
                v1::NodeState::Lost | v1::NodeState::Suspect | v1::NodeState::Unspecified => {
                    return None;
                }
            };
            (node.role() == v1::Role::Worker).then(|| (Target::new(node.addr.clone()), class))
        };
        Self {
            workers: view.nodes.iter().filter_map(live).collect(),
            max_small_bytes: max_small_bytes(view),
            map_known: view.map.is_some(),
            is_writable: view.not_writable.is_empty(),
        }
    }

    fn has_ready_worker(&self) -> bool {
        self.workers.values().any(|class| *class == Class::Whole)
    }

    /// Returns the state of a gateway that has not served yet. It is ready if uploads would
    /// succeed.
    fn state(&self) -> PartState {
        if !self.map_known {
            return PartState::NotReady(
                "the storage nodes of the cluster have not all registered".to_owned(),
            );
        }
        if !self.has_ready_worker() {
            return PartState::NotReady("no worker is ready".to_owned());
        }
        PartState::Ready
    }

    /// Returns the state of a gateway that has served before. It stays ready while a part of the
    /// cluster is away: it reads the rest and refuses what it cannot do. If it were not ready, its
    /// clients would lose the reads, too.
    fn state_later(&self) -> PartState {
        if self.workers.is_empty() {
            return PartState::NotReady("no worker is there".to_owned());
        }
        PartState::Ready
    }
}

/// Returns the largest body that every worker takes in one call. A worker that advertises nothing, or
/// less than all programs take, takes [`UNADVERTISED_SMALL_BYTES`].
fn max_small_bytes(view: &v1::ClusterView) -> u64 {
    let workers = view
        .nodes
        .iter()
        .filter(|node| node.role() == v1::Role::Worker);
    let least = workers.map(|node| node.max_small_bytes).min().unwrap_or(0);
    least.clamp(UNADVERTISED_SMALL_BYTES as u64, MAX_SMALL_BYTES as u64)
}

/// The latest view, shared by all requests.
#[derive(Debug, Clone)]
pub(crate) struct Cluster {
    view: Arc<watch::Sender<Arc<View>>>,
    workers: Arc<watch::Sender<Endpoints>>,
}

impl Cluster {
    pub(crate) fn new() -> Self {
        Self {
            view: Arc::new(watch::Sender::new(Arc::default())),
            workers: Arc::new(watch::Sender::new(Endpoints::new())),
        }
    }

    pub(crate) fn is_ready_worker(&self, addr: &str) -> bool {
        self.view.borrow().workers.get(&Target::new(addr)) == Some(&Class::Whole)
    }

    /// Returns the largest body that every worker takes in one call.
    pub(crate) fn max_small_bytes(&self) -> u64 {
        self.view.borrow().max_small_bytes
    }

    /// Returns true if the master can write, as far as it has said.
    pub(crate) fn is_writable(&self) -> bool {
        self.view.borrow().is_writable
    }

    /// The workers as they come and go.
    pub(crate) fn workers(&self) -> watch::Receiver<Endpoints> {
        self.workers.subscribe()
    }

    /// Ends when uploads would succeed, as far as the master knows.
    pub(crate) async fn wait_ready(&self) {
        // It cannot fail: `self` holds a sender.
        let _ = self
            .view
            .subscribe()
            .wait_for(|view| view.state() == PartState::Ready)
            .await;
    }

    fn take_in(&self, view: View) {
        self.workers.send_if_modified(|workers| {
            let changed = *workers != view.workers;
            if changed {
                workers.clone_from(&view.workers);
            }
            changed
        });
        self.view.send_replace(Arc::new(view));
    }
}

/// Observer of the master's view that updates the gateway's view and its readiness.
#[derive(Debug)]
pub(crate) struct ViewUpdater {
    cluster: Cluster,
    readiness: Readiness,
    /// The cluster was complete once. Since then a missing part of it is no reason not to be ready.
    has_served: bool,
}

impl ViewUpdater {
    pub(crate) fn new(cluster: Cluster, readiness: Readiness) -> Self {
        Self {
            cluster,
            readiness,
            has_served: false,
        }
    }
}

impl ViewObserver for ViewUpdater {
    fn view(&mut self, view: v1::ClusterView) {
        // Unlike a missing part of the cluster, this fails every write: whoever watches the gateway
        // has to know.
        let metadata = match view.not_writable.as_str() {
            "" => PartState::Ready,
            why => PartState::NotReady(why.to_owned()),
        };
        self.readiness.set(METADATA, metadata);
        self.readiness.set(HOLD, hold_state(&view));
        let view = View::new(&view);
        let complete = view.state();
        self.has_served |= complete == PartState::Ready;
        self.readiness.set(
            PART,
            if self.has_served {
                view.state_later()
            } else {
                complete
            },
        );
        self.cluster.take_in(view);
    }

    fn interrupted(&mut self) {
        self.readiness.set(
            PART,
            PartState::NotReady("the master cannot be reached".to_owned()),
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn node(role: v1::Role, state: v1::NodeState, addr: &str) -> v1::Node {
        v1::Node {
            role: role.into(),
            state: state.into(),
            addr: addr.to_owned(),
            ..v1::Node::default()
        }
    }

    #[test]
    fn a_body_travels_in_one_call_if_every_worker_takes_it() {
        let said = |bytes: &[u64]| {
            let worker = |max_small_bytes: &u64| v1::Node {
                max_small_bytes: *max_small_bytes,
                ..node(v1::Role::Worker, v1::NodeState::Ready, "a:1")
            };
            let mut nodes: Vec<v1::Node> = bytes.iter().map(worker).collect();
            nodes.push(node(v1::Role::Storage, v1::NodeState::Ready, "b:1"));
            max_small_bytes(&v1::ClusterView {
                nodes,
                ..v1::ClusterView::default()
            })
        };
        assert_eq!(said(&[]), 64 << 10);
        assert_eq!(said(&[1 << 20, 0]), 64 << 10, "one is of an older program");
        assert_eq!(said(&[1 << 20, 300_000]), 300_000);
        assert_eq!(said(&[1, u64::MAX]), 64 << 10);
        assert_eq!(said(&[u64::MAX]), 1 << 20);
    }

    #[test]
    fn only_ready_workers_with_a_known_map_make_it_ready() {
        let mut seen = v1::ClusterView {
            nodes: vec![
                node(v1::Role::Worker, v1::NodeState::Lost, "a:1"),
                node(v1::Role::Storage, v1::NodeState::Ready, "b:1"),
                node(v1::Role::Worker, v1::NodeState::NotReady, "d:1"),
            ],
            map: Some(v1::PlacementMap::default()),
            ..v1::ClusterView::default()
        };
        assert_ne!(View::new(&seen).state(), PartState::Ready);
        seen.nodes
            .push(node(v1::Role::Worker, v1::NodeState::Ready, "c:1"));
        assert_eq!(View::new(&seen).state(), PartState::Ready);
        let expected = [
            (Target::new("c:1"), Class::Whole),
            (Target::new("d:1"), Class::Partial),
        ];
        assert_eq!(View::new(&seen).workers, Endpoints::from(expected));
        seen.nodes.pop();
        assert_ne!(View::new(&seen).state(), PartState::Ready);
        assert_eq!(
            View::new(&seen).state_later(),
            PartState::Ready,
            "what is there can still be read"
        );
        seen.nodes.pop();
        assert_ne!(View::new(&seen).state_later(), PartState::Ready);
        seen.nodes
            .push(node(v1::Role::Worker, v1::NodeState::Ready, "c:1"));
        seen.map = None;
        assert_ne!(View::new(&seen).state(), PartState::Ready);
    }

    #[test]
    fn a_master_that_cannot_write_is_told_with_its_reason_until_it_can() {
        let readiness = Readiness::new(&[]);
        let mut updater = ViewUpdater::new(Cluster::new(), readiness.clone());
        let view = |not_writable: &str| v1::ClusterView {
            nodes: vec![node(v1::Role::Worker, v1::NodeState::Ready, "a:1")],
            map: Some(v1::PlacementMap::default()),
            not_writable: not_writable.to_owned(),
            ..v1::ClusterView::default()
        };
        let cluster = updater.cluster.clone();
        updater.view(view(""));
        assert!(readiness.is_ready() && cluster.is_writable());
        updater.view(view("no descriptors"));
        assert!(!cluster.is_writable());
        assert_eq!(
            readiness.reasons(),
            [(METADATA, "no descriptors".to_owned())]
        );
        updater.view(view(""));
        assert!(readiness.is_ready());
    }

    #[test]
    fn a_disk_on_hold_is_told_and_leaves_the_gateway_ready() {
        let readiness = Readiness::new(&[]);
        let mut updater = ViewUpdater::new(Cluster::new(), readiness.clone());
        let storage = |id: &str, accepted: &[bool]| {
            let doubt = |accepted: &bool| v1::Doubt {
                detail: format!("{id} lacks a segment"),
                accepted: *accepted,
                ..v1::Doubt::default()
            };
            v1::Node {
                node_id: id.to_owned(),
                doubts: accepted.iter().map(doubt).collect(),
                ..node(v1::Role::Storage, v1::NodeState::Ready, "b:1")
            }
        };
        let mut view = |nodes: Vec<v1::Node>| {
            let worker = node(v1::Role::Worker, v1::NodeState::Ready, "a:1");
            updater.view(v1::ClusterView {
                nodes: [vec![worker], nodes].concat(),
                map: Some(v1::PlacementMap::default()),
                ..v1::ClusterView::default()
            });
        };
        for (nodes, says) in [
            (vec![storage("s1", &[]), storage("s2", &[true])], None),
            (
                vec![storage("s1", &[true]), storage("s2", &[true, false])],
                Some("s2 is on hold, nothing is freed: s2 lacks a segment"),
            ),
            (
                vec![storage("s1", &[false, false]), storage("s2", &[false])],
                Some("s1 is on hold, nothing is freed: s1 lacks a segment; and 1 more disk is"),
            ),
            (vec![storage("s1", &[true]), storage("s2", &[])], None),
        ] {
            view(nodes);
            assert!(readiness.is_ready());
            let limits = readiness.limits();
            let told = limits.iter().find(|(part, _)| *part == HOLD);
            assert_eq!(told.map(|(_, reason)| reason.as_str()), says);
        }
    }

    #[test]
    fn tickets_are_used_for_ready_workers_only_and_readers_hear_of_changes() {
        let cluster = Cluster::new();
        let mut workers = cluster.workers();
        let nodes = vec![
            node(v1::Role::Worker, v1::NodeState::Ready, "a:1"),
            node(v1::Role::Worker, v1::NodeState::NotReady, "b:1"),
        ];
        let view = v1::ClusterView {
            nodes,
            ..v1::ClusterView::default()
        };
        cluster.take_in(View::new(&view));
        assert!(cluster.is_ready_worker("a:1") && !cluster.is_ready_worker("b:1"));
        assert_eq!(workers.borrow_and_update().len(), 2);
        cluster.take_in(View::new(&view));
        assert!(!workers.has_changed().unwrap(), "nothing new is no news");
    }
}
