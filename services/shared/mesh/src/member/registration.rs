//! Registration: how a node introduces itself, and what it learns of the cluster by that.

use std::time::Duration;

use cstore_node::admin::{PartState, Readiness};
use cstore_node::backoff::{Backoff, retry_until};
use cstore_node::shutdown::{Shutdown, spawn};
use cstore_proto::v1;
use cstore_types::{ClusterUuid, DedupKey, IdError, NodeId};

use crate::clients::master::MasterClient;
use crate::endpoints::discovery::Discovery;
use crate::endpoints::service::Service;
use crate::error::MeshError;
use crate::limits::{MAX_HEARTBEAT, MIN_HEARTBEAT};
use crate::member::report::Report;
use crate::transport::channel::ClientOptions;

/// Part of a role's readiness that says whether the master knows this node.
pub(super) const MASTER_PART: &str = "master";

/// An answer to a registration that does not identify the cluster.
#[derive(Debug, thiserror::Error)]
pub enum IdentityError {
    /// The answer has no state.
    #[error("master sent no state of the cluster")]
    MissingState,
    /// The cluster's uuid cannot be used.
    #[error("master sent no usable uuid of the cluster")]
    ClusterUuid(#[source] IdError),
    /// The key of block ids has another length than 32 bytes.
    #[error("master sent a dedup key of {found} bytes, 32 are needed")]
    DedupKey {
        /// Bytes that the master sent.
        found: usize,
    },
}

/// Starts a client of the master at `addr` (`host:port`). A task that ends with the last clone of
/// the client keeps its connections.
///
/// # Errors
/// [`MeshError::Address`] if `addr` is not `host:port`. A master that cannot be reached is no error
/// here.
pub fn connect_master(addr: &str, options: &ClientOptions) -> Result<MasterClient, MeshError> {
    let (service, manager) = Service::new("master", Discovery::of(addr)?, options);
    drop(spawn("endpoints of the master", manager.run()));
    Ok(MasterClient::new(&service))
}

/// The name and address under which the master knows a node.
#[derive(Debug, Clone)]
pub struct NodeProfile {
    /// Worker or storage.
    pub role: v1::Role,
    /// Node id, stable over restarts.
    pub node: NodeId,
    /// Address where the node serves, `host:port`.
    pub addr: String,
    /// Name of what fails together with this node. Empty if the node fails alone.
    pub failure_domain: String,
}

impl NodeProfile {
    fn registration(&self, disk: Option<v1::StorageReport>) -> v1::RegisterRequest {
        v1::RegisterRequest {
            role: self.role.into(),
            node_id: self.node.to_string(),
            addr: self.addr.clone(),
            failure_domain: self.failure_domain.clone(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            storage: disk,
        }
    }

    pub(super) fn heartbeat(&self, health: &PartState, report: Report) -> v1::HeartbeatRequest {
        let not_ready_reason = match health {
            PartState::Ready | PartState::Limited(_) => String::new(),
            PartState::NotReady(reason) => reason.clone(),
        };
        let (storage, worker) = match report {
            Report::Storage(report) => (Some(*report), None),
            Report::Worker(report) => (None, Some(report)),
        };
        v1::HeartbeatRequest {
            role: self.role.into(),
            node_id: self.node.to_string(),
            ready: !matches!(health, PartState::NotReady(_)),
            not_ready_reason,
            storage,
            worker,
        }
    }
}

/// Knowledge that a node gains by its registration.
#[derive(Debug, Clone)]
pub struct Membership {
    /// Identity of the cluster.
    pub cluster: ClusterUuid,
    /// Key of the cluster's block ids.
    pub key: DedupKey,
    /// Time between two heartbeats, 10 ms to 60 s.
    pub heartbeat: Duration,
    /// The cluster has its storage nodes: another one holds no partition.
    pub has_map: bool,
}

impl TryFrom<v1::RegisterResponse> for Membership {
    type Error = IdentityError;

