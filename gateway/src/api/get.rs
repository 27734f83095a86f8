//! `GET` and `HEAD` of a file: whole, a range of it, or only word that it has not changed.

use axum::Extension;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use cstore_proto::v1;
use cstore_types::ErrorCode;
use http::header::{
    ACCEPT_RANGES, CACHE_CONTROL, CONTENT_DISPOSITION, CONTENT_LENGTH, CONTENT_RANGE,
    CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_RANGE, LAST_MODIFIED, RANGE,
    X_CONTENT_TYPE_OPTIONS,
};
use http::request::Parts;
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};

use crate::api::paths::{DOWNLOAD, FILES};
use crate::api::responses::{Content, Refused};
use crate::api::{answer, usage};
use crate::app::{App, Shared};
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::condition::{self, Read};
use crate::http::content::DEFAULT_TYPE;
use crate::http::date::last_modified;
use crate::http::digest;
use crate::http::metadata;
use crate::http::name;
use crate::http::query::Query;
use crate::http::range::{self, Wanted};
use crate::problem::Problem;
use crate::transfer::download;

/// A file, or a range of it.
#[utoipa::path(
    get, path = "/api/files/{name}", tag = "files",
    params(
        ("name" = String, Path, description = "Name of the file; a slash in it stands as it is", example = "docs/a.txt"),
        ("range" = Option<String>, Header, description = "One byte range: bytes=0-99, bytes=100-, bytes=-100"),
        ("if-range" = Option<String>, Header, description = "The range counts only for the file with this ETag or date"),
        ("if-match" = Option<String>, Header, description = "ETags, one of which the file must have"),
        ("if-none-match" = Option<String>, Header, description = "ETags that are known already: 304"),
        ("if-modified-since" = Option<String>, Header, description = "304 unless the file is newer"),
        ("if-unmodified-since" = Option<String>, Header, description = "412 when the file is newer"),
        ("explain" = Option<String>, Query, description = "freed: what a removal would free, instead of the file (Freed)"),
    ),
    responses(
        (status = 200, description = "The file, or what a removal would free", content((Content = "*/*")), headers(("etag" = String), ("last-modified" = String), ("accept-ranges" = String))),
        (status = 206, description = "A part of the file", content((Content = "*/*")), headers(("content-range" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "There is no such file", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The file is not in the demanded state", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The range lies outside of the file", body = Problem, content_type = "application/problem+json"),
        Refused,
    )
)]
pub(crate) async fn file(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&app, &access, &request.into_parts().0, FILES, true).await
}

/// The headers of a file.
#[utoipa::path(
    head, path = "/api/files/{name}", tag = "files",
    params(
        ("name" = String, Path, description = "Name of the file; a slash in it stands as it is", example = "docs/a.txt"),
        ("if-match" = Option<String>, Header, description = "ETags, one of which the file must have"),
        ("if-none-match" = Option<String>, Header, description = "ETags that are known already: 304"),
        ("if-modified-since" = Option<String>, Header, description = "304 unless the file is newer"),
        ("if-unmodified-since" = Option<String>, Header, description = "412 when the file is newer"),
    ),
    responses(
        (status = 200, description = "The file", headers(("etag" = String), ("last-modified" = String), ("accept-ranges" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "There is no such file"),
        (status = 412, description = "The file is not in the demanded state"),
        Refused,
    )
)]
pub(crate) async fn file_head(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&app, &access, &request.into_parts().0, FILES, false).await
}

/// A file, to be saved by a browser under the last segment of its name.
#[utoipa::path(
    get, path = "/api/download/{name}", tag = "files",
    params(
        ("name" = String, Path, description = "Name of the file; a slash in it stands as it is", example = "docs/a.txt"),
        ("range" = Option<String>, Header, description = "One byte range: bytes=0-99, bytes=100-, bytes=-100"),
        ("if-range" = Option<String>, Header, description = "The range counts only for the file with this ETag or date"),
        ("if-match" = Option<String>, Header, description = "ETags, one of which the file must have"),
        ("if-none-match" = Option<String>, Header, description = "ETags that are known already: 304"),
        ("if-modified-since" = Option<String>, Header, description = "304 unless the file is newer"),
        ("if-unmodified-since" = Option<String>, Header, description = "412 when the file is newer"),
    ),
    responses(
        (status = 200, description = "The file", content((Content = "*/*")), headers(("etag" = String), ("last-modified" = String), ("accept-ranges" = String))),
        (status = 206, description = "A part of the file", content((Content = "*/*")), headers(("content-range" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "There is no such file", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The file is not in the demanded state", body = Problem, content_type = "application/problem+json"),
        (status = 416, description = "The range lies outside of the file", body = Problem, content_type = "application/problem+json"),
        Refused,
    )
)]
pub(crate) async fn download(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&app, &access, &request.into_parts().0, DOWNLOAD, true).await
}

