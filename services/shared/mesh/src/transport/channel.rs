//! The lower half of the client stack: endpoints of one service behind one channel.

use std::sync::Arc;
use std::time::Duration;

use cstore_proto::Signer;
use hyper_util::rt::TokioIo;
use tokio::sync::watch;
use tonic::body::Body;
use tonic::transport::{Endpoint, Uri};
use tonic::{Code, Status};
use tower::util::BoxCloneSyncService;
use tower::{ServiceBuilder, ServiceExt, service_fn};

use crate::endpoints::balance::{Balance, Table};
use crate::endpoints::discovery::Discovery;
use crate::endpoints::manager::Keeper;
use crate::sabotage::Sabotage;
use crate::server::auth::AddCredentialsLayer;
use crate::telemetry::metrics::{MeshMetrics, ServiceMetrics};
use crate::telemetry::trace::InjectTraceLayer;
use crate::transport::dial::{Dial, Target};

/// What the other side may send ahead on one stream.
pub(crate) const STREAM_WINDOW: u32 = 512 << 10;
/// The most that HTTP/2 knows: only the windows of streams push back. Streams whose readers pause would use a smaller
/// one up, and then no other call over the connection would get its answer.
pub(crate) const CONNECTION_WINDOW: u32 = (1 << 31) - 1;
/// An endpoint that does not answer a ping within the second of these is gone.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(5));

/// What generated clients run over. Boxed once, so that an in-process server can stand behind it too. Its errors are
/// statuses already: wrapped errors would lose their code and end as Unknown.
pub type GrpcChannel = BoxCloneSyncService<http::Request<Body>, http::Response<Body>, Status>;

/// How a role talks to others.
#[derive(Clone)]
pub struct ClientOptions {
    /// The role that calls, for the metrics.
    pub role: &'static str,
    /// Makes what is sent as `authorization: Bearer …`.
    pub signer: Signer,
    /// Bound of one attempt to connect.
    pub connect_timeout: Duration,
    /// How connections are made.
    pub dial: Dial,
    /// Where calls are counted.
    pub metrics: MeshMetrics,
    /// A defect on purpose; a program can only have none.
    pub sabotage: Sabotage,
}

impl ClientOptions {
    /// The usual bounds, over TCP.
    pub fn new(role: &'static str, signer: Signer, metrics: MeshMetrics) -> Self {
        let connect_timeout = Duration::from_secs(2);
        Self { role, signer, connect_timeout, dial: Dial::tcp(), metrics, sabotage: Sabotage::None }
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

/// A mesh that cannot be built or served.
#[derive(Debug, thiserror::Error)]
pub enum MeshError {
    /// Not host:port.
    #[error("address {addr:?} is not host:port: {why}")]
    Address {
        /// What was given.
        addr: String,
        /// The part that is wrong.
        why: &'static str,
    },
    /// The address cannot be part of a URI.
    #[error("address {addr:?} cannot be used")]
    Endpoint {
        /// The address.
        addr: String,
        /// The rule of URIs that the address breaks.
        source: tonic::transport::Error,
    },
    /// The server ended with an error.
    #[error("gRPC server")]
    Serve(#[from] tonic::transport::Error),
    /// The descriptors cannot be read: a defect of the build.
    #[error("gRPC reflection")]
    Reflection(#[from] tonic_reflection::server::Error),
}

/// All endpoints of one service, called as one. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Service {
    balance: Balance,
    pub(crate) metrics: ServiceMetrics,
    pub(crate) sabotage: Sabotage,
}

impl Service {
    /// The endpoints of `name` as `discovery` finds them, and the keeper that the caller must run.
    pub fn new(name: &'static str, discovery: Discovery, options: &ClientOptions) -> (Self, Keeper) {
        let metrics = options.metrics.service(options.role, name);
        let table = {
            let metrics = metrics.clone();
            Arc::new_cyclic(|table: &std::sync::Weak<Table>| {
                let table = table.clone();
                let eject = move |endpoint: &crate::endpoints::endpoint::Endpoint| {
                    if table.upgrade().is_some_and(|table| table.eject(endpoint)) {
                        tracing::warn!(
                            service = name,
                            addr = endpoint.target.addr,
                            "endpoint fails and is left alone"
                        );
                        metrics.ejected();
                    }
                };
                Table::new(name, Arc::new(eject))
            })
        };
        let changes = watch::Sender::new(0);
        let balance = Balance::new(table.clone(), changes.subscribe());
        let connect = {
            let options = options.clone();
            Arc::new(move |target: &Target| connection(target, &options))
        };
        let news = Arc::default();
        let keeper = Keeper { table, discovery, connect, changes, metrics: metrics.clone(), news };
        (Self { balance, metrics, sabotage: options.sabotage }, keeper)
    }

    /// A channel that sends each call to the endpoint with the least to do.
    pub fn channel(&self) -> GrpcChannel {
        BoxCloneSyncService::new(self.balance.clone())
    }

    /// Whether an endpoint is not known to be down.
    pub(crate) fn may_serve(&self, target: &Target) -> bool {
        self.balance.pin(target.clone()).may_come()
    }

    /// A channel to one endpoint of the service.
    pub(crate) fn pinned(&self, target: Target) -> GrpcChannel {
        BoxCloneSyncService::new(self.balance.pin(target))
    }
}

/// A channel to one endpoint, lazily connected, remade when it breaks.
fn connection(target: &Target, options: &ClientOptions) -> Result<GrpcChannel, MeshError> {
    let unusable = |source| MeshError::Endpoint { addr: target.addr.clone(), source };
    let endpoint = Endpoint::from_shared(format!("http://{}", target.addr))
        .map_err(unusable)?
        .connect_timeout(options.connect_timeout)
        .http2_keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1)
        .keep_alive_while_idle(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW);
    let (dial, target) = (options.dial.clone(), target.clone());
    let connector = service_fn(move |_: Uri| {
        let (dial, target) = (dial.clone(), target.clone());
        async move { dial.connect(target).await.map(TokioIo::new) }
    });
    let stack = ServiceBuilder::new()
        // A bearer for this call: every inner port denies by default.
        .layer(AddCredentialsLayer::new(options.signer.clone()))
        // The caller's span travels as W3C trace context.
        .layer(InjectTraceLayer)
        .service(endpoint.connect_with_connector_lazy(connector));
    Ok(BoxCloneSyncService::new(stack.map_err(broken)))
}

/// What came over the wire as a status is an answer, not an error: here only the connection can have failed.
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
    if std::ptr::addr_eq(found, status) { status.message().to_owned() } else { found.to_string() }
}
