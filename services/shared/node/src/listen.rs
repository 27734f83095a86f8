//! Listening sockets: binding with an error that says what to do, and the accept loop of frames and
//! of the admin port. The gateway and gRPC have loops of their own.

use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};

use futures_util::{Stream, StreamExt, stream};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::Semaphore,
    time::sleep,
};

use crate::limits::{MAX_ACCEPT_PAUSE, MIN_ACCEPT_PAUSE};
use crate::shutdown::{Shutdown, TaskGroup};

/// The listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error(
        "port {port} on {host} is taken: stop the process that holds it, or set {variable} to another port (0 for a free one)"
    )]
    Taken {
        variable: String,
        host: String,
        port: u16,
    },
    #[error(
        "port {port} on {host} needs a privilege: set {variable} to a port above 1023 (0 for a free one)"
    )]
    Denied {
        variable: String,
        host: String,
        port: u16,
    },
    #[error("cannot listen on {host} port {port} ({variable})")]
    Failed {
        variable: String,
        host: String,
        port: u16,
        source: io::Error,
    },
}

/// Opens a listener; port 0 is a free one. `variable` is the name the operator knows the port by.
///
/// # Errors
/// When the port is taken, forbidden, or the host is not one of this machine.
pub async fn bind(variable: &str, host: &str, port: u16) -> Result<TcpListener, BindError> {
    TcpListener::bind((host, port)).await.map_err(|source| {
        let (variable, host) = (variable.to_owned(), host.to_owned());
        match source.kind() {
            io::ErrorKind::AddrInUse => BindError::Taken {
                variable,
                host,
                port,
            },
            io::ErrorKind::PermissionDenied => BindError::Denied {
                variable,
                host,
                port,
            },
            _ => BindError::Failed {
                variable,
                host,
                port,
                source,
            },
        }
    })
}

/// Returns true if only this machine can reach a listener on `host`.
pub fn is_loopback(host: &str) -> bool {
    let address = host.parse::<std::net::IpAddr>();
    host == "localhost" || address.is_ok_and(|address| address.is_loopback())
}

/// The bounds of one accept loop.
#[derive(Debug, Clone, Copy)]
pub struct AcceptLimits {
    /// Connections at a time; more wait in the kernel's queue.
    pub connections: usize,
    /// How long connections may take to end after the shutdown, before they are dropped.
    pub drain: Duration,
}

/// Accepts until the shutdown, with TCP_NODELAY set; then closes the listener and waits for the
/// connections. The handler watches the shutdown itself and ends its connection when it suits the
/// protocol.
pub async fn accept_loop<H, F>(
    listener: TcpListener,
    limits: AcceptLimits,
    shutdown: Shutdown,
    handle: H,
) where
    H: Fn(TcpStream, SocketAddr) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let incoming = stream::unfold(listener, |listener| async move {
        let accepted = listener.accept().await;
        if let Ok((stream, _)) = &accepted {
            set_nodelay(stream);
        }
        Some((accepted, listener))
    });
    let handle = move |(stream, peer)| handle(stream, peer);
    accept_from(incoming, limits, shutdown, handle).await;
}

/// Like [`accept_loop`], over any stream of connections. The stream is dropped at the shutdown.
pub async fn accept_from<C, H, F>(
    incoming: impl Stream<Item = io::Result<C>>,
    limits: AcceptLimits,
    shutdown: Shutdown,
    handle: H,
) where
    H: Fn(C) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let group = TaskGroup::new(shutdown.clone());
    let accept = accept_all(incoming, limits, &group, handle);
    tokio::select! {
        () = shutdown.triggered() => {}
        () = accept => {}
    }
    let late = group.drain(limits.drain).await;
    if late > 0 {
        tracing::warn!(
            connections = late,
            "dropped connections that did not end in time"
        );
    }
}

