//! `GET /api/files`: names in the order of their bytes, a page at a time.

use axum::Extension;
use axum::extract::{RawQuery, State};
use axum::response::Response;
use cstore_proto::v1;
use cstore_types::limits::MAX_PAGE_SIZE;
use http::StatusCode;
use serde::Serialize;

use crate::app::Shared;
use crate::auth::Access;
use crate::error::ApiError;
use crate::query::Query;
use crate::routes::answer::{self, File};

#[derive(Serialize)]
struct Page {
    files: Vec<File>,
    prefixes: Vec<String>,
    /// Empty on the last page.
    next_page_token: String,
}

pub(crate) async fn list(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    RawQuery(raw): RawQuery,
) -> Result<Response, ApiError> {
    let query = Query::only(raw.as_deref(), &["prefix", "delimiter", "limit", "page_token"])?;
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
    let Some(text) = text else { return Ok(MAX_PAGE_SIZE) };
    text.parse().ok().filter(|limit| (1..=MAX_PAGE_SIZE).contains(limit)).ok_or_else(|| {
        ApiError::invalid(format!("parameter limit must be a number from 1 to {MAX_PAGE_SIZE}"))
    })
}
