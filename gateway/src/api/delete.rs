//! `DELETE /api/files/{name}`: 204, or 404 when there is none. `If-Match` removes only that file.

use axum::Extension;
use axum::extract::{Request, State};
use cstore_proto::v1;
use http::StatusCode;

use crate::api::paths::FILES;
use crate::api::responses::Refused;
use crate::app::Shared;
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::condition;
use crate::http::name;
use crate::http::query::Query;
use crate::problem::Problem;

/// Removes a file.
#[utoipa::path(
    delete, path = "/api/files/{name}", tag = "files",
    params(
        ("name" = String, Path, description = "Name of the file; a slash in it stands as it is", example = "docs/a.txt"),
        ("if-match" = Option<String>, Header, description = "* or one ETag: remove this file only", pattern = r#"^(\*|"[!#-~]+")$"#),
    ),
    responses(
        (status = 204, description = "It is gone; its space comes back when nothing else uses it"),
        (status = 404, description = "There is no such file", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The file has another ETag", body = Problem, content_type = "application/problem+json"),
        Refused,
    )
)]
pub(crate) async fn delete(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let name = name::from_path(request.uri().path(), FILES)?;
    Query::only(request.uri().query(), &[])?;
    let etag = condition::etag_of_source(request.headers())?;
    app.master
        .delete_file(v1::DeleteFileRequest {
            name: name.to_string(),
            tenant: access.tenant(),
            etag,
        })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
