//! Keeps the connection of a call busy until its answer is sent, so that it is not evicted.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use cstore_node::connections::{NotBegun, RequestInFlight};
use cstore_proto::{ErrorCode, status, status_with_retry};
use http::{Request, Response};
use http_body::{Frame, SizeHint};
use pin_project_lite::pin_project;
use tower::{Layer, Service};

use crate::limits::SHED_PAUSE;
use crate::server::accepted::CallerSlot;

/// Marks connections as busy while they have calls.
#[derive(Debug, Clone, Copy)]
pub(crate) struct BusyLayer;

impl<S> Layer<S> for BusyLayer {
    type Service = BusyService<S>;
    fn layer(&self, inner: S) -> Self::Service {
        BusyService(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct BusyService<S>(S);

impl<S, Req, Res> Service<Request<Req>> for BusyService<S>
where
    S: Service<Request<Req>, Response = Response<Res>>,
{
    type Response = Response<BusyBody<Res>>;
    type Error = S::Error;
    type Future = BusyFuture<S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<Req>) -> Self::Future {
        let slot = request.extensions().get::<CallerSlot>();
        let begun = slot.and_then(|slot| slot.0.as_ref().map(|slot| slot.begin()));
        match begun.transpose() {
            Ok(guard) => BusyFuture {
                answer: Some(self.0.call(request)),
                guard,
                refusal: None,
            },
            Err(why) => BusyFuture {
                answer: None,
                guard: None,
                refusal: Some(why),
            },
        }
    }
}

pin_project! {
    /// A call whose connection is busy, or its refusal.
    pub(crate) struct BusyFuture<F> {
        // `None` for a refusal.
        #[pin]
        answer: Option<F>,
        guard: Option<RequestInFlight>,
        refusal: Option<NotBegun>,
    }
}

impl<F, Res, E> Future for BusyFuture<F>
where
    F: Future<Output = Result<Response<Res>, E>>,
{
    type Output = Result<Response<BusyBody<Res>>, E>;

    fn poll(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Self::Output> {
        let this = self.project();
        if let Some(why) = this.refusal.take() {
            let refused = refusal(why).into_http();
            return Poll::Ready(Ok(refused.map(|()| BusyBody {
                body: None,
                _guard: None,
            })));
        }
        let Some(answer) = this.answer.as_pin_mut() else {
            return Poll::Pending;
        };
        let answer = ready!(answer.poll(cx))?;
        let guard = this.guard.take();
        Poll::Ready(Ok(answer.map(|body| BusyBody {
            body: Some(body),
            _guard: guard,
        })))
    }
}

fn refusal(why: NotBegun) -> tonic::Status {
    match why {
        NotBegun::Evicted => status(
            ErrorCode::Unavailable,
            "the connection was idle and is being closed; connect again",
        ),
        NotBegun::Share => status_with_retry(
            ErrorCode::RateLimited,
            "your address has its share of busy connections",
            SHED_PAUSE,
        ),
    }
}

/// The body of an answer, which keeps the connection busy until it is sent or dropped.
#[derive(Debug)]
pub(crate) struct BusyBody<B> {
    /// `None` for a refusal, whose status is in the head.
    body: Option<B>,
    /// `None` for connections without a limiter.
    _guard: Option<RequestInFlight>,
}

impl<B: http_body::Body + Unpin> http_body::Body for BusyBody<B> {
    type Data = B::Data;
    type Error = B::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<B::Data>, B::Error>>> {
        match &mut self.body {
            Some(body) => Pin::new(body).poll_frame(cx),
            None => Poll::Ready(None),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(B::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        let body = self.body.as_ref();
        body.map_or_else(|| SizeHint::with_exact(0), B::size_hint)
    }
}
