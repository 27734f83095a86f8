//! Values that every part of C-Store shares: identities, names, recipes, error codes, limits.
//!
//! No I/O, no async, no clock. A value that exists is valid: constructors check, fields are private, there are
//! no setters. Byte layouts that leave this crate (recipe, placement) are versioned and pinned by tests.

#![warn(missing_docs)]

mod block_id;
mod caller;
mod chunking;
mod error_code;
mod etag;
mod file_name;
mod hash;
mod ids;
pub mod limits;
mod placement;
mod random;
mod recipe;
mod secret;
mod tenant;
mod user_metadata;

pub use block_id::{BlockId, DedupKey};
pub use caller::Caller;
pub use chunking::{Chunking, ChunkingError};
pub use error_code::ErrorCode;
pub use etag::{ETag, ETagBuilder};
pub use file_name::{FileName, NameError};
pub use hash::{keyed_half, md5_many};
pub use ids::{ClusterUuid, IdError, Incarnation, MapVersion, NodeId, PartNo, SealSeq, SessionId, StoreUuid};
pub use placement::{Partition, Placement, PlacementError, PlacementNode};
#[cfg(feature = "seeded")]
pub use random::seed_identities;
pub use recipe::{Entry, Leaf, RecipeError, Root, RootBuilder};
pub use secret::{ClusterSecret, FrameKey, RpcKey, SecretError, TicketKey};
pub use tenant::{Tenant, TenantError};
pub use user_metadata::{UserMetadata, UserMetadataError};
