//! The service Cluster of the fake master.

use bytes::Bytes;
use cstore_proto::v1;
use cstore_proto::v1::cluster_server::Cluster;
use cstore_types::SessionId;
use futures_util::{StreamExt, stream};
use tonic::{Request, Response, Status};

use super::FakeMaster;
use crate::fake::Replies;
use crate::{CLUSTER, DEDUP_KEY, INTERVAL};

/// Sessions that one heartbeat of the real master names at most.
const MAX_RELEASES: usize = 1_000;

#[tonic::async_trait]
impl Cluster for FakeMaster {
    async fn register(
        &self,
        request: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        self.serve(request, |state, _| {
            state.forgot = false;
            Ok(v1::RegisterResponse {
                state: Some(v1::MasterState {
                    cluster_uuid: Bytes::copy_from_slice(CLUSTER.as_bytes()),
                    ..v1::MasterState::default()
                }),
                dedup_key: Bytes::copy_from_slice(DEDUP_KEY.as_bytes()),
                heartbeat_ms: u32::try_from(INTERVAL.as_millis()).unwrap(),
                ..v1::RegisterResponse::default()
            })
        })
        .await
    }

    async fn heartbeat(
        &self,
        request: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        self.serve(request, |state, request| {
            for raw in &request.storage.unwrap_or_default().released {
                state
                    .releases
                    .remove(&SessionId::try_from(&raw[..]).unwrap());
            }
            let named = state.releases.iter().take(MAX_RELEASES);
            Ok(v1::HeartbeatResponse {
                register_again: state.forgot,
                releases: named
                    .map(|session| Bytes::copy_from_slice(session.as_bytes()))
                    .collect(),
                suspect: state.is_suspect,
                ..v1::HeartbeatResponse::default()
            })
        })
        .await
    }

    type WatchMapStream = Replies<v1::ClusterView>;

    async fn watch_map(
        &self,
        request: Request<v1::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let view = self.serve(request, |state, _| {
            let worker = |addr: &String| v1::Node {
                role: v1::Role::Worker.into(),
                state: v1::NodeState::Ready.into(),
                node_id: "worker-1".to_owned(),
                addr: addr.clone(),
                ..v1::Node::default()
            };
            Ok(v1::ClusterView {
                map: Some(v1::PlacementMap::default()),
                nodes: state.workers.iter().map(worker).collect(),
                ..v1::ClusterView::default()
            })
        });
        let views = stream::iter([Ok(view.await?.into_inner())]);
        Ok(Response::new(match self.with(|state| state.ends_views) {
            true => views.boxed(),
            false => views.chain(stream::pending()).boxed(),
        }))
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        self.serve(request, |_, _| Ok(v1::ListNodesResponse::default()))
            .await
    }

    async fn accept_doubt(
        &self,
        request: Request<v1::AcceptDoubtRequest>,
    ) -> Result<Response<v1::AcceptDoubtResponse>, Status> {
        self.serve(request, |_, _| Ok(v1::AcceptDoubtResponse::default()))
            .await
    }

    async fn give_up_store(
        &self,
        request: Request<v1::GiveUpStoreRequest>,
    ) -> Result<Response<v1::GiveUpStoreResponse>, Status> {
        self.serve(request, |_, _| Ok(v1::GiveUpStoreResponse::default()))
            .await
    }

    async fn excuse_node(
        &self,
        request: Request<v1::ExcuseNodeRequest>,
    ) -> Result<Response<v1::ExcuseNodeResponse>, Status> {
        self.serve(request, |_, _| Ok(v1::ExcuseNodeResponse::default()))
            .await
    }

    async fn list_kept(
        &self,
        request: Request<v1::ListKeptRequest>,
    ) -> Result<Response<v1::ListKeptResponse>, Status> {
        self.serve(request, |_, _| Ok(v1::ListKeptResponse::default()))
            .await
    }

    async fn drop_kept(
        &self,
        request: Request<v1::DropKeptRequest>,
    ) -> Result<Response<v1::DropKeptResponse>, Status> {
        self.serve(request, |_, _| Ok(v1::DropKeptResponse::default()))
            .await
    }
}
