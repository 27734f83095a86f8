//! `PUT /api/files/{name}`: the raw body becomes the file.

use axum::Extension;
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::response::Response;
use cstore_types::Tenant;
use http::HeaderMap;
use http::header::CONTENT_TYPE;

use crate::api::answer;
use crate::api::answer::Stored;
use crate::api::paths::FILES;
use crate::api::responses::{Content, Refused};
use crate::api::trace::TraceId;
use crate::app::Shared;
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::body::{Incoming, refuse};
use crate::http::condition::StatedCondition;
use crate::http::content::{DEFAULT_TYPE, content_type, refuse_parts};
use crate::http::digest;
use crate::http::metadata;
use crate::http::name;
use crate::http::query::Query;
use crate::problem::Problem;
use crate::transfer::upload::{self, Write};

/// Stores the body as a file.
#[utoipa::path(
    put, path = "/api/files/{name}", tag = "files",
    params(
        ("name" = String, Path, description = "Name of the file; a slash in it stands as it is", example = "docs/a.txt"),
        ("overwrite" = Option<bool>, Query, description = "Replace a file of this name; else a taken name is 409"),
        ("if-match" = Option<String>, Header, description = "* or one ETag: replace this file only", pattern = r#"^(\*|"[!#-~]+")$"#),
        ("if-none-match" = Option<String>, Header, description = "*: the name must be free, else 412", pattern = "^[*]$"),
        ("content-md5" = Option<String>, Header, description = "Base64 of the MD5 of the body; checked"),
        ("x-cstore-sha256" = Option<String>, Header, description = "SHA-256 of the body, 64 hexadecimal digits; checked and kept", pattern = "^[0-9a-fA-F]{64}$"),
    ),
    request_body(content = inline(Content), content_type = "application/octet-stream",
        description = "The file. Content-Type is kept, and so is every x-cstore-meta-<key> header"),
    responses(
        (status = 201, description = "Stored", body = Stored, headers(("etag" = String), ("location" = String))),
        (status = 200, description = "Stored in the place of another", body = Stored, headers(("etag" = String))),
        (status = 409, description = "The name is taken", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "If-Match or If-None-Match does not hold", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "The disks are full", body = Problem, content_type = "application/problem+json"),
        (status = 411, description = "Over HTTP/1.0 without Content-Length", body = Problem, content_type = "application/problem+json"),
        Refused,
    )
)]
pub(crate) async fn put(
    State(app): State<Shared>,
    Extension(trace): Extension<TraceId>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let at_most = body.size_hint().upper();
    let mut body = Incoming::new(
        head.version,
        body,
        app.config.idle_timeout,
        app.config.min_rate,
    );
    let stored = match plan(access.tenant.clone(), &head.uri, &head.headers, at_most) {
        Ok(write) => upload::store(&app, &write, &mut body).await,
        Err(error) => Err(error),
    };
    match stored {
        Ok(stored) => answer::stored(&app, &access.tenant, &stored, &trace),
        Err(error) => Err(refuse(error, body)),
    }
}

fn plan(
    tenant: Tenant,
    uri: &http::Uri,
    headers: &HeaderMap,
    at_most: Option<u64>,
) -> Result<Write, ApiError> {
    let overwrite = Query::only(uri.query(), &["overwrite"])?.flag("overwrite")?;
    refuse_parts(headers)?;
    let given = headers
        .get(CONTENT_TYPE)
        .map(|value| value.to_str().unwrap_or_default());
    Ok(Write {
        tenant,
        name: name::from_path(uri.path(), FILES)?,
        condition: StatedCondition::from_headers(headers, overwrite)?,
        content_type: content_type(given.unwrap_or(DEFAULT_TYPE))?,
        md5: digest::md5(headers)?,
        sha256: digest::sha256(headers)?,
        metadata: metadata::from_headers(headers)?,
        at_most,
    })
}
