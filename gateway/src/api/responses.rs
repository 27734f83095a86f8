//! Parts of the description that many routes share.

use utoipa::{IntoResponses, ToSchema};

use crate::problem::Problem;

/// Bytes of a file.
#[derive(ToSchema)]
#[schema(value_type = String, format = Binary)]
#[allow(dead_code, reason = "only its schema is used")]
pub(crate) struct Content(Vec<u8>);

/// Failures that every route may answer with.
#[derive(IntoResponses)]
#[allow(dead_code, reason = "only its description is used")]
pub(crate) enum Refused {
    /// Something in the request is wrong; `detail` says what, and what is allowed.
    #[response(status = 400, content_type = "application/problem+json")]
    Invalid(#[to_schema] Problem),
    /// No token, or one that is not good.
    #[response(status = 401, content_type = "application/problem+json")]
    Unauthenticated(#[to_schema] Problem),
    /// The token lacks a right, or is of a tenant that may not ask this.
    #[response(status = 403, content_type = "application/problem+json")]
    Denied(#[to_schema] Problem),
    /// The client's address has its share of running requests; try again after Retry-After.
    #[response(status = 429, content_type = "application/problem+json")]
    RateLimited(#[to_schema] Problem),
    /// A defect of the store, or stored bytes that are damaged.
    #[response(status = 500, content_type = "application/problem+json")]
    Internal(#[to_schema] Problem),
    /// A part of the cluster is away or busy; try again after Retry-After.
    #[response(status = 503, content_type = "application/problem+json")]
    Unavailable(#[to_schema] Problem),
    /// A part of the cluster did not answer in time.
    #[response(status = 504, content_type = "application/problem+json")]
    Deadline(#[to_schema] Problem),
}
