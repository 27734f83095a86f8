//! `POST /api/files/{name}:copy` and `:rename`: one transaction at the master, no byte moves.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use cstore_proto::v1;
use cstore_types::FileName;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use utoipa::ToSchema;

use crate::api::answer::{self, File};
use crate::api::paths::FILES;
use crate::api::responses::Refused;
use crate::app::{App, Shared};
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::body::Incoming;
use crate::http::condition;
use crate::http::name::{self, Verb};
use crate::http::query::Query;
use crate::limits::MAX_COPY_BODY;
use crate::problem::Problem;

/// Where to.
#[derive(Deserialize, ToSchema)]
#[serde(deny_unknown_fields)]
pub(crate) struct Target {
    /// The new name.
    to: String,
    /// Replace a file of that name; else a taken name is 409.
    #[serde(default)]
    overwrite: bool,
}

/// The file under its new name.
#[derive(Serialize, ToSchema)]
pub(crate) struct Done {
    #[schema(value_type = String, example = "success")]
    status: &'static str,
    #[serde(flatten)]
    file: File,
}

/// Copies or renames a file, by the verb behind its name. A path without a verb has no line in the
/// table of rights, so it is refused for lack of access first.
pub(crate) async fn copy_or_rename(
    app: State<Shared>,
    access: Option<Extension<Access>>,
    request: Request,
) -> Result<Response, ApiError> {
    let (from, verb) = name::with_verb(request.uri().path(), FILES)?;
    let access = access.ok_or_else(ApiError::no_verb)?;
    match verb {
        Verb::Copy => copy(app, access, from, request).await,
        Verb::Rename => rename(app, access, from, request).await,
    }
}

/// Gives a file a second name; no byte moves.
#[utoipa::path(
    post, path = "/api/files/{name}:copy", tag = "files",
    params(
        ("name" = String, Path, description = "Name of the file; a slash in it stands as it is", example = "docs/a.txt"),
        ("if-match" = Option<String>, Header, description = "* or one ETag that the file must have", pattern = r#"^(\*|"[!#-~]+")$"#),
    ),
    request_body(content = Target, content_type = "application/json"),
    responses(
        (status = 200, description = "Done", body = Done),
        (status = 404, description = "There is no such file", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The new name is taken", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The file has another ETag", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 411, description = "Over HTTP/1.0 without Content-Length", body = Problem, content_type = "application/problem+json"),
        Refused,
    )
)]
async fn copy(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    from: FileName,
    request: Request,
) -> Result<Response, ApiError> {
    let Asked {
        from,
        to,
        overwrite,
        etag,
    } = asked(&app, from, request).await?;
    let request = v1::CopyFileRequest {
        from,
        to,
        overwrite,
        tenant: access.tenant(),
        etag,
    };
    done(app.master.copy_file(request).await?.file)
}

/// Gives a file another name, in one transaction.
#[utoipa::path(
    post, path = "/api/files/{name}:rename", tag = "files",
    params(
        ("name" = String, Path, description = "Name of the file; a slash in it stands as it is", example = "docs/a.txt"),
        ("if-match" = Option<String>, Header, description = "* or one ETag that the file must have", pattern = r#"^(\*|"[!#-~]+")$"#),
    ),
    request_body(content = Target, content_type = "application/json"),
    responses(
        (status = 200, description = "Done", body = Done),
        (status = 404, description = "There is no such file", body = Problem, content_type = "application/problem+json"),
        (status = 409, description = "The new name is taken", body = Problem, content_type = "application/problem+json"),
        (status = 412, description = "The file has another ETag", body = Problem, content_type = "application/problem+json"),
        (status = 413, description = "The body is too long", body = Problem, content_type = "application/problem+json"),
        (status = 411, description = "Over HTTP/1.0 without Content-Length", body = Problem, content_type = "application/problem+json"),
        Refused,
    )
)]
async fn rename(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    from: FileName,
    request: Request,
) -> Result<Response, ApiError> {
    let Asked {
        from,
        to,
        overwrite,
        etag,
    } = asked(&app, from, request).await?;
    let request = v1::RenameFileRequest {
        from,
        to,
        overwrite,
        tenant: access.tenant(),
        etag,
    };
    done(app.master.rename_file(request).await?.file)
}

struct Asked {
    from: String,
    to: String,
    overwrite: bool,
    etag: String,
}

async fn asked(app: &App, from: FileName, request: Request) -> Result<Asked, ApiError> {
    Query::only(request.uri().query(), &[])?;
    let etag = condition::etag_of_source(request.headers())?;
    let body = Incoming::new(
        request.version(),
        request.into_body(),
        app.config.idle_timeout,
        app.config.min_rate,
    )
    .whole(MAX_COPY_BODY)
    .await?;
    // serde would take an array too, by position.
    let target = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&body)
        .and_then(|object| serde_json::from_value::<Target>(object.into()));
    let target = target.map_err(|error| {
        ApiError::invalid(format!(
            "the body must be {{\"to\": name, \"overwrite\": false}}: {error}"
        ))
    })?;
    let to = FileName::new(target.to)?.to_string();
    Ok(Asked {
        from: from.to_string(),
        to,
        overwrite: target.overwrite,
        etag,
    })
}

fn done(file: Option<v1::FileInfo>) -> Result<Response, ApiError> {
    let file = file.ok_or_else(answer::no_file)?.into();
    answer::json(
        StatusCode::OK,
        &Done {
            status: "success",
            file,
        },
    )
}
