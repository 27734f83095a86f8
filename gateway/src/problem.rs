//! Problem details of HTTP APIs (RFC 9457), as every failed request gets them.

use serde::Serialize;
use utoipa::ToSchema;

/// Why a request failed.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Problem {
    /// `urn:cstore:error:` and the code.
    #[schema(example = "urn:cstore:error:already_exists")]
    pub(crate) r#type: String,
    /// Name of the HTTP status.
    #[schema(example = "Conflict")]
    pub(crate) title: String,
    /// The HTTP status.
    #[schema(example = 409)]
    pub(crate) status: u16,
    /// Explanation of the failure: what was wrong with this request, and what is allowed.
    pub(crate) detail: String,
    /// One of the 16 codes of docs/errors.md.
    #[schema(example = "already_exists")]
    pub(crate) code: String,
    /// Finds the request in logs and traces; also in header x-cstore-trace-id.
    #[schema(example = "4bf92f3577b34da6a3ce929d0e0e4736")]
    pub(crate) trace_id: String,
    /// The same, as it was before there were problem details.
    pub(crate) error: Earlier,
}

/// Code, text and trace id.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Earlier {
    pub(crate) code: String,
    pub(crate) message: String,
    pub(crate) trace_id: String,
}
