//! The server stack: what stands in front of every gRPC service of ours.

use std::any::Any;
use std::future::Future;
use std::time::Duration;

use cstore_proto::Verifier;
use futures_util::{Stream, StreamExt};
use http::{Request, Response};
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tonic::body::Body;
use tonic::service::Routes;
use tonic::transport::Server;
use tonic::{Code, Status};
use tonic_health::ServingStatus;
use tonic_health::server::HealthReporter;
use tower::limit::GlobalConcurrencyLimitLayer;
use tower::load_shed::LoadShedLayer;
use tower::util::{MapRequestLayer, MapResponseLayer};
use tower::{BoxError, Layer, ServiceBuilder, ServiceExt};
use tower_http::catch_panic::CatchPanicLayer;
use tower_http::trace::TraceLayer;

use crate::error::MeshError;
use crate::limits::{
    CONNECTION_AGE, CONNECTION_WINDOW, LEAVING_NOTICE, MAX_CALL_HEAD, MAX_CALLS, MAX_H2_FRAME,
    MAX_STREAMS, SERVER_PING_AFTER, SERVER_PING_TIMEOUT, STREAM_WINDOW,
};
use crate::server::accepted::Accepted;
use crate::server::auth::RequireCredentialsLayer;
use crate::server::busy::BusyLayer;
use crate::server::metrics::ServerMetricsLayer;
use crate::server::rescue::RescueLayer;
use crate::server::timeout::GrpcTimeoutLayer;
use crate::telemetry::metrics::MeshMetrics;
use crate::telemetry::status::grpc_status;
use crate::telemetry::trace::{self, server_span};
use crate::transport::dial::tcp_incoming;
use crate::transport::head_first::HeadFirst;
use crate::transport::local::LocalServers;
use crate::transport::local_grpc::{PublishedGrpc, ServerStack};

/// How a role serves gRPC.
#[derive(Clone)]
pub struct ServerOptions {
    /// The role that serves, for the metrics.
    pub role: &'static str,
    /// Judges what callers send as `authorization: Bearer …`.
    pub verifier: Verifier,
    /// True if reflection is served, which needs no bearer.
    pub reflection: bool,
    /// Metrics that count the calls.
    pub metrics: MeshMetrics,
    /// Time that running calls get to end after a shutdown began.
    pub drain: Duration,
}

impl std::fmt::Debug for ServerOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ServerOptions")
            .field("reflection", &self.reflection)
            .finish_non_exhaustive()
    }
}

/// Says to health checks whether this role takes work.
#[derive(Debug, Clone)]
pub struct HealthHandle(HealthReporter);

impl HealthHandle {
    /// Sets the status of the whole server (service name empty).
    pub async fn set_serving(&self, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.0.set_service_status("", status).await;
    }

    /// Sets the status of one service. The mesh asks for the whole server only; this one is for
    /// people and monitors.
    pub async fn set_service_serving(&self, service: &str, serving: bool) {
        let status = if serving {
            ServingStatus::Serving
        } else {
            ServingStatus::NotServing
        };
        self.0.set_service_status(service, status).await;
    }

    async fn end_watches(&self) {
        let mut reporter = self.0.clone();
        reporter.clear_service_status("").await;
    }
}

/// Services of one role behind the server stack.
#[derive(Debug)]
pub struct GrpcServer {
    options: ServerOptions,
    routes: Routes,
    health: HealthReporter,
    /// Registry and address under which roles of this process find the server. `None` outside of
    /// `cstore dev`.
    local: Option<(LocalServers, String)>,
}

impl GrpcServer {
    /// Health and reflection; the role adds its services.
    ///
    /// # Errors
    /// [`MeshError::Reflection`] when the descriptors cannot be read, which is a defect.
    pub async fn new(options: ServerOptions) -> Result<Self, MeshError> {
        let (health, service) = tonic_health::server::health_reporter();
        health
            .set_service_status("", ServingStatus::NotServing)
            .await;
        let mut routes = Routes::new(service);
        if options.reflection {
            let builder = || {
                tonic_reflection::server::Builder::configure()
                    .register_encoded_file_descriptor_set(cstore_proto::DESCRIPTORS)
                    .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            };
            routes = routes.add_service(builder().build_v1()?);
            routes = routes.add_service(builder().build_v1alpha()?);
        }
        Ok(Self {
            options,
            routes,
            health,
            local: None,
        })
    }

    /// Lets the roles of this process call the server without connections while it serves.
    #[must_use]
    pub fn within(self, local: LocalServers, addr: &str) -> Self {
        Self {
            local: Some((local, addr.to_owned())),
            ..self
        }
    }

    /// Adds a generated service.
    #[must_use]
    pub fn add_service<S>(mut self, service: S) -> Self
    where
        S: tower::Service<
                http::Request<Body>,
                Response = Response<Body>,
                Error = std::convert::Infallible,
            > + tonic::server::NamedService
            + Clone
            + Send
            + Sync
            + 'static,
        S::Future: Send + 'static,
    {
        self.routes = self.routes.add_service(service);
        self
    }

    /// To say whether this role takes work. It does not at first.
    pub fn health(&self) -> HealthHandle {
        HealthHandle(self.health.clone())
    }

