//! `GET /api/stats`: how much is stored, and how much space that takes. Files and logical bytes are
//! the tenant's. Only the default tenant sees the space on the disks: tenants share blocks, so
//! their number would show what other tenants have stored.

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
use crate::http::query::Query;

/// How much there is.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stats {
    files: u64,
    logical_bytes: u64,
    #[serde(flatten)]
    cluster: Option<Stored>,
}

/// Space on the disks, over all tenants. Told to the default tenant only.
#[derive(Serialize, ToSchema)]
#[schema(as = StoredBytes)]
struct Stored {
    unique_bytes: u64,
    physical_bytes: u64,
    blocks: u64,
    /// Logical bytes of all tenants over unique bytes; 1 while nothing is stored.
    dedup_ratio: f64,
    capacity_bytes: u64,
    free_bytes: u64,
    pending_releases: u64,
}

/// How much is stored, and what it takes.
#[utoipa::path(
    get, path = "/api/stats", tag = "cluster",
    responses((status = 200, description = "Counters", body = Stats), Refused)
)]
pub(crate) async fn stats(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Query::only(query.as_deref(), &[])?;
    let usage = app
        .master
        .get_usage(v1::GetUsageRequest {
            tenant: access.tenant(),
        })
        .await?;
    let cluster = Stored {
        unique_bytes: usage.unique_bytes,
        physical_bytes: usage.physical_bytes,
        blocks: usage.blocks,
        dedup_ratio: ratio(usage.cluster_logical_bytes, usage.unique_bytes),
        capacity_bytes: usage.capacity_bytes,
        free_bytes: usage.free_bytes,
        pending_releases: usage.pending_releases,
    };
    let stats = Stats {
        files: usage.files,
        logical_bytes: usage.logical_bytes,
        cluster: access.tenant.is_default().then_some(cluster),
    };
    answer::json(StatusCode::OK, &stats)
}

/// Rounded to three places, which is more than reports of storage nodes are worth.
fn ratio(logical: u64, unique: u64) -> f64 {
    if unique == 0 {
        return 1.0;
    }
    (logical as f64 / unique as f64 * 1_000.0).round() / 1_000.0
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_empty_store_has_ratio_one() {
        assert!((ratio(0, 0) - 1.0).abs() < f64::EPSILON);
        assert!((ratio(10, 3) - 3.333).abs() < f64::EPSILON);
    }
}
