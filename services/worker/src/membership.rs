//! The worker as a member of the cluster: its heartbeats, and what it takes from the view that the
//! master streams.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use cstore_mesh::member::{Member, Occasion, Report, ViewObserver};
use cstore_node::admin::{PartState, Readiness};
use cstore_node::shutdown::Shutdown;
use cstore_proto::{node_id, placement, placement_map, v1};
use cstore_types::SessionId;
use cstore_types::limits::{MAX_ACTIVE_SESSIONS, MAX_SMALL_BYTES};
use tokio::sync::watch;

use crate::cluster::{Stores, View};
use crate::session::Active;

/// Publishes the view of the cluster to the connections to storage nodes.
#[derive(Debug)]
pub(crate) struct ViewPublisher(pub(crate) watch::Sender<View>);

impl ViewObserver for ViewPublisher {
    fn view(&mut self, found: v1::ClusterView) {
        // A map takes a hash for each partition and node, and views change far more often than
        // maps.
        let known = self.0.borrow().placement.clone();
        let known = known.filter(|known| Some(placement_map(known)) == found.map);
        let placement = match known {
            Some(known) => Ok(Some(known)),
            None => {
                let map = found.map.as_ref();
                map.map(|map| placement(map).map(Arc::new)).transpose()
            }
        };
        let placement = match placement {
            Ok(placement) => placement,
            Err(error) => {
                tracing::error!(%error, "master sent a placement map that cannot be used");
                return;
            }
        };

        let storage = found
            .nodes
            .iter()
            .filter(|node| node.role() == v1::Role::Storage);
        let addrs: HashMap<_, _> = storage
            .filter_map(|node| Some((node_id(&node.node_id).ok()?, node.addr.clone())))
            .collect();
        let next = View { placement, addrs };
        self.0.send_if_modified(|view| {
            let changed = *view != next;
            if changed {
                *view = next;
            }
            changed
        });
    }
}

/// Reports of one worker. Ready if registered, the map known and all its nodes connected.
#[derive(Debug)]
pub(crate) struct WorkerMember {
    pub(crate) stores: Stores,
    pub(crate) active: Active,
    pub(crate) readiness: Readiness,
    /// Triggered when the worker takes nothing new any more, but works on what it has.
    pub(crate) stopping: Shutdown,
}

impl Member for WorkerMember {
    fn health(&mut self) -> PartState {
        let mut reasons = self.stores.away();
        if self.stopping.is_triggered() {
            reasons.push("stopping".to_owned());
        }
        let state = match reasons.is_empty() {
            true => PartState::Ready,
            false => PartState::NotReady(reasons.join(", ")),
        };
        self.readiness.set("storage", state.clone());
        state
    }

    fn report(&mut self, _: Occasion) -> Report {
        let active = take_some(&self.active, MAX_ACTIVE_SESSIONS);
        let active_sessions = active
            .iter()
            .map(|session| Bytes::copy_from_slice(session.as_bytes()))
            .collect();
        Report::Worker(v1::WorkerReport {
            active_sessions,
            leaving: false,
            max_small_bytes: MAX_SMALL_BYTES as u64,
        })
    }

    fn handle_answer(&mut self, _: v1::HeartbeatResponse) {}

    fn farewell(&mut self) -> Option<Report> {
        Some(Report::Worker(v1::WorkerReport {
            leaving: true,
            ..v1::WorkerReport::default()
        }))
    }
}

/// Takes at most `max` sessions out of `active`. The others stay for the next report.
fn take_some(active: &Active, max: usize) -> Vec<SessionId> {
    let mut active = active.lock();
    let taken: Vec<SessionId> = active.iter().take(max).copied().collect();
    for session in &taken {
        active.remove(session);
    }
    taken
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn sessions_beyond_the_bound_of_a_report_are_in_the_next_one() {
        let session =
            |n: u64| SessionId::from_bytes([[7; 8], n.to_be_bytes()].concat().try_into().unwrap());
        let active = Active::default();
        active.lock().extend((0..25).map(session));
        let reports: Vec<_> = (0..4).map(|_| take_some(&active, 10)).collect();
        let lengths: Vec<usize> = reports.iter().map(Vec::len).collect();
        assert_eq!(lengths, [10, 10, 5, 0]);
        let all: HashSet<SessionId> = reports.into_iter().flatten().collect();
        assert_eq!(all.len(), 25);
    }
}
