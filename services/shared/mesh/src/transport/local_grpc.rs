//! gRPC calls between roles of one process: the caller's task runs the server's stack itself.
//!
//! ```text
//! client stack ─▶ LocalChannel ─▶ LocalGrpc: server stack (span, metrics, credentials, limits) ─▶ service
//! ```
//! Only what HTTP/2 would carry crosses: method, headers, bodies, trailers. Credentials, deadlines
//! and trace context travel in the headers and are checked as those of any caller.
//!
//! A call that its caller drops is dropped at the server, too, as if its stream had been reset. When
//! the server stops, calls in work may end until the drain is over; then they are cut off as
//! unavailable, as by a connection that breaks.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use crate::transport::local::{LocalServers, Publication};

/// The stack of a server: everything in front of its services, and these.
pub(crate) type ServerStack = BoxCloneSyncService<Request<Body>, Response<Body>, Status>;

/// A gRPC server that roles of this process call directly.
#[derive(Debug)]
pub(crate) struct LocalGrpc {
    stack: ServerStack,
    /// Calls in work, up to the end of their answers.
    calls: TaskTracker,
    /// Cancelled when the drain is over: what is still in work then is dropped.
    cut: CancellationToken,
}

impl LocalGrpc {
    fn call(
        &self,
        mut request: Request<Body>,
    ) -> BoxFuture<'static, Result<Response<Body>, Status>> {
        // They would not cross a network.
        request.extensions_mut().clear();
        let stack = self.stack.clone();
        let cut = self.cut.clone();
        let token = self.calls.token();
        Box::pin(async move {
            // A task whose calls are all answered at once would never let others run otherwise.
            tokio::task::coop::consume_budget().await;
            let mut answer = tokio::select! {
                biased;
                answer = stack.oneshot(request) => answer?,
                () = cut.cancelled() => return Err(stopped()),
            };
            answer.extensions_mut().clear();
            Ok(answer.map(|body| {
                Body::new(LocalBody {
                    body: Some(body),
                    cut,
                    cancelled: None,
                    _call: token,
                })
            }))
        })
    }
}

/// A server that roles of this process find. Dropping it withdraws the server and cuts off the calls
/// in work.
#[derive(Debug)]
pub(crate) struct PublishedGrpc {
    server: Arc<LocalGrpc>,
    publication: Option<Publication>,
}

impl PublishedGrpc {
    pub(crate) fn new(servers: &LocalServers, addr: &str, stack: ServerStack) -> Self {
        let server = Arc::new(LocalGrpc {
            stack,
            calls: TaskTracker::new(),
            cut: CancellationToken::new(),
        });
        let publication = Some(servers.publish(addr, server.clone()));
        Self {
            server,
            publication,
        }
    }

    /// Withdraws the server, then waits until the last call has ended. If the future is dropped
    /// before, the calls that are left are cut off.
    pub(crate) async fn drain(mut self) {
        // New calls MUST end first, otherwise the wait may never end.
        self.publication = None;
        self.server.calls.close();
        self.server.calls.wait().await;
    }
}

impl Drop for PublishedGrpc {
    fn drop(&mut self) {
        self.publication = None;
        self.server.cut.cancel();
    }
}

fn stopped() -> Status {
    Status::unavailable("connection broke: the server has stopped")
}

/// The body of an answer. The call is in work until it is dropped.
struct LocalBody {
    /// `None` after the call was cut off.
    body: Option<Body>,
    cut: CancellationToken,
    /// Waits for the end of the drain. Made when the body has to be waited for.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _call: TaskTrackerToken,
}

impl http_body::Body for LocalBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = &mut *self;
        let Some(body) = &mut this.body else {
            return Poll::Ready(None);
        };
        if let Poll::Ready(frame) = Pin::new(body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        let cut = &this.cut;
        let cancelled = this
            .cancelled
            .get_or_insert_with(|| Box::pin(cut.clone().cancelled_owned()));
        std::task::ready!(cancelled.as_mut().poll(cx));
        // What the service holds for this call is released now, not when the caller is done.
        this.body = None;
        Poll::Ready(Some(Err(stopped())))
    }

    fn is_end_stream(&self) -> bool {
        self.body
            .as_ref()
            .is_none_or(http_body::Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let hint = self.body.as_ref().map(http_body::Body::size_hint);
        hint.unwrap_or_default()
    }
}

/// Sends calls to the server of one address of this process.
#[derive(Debug, Clone)]
pub(crate) struct LocalChannel {
    servers: LocalServers,
    addr: Arc<str>,
}

impl LocalChannel {
    pub(crate) fn new(servers: LocalServers, addr: &str) -> Self {
        let addr = addr.into();
        Self { servers, addr }
    }
}

impl Service<Request<Body>> for LocalChannel {
    type Response = Response<Body>;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Response<Body>, Status>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Status>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        match self.servers.find::<LocalGrpc>(&self.addr) {
            Some(server) => server.call(request),
            None => {
                let text = format!(
                    "connection broke: no role of this process serves at {}",
                    self.addr
                );
                Box::pin(async { Err(Status::unavailable(text)) })
            }
        }
    }
}