async fn accept_all<C, H, F>(
    incoming: impl Stream<Item = io::Result<C>>,
    limits: AcceptLimits,
    group: &TaskGroup,
    handle: H,
) where
    H: Fn(C) -> F,
    F: Future<Output = ()> + Send + 'static,
{
    let permits = Arc::new(Semaphore::new(limits.connections));
    let mut incoming = std::pin::pin!(incoming);
    let mut failures = 0;
    // The permit comes first: at the limit callers wait in the kernel's bounded queue.
    while let Ok(permit) = Arc::clone(&permits).acquire_owned().await {
        match incoming.next().await {
            Some(Ok(accepted)) => {
                failures = 0;
                let connection = handle(accepted);
                group.spawn("connection", async move {
                    connection.await;
                    drop(permit);
                });
            }
            Some(Err(error)) => {
                failures += 1;
                let pause = pause_after(&error, failures);
                tracing::warn!(%error, ?pause, "cannot accept a connection");
                sleep(pause).await;
            }
            None => return,
        }
    }
}

/// Frames are written whole, so waiting for more only costs time. Failing is harmless: the peer is
/// gone already.
pub fn set_nodelay(stream: &TcpStream) {
    if let Err(error) = stream.set_nodelay(true) {
        tracing::debug!(%error, "cannot set TCP_NODELAY");
    }
}

/// A peer that gave up costs no pause; a lack of our own (EMFILE, ENFILE, ENOBUFS) does, from 10 ms
/// up to 1 s: the waiting connection would otherwise turn the loop into a busy one.
pub fn pause_after(error: &io::Error, failures: u32) -> Duration {
    use io::ErrorKind::{ConnectionAborted, ConnectionRefused, ConnectionReset, Interrupted};
    if matches!(
        error.kind(),
        ConnectionAborted | ConnectionRefused | ConnectionReset | Interrupted
    ) {
        return Duration::ZERO;
    }
    let doublings = failures.saturating_sub(1).min(7);
    (MIN_ACCEPT_PAUSE * (1 << doublings)).min(MAX_ACCEPT_PAUSE)
}

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    use super::*;

    const LIMITS: AcceptLimits = AcceptLimits {
        connections: 1,
        drain: Duration::from_secs(5),
    };

    #[tokio::test]
    async fn a_taken_port_is_named_with_its_variable_and_a_way_out() {
        let first = bind("MASTER_PORT", "127.0.0.1", 0).await.unwrap();
        let port = first.local_addr().unwrap().port();
        let error = bind("MASTER_PORT", "127.0.0.1", port)
            .await
            .unwrap_err()
            .to_string();
        let expected = format!(
            "port {port} on 127.0.0.1 is taken: stop the process that holds it, or set MASTER_PORT to another port (0 for a free one)"
        );
        assert_eq!(error, expected);
    }

    #[test]
    fn only_a_lack_of_our_own_makes_the_loop_pause_and_never_for_long() {
        let emfile = io::Error::from_raw_os_error(24);
        assert_eq!(pause_after(&emfile, 1), Duration::from_millis(10));
        assert_eq!(pause_after(&emfile, 3), Duration::from_millis(40));
        assert_eq!(pause_after(&emfile, u32::MAX), Duration::from_secs(1));
        assert_eq!(
            pause_after(&io::ErrorKind::ConnectionAborted.into(), 9),
            Duration::ZERO
        );
    }

    #[tokio::test]
    async fn the_loop_serves_one_after_another_at_its_limit_and_ends_when_asked() {
        let listener = bind("PORT", "127.0.0.1", 0).await.unwrap();
        let addr = listener.local_addr().unwrap();
        let shutdown = Shutdown::new();
        let echo = |mut stream: TcpStream, _| async move {
            assert!(stream.nodelay().unwrap());
            let byte = stream.read_u8().await.unwrap();
            stream.write_u8(byte).await.unwrap();
        };
        let server = crate::shutdown::spawn(
            "server",
            accept_loop(listener, LIMITS, shutdown.clone(), echo),
        );
        let mut first = TcpStream::connect(addr).await.unwrap();
        let mut second = TcpStream::connect(addr).await.unwrap();
        second.write_u8(2).await.unwrap();
        first.write_u8(1).await.unwrap();
        assert_eq!(first.read_u8().await.unwrap(), 1);
        assert_eq!(second.read_u8().await.unwrap(), 2);
        shutdown.trigger();
        server.await.unwrap();
        assert!(TcpStream::connect(addr).await.is_err());
    }
}
