//! The gRPC contracts of C-Store: generated code, conversions to the types of the house, the
//! reflection set.
//!
//! The `.proto` files under `cstore/v1` are the contract; this crate only translates. `bytes`
//! fields are [`bytes::Bytes`], so that file data is never copied out of a received message.

mod access;
mod bearer;
mod codec;
mod convert;
mod status;
mod ticket;

pub use cstore_types::{Caller, ClusterSecret, ErrorCode, error_chain};

pub use access::{ACCESS, may_call};
#[cfg(feature = "simulated")]
pub use bearer::set_bearer_clock;
pub use bearer::{BearerError, Signer, Verifier};
pub use convert::{
    FieldError, FieldProblem, cluster_uuid, digest, file_name, metadata, node_id, placement,
    placement_map, session, session_usage, sha256, store_uuid, tenant, write_condition,
};
pub use status::{code_of, from_status, retry_after, status, status_with_retry, to_status};
pub use ticket::{TicketClaims, TicketError};

/// Generated from `cstore/v1/*.proto`.
#[allow(
    missing_debug_implementations,
    unreachable_pub,
    clippy::all,
    clippy::restriction,
    clippy::pedantic,
    reason = "generated code"
)]
pub mod v1 {
    tonic::include_proto!("cstore.v1");
}

/// Encoded `FileDescriptorSet` of all services, for gRPC reflection.
pub const DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/cstore.v1.descriptors"));
