//! An answer's body that holds something until it has gone: how long a request keeps its connection busy.

use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use axum::body::{Body, Bytes, HttpBody};
use http_body::{Frame, SizeHint};

use crate::listener::stall::Watch;

/// A body, and what is dropped with it.
#[derive(Debug)]
pub(crate) struct Held<G> {
    body: Body,
    /// Told whose turn it is, over HTTP/2.
    watch: Option<Arc<Watch>>,
    _held: G,
}

impl<G> Held<G> {
    /// It is the client's turn from now on: hyper asks for the first bytes when there is window for them.
    pub(crate) fn new(body: Body, held: G) -> Self {
        let watch = Watch::current();
        if let Some(watch) = &watch {
            watch.handed_out();
        }
        Self { body, watch, _held: held }
    }
}

impl<G: Unpin> HttpBody for Held<G> {
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
