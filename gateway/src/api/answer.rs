//! JSON shapes that several verbs answer.

use std::collections::BTreeMap;

use axum::response::{IntoResponse, Response};
use cstore_proto::v1;
use cstore_types::{ErrorCode, Tenant};
use http::header::{CACHE_CONTROL, CONTENT_TYPE, ETAG, LOCATION};
use http::{HeaderValue, StatusCode};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::paths::FILES;
use crate::api::trace::TraceId;
use crate::app::App;
use crate::error::ApiError;
use crate::http::date::http_date;

/// Characters that are percent-encoded in the path of a name: all but letters, digits and `/-._~`.
const PATH: &AsciiSet = &NON_ALPHANUMERIC
    .remove(b'/')
    .remove(b'-')
    .remove(b'.')
    .remove(b'_')
    .remove(b'~');

/// A file in a list, or as the result of a change.
#[derive(Debug, Serialize, ToSchema)]
pub(crate) struct File {
    name: String,
    size: u64,
    etag: String,
    content_type: String,
    modified: String,
    modified_ms: i64,
    blocks: u64,
    /// Verified SHA-256 of the file, 64 hexadecimal digits. Missing unless the client stated it
    /// with the upload.
    #[serde(skip_serializing_if = "Option::is_none")]
    sha256: Option<String>,
    /// Metadata that the user stored with the file; not in lists.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    metadata: BTreeMap<String, String>,
}

impl From<v1::FileInfo> for File {
    fn from(file: v1::FileInfo) -> Self {
        Self {
            name: file.name,
            size: file.size,
            etag: file.etag,
            content_type: file.content_type,
            modified: http_date(file.modified_ms),
            modified_ms: file.modified_ms,
            blocks: file.blocks,
            sha256: (!file.sha256.is_empty()).then(|| hex::encode(&file.sha256)),
            metadata: file.metadata,
        }
    }
}

/// Result of an upload.
#[derive(Serialize, ToSchema)]
pub(crate) struct Stored {
    #[schema(value_type = String, example = "success")]
    status: &'static str,
    file: String,
    node: String,
    size: u64,
    etag: String,
    blocks: u64,
    /// Missing for named tenants: the number reveals whether others have stored the same bytes.
    new_blocks: Option<u64>,
    new_bytes: Option<u64>,
    trace_id: String,
}

/// The answer to an upload: 201, or 200 when a file was replaced.
pub(crate) fn stored(
    app: &App,
    tenant: &Tenant,
    answer: &v1::UploadResponse,
    trace: &TraceId,
) -> Result<Response, ApiError> {
    let file = answer.file.as_ref().ok_or_else(no_file)?;
    app.metrics.received(file.size);
    let body = Stored {
        status: "success",
        file: file.name.clone(),
        node: answer.worker_id.clone(),
        size: file.size,
        etag: file.etag.clone(),
        blocks: file.blocks,
        new_blocks: tenant.is_default().then_some(answer.new_blocks),
        new_bytes: tenant.is_default().then_some(answer.new_bytes),
        trace_id: trace.0.clone(),
    };
    let status = if answer.replaced {
        StatusCode::OK
    } else {
        StatusCode::CREATED
    };
    let mut response = json(status, &body)?;
    response.headers_mut().insert(ETAG, quoted(&file.etag)?);
    let location = format!("{FILES}{}", utf8_percent_encode(&file.name, PATH));
    response
        .headers_mut()
        .insert(LOCATION, HeaderValue::try_from(location).map_err(internal)?);
    Ok(response)
}

/// Capacity for the JSON of one file.
const USUAL_BODY: usize = 512;

/// A JSON answer that no cache keeps.
pub(crate) fn json(status: StatusCode, body: &impl Serialize) -> Result<Response, ApiError> {
    let mut text = Vec::with_capacity(USUAL_BODY);
    serde_json::to_writer(&mut text, body).map_err(internal)?;
    // So that the prompt of a shell does not stand behind the answer.
    text.push(b'\n');
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-store")),
    ];
    Ok((status, headers, text).into_response())
}

/// An ETag as it stands in a header.
pub(crate) fn quoted(etag: &str) -> Result<HeaderValue, ApiError> {
    HeaderValue::try_from(["\"", etag, "\""].concat()).map_err(internal)
}

/// An answer of the master or a worker that lacks its file.
pub(crate) fn no_file() -> ApiError {
    ApiError::new(ErrorCode::Internal, "an answer of the cluster has no file")
}

fn internal(error: impl std::fmt::Display) -> ApiError {
    ApiError::new(ErrorCode::Internal, error.to_string())
}
