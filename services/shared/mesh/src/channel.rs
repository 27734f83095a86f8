//! The lower half of the client stack: one connection to one address, lazily made, remade when it breaks.

use std::time::Duration;

use tonic::body::Body;
use tonic::transport::Endpoint;
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt};

use crate::auth::AddCredentialsLayer;
use crate::trace::InjectTraceLayer;

const STREAM_WINDOW: u32 = 1 << 20;
const CONNECTION_WINDOW: u32 = 4 << 20;

/// What generated clients run over. Boxed once, so that an in-process server can stand behind it too. Its errors are
/// statuses already: wrapped errors would lose their code and end as Unknown.
pub type GrpcChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// How a role talks to others.
#[derive(Clone)]
pub struct ClientOptions {
    /// Sent as `authorization: Bearer …`.
    pub bearer: String,
    /// Bound of one attempt to connect.
    pub connect_timeout: Duration,
}

impl ClientOptions {
    /// The usual bounds.
    pub fn new(bearer: impl Into<String>) -> Self {
        Self { bearer: bearer.into(), connect_timeout: Duration::from_secs(2) }
    }
}

impl std::fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientOptions")
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// A mesh that cannot be built or served.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// Not host:port.
    #[error("address {addr:?} is not host:port: {why}")]
    Address {
        /// What was given.
        addr: String,
        /// What is wrong.
        why: String,
    },
    /// The bearer cannot travel in a header.
    #[error("bearer is not printable ASCII")]
    Bearer,
    /// The server ended with an error.
    #[error("gRPC server: {0}")]
    Serve(String),
}

/// A channel to `addr` (host:port). Connecting happens with the first call and after every break.
///
/// # Errors
/// [`MeshError::Address`], [`MeshError::Bearer`].
pub fn channel(addr: &str, options: &ClientOptions) -> Result<GrpcChannel, MeshError> {
    let bad =
        |error: &dyn std::fmt::Display| MeshError::Address { addr: addr.to_owned(), why: error.to_string() };
    let endpoint = Endpoint::from_shared(format!("http://{addr}"))
        .map_err(|error| bad(&error))?
        .connect_timeout(options.connect_timeout)
        .tcp_nodelay(true)
        .http2_keep_alive_interval(Duration::from_secs(10))
        .keep_alive_timeout(Duration::from_secs(5))
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let stack = ServiceBuilder::new()
        // The bearer of the cluster: every inner port denies by default.
        .layer(AddCredentialsLayer::new(&options.bearer)?)
        // The caller's span travels as W3C trace context.
        .layer(InjectTraceLayer)
        .service(endpoint.connect_lazy());
    Ok(BoxCloneSyncService::new(stack.map_err(broken)))
}

/// What came over the wire as a status is an answer, not an error: here only the connection can have failed.
fn broken(error: tonic::transport::Error) -> Status {
    let status = Status::from_error(Box::new(error));
    match status.code() {
        Code::Unknown | Code::Internal => {
            Status::unavailable(format!("connection broke: {}", status.message()))
        }
        _ => status,
    }
}
