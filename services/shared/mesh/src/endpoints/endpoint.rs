//! One endpoint of a service: its connection, what it says of its health, what it has to do for us,
//! how it answers.
//!
//! ```text
//! Connecting ──watch says SERVING──▶ Serving ──NOT_SERVING, stream or connection ends──▶ Down(why) ──SERVING──▶ Serving
//! ```
//! Calls in work are counted up to the end of their streams, so that a long download weighs for as
//! long as it runs.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures_util::future::BoxFuture;
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::body::Body;
use tonic::{Code, Status};
use tower::ServiceExt;

use crate::endpoints::discovery::Class;
use crate::endpoints::outlier::Outlier;
use crate::limits::UNANSWERED_FAULT;
use crate::telemetry::status::grpc_status;
use crate::transport::channel::GrpcChannel;
use crate::transport::io::Target;

/// Health of an endpoint as its own health service reports it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum HealthState {
    Connecting,
    Serving,
    Down(String),
}

#[derive(Debug)]
pub(crate) struct Endpoint {
    pub(crate) target: Target,
    channel: Mutex<GrpcChannel>,
    pending: AtomicUsize,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    class: Class,
    health: HealthState,
    outlier: Outlier,
}

impl Endpoint {
    pub(crate) fn new(target: Target, class: Class, channel: GrpcChannel) -> Self {
        let state = State {
            class,
            health: HealthState::Connecting,
            outlier: Outlier::default(),
        };
        Self {
            target,
            channel: Mutex::new(channel),
            pending: AtomicUsize::new(0),
            state: Mutex::new(state),
        }
    }

    pub(crate) fn channel(&self) -> GrpcChannel {
        self.channel.lock().clone()
    }

    /// Calls from now on take another connection; those in work keep theirs.
    pub(crate) fn renew(&self, channel: GrpcChannel) {
        *self.channel.lock() = channel;
    }

    pub(crate) fn health(&self) -> HealthState {
        self.state.lock().health.clone()
    }

    pub(crate) fn set_health(&self, health: HealthState) {
        self.state.lock().health = health;
    }

    pub(crate) fn is_serving(&self) -> bool {
        self.state.lock().health == HealthState::Serving
    }

    pub(crate) fn class(&self) -> Class {
        self.state.lock().class
    }

    pub(crate) fn set_class(&self, class: Class) {
        self.state.lock().class = class;
    }

    pub(crate) fn is_ejected(&self) -> bool {
        self.state.lock().outlier.is_ejected(Instant::now())
    }

    pub(crate) fn eject(&self) {
        self.state.lock().outlier.eject(Instant::now());
    }

    /// Returns the number of calls in work.
    pub(crate) fn pending(&self) -> usize {
        self.pending.load(Ordering::Relaxed)
    }

    fn record(&self, fault: bool) -> bool {
        self.state.lock().outlier.record(fault)
    }
}

/// Told when an endpoint has failed too much.
pub(crate) type OnOutlier = Arc<dyn Fn(&Endpoint) + Send + Sync>;

/// One call to one endpoint.
pub(crate) fn call(
    endpoint: Arc<Endpoint>,
    on_outlier: OnOutlier,
    request: Request<Body>,
) -> BoxFuture<'static, Result<Response<Body>, Status>> {
    let mut work = InWork::new(endpoint, on_outlier);
    Box::pin(async move {
        match work.endpoint.channel().oneshot(request).await {
            Ok(response) => {
                work.answered = true;
                // A refusal comes with its status in the head; otherwise the status ends the
                // stream.
                if let Some(code) = grpc_status(response.headers()) {
                    work.judge(code);
                }
                Ok(response.map(|body| Body::new(Watched { body, work })))
            }
            Err(status) => {
                work.judge(status.code());
                Err(status)
            }
        }
    })
}

/// Returns true if an answer of this code counts as a fault of the endpoint.
const fn is_fault(code: Code) -> bool {
    matches!(
        code,
        Code::Unavailable
            | Code::Unknown
            | Code::Internal
            | Code::DeadlineExceeded
            | Code::ResourceExhausted
    )
}

/// A call that weighs on its endpoint until it is dropped.
struct InWork {
    endpoint: Arc<Endpoint>,
    on_outlier: OnOutlier,
    begun: Instant,
    answered: bool,
    judged: bool,
}

impl InWork {
    fn new(endpoint: Arc<Endpoint>, on_outlier: OnOutlier) -> Self {
        endpoint.pending.fetch_add(1, Ordering::Relaxed);
        Self {
            endpoint,
            on_outlier,
            begun: Instant::now(),
            answered: false,
            judged: false,
        }
    }

    fn judge(&mut self, code: Code) {
        if !std::mem::replace(&mut self.judged, true) && self.endpoint.record(is_fault(code)) {
            (self.on_outlier)(&self.endpoint);
        }
    }
}

impl Drop for InWork {
    fn drop(&mut self) {
        if !self.answered && self.begun.elapsed() >= UNANSWERED_FAULT {
            self.judge(Code::DeadlineExceeded);
        }
        self.endpoint.pending.fetch_sub(1, Ordering::Relaxed);
    }
}

/// The body of an answer; its end is the end of the call.
struct Watched {
    body: Body,
    work: InWork,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        match &frame {
            Some(Ok(frame)) => {
                if let Some(code) = frame.trailers_ref().and_then(grpc_status) {
                    self.work.judge(code);
                }
            }
            Some(Err(status)) => self.work.judge(status.code()),
            None => {}
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
