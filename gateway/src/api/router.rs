//! Paths to verbs, and the layers that every request passes.

use std::sync::atomic::Ordering;

use axum::Router;
use axum::body::HttpBody;
use axum::extract::{DefaultBodyLimit, MatchedPath, Request, State};
use axum::middleware::{self, Next};
use axum::response::{IntoResponse, Response};
use axum::routing;
use cstore_node::telemetry::current_trace_id;
use http::header::{AUTHORIZATION, CONNECTION};
use http::{HeaderValue, Version};
use tokio::time::Instant;
use tracing::Instrument;

use crate::api::trace::{NO_TRACE, TRACE_HEADER, TraceId, span};
use crate::api::{cluster, copy, delete, get, list, openapi, page, put, stats, upload, usage};
use crate::app::{App, Shared};
use crate::auth::bearer::Access;
use crate::auth::origin;
use crate::auth::route_rights::{self, FILE};
use crate::error::ApiError;
use crate::http::body::{Incoming, refuse};
use crate::http::head;

/// All routes of a gateway.
pub(crate) fn router(app: Shared) -> Router {
    Router::new()
        .route("/", routing::get(page::root))
        .route("/assets/{name}", routing::get(page::asset))
        .route("/api/upload", routing::post(upload::upload))
        .route("/api/files", routing::get(list::list))
        .route(
            FILE,
            routing::get(get::file)
                .head(get::file_head)
                .put(put::put)
                .delete(delete::delete)
                .post(copy::copy_or_rename),
        )
        .route(
            "/api/download/{*name}",
            routing::get(get::download).head(get::download_head),
        )
        .route("/api/stats", routing::get(stats::stats))
        .route("/api/usage", routing::get(usage::usage))
        .route("/api/cluster", routing::get(cluster::cluster))
        .route("/api/page", routing::get(page::told))
        .route("/api/openapi.json", routing::get(openapi::openapi))
        .fallback(|| async { ApiError::no_route() })
        .method_not_allowed_fallback(|| async { ApiError::wrong_method() })
        // Uploads have bounds of their own: in time, not in length.
        .layer(DefaultBodyLimit::disable())
        // The last layer is the outermost.
        .layer(middleware::from_fn_with_state(app.clone(), admit))
        .layer(middleware::from_fn_with_state(app.clone(), observe))
        .with_state(app)
}

/// Refuses what may not come in, or cannot be served yet, before any body is read.
async fn admit(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    if let Err(refused) = head::check(
        request.method(),
        request.version(),
        request.uri(),
        request.headers(),
    ) {
        return refused.closing().into_response();
    }
    if request.uri().path().starts_with("/api/") {
        match judge(&app, &request) {
            // Handlers of routes that are not listed lack it, and cannot run.
            Ok(access) => {
                // Nobody behind this needs the token, and what is not there is not logged.
                request.headers_mut().remove(AUTHORIZATION);
                if let Some(access) = access {
                    request.extensions_mut().insert(access);
                }
            }
            Err(refused) if request.body().is_end_stream() => return refused.into_response(),
            Err(refused) => {
                let version = request.version();
                let body = Incoming::new(
                    version,
                    request.into_body(),
                    app.config.idle_timeout,
                    app.config.min_rate,
                );
                return refuse(refused, body).into_response();
            }
        }
        if !app.started.load(Ordering::Acquire) {
            return ApiError::unavailable(
                "the gateway is starting: the cluster is not complete yet",
            )
            .into_response();
        }
    }
    next.run(request).await
}

/// Returns the access of the caller, or `None` if the route is not listed.
fn judge(app: &App, request: &Request) -> Result<Option<Access>, ApiError> {
    let access = app.auth.check(request.headers())?;
    if !request.headers().contains_key(AUTHORIZATION) {
        origin::check(
            request.method(),
            request.uri(),
            request.headers(),
            app.config.is_local(),
        )?;
    }
    let matched = request
        .extensions()
        .get::<MatchedPath>()
        .map(MatchedPath::as_str);
    let listed = route_rights::check(&access, request.method(), matched, request.uri().path())?;
    Ok(listed.then_some(access))
}

/// Span, trace id, metrics, and the rendering of errors.
async fn observe(State(app): State<Shared>, mut request: Request, next: Next) -> Response {
    let route = request
        .extensions()
        .get::<MatchedPath>()
        .map_or("unmatched", MatchedPath::as_str)
        .to_owned();
    let (method, request_version) = (request.method().clone(), request.version());
    let (started, counted) = (Instant::now(), app.metrics.request());
    let span = span(&request, &route);
    let trace_id = span
        .in_scope(current_trace_id)
        .unwrap_or_else(|| NO_TRACE.to_owned());
    request.extensions_mut().insert(TraceId(trace_id.clone()));

    let mut response = next.run(request).instrument(span.clone()).await;
    if let Some(error) = response.extensions_mut().remove::<ApiError>() {
        let rendered = span.in_scope(|| error.render(&trace_id));
        // Keeps headers that routing has set, such as Allow of a 405.
        let (head, body) = rendered.into_parts();
        let headers = std::mem::take(response.headers_mut());
        response = Response::from_parts(head, body);
        for name in [http::header::ALLOW] {
            if let Some(value) = headers.get(&name) {
                response.headers_mut().insert(name, value.clone());
            }
        }
    }
    if let Ok(value) = HeaderValue::from_str(&trace_id) {
        response.headers_mut().insert(TRACE_HEADER, value);
    }
    if app.readiness.is_leaving() && request_version <= Version::HTTP_11 {
        // A client that keeps its connection goes elsewhere with its next request, before this door
        // closes.
        response
            .headers_mut()
            .insert(CONNECTION, HeaderValue::from_static("close"));
    }
    let status = response.status().as_u16();
    span.record("http.response.status_code", status);
    if response.status().is_server_error() {
        span.record("otel.status_code", "ERROR");
    }
    let took = started.elapsed();
    span.in_scope(|| {
        app.metrics.answered(&method, &route, status, took);
        tracing::debug!(%method, route, status, ?took, "answered");
    });
    drop(counted);
    response
}
