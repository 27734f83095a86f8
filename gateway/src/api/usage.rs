//! `GET /api/usage?prefix=` and `GET /api/files/{name}?explain=freed`: what files use, and what
//! their removal would free now. From the reference sets of all storage nodes, changing nothing.

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use cstore_proto::v1;
use cstore_proto::v1::select_files_request::Selection;
use cstore_types::FileName;
use http::StatusCode;
use serde::Serialize;
use tonic::Status;
use utoipa::ToSchema;

use crate::api::answer;
use crate::api::responses::Refused;
use crate::app::{App, Shared};
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::query::Query;
use crate::limits::USAGE_TIMEOUT;

/// Space that the files under a prefix use together.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Usage {
    /// Beginning of all names.
    prefix: String,
    files: u64,
    /// Sum of the sizes.
    logical_bytes: u64,
    #[serde(flatten)]
    space: Space,
}

/// Effect of the removal of one file.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Freed {
    name: String,
    size: u64,
    /// Other names of the same stored file, as copies make them. Nothing is freed while there is
    /// one.
    other_names: u64,
    #[serde(flatten)]
    space: Space,
}

/// Distinct blocks, with those that hold the recipes of large files.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct Space {
    blocks: u64,
    unique_bytes: u64,
    /// Those of them that others use too.
    shared_blocks: u64,
    shared_bytes: u64,
    /// Those that a removal would give back: unique less shared.
    freed_blocks: u64,
    freed_bytes: u64,
}

impl From<v1::ExplainResponse> for Space {
    fn from(found: v1::ExplainResponse) -> Self {
        Self {
            blocks: found.blocks,
            unique_bytes: found.bytes,
            shared_blocks: found.shared_blocks,
            shared_bytes: found.shared_bytes,
            freed_blocks: found.blocks.saturating_sub(found.shared_blocks),
            freed_bytes: found.bytes.saturating_sub(found.shared_bytes),
        }
    }
}

/// Returns the space that the files under a prefix use.
#[utoipa::path(
    get, path = "/api/usage", tag = "cluster",
    params(("prefix" = Option<String>, Query, description = "Names that begin with it; at most 4,096")),
    responses((status = 200, description = "Bytes", body = Usage), Refused)
)]
pub(crate) async fn usage(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::only(raw.as_deref(), &["prefix"])?;
    let prefix = query.get("prefix").unwrap_or_default().to_owned();
    let (selected, space) = ask(&app, &access, Selection::Prefix(prefix.clone())).await?;
    let (files, logical_bytes) = (selected.files, selected.logical_bytes);
    answer::json(
        StatusCode::OK,
        &Usage {
            prefix,
            files,
            logical_bytes,
            space,
        },
    )
}

/// Returns the space that a removal of `name` would free.
pub(crate) async fn explain(
    app: &App,
    access: &Access,
    name: &FileName,
) -> Result<Response, ApiError> {
    // The answer reveals whether others have stored the same bytes, so named tenants do not get it.
    access.require_default_tenant()?;
    let (selected, space) = ask(app, access, Selection::Name(name.to_string())).await?;
    let freed = Freed {
        name: name.to_string(),
        size: selected.logical_bytes,
        other_names: selected.other_names,
        space,
    };
    answer::json(StatusCode::OK, &freed)
}

async fn ask(
    app: &App,
    access: &Access,
    selection: Selection,
) -> Result<(v1::SelectFilesResponse, Space), ApiError> {
    let request = v1::SelectFilesRequest {
        tenant: access.tenant(),
        selection: Some(selection),
    };
    let mut selected = app.master.select_files(request).await?;
    let sessions = std::mem::take(&mut selected.sessions);
    let mut worker = app.workers.any();
    let found = worker.explain(v1::ExplainRequest { sessions });
    let found = tokio::time::timeout(USAGE_TIMEOUT, found).await;
    let found = found.map_err(|_| Status::deadline_exceeded("no answer in time"))??;
    Ok((selected, found.into_inner().into()))
}
