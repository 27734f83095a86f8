//! The cluster of tests: its secret and the values that a master gives to those who register.

use std::time::Duration;

use cstore_types::{ClusterSecret, ClusterUuid, DedupKey, SessionId};

/// Text of the cluster secret.
pub const SECRET: &str = "0123456789abcdef0123456789abcdef";
/// Identity of the cluster.
pub const CLUSTER: ClusterUuid = ClusterUuid::from_bytes([2; 16]);
/// Key of the block ids.
pub const DEDUP_KEY: DedupKey = DedupKey::from_bytes([3; 32]);
/// Time between two heartbeats of a node.
pub const INTERVAL: Duration = Duration::from_secs(1);

/// Returns the cluster secret.
pub fn secret() -> ClusterSecret {
    ClusterSecret::parse(SECRET).unwrap()
}

/// Returns the `n`th session.
pub fn session(n: u64) -> SessionId {
    SessionId::from_bytes([[7; 8], n.to_le_bytes()].concat().try_into().unwrap())
}
