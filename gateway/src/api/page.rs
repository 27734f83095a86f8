//! The web page: `GET /` for browsers, its parts under `/assets/`, and `GET /api/page` with its
//! settings.
//!
//! The page and its parts hold no data and need no token: everything that they show comes from the
//! REST routes, with the token that the user gives to the page.

use axum::Extension;
use axum::body::Body;
use axum::extract::rejection::PathRejection;
use axum::extract::{Path, RawQuery, State};
use axum::response::Response;
use http::header::{
    ACCEPT, CACHE_CONTROL, CONTENT_SECURITY_POLICY, CONTENT_TYPE, ETAG, IF_NONE_MATCH,
    REFERRER_POLICY, VARY, X_CONTENT_TYPE_OPTIONS, X_FRAME_OPTIONS,
};
use http::{HeaderMap, HeaderName, HeaderValue, StatusCode};
use serde::Serialize;
use utoipa::ToSchema;

use crate::api::assets::{self, Asset};
use crate::api::responses::Refused;
use crate::api::{answer, index};
use crate::app::Shared;
use crate::auth::bearer::Access;
use crate::error::ApiError;
use crate::http::etag_list::EtagList;
use crate::http::query::Query;

/// Content security policy of the page: resources of this origin only, nothing inline, nothing in a
/// frame; text can become markup nowhere.
const POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; \
    base-uri 'none'; form-action 'none'; frame-ancestors 'none'; require-trusted-types-for 'script'; \
    trusted-types 'none'";

/// Keeps pages of other origins from loading the parts.
const RESOURCE_POLICY: HeaderName = HeaderName::from_static("cross-origin-resource-policy");

/// Settings that a gateway gives to its web page.
#[derive(Serialize, ToSchema)]
#[schema(as = PageConfig)]
struct PageConfig<'a> {
    /// Where traces are shown: `{jaeger_url}/trace/{trace id}`. Missing if nowhere.
    jaeger_url: Option<&'a str>,
    /// Tenant of the request.
    #[schema(example = "default")]
    tenant: String,
    /// Rights of the request: `read`, `write` and `delete`. The page offers only what they allow.
    #[schema(value_type = Vec<String>)]
    rights: Vec<&'static str>,
    /// True if users can sign in: requests need a token, or the gateway has tokens.
    sign_in: bool,
}

/// Returns the settings of the web page. Every valid token is enough.
#[utoipa::path(
    get, path = "/api/page", tag = "cluster",
    responses((status = 200, description = "Settings", body = PageConfig<'_>), Refused)
)]
pub(crate) async fn told(
    State(app): State<Shared>,
    Extension(access): Extension<Access>,
    RawQuery(query): RawQuery,
) -> Result<Response, ApiError> {
    Query::only(query.as_deref(), &[])?;
    let config = PageConfig {
        jaeger_url: app.config.jaeger_ui.as_ref().map(|url| url.as_str()),
        tenant: access.tenant.to_string(),
        rights: access.rights(),
        sign_in: !app.auth.anonymous || !app.auth.tokens.is_empty(),
    };
    answer::json(StatusCode::OK, &config)
}

/// Serves the page to clients that ask for HTML, and a text to all others.
pub(crate) async fn root(headers: HeaderMap) -> Result<Response, ApiError> {
    let mut answer = if takes_html(&headers) {
        page(&headers)?
    } else {
        index::index().await
    };
    answer
        .headers_mut()
        .insert(VARY, HeaderValue::from_static("accept"));
    Ok(answer)
}

pub(crate) async fn asset(
    name: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(name) = name.map_err(|_| ApiError::no_route())?;
    serve(
        assets::find(&name).ok_or_else(ApiError::no_route)?,
        &headers,
    )
}

fn page(headers: &HeaderMap) -> Result<Response, ApiError> {
    serve(
        assets::find("index.html").ok_or_else(ApiError::no_route)?,
        headers,
    )
}

/// Returns true if the client takes HTML: curl says `*/*`, browsers name the type.
fn takes_html(headers: &HeaderMap) -> bool {
    let accepted = headers
        .get_all(ACCEPT)
        .iter()
        .filter_map(|value| value.to_str().ok());
    accepted.flat_map(|value| value.split(',')).any(|range| {
        range
            .split(';')
            .next()
            .is_some_and(|kind| kind.trim().eq_ignore_ascii_case("text/html"))
    })
}

/// The parts belong together, so a browser asks each time whether they have changed; the answer is
/// nearly always 304.
fn serve(asset: &'static Asset, asked: &HeaderMap) -> Result<Response, ApiError> {
    let known = EtagList::from_headers(asked, &IF_NONE_MATCH);
    let tag = asset.etag.to_str().unwrap_or_default().trim_matches('"');
    let same = known.is_some_and(|known| known.matches_weakly(tag));
    let mut response = Response::new(if same {
        Body::empty()
    } else {
        Body::from(asset.bytes)
    });
    if same {
        *response.status_mut() = StatusCode::NOT_MODIFIED;
    }
    let headers = response.headers_mut();
    headers.insert(ETAG, asset.etag.clone());
    if !same {
        headers.insert(CONTENT_TYPE, HeaderValue::from_static(asset.content_type));
    }
    for (name, value) in [
        (CACHE_CONTROL, "no-cache"),
        (CONTENT_SECURITY_POLICY, POLICY),
        (X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (X_FRAME_OPTIONS, "DENY"),
        (REFERRER_POLICY, "no-referrer"),
        (RESOURCE_POLICY, "same-origin"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    Ok(response)
}
