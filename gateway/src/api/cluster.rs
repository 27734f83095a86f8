//! `GET /api/cluster`: all nodes and their state, as the master sees them.

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use cstore_proto::v1;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::answer;
use crate::api::responses::Refused;
use crate::app::Shared;
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::date::http_date;
use crate::http::query::Query;

/// The cluster as the master sees it.
#[derive(Serialize, ToSchema)]
pub(crate) struct Cluster {
    nodes: Vec<Node>,
    map_version: Option<u64>,
    /// Reason why the cluster takes no uploads; empty if it takes them.
    waiting_for: String,
    /// Reason why the space of removed files does not come back; empty if it does.
    releases_wait_for: String,
}

/// One process of the cluster.
#[derive(Serialize, ToSchema)]
struct Node {
    #[schema(value_type = String, example = "storage")]
    role: &'static str,
    node_id: String,
    #[schema(value_type = String, example = "ready")]
    state: &'static str,
    reason: String,
    last_seen: String,
    version: String,
    in_map: bool,
    capacity_bytes: u64,
    free_bytes: u64,
    /// Live blocks with their overhead. The rest of what is not free is reserve and dead space.
    physical_bytes: u64,
    /// Size of the files in which the blocks lie, with room that is allocated in advance; 0 if the
    /// node does not report it.
    allocated_bytes: u64,
    /// Reasons why data may be missing on the disk. The disk frees nothing while one of them is not
    /// accepted.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    doubts: Vec<Doubt>,
}

/// A reason why data may be missing on a disk.
#[derive(Serialize, ToSchema)]
struct Doubt {
    number: u32,
    #[schema(example = "segment_missing")]
    kind: String,
    detail: String,
    accepted: bool,
}

/// All nodes and their state.
#[utoipa::path(
    get, path = "/api/cluster", tag = "cluster",
    responses((status = 200, description = "Nodes", body = Cluster), Refused)
)]
pub(crate) async fn cluster(
    State(app): State<Shared>,
    Extension(_): Extension<Access>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Query::only(query.as_deref(), &[])?;
    let found = app
        .master
        .list_nodes(v1::ListNodesRequest::default())
        .await?;
    let cluster = Cluster {
        nodes: found.nodes.into_iter().map(Node::from).collect(),
        map_version: found.map.map(|map| map.version),
        waiting_for: found.waiting_for,
        releases_wait_for: found.releases_wait_for,
    };
    answer::json(StatusCode::OK, &cluster)
}

/// Addresses stay inside of the cluster.
impl From<v1::Node> for Node {
    fn from(node: v1::Node) -> Self {
        Self {
            role: role(node.role()),
            state: state(node.state()),
            node_id: node.node_id,
            reason: node.reason,
            last_seen: http_date(node.last_seen_ms),
            version: node.version,
            in_map: node.in_map,
            capacity_bytes: node.capacity_bytes,
            free_bytes: node.free_bytes,
            physical_bytes: node.physical_bytes,
            allocated_bytes: node.allocated_bytes,
            doubts: node.doubts.into_iter().map(Doubt::from).collect(),
        }
    }
}

impl From<v1::Doubt> for Doubt {
    fn from(doubt: v1::Doubt) -> Self {
        Self {
            number: doubt.number,
            kind: doubt.kind,
            detail: doubt.detail,
            accepted: doubt.accepted,
        }
    }
}

fn role(role: v1::Role) -> &'static str {
    match role {
        v1::Role::Unspecified => "unknown",
        v1::Role::Worker => "worker",
        v1::Role::Storage => "storage",
        v1::Role::Gateway => "gateway",
    }
}

fn state(state: v1::NodeState) -> &'static str {
    match state {
        v1::NodeState::Unspecified => "unknown",
        v1::NodeState::Ready => "ready",
        v1::NodeState::NotReady => "not_ready",
        v1::NodeState::Lost => "lost",
        v1::NodeState::Suspect => "suspect",
    }
}
