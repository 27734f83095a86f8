//! The admin port of a role: `/live`, `/ready`, `/metrics`. Never traced, never without bounds.
//!
//! | path       | answer                                                                                     |
//! |------------|--------------------------------------------------------------------------------------------|
//! | `/live`    | 200 as long as the process can answer at all                                               |
//! | `/ready`   | 503 and `[{"part": "master", "reason": "not reached"}]`, or 200 and the parts that are limited |
//! | `/metrics` | 200, Prometheus text, or OpenMetrics with exemplars for `Accept: application/openmetrics-text`  |
//!
//! The port outlives the role's own listeners: while a role drains, `/ready` already says so. Give
//! it a [`Shutdown`] that is triggered last.

use std::{collections::BTreeMap, sync::Arc};

use axum::{
    Json, Router,
    extract::State,
    response::{IntoResponse, Response},
    routing::get,
};
use http::{
    HeaderMap, StatusCode,
    header::{ACCEPT, CONTENT_TYPE},
};
use hyper::server::conn::http1;
use hyper_util::{
    rt::{TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::watch,
};

use crate::limits::{ADMIN_CONNECTIONS, ADMIN_DRAIN_TIMEOUT, ADMIN_HEADER_TIMEOUT};
use crate::{
    exposition::Exposition,
    listen::{AcceptLimits, accept_loop},
    metrics::Registries,
    shutdown::Shutdown,
};

const LIMITS: AcceptLimits = AcceptLimits {
    connections: ADMIN_CONNECTIONS,
    drain: ADMIN_DRAIN_TIMEOUT,
};
/// The part that says that the process ends.
const LEAVING: &str = "process";

/// Serves the admin port until the shutdown. A role may register more metrics while it is served.
pub async fn run(
    listener: TcpListener,
    readiness: Readiness,
    registries: Registries,
    shutdown: Shutdown,
) {
    let router = Router::new()
        .route("/live", get(|| async { "live\n" }))
        .route("/ready", get(ready))
        .with_state(readiness)
        .merge(
            Router::new()
                .route("/metrics", get(metrics))
                .with_state(registries),
        );
    let stop = shutdown.clone();
    accept_loop(listener, LIMITS, shutdown, move |stream, _| {
        serve(stream, router.clone(), stop.clone())
    })
    .await;
}

/// Parts of a role and whether they can do their work. Clones share it.
#[derive(Debug, Clone)]
pub struct Readiness(Arc<watch::Sender<BTreeMap<&'static str, PartState>>>);

/// State of one part: whether it can do its work, and if not, why not.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartState {
    Ready,
    /// The part does its work, with a restriction that a person should know.
    Limited(String),
    NotReady(String),
}

impl Readiness {
    /// Starts with `parts`, all of which must be ready. Each begins as not ready, because it is
    /// starting.
    pub fn new(parts: &[&'static str]) -> Self {
        let starting = |part: &&'static str| (*part, PartState::NotReady("starting".to_owned()));
        Self(Arc::new(watch::Sender::new(
            parts.iter().map(starting).collect(),
        )))
    }

    pub fn set(&self, part: &'static str, state: PartState) {
        self.0
            .send_if_modified(|parts| parts.insert(part, state.clone()) != Some(state));
    }

    pub fn is_ready(&self) -> bool {
        all_ready(&self.0.borrow())
    }

    /// Notes that the process was asked to end: it is never ready again, and finishes its work.
    pub fn leave(&self) {
        self.set(LEAVING, PartState::NotReady("stopping".to_owned()));
    }

    /// Returns true if [`Self::leave`] was called.
    pub fn is_leaving(&self) -> bool {
        self.0.borrow().contains_key(LEAVING)
    }

    /// Returns the parts that are not ready, with their reasons.
    pub fn reasons(&self) -> Vec<(&'static str, String)> {
        let reason = |(part, state): (&&'static str, &PartState)| match state {
            PartState::Ready | PartState::Limited(_) => None,
            PartState::NotReady(reason) => Some((*part, reason.clone())),
        };
        self.0.borrow().iter().filter_map(reason).collect()
    }

    /// Returns the parts that work with a restriction, with their reasons.
    pub fn limits(&self) -> Vec<(&'static str, String)> {
        let reason = |(part, state): (&&'static str, &PartState)| match state {
            PartState::Ready | PartState::NotReady(_) => None,
            PartState::Limited(reason) => Some((*part, reason.clone())),
        };
        self.0.borrow().iter().filter_map(reason).collect()
    }

    /// Ends when all parts are ready at the same time. The caller sets the deadline.
    pub async fn wait_ready(&self) {
        // It cannot fail: `self` holds a sender.
        let _ = self.0.subscribe().wait_for(all_ready).await;
    }

    /// Ends at the next change after the call.
    pub async fn changed(&self) {
        let _ = self.0.subscribe().changed().await;
    }
}

fn all_ready(parts: &BTreeMap<&'static str, PartState>) -> bool {
    let is_ready = |state: &PartState| !matches!(state, PartState::NotReady(_));
    parts.values().all(is_ready)
}

async fn ready(State(readiness): State<Readiness>) -> Response {
    let (status, reasons) = match readiness.reasons() {
        reasons if reasons.is_empty() => (StatusCode::OK, readiness.limits()),
        reasons => (StatusCode::SERVICE_UNAVAILABLE, reasons),
    };
    let object = |(part, reason): (&str, String)| {
        BTreeMap::from([("part", part.to_owned()), ("reason", reason)])
    };
    (
        status,
        Json(reasons.into_iter().map(object).collect::<Vec<_>>()),
    )
        .into_response()
}

async fn metrics(State(registries): State<Registries>, headers: HeaderMap) -> Response {
    let format = Exposition::accepted(headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()));
    let text = format.write(&registries.list());
    match text {
        Ok(text) => ([(CONTENT_TYPE, format.content_type())], text).into_response(),
        Err(error) => {
            tracing::error!(%error, "cannot encode the metrics");
            StatusCode::INTERNAL_SERVER_ERROR.into_response()
        }
    }
}

async fn serve(stream: TcpStream, router: Router, shutdown: Shutdown) {
    let mut http = http1::Builder::new();
    http.timer(TokioTimer::new())
        .header_read_timeout(ADMIN_HEADER_TIMEOUT);
    let connection = http.serve_connection(TokioIo::new(stream), TowerToHyperService::new(router));
    let mut connection = std::pin::pin!(connection);
    let outcome = tokio::select! {
        outcome = connection.as_mut() => outcome,
        () = shutdown.triggered() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = outcome {
        tracing::debug!(%error, "admin connection ended");
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use parking_lot::Mutex;

    use super::*;

    async fn ask(addr: SocketAddr, path: &str) -> String {
        ask_for(addr, path, "*/*").await
    }

    async fn ask_for(addr: SocketAddr, path: &str, accept: &str) -> String {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        let request = format!(
            "GET {path} HTTP/1.1\r\nhost: admin\r\naccept: {accept}\r\nconnection: close\r\n\r\n"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    #[tokio::test]
    async fn the_pages_tell_life_readiness_and_metrics() {
        let listener = crate::listen::bind("CSTORE_ADMIN_PORT", "127.0.0.1", 0)
            .await
            .unwrap();
        let addr = listener.local_addr().unwrap();
        let readiness = Readiness::new(&["master", "storage"]);
        let shutdown = Shutdown::new();
        let registry = Registries::from(Arc::new(Mutex::new(crate::metrics::registry("worker"))));
        let server = crate::shutdown::spawn(
            "admin",
            run(listener, readiness.clone(), registry, shutdown.clone()),
        );

        assert!(ask(addr, "/live").await.starts_with("HTTP/1.1 200"));
        readiness.set("master", PartState::Ready);
        readiness.set("storage", PartState::NotReady("formatting".to_owned()));
        let answer = ask(addr, "/ready").await;
        assert!(answer.starts_with("HTTP/1.1 503"), "{answer}");
        assert!(
            answer.ends_with(r#"[{"part":"storage","reason":"formatting"}]"#),
            "{answer}"
        );

        readiness.set("storage", PartState::Ready);
        let answer = ask(addr, "/ready").await;
        assert!(
            answer.starts_with("HTTP/1.1 200") && answer.ends_with("[]"),
            "{answer}"
        );

        let answer = ask(addr, "/metrics").await;
        assert!(
            answer.contains("text/plain; version=0.0.4") && !answer.contains("# EOF"),
            "{answer}"
        );
        assert!(
            answer.contains("cstore_build_info{role=\"worker\""),
            "{answer}"
        );
        let answer = ask_for(addr, "/metrics", "application/openmetrics-text").await;
        assert!(
            answer.contains("application/openmetrics-text; version=1.0.0"),
            "{answer}"
        );
        assert!(answer.ends_with("# EOF\n"), "{answer}");
        assert!(ask(addr, "/else").await.starts_with("HTTP/1.1 404"));

        shutdown.trigger();
        server.await.unwrap();
    }

    #[test]
    fn a_process_that_leaves_is_not_ready_and_says_why() {
        let readiness = Readiness::new(&[]);
        assert!(readiness.is_ready() && !readiness.is_leaving());
        readiness.leave();
        assert!(!readiness.is_ready() && readiness.is_leaving());
        assert_eq!(readiness.reasons(), [("process", "stopping".to_owned())]);
    }

    #[tokio::test]
    async fn waiting_ends_when_the_last_part_is_ready() {
        let readiness = Readiness::new(&["a", "b"]);
        let setter = async {
            readiness.set("a", PartState::Ready);
            tokio::task::yield_now().await;
            assert!(!readiness.is_ready());
            readiness.set("b", PartState::Ready);
        };
        tokio::join!(readiness.wait_ready(), setter);
        assert!(readiness.is_ready() && readiness.reasons().is_empty());
    }
}
