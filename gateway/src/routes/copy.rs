//! `POST /api/files/{name}:copy` and `:rename`: one transaction at the master, no byte moves.

use axum::Extension;
use axum::extract::{Request, State};
use axum::response::Response;
use cstore_proto::v1;
use cstore_types::FileName;
use http::StatusCode;
use serde::{Deserialize, Serialize};

use crate::app::Shared;
use crate::auth::Access;
use crate::body::Incoming;
use crate::condition;
use crate::error::ApiError;
use crate::name::{self, Verb};
use crate::query::Query;
use crate::routes::FILES;
use crate::routes::answer::{self, File};

const MAX_BODY: usize = 8 << 10;

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Target {
    to: String,
    #[serde(default)]
    overwrite: bool,
}

#[derive(Serialize)]
struct Done {
    status: &'static str,
    #[serde(flatten)]
    file: File,
}

pub(crate) async fn copy_or_rename(
    State(app): State<Shared>,
    access: Option<Extension<Access>>,
    request: Request,
) -> Result<Response, ApiError> {
    // A path without a verb is listed for nobody: it has no access, and is told so first.
    let (from, verb) = name::with_verb(request.uri().path(), FILES)?;
    let Extension(access) = access.ok_or_else(ApiError::wrong_method)?;
    Query::only(request.uri().query(), &[])?;
    let etag = condition::etag_of_source(request.headers())?;
    let body = Incoming::new(request.into_body(), app.config.idle_timeout).whole(MAX_BODY).await?;
    let target: Target = serde_json::from_slice(&body).map_err(|error| {
        ApiError::invalid(format!("the body must be {{\"to\": name, \"overwrite\": false}}: {error}"))
    })?;
    let (from, to) = (from.to_string(), FileName::new(target.to)?.to_string());
    let (overwrite, tenant) = (target.overwrite, access.tenant());
    let file = match verb {
        Verb::Copy => {
            app.master.copy_file(v1::CopyFileRequest { from, to, overwrite, tenant, etag }).await?.file
        }
        Verb::Rename => {
            app.master.rename_file(v1::RenameFileRequest { from, to, overwrite, tenant, etag }).await?.file
        }
    };
    let file = file.ok_or_else(answer::no_file)?.into();
    answer::json(StatusCode::OK, &Done { status: "success", file })
}
