//! cstore.v1.Cluster.

use std::collections::BTreeMap;
use std::pin::Pin;

use bytes::Bytes;
use cstore_proto::v1::cluster_server::Cluster;
use cstore_proto::{FieldError, node_id, placement_map, status, store_uuid, to_status, v1};
use cstore_types::epoch::SealPoint;
use cstore_types::limits::{MAX_ACTIVE_SESSIONS, MAX_REPORTED_SESSIONS};
use cstore_types::{Caller, ErrorCode, StoreUuid, error_chain};
use futures_util::Stream;
use tokio::time::Instant;
use tonic::{Request, Response, Status, async_trait};

use super::{Services, convert};
use crate::domain::{Heartbeat, HeartbeatOutcome, Master, Node, NodeRole, Registered};
use crate::limits::MAX_NODE_TEXT;

fn check_node(
    request: &v1::RegisterRequest,
    role: NodeRole,
    now_ms: i64,
) -> Result<Node, FieldError> {
    convert::check_text("addr", &request.addr)?;
    convert::check_text("failure_domain", &request.failure_domain)?;
    convert::check_text("version", &request.version)?;
    let disk = match (role, &request.storage) {
        (NodeRole::Storage, Some(report)) => Some(convert::disk_report(report)?),
        (NodeRole::Storage, None) => {
            return Err(FieldError::new(
                "storage",
                "a storage node must report its disk",
            ));
        }
        (NodeRole::Worker, None) => None,
        (NodeRole::Worker, Some(_)) => {
            return Err(FieldError::new(
                "role",
                "must be worker (without storage report) or storage",
            ));
        }
    };
    Ok(Node {
        role,
        addr: request.addr.clone(),
        failure_domain: request.failure_domain.clone(),
        version: request.version.clone(),
        ready: false,
        reason: "registered, no heartbeat yet".to_owned(),
        suspect: false,
        last_seen: Instant::now(),
        last_seen_ms: now_ms,
        disk,
        doubts: request
            .storage
            .as_ref()
            .map(convert::doubts)
            .unwrap_or_default(),
        accepting: BTreeMap::new(),
        told: convert::told(request.storage.as_ref())?,
        protocol: request.storage.as_ref().map_or(0, |report| report.protocol),
        noted: convert::noted(request.storage.as_ref()),
        newest_held: SealPoint::default(),
        max_small_bytes: 0,
    })
}

/// Returns the role that a node says it has, if its bearer proves it.
fn check_role<T>(request: &Request<T>, said: v1::Role) -> Result<NodeRole, Status> {
    let proven = match request.extensions().get::<Caller>() {
        Some(Caller::Worker) => Some(NodeRole::Worker),
        Some(Caller::Storage) => Some(NodeRole::Storage),
        Some(Caller::Gateway | Caller::Operator) | None => None,
    };
    if said == v1::Role::Unspecified {
        return Err(FieldError::new("role", "must be worker or storage").into());
    }
    match proven {
        Some(role) if v1::Role::from(role) == said => Ok(role),
        _ => {
            let text = format!(
                "field role: {}, but the bearer is of another role",
                said.as_str_name()
            );
            Err(status(ErrorCode::PermissionDenied, text))
        }
    }
}

fn view(master: &Master) -> v1::ClusterView {
    v1::ClusterView {
        map: master
            .context
            .derived
            .placement()
            .map(|map| placement_map(&map)),
        nodes: master
            .members
            .nodes()
            .into_iter()
            .map(v1::Node::from)
            .collect(),
        not_writable: master.not_writable().unwrap_or_default(),
        state: Some(master.state().into()),
    }
}

