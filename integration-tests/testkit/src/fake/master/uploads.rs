//! The service Uploads of the fake master.

use bytes::Bytes;
use cstore_proto::v1::uploads_server::Uploads;
use cstore_proto::{TicketClaims, v1};
use cstore_types::{Chunking, Incarnation, MapVersion, NodeId, Tenant};
use tonic::{Request, Response, Status};

use super::FakeMaster;
use crate::{CLUSTER, secret, session};

/// Returns the `n`th ticket. Its file is cut into blocks of 4 bytes.
fn ticket(n: u64, worker_addr: &str) -> v1::Ticket {
    let claims = TicketClaims {
        session: session(n),
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        worker: NodeId::new("worker-1").unwrap(),
        worker_addr: worker_addr.to_owned(),
        map_version: MapVersion(1),
        chunking: Chunking::Fixed(4),
        tenant: Tenant::default(),
        expires_ms: i64::MAX,
        issued: None,
    };
    claims.sign(&secret().ticket_key())
}

#[tonic::async_trait]
impl Uploads for FakeMaster {
    async fn begin_upload(
        &self,
        request: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::BeginUploadResponse>, Status> {
        self.serve(request, |state, request| {
            if !request.name.is_empty() {
                state.check(&request.name, request.condition.as_ref())?;
            }
            let addr = state.next_ticket.take();
            let addr = addr.unwrap_or_else(|| state.workers.first().cloned().unwrap_or_default());
            let first = state.begun;
            state.begun += u64::from(request.count.max(1));
            Ok(v1::BeginUploadResponse {
                tickets: (first..state.begun).map(|n| ticket(n, &addr)).collect(),
                ..v1::BeginUploadResponse::default()
            })
        })
        .await
    }

    async fn commit_upload(
        &self,
        request: Request<v1::CommitUploadRequest>,
    ) -> Result<Response<v1::CommitUploadResponse>, Status> {
        self.serve(request, |state, request| {
            let file = v1::FileInfo {
                name: request.name,
                size: request.size,
                etag: request.etag,
                blocks: request.blocks,
                ..v1::FileInfo::default()
            };
            let session = request.ticket.unwrap_or_default().body;
            let condition = request.condition.as_ref();
            let replaced = state.publish(session, condition, file.clone(), Bytes::new())?;
            Ok(v1::CommitUploadResponse {
                file: Some(file),
                replaced,
                state: None,
            })
        })
        .await
    }

    async fn abort_upload(
        &self,
        request: Request<v1::AbortUploadRequest>,
    ) -> Result<Response<v1::AbortUploadResponse>, Status> {
        self.serve(request, |state, request| {
            let session = request.ticket.unwrap_or_default().body;
            let committed = state.committed.iter().find(|(known, _)| *known == session);
            let etag = committed.map(|(_, etag)| etag.clone());
            state.aborted.push(session);
            let Some(etag) = etag else {
                return Ok(v1::AbortUploadResponse::default());
            };
            let removed = std::mem::take(&mut state.remove_before_abort);
            if removed {
                state.files.clear();
            }
            let mut files = state.files.values().map(|(_, file)| file);
            Ok(v1::AbortUploadResponse {
                committed: true,
                version: if removed { 3 } else { 1 },
                file: files.find(|file| file.etag == etag).cloned(),
                state: None,
            })
        })
        .await
    }
}
