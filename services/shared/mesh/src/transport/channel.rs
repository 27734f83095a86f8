//! A channel to one target: credentials and trace headers over a connection that is made when it is
//! needed.

use std::time::Duration;

use cstore_proto::Signer;
use hyper_util::rt::TokioIo;
use tonic::body::Body;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Status};
use tower::layer::util::{Identity, Stack};
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::error::MeshError;
use crate::limits::{
    CLIENT_PING_AFTER, CLIENT_PING_TIMEOUT, CONNECT_TIMEOUT, CONNECTION_WINDOW, MAX_H2_FRAME,
    STREAM_WINDOW,
};
use crate::telemetry::metrics::MeshMetrics;
use crate::telemetry::trace::InjectTraceLayer;
use crate::transport::credentials::AddCredentialsLayer;
use crate::transport::dial::Dial;
use crate::transport::io::Target;
use crate::transport::local_grpc::LocalChannel;

/// Transport of the generated clients: a connection, or a server of this process. Its errors are statuses already: wrapped errors would lose their code and end as Unknown.
pub type GrpcChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// How a role talks to others.
#[derive(Clone)]
pub struct ClientOptions {
    /// Role that calls, for the metrics.
    pub role: &'static str,
    /// Maker of the bearers in `authorization: Bearer …`.
    pub signer: Signer,
    /// Bound of one attempt to connect.
    pub connect_timeout: Duration,
    /// Way to make connections.
    pub dial: Dial,
    /// Metrics that count the calls.
    pub metrics: MeshMetrics,
}

impl ClientOptions {
    /// The usual bounds, over TCP.
    pub fn new(role: &'static str, signer: Signer, metrics: MeshMetrics) -> Self {
        Self {
            role,
            signer,
            connect_timeout: CONNECT_TIMEOUT,
            dial: Dial::tcp(),
            metrics,
        }
    }
}

impl std::fmt::Debug for ClientOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ClientOptions")
            .field("role", &self.role)
            .field("connect_timeout", &self.connect_timeout)
            .finish_non_exhaustive()
    }
}

/// Returns a channel to `target` that connects at its first call and connects again when the
/// connection breaks. A role of this process is called without a connection.
///
/// # Errors
/// [`MeshError::Endpoint`] if the address cannot be part of a URI.
pub(crate) fn connection(
    target: &Target,
    options: &ClientOptions,
) -> Result<GrpcChannel, MeshError> {
    let local = options.dial.local();
    if local.has(&target.addr) {
        let server = LocalChannel::new(local.clone(), &target.addr);
        let stack = caller_layers(options).service(server);
        return Ok(BoxCloneSyncService::new(stack));
    }
    let unusable = |source| MeshError::Endpoint {
        addr: target.addr.clone(),
        source,
    };
    let endpoint = Endpoint::from_shared(format!("http://{}", target.addr))
        .map_err(unusable)?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(CLIENT_PING_AFTER)
        .keep_alive_timeout(CLIENT_PING_TIMEOUT)
        .keep_alive_while_idle(true)
        .max_frame_size(MAX_H2_FRAME)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let (dial, target) = (options.dial.clone(), target.clone());
    let connector = service_fn(move |_: Uri| {
        let (dial, target) = (dial.clone(), target.clone());
        async move { dial.connect(target).await.map(TokioIo::new) }
    });
    let stack = caller_layers(options).service(endpoint.connect_with_connector_lazy(connector));
    Ok(BoxCloneSyncService::new(stack.map_err(broken)))
}

/// Returns the layers that add what a server demands of its callers.
fn caller_layers(
    options: &ClientOptions,
) -> ServiceBuilder<Stack<InjectTraceLayer, Stack<AddCredentialsLayer, Identity>>> {
    ServiceBuilder::new()
        // A bearer for this call: every inner port denies by default.
        .layer(AddCredentialsLayer::new(options.signer.clone()))
        // The caller's span travels as W3C trace context.
        .layer(InjectTraceLayer)
}

/// Converts a transport error to a status. A status that came over the wire is an answer, not an
/// error, so only the connection can have failed here.
fn broken(error: tonic::transport::Error) -> Status {
    let status = Status::from_error(Box::new(error));
    match status.code() {
        Code::Unknown | Code::Internal => {
            Status::unavailable(format!("connection broke: {}", root_cause(&status)))
        }
        _ => status,
    }
}

/// The deepest reason: "transport error" alone helps nobody.
fn root_cause(status: &Status) -> String {
    let mut found: &dyn std::error::Error = status;
    while let Some(source) = found.source() {
        found = source;
    }
    if std::ptr::addr_eq(found, status) {
        status.message().to_owned()
    } else {
        found.to_string()
    }
}
