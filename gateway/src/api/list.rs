//! `GET /api/files`: names in the order of their bytes, a page at a time.

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use cstore_proto::v1;
use cstore_types::limits::MAX_PAGE_SIZE;
use http::StatusCode;
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::answer::{self, File};
use crate::api::responses::Refused;
use crate::app::Shared;
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::query::Query;

/// A page of names, in the order of their bytes.
#[derive(Serialize, ToSchema)]
pub(crate) struct Page {
    files: Vec<File>,
    /// Folders, when a delimiter was given: names are rolled up to it.
    prefixes: Vec<String>,
    /// Empty on the last page.
    next_page_token: String,
}

/// Lists files.
#[utoipa::path(
    get, path = "/api/files", tag = "files",
    params(
        ("prefix" = Option<String>, Query, description = "Only names that begin with it"),
        ("delimiter" = Option<String>, Query, description = "Text such as /: names are rolled up to its first place after the prefix"),
        ("limit" = Option<u32>, Query, description = "1 to 1,000 entries", minimum = 1, maximum = 1000),
        ("page_token" = Option<String>, Query, description = "next_page_token of the page before"),
    ),
    responses((status = 200, description = "A page", body = Page), Refused)
)]
pub(crate) async fn list(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::only(
        raw.as_deref(),
        &["prefix", "delimiter", "limit", "page_token"],
    )?;
    let text = |key| query.get(key).unwrap_or_default().to_owned();
    let request = v1::ListFilesRequest {
        prefix: text("prefix"),
        delimiter: text("delimiter"),
        page_size: limit(query.get("limit"))?,
        page_token: text("page_token"),
        tenant: access.tenant(),
    };
    let page = app.master.list_files(request).await?;
    let page = Page {
        files: page.files.into_iter().map(File::from).collect(),
        prefixes: page.prefixes,
        next_page_token: page.next_page_token,
    };
    answer::json(StatusCode::OK, &page)
}

fn limit(text: Option<&str>) -> Result<u32, ApiError> {
    let Some(text) = text else {
        return Ok(MAX_PAGE_SIZE);
    };
    text.parse()
        .ok()
        .filter(|limit| (1..=MAX_PAGE_SIZE).contains(limit))
        .ok_or_else(|| {
            ApiError::invalid(format!(
                "parameter limit must be a number from 1 to {MAX_PAGE_SIZE}"
            ))
        })
}