#[async_trait]
impl Cluster for Services {
    type WatchMapStream = Pin<Box<dyn Stream<Item = Result<v1::ClusterView, Status>> + Send>>;

    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        let role = check_role(&request, request.get_ref().role())?;
        let request = request.into_inner();
        let id = node_id(&request.node_id)?;
        let master = &self.master;
        let node = check_node(&request, role, master.context.clock.now_ms())?;
        let registered = master.members.register(id, node).await;
        let Registered { seen, telling } = registered.map_err(to_status)?;
        let ms =
            |duration: std::time::Duration| u32::try_from(duration.as_millis()).unwrap_or(u32::MAX);
        Ok(Response::new(v1::RegisterResponse {
            dedup_key: Bytes::copy_from_slice(master.identity.dedup_key.as_bytes()),
            heartbeat_ms: ms(master.context.limits.heartbeat),
            lease_ms: ms(master.context.limits.lease),
            map: master
                .context
                .derived
                .placement()
                .map(|map| placement_map(&map)),
            seen: seen.map(|seen| seen.newest.into()),
            seen_in_doubt: seen.map(|seen| seen.in_doubt.into()),
            history: Some(telling.into()),
            state: Some(master.state().into()),
        }))
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        let role = check_role(&request, request.get_ref().role())?;
        // A worker cannot report a disk, nor a storage node uploads.
        if request.get_ref().storage.is_some() {
            check_role(&request, v1::Role::Storage)?;
        }
        if request.get_ref().worker.is_some() {
            check_role(&request, v1::Role::Worker)?;
        }
        let request = request.into_inner();
        let id = node_id(&request.node_id)?;
        let master = &self.master;
        if let Some(worker) = &request.worker {
            let active = convert::sessions(
                "active_sessions",
                &worker.active_sessions,
                MAX_ACTIVE_SESSIONS,
            )?;
            master.context.derived.activity.progress(active.into_iter());
        }

        let beat = Heartbeat {
            id,
            role,
            ready: request.ready,
            reason: request
                .not_ready_reason
                .chars()
                .take(MAX_NODE_TEXT)
                .collect(),
            disk: request
                .storage
                .as_ref()
                .map(convert::disk_report)
                .transpose()?,
            doubts: request
                .storage
                .as_ref()
                .map(convert::doubts)
                .unwrap_or_default(),
            told: convert::told(request.storage.as_ref())?,
            noted: convert::noted(request.storage.as_ref()),
            leaving: request.worker.as_ref().is_some_and(|worker| worker.leaving),
            max_small_bytes: request
                .worker
                .as_ref()
                .map_or(0, |worker| worker.max_small_bytes),
        };
        let noted = beat.noted;
        let mut response = v1::HeartbeatResponse::default();
        match master.members.heartbeat(beat) {
            HeartbeatOutcome::RegisterAgain => response.register_again = true,
            HeartbeatOutcome::Left => {}
            HeartbeatOutcome::Renewed {
                suspect,
                seen,
                mut telling,
                accepting,
            } => {
                response.suspect = suspect;
                response.seen = seen.map(|seen| seen.newest.into());
                response.seen_in_doubt = seen.map(|seen| seen.in_doubt.into());
                response.accept_doubts = accepting;
                if let Some(report) = request.storage {
                    // A master that is read-only tells no verdict, no release and no page of an
                    // audit, and its history does not move.
                    if master.context.read_only().is_none() {
                        self.answer_report(&report, &mut response).await?;
                        telling.show(&master.context.store.history(), &noted.unwrap_or_default());
                    }
                    response.history = Some(telling.into());
                }
            }
        }
        response.map_version = master
            .context
            .derived
            .placement()
            .map_or(0, |map| map.version().0);
        response.state = Some(master.state().into());
        Ok(Response::new(response))
    }

    async fn watch_map(
        &self,
        _: Request<v1::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let changes = self.master.context.derived.watch();
        let state = (self.master.clone(), changes, self.shutdown.clone());
        let views =
            futures_util::stream::unfold(state, |(master, mut changes, shutdown)| async move {
                tokio::select! {
                    biased;
                    () = shutdown.triggered() => return None,
                    () = changes.changed() => {}
                }
                Some((Ok(view(&master)), (master, changes, shutdown)))
            });
        Ok(Response::new(Box::pin(views)))
    }

    async fn accept_doubt(
        &self,
        request: Request<v1::AcceptDoubtRequest>,
    ) -> Result<Response<v1::AcceptDoubtResponse>, Status> {
        let request = request.into_inner();
        let id = node_id(&request.node_id)?;
        let accepted = self.master.members.accept_doubt(&id, request.number).await;
        accepted.map_err(to_status)?;
        Ok(Response::new(v1::AcceptDoubtResponse {}))
    }

    async fn give_up_store(
        &self,
        request: Request<v1::GiveUpStoreRequest>,
    ) -> Result<Response<v1::GiveUpStoreResponse>, Status> {
        let request = request.into_inner();
        let id = node_id(&request.node_id)?;
        let store = store_uuid(&request.store_uuid)?;
        let Master {
            members, releases, ..
        } = &*self.master;
        let given_up = members.give_up_store(releases, &id, store).await;
        Ok(Response::new(v1::GiveUpStoreResponse {
            releases_ended: given_up.map_err(to_status)?,
        }))
    }

    async fn excuse_node(
        &self,
        request: Request<v1::ExcuseNodeRequest>,
    ) -> Result<Response<v1::ExcuseNodeResponse>, Status> {
        let id = node_id(&request.into_inner().node_id)?;
        let excused = self.master.members.excuse(&id).await;
        excused.map_err(to_status)?;
        Ok(Response::new(v1::ExcuseNodeResponse {}))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let waiting_for = self.master.waiting_for().unwrap_or_default();
        let releases_wait_for = self.master.members.releases_wait_for();
        let kept_sessions = self.master.context.derived.n_kept();
        let v1::ClusterView {
            state, map, nodes, ..
        } = view(&self.master);
        Ok(Response::new(v1::ListNodesResponse {
            state,
            nodes,
            map,
            waiting_for,
            releases_wait_for: releases_wait_for.unwrap_or_default(),
            kept_sessions,
        }))
    }

    async fn list_kept(
        &self,
        request: Request<v1::ListKeptRequest>,
    ) -> Result<Response<v1::ListKeptResponse>, Status> {
        let after = convert::cursor("after", &request.get_ref().after)?;
        let derived = &self.master.context.derived;
        let page = derived.kept_after(after, MAX_REPORTED_SESSIONS);
        let (undecided, first) = derived.undecided(self.master.context.limits.ticket_ttl);
        Ok(Response::new(v1::ListKeptResponse {
            sessions: page.iter().map(convert::raw_session).collect(),
            undecided,
            first_decision_ms: u64::try_from(first.as_millis()).unwrap_or(u64::MAX),
        }))
    }

    async fn drop_kept(
        &self,
        request: Request<v1::DropKeptRequest>,
    ) -> Result<Response<v1::DropKeptResponse>, Status> {
        let sessions = &request.get_ref().sessions;
        let sessions = convert::sessions("sessions", sessions, MAX_REPORTED_SESSIONS)?;
        let dropped = self.master.releases.drop_kept(&sessions).await;
        Ok(Response::new(v1::DropKeptResponse {
            dropped: dropped.map_err(to_status)?,
        }))
    }
}

