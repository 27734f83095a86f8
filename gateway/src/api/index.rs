//! `GET /`: what there is, for somebody who comes with curl.

use axum::response::{IntoResponse, Response};

const TEXT: &str = "\
C-Store

  POST   /api/upload                  multipart form with one part named file
  PUT    /api/files/{name}            raw body; ?overwrite=true, If-Match, If-None-Match: *
  GET    /api/files/{name}            Range, If-None-Match; HEAD too
  GET    /api/download/{name}         the same, to be saved
  DELETE /api/files/{name}
  POST   /api/files/{name}:copy       {\"to\": name, \"overwrite\": false}
  POST   /api/files/{name}:rename     {\"to\": name, \"overwrite\": false}
  GET    /api/files                   ?prefix= &delimiter= &limit= &page_token=
  GET    /api/files/{name}?explain=freed   what a removal would free
  GET    /api/usage                   ?prefix=: logical, unique, shared bytes of what is under it
  GET    /api/stats
  GET    /api/cluster
  GET    /api/page                    what the web page at / is told
  GET    /api/openapi.json            all of this, for programs
";

pub(crate) async fn index() -> Response {
    TEXT.into_response()
}