    fn try_from(answer: v1::RegisterResponse) -> Result<Self, IdentityError> {
        let state = answer.state.ok_or(IdentityError::MissingState)?;
        let cluster =
            ClusterUuid::try_from(&state.cluster_uuid[..]).map_err(IdentityError::ClusterUuid)?;
        let found = answer.dedup_key.len();
        let key = <[u8; 32]>::try_from(&answer.dedup_key[..])
            .map_err(|_| IdentityError::DedupKey { found })?;
        let heartbeat = Duration::from_millis(answer.heartbeat_ms.into());
        Ok(Self {
            cluster,
            key: DedupKey::from_bytes(key),
            heartbeat: heartbeat.clamp(MIN_HEARTBEAT, MAX_HEARTBEAT),
            has_map: answer.map.is_some(),
        })
    }
}

/// A node's line to the master. Cheap to clone.
#[derive(Debug, Clone)]
pub struct MasterLink {
    /// Client of the master.
    pub client: MasterClient,
    /// How this node introduces itself.
    pub profile: NodeProfile,
    /// Step of the back-off between two registrations that failed (`CSTORE_RETRY_STEP`).
    pub retry_step: Duration,
}

impl MasterLink {
    /// Registers this node, waiting until the master answers, and returns what it learns. Sets the
    /// part "master" of `readiness`. Returns `None` if the shutdown came first.
    ///
    /// `disk` is the report of a storage node, `None` for a worker.
    ///
    /// # Errors
    /// [`IdentityError`] if the answer does not identify the cluster. The node is registered then.
    pub async fn join(
        &self,
        disk: Option<v1::StorageReport>,
        readiness: &Readiness,
        shutdown: &Shutdown,
    ) -> Result<Option<Membership>, IdentityError> {
        readiness.set(
            MASTER_PART,
            PartState::NotReady("not registered".to_owned()),
        );
        let mut backoff = Backoff::new(self.retry_step, None);
        let request = self.profile.registration(disk);
        let register = async || {
            let registered = self.client.register(request.clone()).await;
            // Readiness shows why the master does not register the node.
            registered.inspect_err(|status| {
                let reason = format!("not registered: {}", status.message());
                readiness.set(MASTER_PART, PartState::NotReady(reason));
            })
        };
        let registered = retry_until("register at the master", shutdown, &mut backoff, register);
        let Some(answer) = registered.await else {
            return Ok(None);
        };
        let membership = Membership::try_from(answer)?;
        readiness.set(MASTER_PART, PartState::Ready);
        Ok(Some(membership))
    }

    /// Registers this node, retrying with back-off until the master answers. Returns `None` if the
    /// shutdown came first.
    pub async fn register_until_known(
        &self,
        disk: Option<v1::StorageReport>,
        shutdown: &Shutdown,
    ) -> Option<v1::RegisterResponse> {
        let request = self.profile.registration(disk);
        let mut backoff = Backoff::new(self.retry_step, None);
        let register = || self.client.register(request.clone());
        retry_until("register at the master", shutdown, &mut backoff, register).await
    }

    /// Registers this node once.
    ///
    /// # Errors
    /// The master's status, or `Unavailable` and `DeadlineExceeded` if it cannot be reached.
    pub(super) async fn register(
        &self,
        disk: Option<v1::StorageReport>,
    ) -> Result<(), tonic::Status> {
        self.client
            .register(self.profile.registration(disk))
            .await
            .map(drop)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer() -> v1::RegisterResponse {
        let state = v1::MasterState {
            cluster_uuid: vec![2; 16].into(),
            ..v1::MasterState::default()
        };
        v1::RegisterResponse {
            state: Some(state),
            dedup_key: vec![3; 32].into(),
            heartbeat_ms: 1_000,
            ..v1::RegisterResponse::default()
        }
    }

    #[test]
    fn an_answer_without_a_usable_identity_is_refused_by_its_cause() {
        let joined = Membership::try_from(answer()).unwrap();
        assert_eq!(joined.cluster, ClusterUuid::from_bytes([2; 16]));
        assert_eq!(joined.heartbeat, Duration::from_secs(1));

        let stateless = v1::RegisterResponse {
            state: None,
            ..answer()
        };
        assert!(matches!(
            Membership::try_from(stateless),
            Err(IdentityError::MissingState)
        ));
        let nameless = v1::RegisterResponse {
            state: Some(v1::MasterState::default()),
            ..answer()
        };
        assert!(matches!(
            Membership::try_from(nameless),
            Err(IdentityError::ClusterUuid(_))
        ));
        for found in [0, 31, 33] {
            let keyless = v1::RegisterResponse {
                dedup_key: vec![3; found].into(),
                ..answer()
            };
            let refused = Membership::try_from(keyless);
            assert!(matches!(refused, Err(IdentityError::DedupKey { found: n }) if n == found));
        }
    }

    #[test]
    fn an_interval_beyond_the_bounds_is_bounded() {
        let interval = |heartbeat_ms| {
            Membership::try_from(v1::RegisterResponse {
                heartbeat_ms,
                ..answer()
            })
            .unwrap()
            .heartbeat
        };
        assert_eq!(interval(0), Duration::from_millis(10));
        assert_eq!(interval(u32::MAX), Duration::from_secs(60));
    }
}
