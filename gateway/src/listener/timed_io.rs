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
use crate::listener::linger::SocketReturn;

/// The preface of HTTP/2; what is longer has been told apart from HTTP/1.
const PREFACE: usize = 24;

/// Bounds of a client's slowness.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Deadlines {
    /// Longest wait for the first bytes.
    pub(crate) first: Duration,
    /// Longest wait for the client to take bytes.
    pub(crate) idle: Duration,
    /// Bytes a second that the client must take while bytes wait for it.
    pub(crate) min_rate: u64,
}

/// Fails with `TimedOut` when a deadline passes.
#[derive(Debug)]
pub(crate) struct TimedIo {
    /// `None` only while it is dropped.
    stream: Option<TcpStream>,
    /// Takes the socket when this is dropped.
    socket_return: SocketReturn,
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
    /// Makes the socket of a client that must send its first bytes within `first`, may pause for
    /// `idle`, and must take `min_rate` bytes a second while bytes wait for it. When it is dropped,
    /// the socket is left at `socket_return`.
    pub(crate) fn new(
        stream: TcpStream,
        slot: Arc<Slot>,
        socket_return: SocketReturn,
        Deadlines {
            first,
            idle,
            min_rate,
        }: Deadlines,
    ) -> Self {
        Self {
            stream: Some(stream),
            socket_return,
            slot,
            preface: PREFACE,
            first: Box::pin(sleep(first)),
            write: Box::pin(sleep(idle)),
            write_pending: None,
            idle,
            pace: Pace::new(min_rate),
        }
    }

    fn stream(&mut self) -> io::Result<Pin<&mut TcpStream>> {
        let stream = self.stream.as_mut().map(Pin::new);
        stream.ok_or_else(|| io::ErrorKind::NotConnected.into())
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
        let attempt = self.stream()?.poll_read(context, buffer);
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
        let attempt = self.stream()?.poll_write(context, bytes);
        self.timed(context, attempt)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let attempt = self.stream()?.poll_write_vectored(context, bytes);
        self.timed(context, attempt)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream
            .as_ref()
            .is_some_and(AsyncWrite::is_write_vectored)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.stream()?.poll_shutdown(context)
    }
}

impl Drop for TimedIo {
    fn drop(&mut self) {
        if self.write_pending.is_some() {
            // Nothing more is sent, so nothing keeps the connection from being evicted.
            self.slot.set_sending(false);
        }
        if let Some(stream) = self.stream.take() {
            self.socket_return.put(stream);
        }
    }
}
