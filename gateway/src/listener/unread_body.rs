//! The body of a request, which notes for its connection that it is dropped before its end.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};

use axum::body::{Bytes, HttpBody};
use http_body::{Frame, SizeHint};
use hyper::body::Incoming;

/// A body as hyper gives it.
#[derive(Debug)]
pub(crate) struct UnreadBody {
    body: Incoming,
    /// Set if the client may still be sending the rest.
    has_unread: Arc<AtomicBool>,
    /// The end was read, or the body broke off.
    is_ended: bool,
}

impl UnreadBody {
    pub(crate) fn new(body: Incoming, has_unread: Arc<AtomicBool>) -> Self {
        let is_ended = body.is_end_stream();
        Self {
            body,
            has_unread,
            is_ended,
        }
    }
}

impl HttpBody for UnreadBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        match &polled {
            Poll::Ready(None | Some(Err(_))) => self.is_ended = true,
            Poll::Ready(Some(Ok(_))) if self.body.is_end_stream() => self.is_ended = true,
            _ => {}
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

impl Drop for UnreadBody {
    fn drop(&mut self) {
        if !self.is_ended {
            self.has_unread.store(true, Ordering::Relaxed);
        }
    }
}
