//! The description of the REST surface (OpenAPI 3.1), generated from what stands at the handlers.

use std::sync::OnceLock;

use axum::extract::RawQuery;
use axum::response::{IntoResponse, Response};
use bytes::Bytes;
use http::HeaderValue;
use http::header::{CACHE_CONTROL, CONTENT_TYPE};
use utoipa::openapi::security::{HttpAuthScheme, HttpBuilder, SecurityScheme};
use utoipa::{Modify, OpenApi};

use crate::api::responses::Refused;
use crate::api::{cluster, copy, delete, get, list, page, put, stats, upload, usage};
use crate::error::ApiError;
use crate::http::query::Query;

#[derive(OpenApi)]
#[openapi(
    info(
        title = "C-Store",
        description = "Files by name, stored once: what is equal in two files takes its space once. Names are UTF-8, 1 to \
            1,024 bytes; '/' makes folders; no empty, '.' or '..' segments, no control characters.",
        license(name = "Apache-2.0")
    ),
    paths(
        put::put,
        upload::upload,
        get::file,
        get::file_head,
        get::download,
        get::download_head,
        delete::delete,
        copy::copy,
        copy::rename,
        list::list,
        stats::stats,
        usage::usage,
        cluster::cluster,
        page::told,
        openapi,
    ),
    security(("token" = []), ()),
    modifiers(&Token)
)]
struct Description;

struct Token;

impl Modify for Token {
    fn modify(&self, openapi: &mut utoipa::openapi::OpenApi) {
        let bearer = HttpBuilder::new()
            .scheme(HttpAuthScheme::Bearer)
            .bearer_format("cst_<id>_<secret>");
        let scheme = SecurityScheme::Http(bearer.build());
        openapi
            .components
            .get_or_insert_default()
            .add_security_scheme("token", scheme);
    }
}

/// The document as JSON, made once.
fn document() -> Bytes {
    static DOCUMENT: OnceLock<Bytes> = OnceLock::new();
    let made = || Description::openapi().to_json().unwrap_or_default().into();
    DOCUMENT.get_or_init(made).clone()
}

/// This description.
#[utoipa::path(
    get, path = "/api/openapi.json", tag = "cluster",
    responses((status = 200, description = "OpenAPI 3.1", body = serde_json::Value), Refused)
)]
pub(crate) async fn openapi(RawQuery(query): RawQuery) -> Result<Response, ApiError> {
    Query::only(query.as_deref(), &[])?;
    let headers = [
        (CONTENT_TYPE, HeaderValue::from_static("application/json")),
        (CACHE_CONTROL, HeaderValue::from_static("no-cache")),
    ];
    Ok((headers, document()).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::route_rights::ROUTES;
    use std::collections::BTreeSet;

    /// utoipa merges two schemas of one name without an error.
    #[test]
    fn pages_of_names_and_settings_of_the_page_have_schemas_of_their_own() {
        let document: serde_json::Value = serde_json::from_slice(&document()).unwrap();
        let properties = |path: &str| {
            let content = &document["paths"][path]["get"]["responses"]["200"]["content"];
            let schema = content["application/json"]["schema"]["$ref"].as_str();
            let name = schema.and_then(|name| name.rsplit('/').next()).unwrap();
            document["components"]["schemas"][name]["properties"].clone()
        };
        assert!(properties("/api/files")["files"].is_object());
        assert!(properties("/api/page")["rights"].is_object());
    }

    #[test]
    fn every_route_is_described_and_nothing_else_is() {
        let document: serde_json::Value = serde_json::from_slice(&document()).unwrap();
        let described: BTreeSet<String> = document["paths"]
            .as_object()
            .unwrap()
            .iter()
            .flat_map(|(path, item)| {
                item.as_object()
                    .unwrap()
                    .keys()
                    .map(move |method| format!("{method} {path}"))
            })
            .collect();
        let routes = ROUTES.iter().flat_map(|route| {
            let path = route.path.replace("{*name}", "{name}") + route.verb;
            let head = (route.path.ends_with("{*name}") && route.method == "GET").then_some("head");
            let methods = head.into_iter().chain([route.method]);
            methods
                .map(move |method| format!("{} {path}", method.to_ascii_lowercase()))
                .collect::<Vec<_>>()
        });
        assert_eq!(described, routes.collect());
    }

    #[test]
    fn every_operation_says_what_it_answers_when_it_fails() {
        let document: serde_json::Value = serde_json::from_slice(&document()).unwrap();
        for (path, item) in document["paths"].as_object().unwrap() {
            for (method, operation) in item.as_object().unwrap() {
                for status in ["400", "401", "403", "500", "503", "504"] {
                    let problem =
                        &operation["responses"][status]["content"]["application/problem+json"];
                    assert!(problem.is_object(), "{method} {path} {status}");
                }
                assert!(
                    operation["summary"].is_string() || operation["description"].is_string(),
                    "{method} {path}"
                );
            }
        }
    }
}
