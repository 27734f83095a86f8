//! Fields of messages to types of `cstore-types`, and back. Every error names the field.

use std::borrow::Cow;
use std::collections::BTreeMap;

use bytes::Bytes;
use cstore_types::epoch::{Epoch, SealPoint};
use cstore_types::history::{Life, Point};
use cstore_types::{
    ChunkingError, ClusterUuid, ETagError, ErrorCode, Fault, FileMeta, FileName, IdError,
    Incarnation, MapVersion, NameError, NamedFile, NodeId, Placement, PlacementError,
    PlacementNode, SealSeq, SessionId, SessionUsage, SpaceUsage, StoreUuid, Tenant, TenantError,
    UserMetadata, UserMetadataError, WriteCondition,
};
use tonic::Status;

use crate::v1::{self, write_condition::Condition};

/// A field of a message that does not hold what it should.
///
/// Displays as the field and the rule that it breaks, because people read it as one sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("field {field}: {problem}")]
pub struct FieldError {
    /// Name of the field.
    pub field: &'static str,
    /// The rule that the field breaks.
    #[source]
    pub problem: FieldProblem,
}

/// The rule that a field breaks: that of its type, or one that only the message has.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum FieldProblem {
    /// The rule of identities.
    #[error(transparent)]
    Id(#[from] IdError),
    /// The rule of file names.
    #[error(transparent)]
    Name(#[from] NameError),
    /// The rule of tenants.
    #[error(transparent)]
    Tenant(#[from] TenantError),
    /// The rule of user metadata.
    #[error(transparent)]
    Metadata(#[from] UserMetadataError),
    /// The rule of placement maps.
    #[error(transparent)]
    Placement(#[from] PlacementError),
    /// The rule of ETags.
    #[error(transparent)]
    ETag(#[from] ETagError),
    /// The rule of chunkings.
    #[error(transparent)]
    Chunking(#[from] ChunkingError),
    /// A number of bytes that the field cannot have.
    #[error("expected {expected} bytes, found {found}")]
    Length {
        /// Bytes of the field.
        expected: usize,
        /// Bytes that came.
        found: usize,
    },
    /// A rule of the message: what is wrong and what is allowed.
    #[error("{0}")]
    Rule(Cow<'static, str>),
}

impl From<&'static str> for FieldProblem {
    fn from(rule: &'static str) -> Self {
        Self::Rule(rule.into())
    }
}

impl From<String> for FieldProblem {
    fn from(rule: String) -> Self {
        Self::Rule(rule.into())
    }
}

impl FieldError {
    /// Makes the error of one field.
    pub fn new(field: &'static str, problem: impl Into<FieldProblem>) -> Self {
        Self {
            field,
            problem: problem.into(),
        }
    }
}

impl From<FieldError> for Fault {
    fn from(error: FieldError) -> Self {
        Self::from_error(ErrorCode::InvalidArgument, error)
    }
}

impl From<FieldError> for Status {
    fn from(error: FieldError) -> Self {
        crate::to_status(error.into())
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
    let mut nodes =
        Vec::with_capacity(map.nodes.len().min(cstore_types::limits::MAX_STORAGE_NODES));
    for node in &map.nodes {
        nodes.push(PlacementNode {
            id: node_id(&node.node_id)?,
            failure_domain: node.failure_domain.clone(),
        });
    }
    Placement::new(MapVersion(map.version), nodes).map_err(|error| FieldError::new("map", error))
}

/// Reads a SHA-256 that may be missing: 32 bytes, or empty for `None`.
///
/// # Errors
/// [`FieldProblem::Length`] for any other number of bytes.
pub fn sha256(bytes: &[u8]) -> Result<Option<[u8; 32]>, FieldError> {
    digest("sha256", bytes)
}

/// Reads a digest that may be missing: `N` bytes, or empty for `None`.
///
/// # Errors
/// [`FieldProblem::Length`] for any other number of bytes.
pub fn digest<const N: usize>(
    field: &'static str,
    bytes: &[u8],
) -> Result<Option<[u8; N]>, FieldError> {
    if bytes.is_empty() {
        return Ok(None);
    }
    let length = FieldProblem::Length {
        expected: N,
        found: bytes.len(),
    };
    bytes
        .try_into()
        .map(Some)
        .map_err(|_| FieldError::new(field, length))
}

/// Reads a session whose use of space is asked for.
///
/// # Errors
/// Unless the session has 16 bytes.
pub fn session_usage(message: &v1::SessionUse) -> Result<SessionUsage, FieldError> {
    Ok(SessionUsage {
        session: session(&message.session)?,
        ends: message.ends,
    })
}

impl From<SessionUsage> for v1::SessionUse {
    fn from(usage: SessionUsage) -> Self {
        Self {
            session: Bytes::copy_from_slice(usage.session.as_bytes()),
            ends: usage.ends,
        }
    }
}

impl From<SpaceUsage> for v1::ExplainResponse {
    fn from(usage: SpaceUsage) -> Self {
        let SpaceUsage {
            blocks,
            bytes,
            shared_blocks,
            shared_bytes,
        } = usage;
        Self {
            blocks,
            bytes,
            shared_blocks,
            shared_bytes,
        }
    }
}

impl TryFrom<v1::FileInfo> for NamedFile {
    type Error = FieldError;

    /// # Errors
    /// [`FieldError`] for the first field that breaks the rule of its type.
    fn try_from(file: v1::FileInfo) -> Result<Self, FieldError> {
        let meta = FileMeta {
            size: file.size,
            version: file.version,
            modified_ms: file.modified_ms,
            etag: file
                .etag
                .parse()
                .map_err(|error: ETagError| FieldError::new("etag", error))?,
            content_type: file.content_type,
            chunking: file
                .chunking
                .parse()
                .map_err(|error: ChunkingError| FieldError::new("chunking", error))?,
            blocks: file.blocks,
            sha256: sha256(&file.sha256)?,
            metadata: metadata(file.metadata)?,
        };
        Ok(Self {
            name: file_name("name", &file.name)?,
            meta,
        })
    }
}

impl From<v1::SealPoint> for SealPoint {
    fn from(point: v1::SealPoint) -> Self {
        Self {
            seq: SealSeq(point.seq),
            nonce: point.nonce,
        }
    }
}

impl From<SealPoint> for v1::SealPoint {
    fn from(point: SealPoint) -> Self {
        Self {
            seq: point.seq.0,
            nonce: point.nonce,
        }
    }
}

impl From<v1::Point> for Point {
    fn from(point: v1::Point) -> Self {
        Self {
            incarnation: Incarnation(point.incarnation),
            term: point.term,
            life: point.life,
            position: point.position,
            chain: point.chain,
        }
    }
}

impl From<Point> for v1::Point {
    fn from(point: Point) -> Self {
        Self {
            incarnation: point.incarnation.0,
            term: point.term,
            life: point.life,
            position: point.position,
            chain: point.chain,
        }
    }
}

impl From<v1::Life> for Life {
    fn from(life: v1::Life) -> Self {
        Self {
            incarnation: Incarnation(life.incarnation),
            term: life.term,
            life: life.life,
            first: life.first,
            chain_before: life.chain_before,
        }
    }
}

impl From<Life> for v1::Life {
    fn from(life: Life) -> Self {
        Self {
            incarnation: life.incarnation.0,
            term: life.term,
            life: life.life,
            first: life.first,
            chain_before: life.chain_before,
        }
    }
}

impl From<v1::SequenceEpoch> for Epoch {
    fn from(epoch: v1::SequenceEpoch) -> Self {
        Self {
            number: epoch.number,
            nonce: epoch.nonce,
            end_before: epoch.end_before,
        }
    }
}

impl From<Epoch> for v1::SequenceEpoch {
    fn from(epoch: Epoch) -> Self {
        Self {
            number: epoch.number,
            nonce: epoch.nonce,
            end_before: epoch.end_before,
        }
    }
}

impl From<NamedFile> for v1::FileInfo {
    fn from(file: NamedFile) -> Self {
        let NamedFile { name, meta } = file;
        Self {
            name: name.into(),
            size: meta.size,
            etag: meta.etag.to_string(),
            version: meta.version,
            modified_ms: meta.modified_ms,
            content_type: meta.content_type,
            chunking: meta.chunking.to_string(),
            blocks: meta.blocks,
            sha256: meta
                .sha256
                .map(|sha256| Bytes::copy_from_slice(&sha256))
                .unwrap_or_default(),
            metadata: meta.metadata.into(),
        }
    }
}

/// Reads a condition. A message without one means that the name must be free.
///
/// The booleans in the message carry nothing: a choice that is set counts, whatever its value.
pub fn write_condition(message: Option<v1::WriteCondition>) -> WriteCondition {
    match message.and_then(|message| message.condition) {
        None | Some(Condition::Absent(_)) => WriteCondition::Absent,
        Some(Condition::Any(_)) => WriteCondition::Any,
        Some(Condition::Exists(_)) => WriteCondition::Exists,
        Some(Condition::EtagEquals(etag)) => WriteCondition::EtagEquals(etag),
    }
}

impl From<WriteCondition> for v1::WriteCondition {
    fn from(condition: WriteCondition) -> Self {
        let condition = match condition {
            WriteCondition::Absent => Condition::Absent(true),
            WriteCondition::Any => Condition::Any(true),
            WriteCondition::Exists => Condition::Exists(true),
            WriteCondition::EtagEquals(etag) => Condition::EtagEquals(etag),
        };
        Self {
            condition: Some(condition),
        }
    }
}

/// The message for a map.
pub fn placement_map(placement: &Placement) -> v1::PlacementMap {
    let nodes = placement.nodes().iter().map(|node| v1::PlacementNode {
        node_id: node.id.to_string(),
        failure_domain: node.failure_domain.clone(),
    });
    v1::PlacementMap {
        version: placement.version().0,
        nodes: nodes.collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failure_names_its_field_and_becomes_invalid_argument() {
        let error = session(&[1, 2]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "field session: expected 16 bytes, found 2"
        );
        assert_eq!(crate::code_of(&error.into()), ErrorCode::InvalidArgument);
    }

    #[test]
    fn a_map_survives_its_message() {
        let nodes = vec![PlacementNode {
            id: NodeId::new("s1").unwrap(),
            failure_domain: "rack".to_owned(),
        }];
        let map = Placement::new(MapVersion(4), nodes).unwrap();
        assert_eq!(placement(&placement_map(&map)), Ok(map));
    }

    fn file() -> NamedFile {
        let meta = FileMeta {
            size: 3,
            version: 2,
            modified_ms: -4,
            etag: "d41d8cd98f00b204e9800998ecf8427e-1".parse().unwrap(),
            content_type: "text/plain".to_owned(),
            chunking: "fixed:64".parse().unwrap(),
            blocks: 1,
            sha256: Some([9; 32]),
            metadata: UserMetadata::new([("a", "1")]).unwrap(),
        };
        NamedFile {
            name: FileName::new("a/b").unwrap(),
            meta,
        }
    }

    #[test]
    fn a_file_survives_its_message() {
        let plain = FileMeta {
            sha256: None,
            metadata: UserMetadata::default(),
            ..file().meta
        };
        for file in [
            file(),
            NamedFile {
                meta: plain,
                ..file()
            },
        ] {
            assert_eq!(
                NamedFile::try_from(v1::FileInfo::from(file.clone())),
                Ok(file)
            );
        }
    }

    #[test]
    fn each_wrong_field_of_a_file_is_named() {
        let fine = v1::FileInfo::from(file());
        let wrong = [
            (
                "name",
                v1::FileInfo {
                    name: "a//b".to_owned(),
                    ..fine.clone()
                },
            ),
            (
                "etag",
                v1::FileInfo {
                    etag: "x".to_owned(),
                    ..fine.clone()
                },
            ),
            (
                "chunking",
                v1::FileInfo {
                    chunking: String::new(),
                    ..fine.clone()
                },
            ),
            (
                "sha256",
                v1::FileInfo {
                    sha256: Bytes::from_static(b"12345"),
                    ..fine.clone()
                },
            ),
            (
                "metadata",
                v1::FileInfo {
                    metadata: [("A".to_owned(), String::new())].into(),
                    ..fine
                },
            ),
        ];
        for (field, message) in wrong {
            assert_eq!(NamedFile::try_from(message).unwrap_err().field, field);
        }
        let error = sha256(b"12345").unwrap_err();
        assert_eq!(
            error.to_string(),
            "field sha256: expected 32 bytes, found 5"
        );
        assert_eq!(digest("expect_md5", &[7; 16]), Ok(Some([7; 16])));
        assert_eq!(digest::<16>("expect_md5", &[]), Ok(None));
        assert_eq!(
            digest::<16>("expect_md5", &[7; 17]).unwrap_err().field,
            "expect_md5"
        );
    }

    #[test]
    fn a_condition_survives_its_message_and_none_means_absent() {
        let all = [
            WriteCondition::Absent,
            WriteCondition::Any,
            WriteCondition::Exists,
            WriteCondition::EtagEquals("x".to_owned()),
        ];
        for condition in all {
            assert_eq!(write_condition(Some(condition.clone().into())), condition);
        }
        assert_eq!(write_condition(None), WriteCondition::Absent);
        assert_eq!(
            write_condition(Some(v1::WriteCondition::default())),
            WriteCondition::Absent
        );
        let no = v1::WriteCondition {
            condition: Some(Condition::Any(false)),
        };
        assert_eq!(write_condition(Some(no)), WriteCondition::Any);
    }
}
