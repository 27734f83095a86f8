//! cstore.v1.Cluster.

use std::pin::Pin;

use bytes::Bytes;
use cstore_proto::v1::cluster_server::Cluster;
use cstore_proto::{FieldError, node_id, placement_map, session, status, store_uuid, v1};
use cstore_types::{Caller, ErrorCode, SessionId, StoreUuid};
use futures_util::Stream;
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};

use super::Doors;
use crate::core::now_ms;
use crate::membership::{Beat, Node};
use crate::meta::keys::SessionRecord;

/// Sessions that one report may name.
const MAX_REPORTED: usize = 1_000;
const MAX_ACTIVE: usize = 10_000;
const MAX_TEXT: usize = 256;

fn check_text(field: &'static str, text: &str) -> Result<(), FieldError> {
    if text.len() > MAX_TEXT || text.chars().any(char::is_control) {
        return Err(FieldError::new(field, format!("must have at most {MAX_TEXT} printable bytes")));
    }
    Ok(())
}

fn sessions(field: &'static str, raw: &[Bytes], max: usize) -> Result<Vec<SessionId>, FieldError> {
    if raw.len() > max {
        return Err(FieldError::new(field, format!("must name at most {max} sessions, found {}", raw.len())));
    }
    raw.iter().map(|raw| session(raw)).collect()
}

fn check_node(request: &v1::RegisterRequest) -> Result<Node, FieldError> {
    check_text("addr", &request.addr)?;
    check_text("failure_domain", &request.failure_domain)?;
    check_text("version", &request.version)?;
    let role = request.role();
    match (role, &request.storage) {
        (v1::Role::Storage, Some(report)) => drop(store_uuid(&report.store_uuid)?),
        (v1::Role::Storage, None) => {
            return Err(FieldError::new("storage", "a storage node must report its disk"));
        }
        (v1::Role::Worker, None) => {}
        _ => return Err(FieldError::new("role", "must be worker (without storage report) or storage")),
    }
    Ok(Node {
        role,
        addr: request.addr.clone(),
        failure_domain: request.failure_domain.clone(),
        version: request.version.clone(),
        ready: false,
        reason: "registered, no heartbeat yet".to_owned(),
        suspect: false,
        last_seen: Instant::now(),
        last_seen_ms: now_ms(),
        storage: request.storage.clone(),
    })
}

/// A node is what its bearer says: a worker cannot register a disk, nor report one.
fn check_role<T>(request: &Request<T>, said: v1::Role) -> Result<(), Status> {
    let proven = match request.extensions().get::<Caller>() {
        Some(Caller::Worker) => v1::Role::Worker,
        Some(Caller::Storage) => v1::Role::Storage,
        Some(Caller::Gateway | Caller::Operator) | None => v1::Role::Unspecified,
    };
    if said == v1::Role::Unspecified {
        return Err(FieldError::new("role", "must be worker or storage").into());
    }
    if said != proven {
        let text = format!("field role: {}, but the bearer is of another role", said.as_str_name());
        return Err(status(ErrorCode::PermissionDenied, text));
    }
    Ok(())
}

#[async_trait]
impl Cluster for Doors {
    type WatchMapStream = Pin<Box<dyn Stream<Item = Result<v1::ClusterView, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        check_role(&request, request.get_ref().role())?;
        let request = request.into_inner();
        let id = node_id(&request.node_id)?;
        self.0.register(id, check_node(&request)?).await?;
        let ms = |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Ok(Response::new(v1::RegisterResponse {
            state: self.0.state(),
            dedup_key: Bytes::copy_from_slice(self.0.dedup_key.as_bytes()),
            heartbeat_ms: ms(self.0.config.heartbeat),
            lease_ms: ms(self.0.config.lease()),
            map: self.0.members.placement().map(|map| placement_map(&map)),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let role = request.get_ref().role();
        check_role(&request, role)?;
        if request.get_ref().storage.is_some() {
            check_role(&request, v1::Role::Storage)?;
        }
        if request.get_ref().worker.is_some() {
            check_role(&request, v1::Role::Worker)?;
        }
        let request = request.into_inner();
        let id = node_id(&request.node_id)?;
        let reason: String = request.not_ready_reason.chars().take(MAX_TEXT).collect();
        if let Some(worker) = &request.worker {
            let active = sessions("active_sessions", &worker.active_sessions, MAX_ACTIVE)?;
            self.0.releases.progress(active.into_iter());
        }
        let storage = request.storage.clone();
        let leaving = request.worker.as_ref().is_some_and(|worker| worker.leaving);
        let beat = Beat { id, role, ready: request.ready, reason, storage, leaving };
        let mut response =
            v1::HeartbeatResponse { state: self.0.state(), ..v1::HeartbeatResponse::default() };
        response.map_version = self.0.members.placement().map_or(0, |map| map.version().0);
        match self.0.heartbeat(beat) {
            None => response.register_again = true,
            Some(suspect) => {
                response.suspect = suspect;
                if let Some(report) = request.storage {
                    self.storage_beat(&report, &mut response).await?;
                }
            }
        }
        Ok(Response::new(response))
    }

    async fn watch_map(
        &self,
        request: Request<v1::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        drop(request);
        let (master, changes) = (self.0.clone(), self.0.members.watch());
        let state = (master, changes, true, self.1.clone());
        let views =
            futures_util::stream::unfold(state, |(master, mut changes, first, shutdown)| async move {
                if !first {
                    tokio::select! {
                        changed = changes.changed() => changed.ok()?,
                        () = shutdown.triggered() => return None,
                    }
                }
                changes.mark_unchanged();
                let view = v1::ClusterView {
                    state: master.state(),
                    map: master.members.placement().map(|map| placement_map(&map)),
                    nodes: master.members.nodes(master.config.lease()),
                };
                Some((Ok(view), (master, changes, false, shutdown)))
            });
        Ok(Response::new(Box::pin(views)))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let lease = self.0.config.lease();
        Ok(Response::new(v1::ListNodesResponse {
            state: self.0.state(),
            nodes: self.0.members.nodes(lease),
            map: self.0.members.placement().map(|map| placement_map(&map)),
            waiting_for: self.0.members.waiting_for(lease, self.0.config.storage_nodes).unwrap_or_default(),
        }))
    }
}

impl Doors {
    /// What a storage node reports up, and what it is told.
    async fn storage_beat(
        &self,
        report: &v1::StorageReport,
        response: &mut v1::HeartbeatResponse,
    ) -> Result<(), Status> {
        let store: StoreUuid = store_uuid(&report.store_uuid)?;
        let released = sessions("released", &report.released, MAX_REPORTED)?;
        self.0.acknowledge_releases(store, &released).await?;
        for session in sessions("unconfirmed", &report.unconfirmed, MAX_REPORTED)? {
            let state = match self.0.judge(store, session).await? {
                None => v1::SessionState::Open,
                Some(SessionRecord::Committed { .. }) => v1::SessionState::Committed,
                Some(SessionRecord::Tombstoned) => v1::SessionState::Tombstoned,
            };
            let session = Bytes::copy_from_slice(session.as_bytes());
            response.verdicts.push(v1::SessionVerdict { session, state: state.into() });
        }
        if !response.suspect {
            let due = self.0.releases.due(store, report.fill_pressure);
            response.releases =
                due.iter().map(|session| Bytes::copy_from_slice(session.as_bytes())).collect();
        }
        Ok(())
    }
}
