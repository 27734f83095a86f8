//! Detection of a peer that has gone silent.
//!
//! A machine that lost its power, or a path that forgot a connection, ends nothing by itself: a
//! caller would take a dead connection for a live one for as long as the kernel tries, which is a
//! quarter of an hour. So a side that wants to know listens for a pulse: any byte is one, and if
//! none came for a while, it asks for one.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

/// Time at which a byte was received last.
#[derive(Debug)]
pub(crate) struct Pulse {
    begun: Instant,
    heard_ms: AtomicU64,
}

impl Pulse {
    pub(crate) fn new() -> Arc<Self> {
        Arc::new(Self {
            begun: Instant::now(),
            heard_ms: AtomicU64::new(0),
        })
    }

    fn age_ms(&self) -> u64 {
        u64::try_from(self.begun.elapsed().as_millis()).unwrap_or(u64::MAX)
    }

    /// Returns the time since the last byte was received.
    pub(crate) fn silence(&self) -> Duration {
        Duration::from_millis(
            self.age_ms()
                .saturating_sub(self.heard_ms.load(Ordering::Relaxed)),
        )
    }
}

/// A reader that records a pulse for each byte that it reads.
#[derive(Debug)]
pub(crate) struct Heard<R> {
    inner: R,
    pulse: Arc<Pulse>,
}

impl<R> Heard<R> {
    pub(crate) fn new(inner: R, pulse: Arc<Pulse>) -> Self {
        Self { inner, pulse }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Heard<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        if polled.is_ready() {
            self.pulse
                .heard_ms
                .store(self.pulse.age_ms(), Ordering::Relaxed);
        }
        polled
    }
}