    /// Serves over TCP until `shutdown` ends; see [`Self::serve_over`].
    ///
    /// # Errors
    /// [`MeshError::Serve`].
    pub async fn serve(
        self,
        listener: TcpListener,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), MeshError> {
        self.serve_over(tcp_incoming(listener), shutdown).await
    }

    /// Serves until `shutdown` ends: health says NOT_SERVING first, then nothing new is accepted,
    /// and calls in work get [`ServerOptions::drain`].
    ///
    /// # Errors
    /// [`MeshError::Serve`].
    pub async fn serve_over<C: Into<Accepted>>(
        self,
        incoming: impl Stream<Item = std::io::Result<C>>,
        shutdown: impl Future<Output = ()>,
    ) -> Result<(), MeshError> {
        let health = self.health();
        let drain_time = self.options.drain;
        let stack = ServiceBuilder::new()
            // A span for each call, continuing the caller's trace.
            .layer(
                TraceLayer::new_for_grpc()
                    .make_span_with(server_span)
                    .on_request(())
                    .on_response(ended)
                    .on_eos(streamed)
                    .on_failure(()),
            )
            // The metrics also count calls that a layer below refuses.
            .layer(ServerMetricsLayer::new(
                self.options.metrics.clone(),
                self.options.role,
            ))
            // Deny by default, before anything costs.
            .layer(RequireCredentialsLayer::new(
                self.options.verifier,
                self.options.reflection,
            ))
            // Ends calls whose caller is about to stop waiting.
            .layer(GrpcTimeoutLayer)
            // Refused calls become a status, once.
            .layer(RescueLayer)
            // Sheds when the limit below is not ready.
            .layer(LoadShedLayer::new())
            // One limit for the process, not one per connection.
            .layer(GlobalConcurrencyLimitLayer::new(MAX_CALLS))
            // One body type for answers, whoever made them.
            .layer(MapResponseLayer::new(|answer: Response<_>| {
                answer.map(Body::new)
            }))
            // A defect ends one call, not the connection.
            .layer(CatchPanicLayer::custom(internal));
        let layers = stack.into_inner();
        let local = self.local.map(|(servers, addr)| {
            let stack = layers.layer(self.routes.clone().prepare());
            let stack = stack.map_response(|answer: Response<_>| answer.map(Body::new));
            let stack = stack.map_err(|error: BoxError| Status::from_error(error));
            PublishedGrpc::new(&servers, &addr, ServerStack::new(stack))
        });
        let stop = CancellationToken::new();
        let stopped = stop.clone();
        let server = http2()
            // Outermost, so that a connection is busy as long as its answer is on the way.
            .layer(BusyLayer)
            .layer(layers)
            .layer(MapRequestLayer::new(|request: Request<Body>| {
                request.map(|body| Body::new(HeadFirst::new(body)))
            }))
            .add_routes(self.routes)
            .serve_with_incoming_shutdown(incoming.map(|io| io.map(Into::into)), async move {
                stopped.cancelled().await;
            });
        let serving = async {
            let Some(local) = local else {
                return server.await;
            };
            let of_this_process = async {
                stop.cancelled().await;
                local.drain().await;
                Ok(())
            };
            tokio::try_join!(server, of_this_process).map(drop)
        };
        let drain = async {
            shutdown.await;
            health.set_serving(false).await;
            tokio::time::sleep(LEAVING_NOTICE).await;
            // Those who watch health would hold their connections open for ever.
            health.end_watches().await;
            stop.cancel();
            tokio::time::sleep(drain_time).await;
        };
        tokio::select! {
            biased;
            served = serving => served.map_err(MeshError::from),
            () = drain => {
                tracing::warn!("calls still in work after {drain_time:?} are cut off");
                Ok(())
            }
        }
    }
}

/// Returns a builder of a server with our bounds of connections.
fn http2() -> Server {
    Server::builder()
        .max_frame_size(MAX_H2_FRAME)
        .http2_max_header_list_size(MAX_CALL_HEAD)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_concurrent_streams(MAX_STREAMS)
        // Callers hang up on many downloads at once when their clients do: no reason to cut the
        // other streams off.
        .http2_max_pending_accept_reset_streams(Some(MAX_STREAMS as usize))
        .http2_keepalive_interval(Some(SERVER_PING_AFTER))
        .http2_keepalive_timeout(Some(SERVER_PING_TIMEOUT))
        .max_connection_age(CONNECTION_AGE)
}

/// Records the status of a refusal, which is in the head of the answer.
fn ended<B>(answer: &Response<B>, _: Duration, span: &tracing::Span) {
    if let Some(code) = grpc_status(answer.headers()) {
        trace::record(span, code);
    }
}

/// Records the status of a streamed answer, which is in its trailers.
fn streamed(trailers: Option<&http::HeaderMap>, _: Duration, span: &tracing::Span) {
    if let Some(code) = trailers.and_then(grpc_status) {
        trace::record(span, code);
    }
}

fn internal(panic: Box<dyn Any + Send>) -> Response<Body> {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("unknown");
    tracing::error!(panic = text, "gRPC handler panicked");
    Status::new(Code::Internal, "request handler panicked").into_http()
}