/// The headers of a file that is to be saved.
#[utoipa::path(
    head, path = "/api/download/{name}", tag = "files",
    params(
        ("name" = String, Path, description = "Name of the file; a slash in it stands as it is", example = "docs/a.txt"),
        ("if-match" = Option<String>, Header, description = "ETags, one of which the file must have"),
        ("if-none-match" = Option<String>, Header, description = "ETags that are known already: 304"),
        ("if-modified-since" = Option<String>, Header, description = "304 unless the file is newer"),
        ("if-unmodified-since" = Option<String>, Header, description = "412 when the file is newer"),
    ),
    responses(
        (status = 200, description = "The file", headers(("etag" = String), ("last-modified" = String), ("accept-ranges" = String))),
        (status = 304, description = "Not modified"),
        (status = 404, description = "There is no such file"),
        (status = 412, description = "The file is not in the demanded state"),
        Refused,
    )
)]
pub(crate) async fn download_head(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<Response, ApiError> {
    answer(&app, &access, &request.into_parts().0, DOWNLOAD, false).await
}

async fn answer(
    app: &App,
    access: &Access,
    request: &Parts,
    prefix: &str,
    with_body: bool,
) -> Result<Response, ApiError> {
    let name = name::from_path(request.uri.path(), prefix)?;
    // Two doors to the same files, and only the first of them explains.
    let known: &[&str] = if prefix == FILES { &["explain"] } else { &[] };
    let query = Query::only(request.uri.query(), known)?;
    match query.get("explain") {
        None => {}
        Some("freed") if with_body => return usage::explain(app, access, &name).await,
        Some(_) => {
            return Err(ApiError::invalid(
                "parameter explain must be freed, with GET",
            ));
        }
    }
    let wanted_file = v1::GetFileRequest {
        name: name.to_string(),
        tenant: access.tenant(),
    };
    let found = app.master.get_file(wanted_file).await?;
    let file = found.file.ok_or_else(answer::no_file)?;
    let mut headers = describe(&file)?;
    match condition::read(&request.headers, &file.etag, file.modified_ms) {
        Read::Send => {}
        Read::NotModified => {
            headers.remove(CONTENT_TYPE);
            return Ok(respond(StatusCode::NOT_MODIFIED, headers, Body::empty()));
        }
        Read::Failed => {
            let message =
                "the file is not in the state that If-Match or If-Unmodified-Since demands";
            return Err(ApiError::new(ErrorCode::PreconditionFailed, message));
        }
    }
    // A range is defined for GET only (RFC 9110 §14.2).
    let wanted = if with_body {
        wanted(&request.headers, &file)
    } else {
        Wanted::Whole
    };
    let (status, first, length) = match wanted {
        Wanted::Whole => (StatusCode::OK, 0, file.size),
        Wanted::Unsatisfiable => return Err(ApiError::unsatisfiable(file.size)),
        Wanted::Part { first, last } => {
            let range = format!("bytes {first}-{last}/{}", file.size);
            headers.insert(CONTENT_RANGE, value(range)?);
            (StatusCode::PARTIAL_CONTENT, first, last - first + 1)
        }
    };
    headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
    if prefix == DOWNLOAD {
        headers.insert(CONTENT_DISPOSITION, attachment(name.as_str())?);
    }
    if !with_body || length == 0 {
        return Ok(respond(status, headers, Body::empty()));
    }
    let body = download::open(app, found.recipe_root, first, length).await?;
    app.metrics.sent(length);
    Ok(respond(status, headers, body))
}

/// The range, unless `If-Range` names another state of the file. A date never names this one: in a
/// second several writes find room, and the parts of two files must not be joined (RFC 9110
/// §13.1.5).
fn wanted(headers: &HeaderMap, file: &v1::FileInfo) -> Wanted {
    let once = |name: HeaderName| {
        let mut values = headers.get_all(name).iter();
        (
            values
                .next()
                .map(|value| value.to_str().unwrap_or_default()),
            values.next().is_some(),
        )
    };
    let same = match once(IF_RANGE) {
        (None, _) => true,
        (Some(tag), again) => !again && condition::is_tag(tag, &file.etag),
    };
    match once(RANGE) {
        (range, false) if same => range::wanted(range, file.size),
        _ => Wanted::Whole,
    }
}

fn describe(file: &v1::FileInfo) -> Result<HeaderMap, ApiError> {
    let kind = if file.content_type.is_empty() {
        DEFAULT_TYPE
    } else {
        &file.content_type
    };
    let mut headers = HeaderMap::new();
    headers.insert(ETAG, answer::quoted(&file.etag)?);
    headers.insert(LAST_MODIFIED, value(last_modified(file.modified_ms))?);
    headers.insert(ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-cache"));
    headers.insert(CONTENT_TYPE, value(kind.to_owned())?);
    if !file.sha256.is_empty() {
        headers.insert(digest::SHA256, value(hex::encode(&file.sha256))?);
    }
    metadata::into_headers(&file.metadata, &mut headers)?;
    // A browser must not run uploaded content with the rights of this origin.
    headers.insert(X_CONTENT_TYPE_OPTIONS, HeaderValue::from_static("nosniff"));
    headers.insert(CONTENT_SECURITY_POLICY, HeaderValue::from_static("sandbox"));
    Ok(headers)
}

/// Returns the last segment of the name as the name to save under. `filename` stands first, for
/// clients that do not know `filename*` (RFC 6266 §4.3, appendix D; RFC 8187).
fn attachment(name: &str) -> Result<HeaderValue, ApiError> {
    let last = name.rsplit('/').next().unwrap_or(name);
    // A quoted string may not hold quotes and backslashes unescaped, and some clients decode %.
    let ascii: String = last
        .chars()
        .map(|char| match char {
            '"' | '\\' | '%' => '_',
            ' '..='~' => char,
            _ => '_',
        })
        .collect();
    value(format!(
        "attachment; filename=\"{ascii}\"; filename*=UTF-8''{}",
        utf8_percent_encode(last, NON_ALPHANUMERIC)
    ))
}

fn respond(status: StatusCode, headers: HeaderMap, body: Body) -> Response {
    let mut response = Response::new(body);
    *response.status_mut() = status;
    *response.headers_mut() = headers;
    response
}

fn value(text: String) -> Result<HeaderValue, ApiError> {
    HeaderValue::try_from(text)
        .map_err(|error| ApiError::new(ErrorCode::Internal, error.to_string()))
}
