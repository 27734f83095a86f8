//! A client's socket with the deadlines that hyper does not have: for the first bytes, while it is
//! not known yet which HTTP they are, and for a client that does not take its answer, or takes it
//! byte by byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::http::pace::Pace;
use crate::listener::limiter::Slot;

/// The preface of HTTP/2; what is longer has been told apart from HTTP/1.
const PREFACE: usize = 24;

/// Fails with `TimedOut` when a deadline passes.
#[derive(Debug)]
pub(crate) struct TimedIo {
    stream: TcpStream,
    /// Records whether bytes wait to be sent.
    slot: Arc<Slot>,
    /// Bytes of the preface that have not come; 0 when the deadline no longer counts.
    preface: usize,
    first: Pin<Box<Sleep>>,
    write: Pin<Box<Sleep>>,
    /// Since when a write has been waiting for the client.
    write_pending: Option<Instant>,
    idle: Duration,
    pace: Pace,
}

impl TimedIo {
    pub(crate) fn new(
        stream: TcpStream,
        slot: Arc<Slot>,
        first: Duration,
        idle: Duration,
        min_rate: u64,
    ) -> Self {
        Self {
            stream,
            slot,
            preface: PREFACE,
            first: Box::pin(sleep(first)),
            write: Box::pin(sleep(idle)),
            write_pending: None,
            idle,
            pace: Pace::new(min_rate),
        }
    }

    /// Judges an attempt to write: progress resets the deadline, standing still starts it.
    fn timed(
        &mut self,
        context: &mut Context<'_>,
        attempt: Poll<io::Result<usize>>,
    ) -> Poll<io::Result<usize>> {
        self.preface = 0;
        if let Poll::Ready(written) = attempt {
            let waited = self.write_pending.take().map_or(Duration::ZERO, |since| {
                self.slot.set_sending(false);
                since.elapsed()
            });
            let bytes = written.as_ref().map_or(0, |bytes| *bytes as u64);
            if !self.pace.keeps_up(waited, bytes) {
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            }
            return Poll::Ready(written);
        }
        if self.write_pending.is_none() {
            self.write_pending = Some(Instant::now());
            self.slot.set_sending(true);
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
