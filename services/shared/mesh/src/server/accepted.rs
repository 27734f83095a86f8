//! An accepted connection in the form that tonic's server takes.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use cstore_node::connections::Slot;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::time::{Sleep, sleep};
use tonic::transport::server::Connected;

use crate::limits::PREFACE_DEADLINE;
use crate::transport::io::BoxIo;

/// Length of the preface of HTTP/2 (RFC 9113 §3.4).
const PREFACE: usize = 24;

/// An accepted connection. If it was admitted by a limiter, it fails when it is evicted, and when the
/// caller does not send the preface of HTTP/2 in time.
pub struct Accepted {
    io: BoxIo,
    admitted: Option<Admitted>,
}

struct Admitted {
    slot: Arc<Slot>,
    eviction: Pin<Box<dyn Future<Output = ()> + Send>>,
    is_evicted: bool,
    /// Nothing was read since the eviction.
    may_flush: bool,
    /// Bytes of the preface that have not come.
    preface: usize,
    deadline: Pin<Box<Sleep>>,
}

/// The slot of the connection that a call came over; `None` for connections without a limiter.
#[derive(Debug, Clone)]
pub struct CallerSlot(pub(crate) Option<Arc<Slot>>);

impl Accepted {
    pub(crate) fn admitted(io: BoxIo, slot: Arc<Slot>) -> Self {
        let eviction = {
            let slot = slot.clone();
            Box::pin(async move { slot.evicted().await })
        };
        let admitted = Admitted {
            slot,
            eviction,
            is_evicted: false,
            may_flush: true,
            preface: PREFACE,
            deadline: Box::pin(sleep(PREFACE_DEADLINE)),
        };
        Self {
            io,
            admitted: Some(admitted),
        }
    }
}

impl Admitted {
    fn is_evicted(&mut self, cx: &mut Context<'_>) -> bool {
        self.is_evicted = self.is_evicted || self.eviction.as_mut().poll(cx).is_ready();
        self.is_evicted
    }
}

impl From<BoxIo> for Accepted {
    /// Makes a connection that no limiter has admitted.
    fn from(io: BoxIo) -> Self {
        Self { io, admitted: None }
    }
}

impl std::fmt::Debug for Accepted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Accepted")
            .field("is_admitted", &self.admitted.is_some())
            .finish_non_exhaustive()
    }
}

impl Connected for Accepted {
    type ConnectInfo = CallerSlot;

    fn connect_info(&self) -> CallerSlot {
        let slot = self.admitted.as_ref();
        CallerSlot(slot.map(|admitted| admitted.slot.clone()))
    }
}

impl Accepted {
    /// Fails a write that has to wait for a caller whose connection was evicted. h2 reads nothing
    /// while it waits, so reads alone would never end the connection of a caller that takes nothing.
    fn unless_evicted<T>(
        &mut self,
        cx: &mut Context<'_>,
        attempt: Poll<io::Result<T>>,
    ) -> Poll<io::Result<T>> {
        if let Some(admitted) = &mut self.admitted
            && attempt.is_pending()
            && admitted.is_evicted(cx)
        {
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
        }
        attempt
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let Self { io, admitted } = &mut *self;
        let Some(admitted) = admitted else {
            return Pin::new(io).poll_read(cx, buf);
        };
        if admitted.is_evicted(cx) {
            // Frames of an answer may still be on the way from h2 to the socket. h2 writes them after
            // it has read what there is, so the first read after the eviction finds nothing.
            if !admitted.may_flush {
                return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
            }
            admitted.may_flush = false;
            cx.waker().wake_by_ref();
            return Poll::Pending;
        }

        let before = buf.filled().len();
        let attempt = Pin::new(io).poll_read(cx, buf);
        if attempt.is_ready() {
            let n_read = buf.filled().len() - before;
            admitted.preface = admitted.preface.saturating_sub(n_read);
        } else if admitted.preface > 0 && admitted.deadline.as_mut().poll(cx).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        attempt
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.io).poll_write(cx, buf);
        self.unless_evicted(cx, attempt)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.io).poll_flush(cx);
        self.unless_evicted(cx, attempt)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let attempt = Pin::new(&mut self.io).poll_shutdown(cx);
        self.unless_evicted(cx, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.io).poll_write_vectored(cx, bufs);
        self.unless_evicted(cx, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
