//! `POST /api/upload`: the part `file` of a form becomes the file.

use axum::Extension;
use axum::body::HttpBody;
use axum::extract::{Request, State};
use axum::response::Response;
use cstore_types::{FileName, Tenant};
use http::HeaderMap;
use http::header::{CONTENT_TYPE, HeaderName};
use utoipa::ToSchema;

use crate::api::answer::{self, Stored};
use crate::api::responses::Refused;
use crate::api::trace::TraceId;
use crate::app::{App, Shared};
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::body::{Incoming, refuse};
use crate::http::condition::StatedCondition;
use crate::http::content::{DEFAULT_TYPE, content_type, refuse_parts};
use crate::http::digest;
use crate::http::metadata;
use crate::http::multipart::{FilePart, Multipart};
use crate::http::query::Query;
use crate::problem::Problem;
use crate::transfer::upload::{self, Write};

const CONTENT_MD5: HeaderName = HeaderName::from_static("content-md5");

/// A form with one file.
#[derive(ToSchema)]
#[allow(dead_code, reason = "only its schema is used")]
struct Form {
    #[schema(value_type = String, format = Binary)]
    file: Vec<u8>,
}

/// Stores the part `file` of a form.
#[utoipa::path(
    post, path = "/api/upload", tag = "files",
    params(
        ("name" = Option<String>, Query, description = "Name of the file; else the filename of the part"),
        ("overwrite" = Option<bool>, Query, description = "Replace a file of this name; else a taken name is 409"),
        ("if-match" = Option<String>, Header, description = "* or one ETag: replace this file only", pattern = r#"^(\*|"[!#-~]+")$"#),
        ("if-none-match" = Option<String>, Header, description = "*: the name must be free, else 412", pattern = "^[*]$"),
        ("x-cstore-sha256" = Option<String>, Header, description = "SHA-256 of the file, 64 hexadecimal digits; checked and kept", pattern = "^[0-9a-fA-F]{64}$"),
    ),
    request_body(content = inline(Form), content_type = "multipart/form-data"),
    responses(
        (status = 201, description = "Stored", body = Stored, headers(("etag" = String), ("location" = String))),
        (status = 200, description = "Stored in the place of another", body = Stored, headers(("etag" = String))),
        (status = 409, description = "The name is taken", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "If-Match or If-None-Match does not hold", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The form has too much beside the file", body = Problem, content_type = "application/problem+json"),
        (status = 507, description = "The disks are full", body = Problem, content_type = "application/problem+json"),
        (status = 411, description = "Over HTTP/1.0 without Content-Length", body = Problem, content_type = "application/problem+json"),
        Refused,
    )
)]
pub(crate) async fn upload(
    State(app): State<Shared>,
    Extension(trace): Extension<TraceId>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, ApiError> {
    let (head, body) = request.into_parts();
    let at_most = body.size_hint().upper();
    let body = Incoming::new(
        head.version,
        body,
        app.config.idle_timeout,
        app.config.min_rate,
    );
    let kind = head
        .headers
        .get(CONTENT_TYPE)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let mut form = match Multipart::new(kind, body) {
        Ok(form) => form,
        Err(refused) => {
            let (error, body) = *refused;
            return Err(refuse(error, body));
        }
    };
    match store(&app, &access.tenant, &head, at_most, &mut form).await {
        Ok(stored) => answer::stored(&app, &access.tenant, &stored, &trace),
        Err(error) => Err(refuse(error, form.into_body())),
    }
}

async fn store(
    app: &App,
    tenant: &Tenant,
    head: &http::request::Parts,
    at_most: Option<u64>,
    form: &mut Multipart,
) -> Result<cstore_proto::v1::UploadResponse, ApiError> {
    let query = Query::only(head.uri.query(), &["name", "overwrite"])?;
    refuse_parts(&head.headers)?;
    if head.headers.contains_key(CONTENT_MD5) {
        return Err(ApiError::invalid(
            "header content-md5 would be that of the form, which nobody checks; send x-cstore-sha256 of the file",
        ));
    }
    let part = form.file().await?;
    let write = plan(tenant, &query, &head.headers, part, at_most)?;
    upload::store(app, &write, form).await
}

fn plan(
    tenant: &Tenant,
    query: &Query,
    headers: &HeaderMap,
    part: FilePart,
    at_most: Option<u64>,
) -> Result<Write, ApiError> {
    let name = query.get("name").map(str::to_owned).or(part.filename);
    let name = name.ok_or_else(|| {
        ApiError::invalid("the file has no name: give its part a filename, or ?name=")
    })?;
    Ok(Write {
        tenant: tenant.clone(),
        name: FileName::new(name)?,
        condition: StatedCondition::from_headers(headers, query.flag("overwrite")?)?,
        content_type: content_type(part.content_type.as_deref().unwrap_or(DEFAULT_TYPE))?,
        md5: None,
        sha256: digest::sha256(headers)?,
        metadata: metadata::from_headers(headers)?,
        at_most,
    })
}
