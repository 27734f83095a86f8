//! A client's socket with the deadlines that hyper does not have: for the first bytes, while it is
//! not known yet which HTTP they are, and for a client that does not take its answer, or takes it
//! byte by byte.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use cstore_node::connections::Slot;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio::time::{Instant, Sleep, sleep};

use crate::http::pace::Pace;
use crate::limits::MAX_HEAD_BYTES;

use crate::listener::linger::SocketReturn;

/// The preface of HTTP/2; what is longer has been told apart from HTTP/1.
const PREFACE: usize = 24;

/// First bytes of the preface. No method of HTTP/1.1 that is served begins so.
const H2_START: &[u8] = b"PRI ";

/// Answer to a head that is too long. It fits every socket buffer, so it is sent without waiting.
const HEAD_TOO_LONG: &[u8] =
    b"HTTP/1.1 431 Request Header Fields Too Large\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

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
    /// Bytes that came since the last request began: a head of HTTP/1.1 that is not complete.
    head: usize,
    /// Requests that had begun when `head` was 0.
    begun: u64,
    /// First bytes of the connection, until [`H2_START`] could be told.
    start: Vec<u8>,
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
            head: 0,
            begun: 0,
            start: Vec::new(),
        }
    }

    /// Returns the bytes that may be read now, and whether they may be of the head of an HTTP/1.1
    /// request. 0 bytes if that head is too long.
    ///
    /// hyper would collect as much of a head as its read buffer holds, which is made for bodies. The
    /// first read is not limited: it usually has the whole head, and a small body in one piece.
    fn allowance(&mut self) -> (usize, bool) {
        let is_h2 = self.start.starts_with(H2_START);
        let (is_busy, begun) = self.slot.progress();
        if begun != self.begun || is_busy {
            // A request may begin and end between two reads.
            self.begun = begun;
            self.head = 0;
        }
        if is_h2 || is_busy {
            return (usize::MAX, false);
        }
        let allowance = match self.head {
            0 => usize::MAX,
            head => MAX_HEAD_BYTES.saturating_sub(head),
        };
        (allowance, true)
    }

    fn note_read(&mut self, bytes: &[u8], is_head: bool) {
        if is_head {
            self.head = self.head.saturating_add(bytes.len());
        }
        let missing = H2_START.len().saturating_sub(self.start.len());
        self.start.extend(bytes.iter().take(missing));
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
        let (allowance, is_head) = self.allowance();
        if allowance == 0 {
            let _ = self.stream()?.try_write(HEAD_TOO_LONG);
            let text = "the head of a request is too long";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::InvalidData, text)));
        }

        let before = buffer.filled().len();
        let attempt = if buffer.remaining() <= allowance {
            self.stream()?.poll_read(context, buffer)
        } else {
            let mut limited = ReadBuf::new(buffer.initialize_unfilled_to(allowance));
            let attempt = self.stream()?.poll_read(context, &mut limited);
            let n_read = limited.filled().len();
            buffer.advance(n_read);
            attempt
        };
        let read = buffer.filled().get(before..).unwrap_or_default();
        let n_read = read.len();
        self.note_read(read, is_head);
        if attempt.is_ready() {
            self.preface = self.preface.saturating_sub(n_read);
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