impl Services {
    /// Takes in what a storage node has compared with the committed sessions, and tells it the next
    /// ones.
    async fn answer_audit(
        &self,
        store: StoreUuid,
        report: &v1::StorageReport,
        response: &mut v1::HeartbeatResponse,
    ) -> Result<(), Status> {
        let audits = &self.master.audits;
        let absent = convert::sessions("absent", &report.absent, MAX_REPORTED_SESSIONS)?;
        audits.log_absent(store, &absent).await;
        let Some(cursor) = &report.audit else {
            return Ok(());
        };
        let after = convert::cursor("audit.after", &cursor.after)?;
        match audits.page(store, after).await {
            Ok(page) => response.audit = Some(page.into()),
            // The node asks again.
            Err(fault) => {
                tracing::warn!(%store, error = %error_chain(&fault), "committed sessions cannot be read for an audit");
            }
        }
        Ok(())
    }

    /// Takes in what a storage node reports about sessions, and tells it verdicts and releases.
    async fn answer_report(
        &self,
        report: &v1::StorageReport,
        response: &mut v1::HeartbeatResponse,
    ) -> Result<(), Status> {
        let store = convert::disk_report(report)?.store;
        let released = convert::sessions("released", &report.released, MAX_REPORTED_SESSIONS)?;
        let unconfirmed =
            convert::sessions("unconfirmed", &report.unconfirmed, MAX_REPORTED_SESSIONS)?;
        if let Err(fault) = self.master.members.take_reported(store).await {
            tracing::warn!(%store, error = %error_chain(&fault), "an accepted disk is not taken yet");
        }
        let releases = &self.master.releases;
        if let Err(fault) = releases.acknowledge(store, &released).await {
            // The lease is renewed, and the answer must arrive. The sessions stay on the list and
            // are named again; a session without sets is released at once. That this master is
            // contested was logged once.
            if fault.code != ErrorCode::MetadataOlder {
                tracing::warn!(%store, error = %error_chain(&fault), "released sessions are not taken off the list yet");
            }
        }
        let may_release = self.master.members.may_release();
        let verdicts = releases.judge(store, &unconfirmed, may_release).await;
        for (session, verdict) in verdicts {
            let session = convert::raw_session(&session);
            let state = v1::SessionState::from(&verdict).into();
            response
                .verdicts
                .push(v1::SessionVerdict { session, state });
        }
        if !response.suspect && may_release {
            let due = releases.due(store, report.fill_pressure);
            response.releases = due.iter().map(convert::raw_session).collect();
        }
        self.answer_audit(store, report, response).await
    }
}
