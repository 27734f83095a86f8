//! Values that every part of C-Store shares: identities, names, files, blocks, recipes, faults,
//! limits.
//!
//! No I/O, no async, no clock. A value that exists is valid: constructors check, fields with an
//! invariant are private, there are no setters. A concept has one type here, and every crate uses
//! that one. Byte layouts that leave this crate (recipe, placement) are versioned and pinned by
//! tests.

#![warn(missing_docs)]

mod block;
mod block_id;
mod caller;
mod chunking;
pub mod codec;
mod commit_facts;
pub mod epoch;
mod error_code;
mod etag;
mod fault;
mod file_meta;
mod file_name;
mod hash;
pub mod history;
mod ids;
pub mod inspection;
mod limit;
pub mod limits;
mod placement;
mod random;
mod recipe;
mod secret;
mod tenant;
mod usage;
mod user_metadata;

pub use block::{Block, BlockKind};
pub use block_id::{BlockId, DedupKey};
pub use caller::Caller;
pub use chunking::{Chunking, ChunkingError};
pub use commit_facts::CommitFacts;
pub use error_code::ErrorCode;
pub use etag::{ETag, ETagBuilder, ETagError};
pub use fault::{Fault, error_chain};
pub use file_meta::{FileMeta, NamedFile, WriteCondition};
pub use file_name::{FileName, NameError};
pub use hash::{keyed_half, md5_many};
pub use ids::{
    ClusterUuid, IdError, Incarnation, MapVersion, NodeId, PartNo, SealSeq, SessionEra, SessionId,
    StoreUuid,
};
pub use limit::{Limit, LimitValue};
pub use placement::{Partition, Placement, PlacementError, PlacementNode};
pub use random::nonce;
#[cfg(feature = "seeded")]
pub use random::seed_identities;
pub use recipe::{Entry, Leaf, RecipeError, Root, RootBuilder};
pub use secret::{ClusterSecret, FrameKey, RpcKey, SecretError, TicketKey};
pub use tenant::{Tenant, TenantError};
pub use usage::{SessionUsage, SpaceUsage};
pub use user_metadata::{UserMetadata, UserMetadataError};
