//! Fields of messages to types of the house. Every failure names the field.

use std::collections::BTreeMap;

use cstore_types::{
    ClusterUuid, ErrorCode, FileName, MapVersion, NodeId, Placement, PlacementNode, SessionId, StoreUuid,
    Tenant, UserMetadata,
};
use tonic::Status;

use crate::v1;

/// A field that does not hold what it should.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {problem}")]
pub struct FieldError {
    /// Name of the field.
    pub field: &'static str,
    /// What is wrong and what is allowed.
    pub problem: String,
}

impl FieldError {
    /// A failure of one field.
    pub fn new(field: &'static str, problem: impl std::fmt::Display) -> Self {
        Self { field, problem: problem.to_string() }
    }
}

impl From<FieldError> for Status {
    fn from(error: FieldError) -> Self {
        crate::status(ErrorCode::InvalidArgument, error.to_string())
    }
}

/// # Errors
/// Unless it has 16 bytes.
pub fn session(bytes: &[u8]) -> Result<SessionId, FieldError> {
    SessionId::try_from(bytes).map_err(|error| FieldError::new("session", error))
}

/// # Errors
/// Unless it has 16 bytes.
pub fn store_uuid(bytes: &[u8]) -> Result<StoreUuid, FieldError> {
    StoreUuid::try_from(bytes).map_err(|error| FieldError::new("store_uuid", error))
}

/// # Errors
/// Unless it has 16 bytes.
pub fn cluster_uuid(bytes: &[u8]) -> Result<ClusterUuid, FieldError> {
    ClusterUuid::try_from(bytes).map_err(|error| FieldError::new("cluster_uuid", error))
}

/// # Errors
/// Unless it is a node id.
pub fn node_id(text: &str) -> Result<NodeId, FieldError> {
    NodeId::new(text).map_err(|error| FieldError::new("node_id", error))
}

/// # Errors
/// The rule of names that `text` breaks.
pub fn file_name(field: &'static str, text: &str) -> Result<FileName, FieldError> {
    FileName::new(text).map_err(|error| FieldError::new(field, error))
}

/// # Errors
/// Unless it is a tenant, or empty for the default one.
pub fn tenant(text: &str) -> Result<Tenant, FieldError> {
    Tenant::new(text).map_err(|error| FieldError::new("tenant", error))
}

/// # Errors
/// The bound or rule that an entry breaks.
pub fn metadata(entries: BTreeMap<String, String>) -> Result<UserMetadata, FieldError> {
    UserMetadata::new(entries).map_err(|error| FieldError::new("metadata", error))
}

/// # Errors
/// Unless it names 1 to 256 distinct nodes.
pub fn placement(map: &v1::PlacementMap) -> Result<Placement, FieldError> {
    let mut nodes = Vec::with_capacity(map.nodes.len().min(cstore_types::limits::MAX_STORAGE_NODES));
    for node in &map.nodes {
        nodes
            .push(PlacementNode { id: node_id(&node.node_id)?, failure_domain: node.failure_domain.clone() });
    }
    Placement::new(MapVersion(map.version), nodes).map_err(|error| FieldError::new("map", error))
}

/// The message for a map.
pub fn placement_map(placement: &Placement) -> v1::PlacementMap {
    let nodes = placement.nodes().iter().map(|node| v1::PlacementNode {
        node_id: node.id.to_string(),
        failure_domain: node.failure_domain.clone(),
    });
    v1::PlacementMap { version: placement.version().0, nodes: nodes.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_field_and_becomes_invalid_argument() {
        let error = session(&[1, 2]).unwrap_err();
        assert_eq!(error.to_string(), "field session: expected 16 bytes, found 2");
        assert_eq!(crate::code_of(&error.into()), ErrorCode::InvalidArgument);
    }

    #[test]
    fn a_map_survives_its_message() {
        let nodes = vec![PlacementNode { id: NodeId::new("s1").unwrap(), failure_domain: "rack".to_owned() }];
        let map = Placement::new(MapVersion(4), nodes).unwrap();
        assert_eq!(placement(&placement_map(&map)), Ok(map));
    }
}
