//! `DELETE /api/files/{name}`: 204, or 404 when there is none. `If-Match` removes only that file.

use axum::Extension;
use axum::extract::{Request, State};
use cstore_proto::v1;
use http::StatusCode;

use crate::app::Shared;
use crate::auth::Access;
use crate::condition;
use crate::error::ApiError;
use crate::name;
use crate::query::Query;
use crate::routes::FILES;

pub(crate) async fn delete(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    request: Request,
) -> Result<StatusCode, ApiError> {
    let name = name::from_path(request.uri().path(), FILES)?;
    Query::only(request.uri().query(), &[])?;
    let etag = condition::etag_of_source(request.headers())?;
    app.master
        .delete_file(v1::DeleteFileRequest { name: name.to_string(), tenant: access.tenant(), etag })
        .await?;
    Ok(StatusCode::NO_CONTENT)
}
