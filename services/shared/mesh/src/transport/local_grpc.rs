//! gRPC calls between roles of one process: the caller's task runs the server's stack itself.
//!
//! ```text
//! client stack ─▶ LocalChannel ─▶ LocalGrpc: server stack (span, metrics, credentials, limits) ─▶ service
//! ```
//! Only what HTTP/2 would carry crosses: method, headers, bodies, trailers. Credentials, deadlines
//! and trace context travel in the headers and are checked as those of any caller.
//!
//! A call that its caller drops is dropped at the server, too, and its request body ends with an
//! error, as if its stream had been reset: a service may have handed the body to a task. When the
//! server stops, calls in work may end until the drain is over; then they are cut off as
//! unavailable, as by a connection that breaks.

use std::future::Future;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use futures_util::task::AtomicWaker;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;
use tonic::Status;
use tonic::body::Body;
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt};

use crate::transport::head_first::HeadFirst;
use crate::transport::local::{LocalServers, Publication};

/// The layers of a server and the services behind them.
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
        // Cleared, because a network would not carry them either.
        request.extensions_mut().clear();
        let stack = self.stack.clone();
        let cut = self.cut.clone();
        let token = self.calls.token();
        let reset = Arc::new(Reset::default());
        let request = request.map(|body| {
            let reset = reset.clone();
            let body = HeadFirst::new(body);
            Body::new(RequestBody { body, reset })
        });
        let reset = ResetOnDrop(reset);
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
                    _call: (token, reset),
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

/// The end of a call, for the body of its request.
#[derive(Debug, Default)]
struct Reset {
    has_ended: AtomicBool,
    reader: AtomicWaker,
}

/// Ends the body of the request with the call.
struct ResetOnDrop(Arc<Reset>);

impl Drop for ResetOnDrop {
    fn drop(&mut self) {
        self.0.has_ended.store(true, Ordering::Release);
        self.0.reader.wake();
    }
}

/// The body of a request. Fails when its call has ended.
struct RequestBody {
    body: HeadFirst,
    reset: Arc<Reset>,
}

impl http_body::Body for RequestBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Poll::Ready(frame) = Pin::new(&mut self.body).poll_frame(cx) {
            return Poll::Ready(frame);
        }
        // Registered BEFORE the look, otherwise an end between the two would wake nobody.
        self.reset.reader.register(cx.waker());
        if self.reset.has_ended.load(Ordering::Acquire) {
            let reset = Status::cancelled("the caller has dropped the call");
            return Poll::Ready(Some(Err(reset)));
        }
        Poll::Pending
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// The body of an answer. The call is in work until it is dropped.
struct LocalBody {
    /// `None` after the call was cut off.
    body: Option<Body>,
    cut: CancellationToken,
    /// Waits for the end of the drain. Made when the body has to be waited for.
    cancelled: Option<Pin<Box<WaitForCancellationFutureOwned>>>,
    _call: (TaskTrackerToken, ResetOnDrop),
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
        // A defect ends this call, as it would end one stream of a connection, and not its caller.
        let polled = catch_unwind(AssertUnwindSafe(|| Pin::new(body).poll_frame(cx)));
        let Ok(polled) = polled else {
            this.body = None;
            tracing::error!("gRPC handler panicked");
            let panicked = Status::internal("request handler panicked");
            return Poll::Ready(Some(Err(panicked)));
        };
        if polled.is_ready() {
            return polled;
        }
        let cut = &this.cut;
        let cancelled = this
            .cancelled
            .get_or_insert_with(|| Box::pin(cut.clone().cancelled_owned()));
        std::task::ready!(cancelled.as_mut().poll(cx));
        // Dropped now: the answer may hold the store, and the caller may keep this body for long.
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

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use http_body::Body as _;
    use tokio::sync::mpsc;
    use tower::service_fn;

    use super::*;

    const ADDR: &str = "127.0.0.1:1";

    /// A body that never ends, nor sends anything.
    struct Silent;

    impl http_body::Body for Silent {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            self: Pin<&mut Self>,
            _: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Pending
        }
    }

    fn request() -> Request<Body> {
        let mut request = Request::new(Body::new(Silent));
        request.extensions_mut().insert("of the caller");
        request
    }

    fn servers() -> LocalServers {
        let servers = LocalServers::default();
        servers.add(ADDR);
        servers
    }

    /// Publishes a server whose answers are silent bodies. It sends each request to `requests`.
    fn publish(servers: &LocalServers, requests: mpsc::Sender<Request<Body>>) -> PublishedGrpc {
        let serve = service_fn(move |request| {
            let requests = requests.clone();
            async move {
                requests.send(request).await.unwrap();
                let mut answer = Response::new(Body::new(Silent));
                answer.extensions_mut().insert("of the server");
                Ok(answer)
            }
        });
        PublishedGrpc::new(servers, ADDR, ServerStack::new(serve))
    }

    async fn next_frame(body: &mut Body) -> Option<Result<Frame<Bytes>, Status>> {
        std::future::poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await
    }

    #[tokio::test]
    async fn a_call_that_is_dropped_ends_its_request_body_with_an_error() {
        let (sender, mut requests) = mpsc::channel(1);
        let servers = servers();
        let _server = publish(&servers, sender);
        let mut channel = LocalChannel::new(servers, ADDR);

        let answer = channel.call(request()).await.unwrap();
        let mut of_server = requests.recv().await.unwrap();
        assert!(of_server.extensions().is_empty() && answer.extensions().is_empty());
        let reading = next_frame(of_server.body_mut());
        tokio::pin!(reading);
        assert!(futures_util::poll!(&mut reading).is_pending());
        drop(answer);
        let error = reading.await.unwrap().unwrap_err();
        assert_eq!(error.code(), tonic::Code::Cancelled);
    }

    #[tokio::test]
    async fn i12_a_server_that_stops_waits_for_its_calls_and_then_cuts_them_off() {
        let (sender, mut requests) = mpsc::channel(1);
        let servers = servers();
        let server = publish(&servers, sender);
        let mut channel = LocalChannel::new(servers, ADDR);
        let mut answer = channel.call(request()).await.unwrap();
        drop(requests.recv().await.unwrap());

        let mut drain = Box::pin(server.drain());
        assert!(futures_util::poll!(&mut drain).is_pending());
        let refused = channel.call(request()).await.unwrap_err();
        assert_eq!(refused.code(), tonic::Code::Unavailable);
        drop(drain);
        let cut = next_frame(answer.body_mut()).await.unwrap().unwrap_err();
        assert_eq!(cut.code(), tonic::Code::Unavailable);
        assert!(next_frame(answer.body_mut()).await.is_none());
    }

    #[tokio::test]
    async fn i12_a_server_that_stops_ends_its_drain_with_its_last_call() {
        let (sender, mut requests) = mpsc::channel(1);
        let servers = servers();
        let server = publish(&servers, sender);
        let mut channel = LocalChannel::new(servers, ADDR);
        let answer = channel.call(request()).await.unwrap();
        drop(requests.recv().await.unwrap());

        let mut drain = Box::pin(server.drain());
        assert!(futures_util::poll!(&mut drain).is_pending());
        drop(answer);
        drain.await;
    }
}
