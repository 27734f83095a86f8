//! The master's services of the fake.

use bytes::Bytes;
use cstore_proto::v1;
use cstore_proto::v1::cluster_server::Cluster;
use cstore_proto::v1::namespace_server::Namespace;
use cstore_proto::v1::uploads_server::Uploads;
use cstore_types::ErrorCode;
use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::Answers;
use super::{Fake, claims, key};

#[tonic::async_trait]
impl Uploads for Fake {
    async fn begin_upload(
        &self,
        request: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::BeginUploadResponse>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            if let Some(status) = state.refuse_begin.take() {
                return Err(status);
            }
            if !request.name.is_empty() {
                Self::check(state, &request.name, request.condition.as_ref())?;
            }
            let addr = if std::mem::take(&mut state.dead_ticket) {
                &self.dead_addr
            } else {
                &self.worker_addr
            };
            let ticket = |n: u64| claims(n, addr).sign(&key());
            let tickets = (0..u64::from(request.count.max(1)))
                .map(|n| ticket(state.begun * 100 + n))
                .collect();
            state.begun += 1;
            Ok(Response::new(v1::BeginUploadResponse {
                tickets,
                ..v1::BeginUploadResponse::default()
            }))
        })
    }

    async fn commit_upload(
        &self,
        _: Request<v1::CommitUploadRequest>,
    ) -> Result<Response<v1::CommitUploadResponse>, Status> {
        Err(Status::unimplemented("the fake worker commits by itself"))
    }

    async fn abort_upload(
        &self,
        request: Request<v1::AbortUploadRequest>,
    ) -> Result<Response<v1::AbortUploadResponse>, Status> {
        let session = request.into_inner().ticket.unwrap_or_default().body;
        self.with(|state| {
            state.aborts += 1;
            let committed = state.committed.iter().position(|known| *known == session);
            state.aborted.push(session);
            let Some(nth) = committed else {
                return Ok(Response::new(v1::AbortUploadResponse::default()));
            };
            let removed = std::mem::take(&mut state.remove_before_abort);
            if removed {
                state.files.clear();
            }
            let published = format!("e{nth}-1");
            let file = state
                .files
                .values()
                .map(|(_, info)| info)
                .find(|info| info.etag == published)
                .cloned();
            let answer = v1::AbortUploadResponse {
                committed: true,
                version: if removed { 3 } else { 1 },
                file,
                state: None,
            };
            Ok(Response::new(answer))
        })
    }
}

#[tonic::async_trait]
impl Namespace for Fake {
    async fn get_file(
        &self,
        request: Request<v1::GetFileRequest>,
    ) -> Result<Response<v1::GetFileResponse>, Status> {
        let name = request.into_inner().name;
        let found = self.with(|state| state.files.get(&name).map(|(_, info)| info.clone()));
        let file = found
            .ok_or_else(|| cstore_proto::status(ErrorCode::NotFound, "no file of this name"))?;
        Ok(Response::new(v1::GetFileResponse {
            file: Some(file),
            recipe_root: Bytes::from(name),
            state: None,
        }))
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        let request = request.into_inner();
        let files = self.with(|state| {
            let all = state.files.values().map(|(_, info)| info.clone());
            all.filter(|info| info.name.starts_with(&request.prefix))
                .take(request.page_size as usize)
                .collect()
        });
        Ok(Response::new(v1::ListFilesResponse {
            files,
            ..v1::ListFilesResponse::default()
        }))
    }

    async fn delete_file(
        &self,
        request: Request<v1::DeleteFileRequest>,
    ) -> Result<Response<v1::DeleteFileResponse>, Status> {
        let removed = self.with(|state| state.files.remove(&request.into_inner().name));
        removed.ok_or_else(|| cstore_proto::status(ErrorCode::NotFound, "no file of this name"))?;
        Ok(Response::new(v1::DeleteFileResponse::default()))
    }

    async fn rename_file(
        &self,
        request: Request<v1::RenameFileRequest>,
    ) -> Result<Response<v1::RenameFileResponse>, Status> {
        let request = request.into_inner();
        let file = v1::FileInfo {
            name: request.to,
            ..v1::FileInfo::default()
        };
        Ok(Response::new(v1::RenameFileResponse {
            file: Some(file),
            state: None,
        }))
    }

    async fn copy_file(
        &self,
        request: Request<v1::CopyFileRequest>,
    ) -> Result<Response<v1::CopyFileResponse>, Status> {
        let request = request.into_inner();
        let file = v1::FileInfo {
            name: request.to,
            ..v1::FileInfo::default()
        };
        Ok(Response::new(v1::CopyFileResponse {
            file: Some(file),
            state: None,
        }))
    }

    async fn select_files(
        &self,
        request: Request<v1::SelectFilesRequest>,
    ) -> Result<Response<v1::SelectFilesResponse>, Status> {
        use v1::select_files_request::Selection;
        let (found, sessions) = self.with(|state| {
            let chosen = |name: &str| match &request.get_ref().selection {
                Some(Selection::Name(wanted)) => name == wanted,
                Some(Selection::Prefix(prefix)) => name.starts_with(prefix.as_str()),
                None => false,
            };
            let found: Vec<u64> = state
                .files
                .iter()
                .filter(|(name, _)| chosen(name))
                .map(|(_, (_, info))| info.size)
                .collect();
            let session = v1::SessionUse {
                session: Bytes::from_static(&[1; 16]),
                ends: true,
            };
            (found.clone(), vec![session; found.len()])
        });
        if found.is_empty() && matches!(request.get_ref().selection, Some(Selection::Name(_))) {
            return Err(cstore_proto::status(
                ErrorCode::NotFound,
                "no file of this name",
            ));
        }
        Ok(Response::new(v1::SelectFilesResponse {
            files: found.len() as u64,
            logical_bytes: found.iter().sum(),
            sessions,
            other_names: 1,
            state: None,
        }))
    }

    async fn get_usage(
        &self,
        _: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        Ok(Response::new(v1::GetUsageResponse {
            files: 2,
            logical_bytes: 300,
            unique_bytes: 100,
            cluster_logical_bytes: 300,
            ..v1::GetUsageResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Fake {
    async fn register(
        &self,
        _: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        Err(Status::unimplemented("a gateway does not register"))
    }

    async fn heartbeat(
        &self,
        _: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        Err(Status::unimplemented("a gateway does not beat"))
    }

    type WatchMapStream = Answers<v1::ClusterView>;

    async fn watch_map(
        &self,
        _: Request<v1::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let worker = |addr: &String| v1::Node {
            role: v1::Role::Worker.into(),
            state: v1::NodeState::Ready.into(),
            node_id: "worker-1".to_owned(),
            addr: addr.clone(),
            ..v1::Node::default()
        };
        let view = v1::ClusterView {
            map: Some(v1::PlacementMap::default()),
            nodes: vec![worker(&self.worker_addr), worker(&self.dead_addr)],
            ..v1::ClusterView::default()
        };
        Ok(Response::new(Box::pin(
            stream::iter([Ok(view)]).chain(stream::pending()),
        )))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Ok(Response::new(v1::ListNodesResponse::default()))
    }
}
