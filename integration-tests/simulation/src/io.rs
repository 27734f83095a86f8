//! The simulated network as the roles take it, with connections that can be reset.

use std::collections::BTreeMap;
use std::io;
use std::pin::Pin;
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};

use cstore_mesh::{BoxIo, Dial};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_util::sync::{CancellationToken, WaitForCancellationFutureOwned};
use turmoil::net::{TcpListener, TcpStream};

/// Resets connections by who dialled whom.
#[derive(Debug, Clone, Default)]
pub(crate) struct Resets(Arc<Mutex<BTreeMap<(String, String), CancellationToken>>>);

impl Resets {
    fn token(&self, from: &str, to: &str) -> CancellationToken {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        tokens
            .entry((from.to_owned(), to.to_owned()))
            .or_default()
            .clone()
    }

    /// Ends all connections that `from` has made to `to`.
    pub(crate) fn reset(&self, from: &str, to: &str) {
        let mut tokens = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(token) = tokens.remove(&(from.to_owned(), to.to_owned())) {
            token.cancel();
        }
    }

    /// Returns the dialler of `from`.
    pub(crate) fn dial(&self, from: &str) -> Dial {
        let (resets, from) = (self.clone(), from.to_owned());
        Dial::new(move |target| {
            let (resets, from) = (resets.clone(), from.clone());
            Box::pin(async move {
                let stream = TcpStream::connect(target.addr.as_str()).await?;
                let to = turmoil::reverse_lookup(stream.peer_addr()?.ip()).unwrap_or_default();
                let reset = Box::pin(resets.token(&from, &to).cancelled_owned());
                Ok(Box::new(Resettable { stream, reset }) as BoxIo)
            })
        })
    }
}

struct Resettable {
    stream: TcpStream,
    reset: Pin<Box<WaitForCancellationFutureOwned>>,
}

impl Resettable {
    fn check(&mut self, cx: &mut Context<'_>) -> io::Result<()> {
        match self.reset.as_mut().poll(cx) {
            Poll::Ready(()) => Err(io::ErrorKind::ConnectionReset.into()),
            Poll::Pending => Ok(()),
        }
    }
}

impl AsyncRead for Resettable {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        self.check(cx)?;
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Resettable {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        // A task that writes reads too, and is woken there.
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Connections that come to the node that listens.
pub(crate) async fn listen(port: u16) -> io::Result<BoxStream<'static, io::Result<BoxIo>>> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let accept = |listener: TcpListener| async move {
        let accepted = listener
            .accept()
            .await
            .map(|(stream, _)| Box::new(stream) as BoxIo);
        Some((accepted, listener))
    };
    Ok(stream::unfold(listener, accept).boxed())
}
