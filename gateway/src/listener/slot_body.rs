//! The body of an answer, which keeps the slot of its connection busy until the body is sent or
//! dropped.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};

use crate::listener::stall::Watch;

/// A body, and a guard that is dropped with it.
#[derive(Debug)]
pub(crate) struct SlotBody<G> {
    body: Body,
    /// Records over HTTP/2 whether the client or the gateway has to act next. `None` over HTTP/1.1.
    watch: Option<Arc<Watch>>,
    _guard: G,
}

impl<G> SlotBody<G> {
    /// Makes the body. The client has to act next: hyper asks for the first bytes when there is
    /// window for them.
    pub(crate) fn new(body: Body, guard: G) -> Self {
        let watch = Watch::current();
        if let Some(watch) = &watch {
            watch.handed_out();
        }
        Self {
            body,
            watch,
            _guard: guard,
        }
    }
}

impl<G: Unpin> HttpBody for SlotBody<G> {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match (&self.watch, &polled) {
            (Some(watch), Poll::Ready(_)) => watch.handed_out(),
            (Some(watch), Poll::Pending) => watch.taken(),
            (None, _) => {}
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
