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
    evicted: Pin<Box<dyn Future<Output = ()> + Send>>,
    /// Bytes of the preface that have not come.
    preface: usize,
    deadline: Pin<Box<Sleep>>,
}

/// The slot of the connection that a call came over; `None` for connections without a limiter.
#[derive(Debug, Clone)]
pub struct CallerSlot(pub(crate) Option<Arc<Slot>>);

impl Accepted {
    pub(crate) fn admitted(io: BoxIo, slot: Arc<Slot>) -> Self {
        let evicted = {
            let slot = slot.clone();
            Box::pin(async move { slot.evicted().await })
        };
        let admitted = Admitted {
            slot,
            evicted,
            preface: PREFACE,
            deadline: Box::pin(sleep(PREFACE_DEADLINE)),
        };
        Self {
            io,
            admitted: Some(admitted),
        }
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
        if admitted.evicted.as_mut().poll(cx).is_ready() {
            // The future must not be polled again.
            admitted.evicted = Box::pin(std::future::ready(()));
            return Poll::Ready(Err(io::ErrorKind::ConnectionAborted.into()));
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
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.io.is_write_vectored()
    }
}
