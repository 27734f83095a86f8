//! A client's socket with the two deadlines that hyper does not have: for the first bytes, while it is not known yet
//! which HTTP they are, and for a client that does not take its answer.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

/// The preface of HTTP/2; what is longer has been told apart from HTTP/1.
const PREFACE: usize = 24;

/// Fails with `TimedOut` when a deadline passes.
#[derive(Debug)]
pub(crate) struct TimedIo {
    stream: TcpStream,
    /// Bytes of the preface that have not come; 0 when the deadline no longer counts.
    preface: usize,
    first: Pin<Box<Sleep>>,
    write: Pin<Box<Sleep>>,
    write_pending: bool,
    idle: Duration,
}

impl TimedIo {
    pub(crate) fn new(stream: TcpStream, first: Duration, idle: Duration) -> Self {
        Self {
            stream,
            preface: PREFACE,
            first: Box::pin(sleep(first)),
            write: Box::pin(sleep(idle)),
            write_pending: false,
            idle,
        }
    }

    /// Judges an attempt to write: progress resets the deadline, standing still starts it.
    fn timed<T>(&mut self, context: &mut Context<'_>, attempt: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        self.preface = 0;
        if attempt.is_ready() {
            self.write_pending = false;
            return attempt;
        }
        if !self.write_pending {
            self.write_pending = true;
            self.write.as_mut().reset(Instant::now() + self.idle);
        }
        ready!(self.write.as_mut().poll(context));
        Poll::Ready(Err(io::ErrorKind::TimedOut.into()))
    }
}

impl AsyncRead for TimedIo {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buffer.filled().len();
        let attempt = Pin::new(&mut self.stream).poll_read(context, buffer);
        if attempt.is_ready() {
            self.preface = self.preface.saturating_sub(buffer.filled().len() - before);
        } else if self.preface > 0 && self.first.as_mut().poll(context).is_ready() {
            return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
        }
        attempt
    }
}

impl AsyncWrite for TimedIo {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write(context, bytes);
        self.timed(context, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = Pin::new(&mut self.stream).poll_write_vectored(context, bytes);
        self.timed(context, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}
