//! How connections are made and taken in. TCP, unless somebody puts something else here: TLS, a simulated network.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::{Connected, TcpIncoming};

use crate::transport::tls::{Protocol, Tls};

/// A connection, whatever it runs over.
pub trait Io: AsyncRead + AsyncWrite + Send + Unpin {}

impl<T: AsyncRead + AsyncWrite + Send + Unpin> Io for T {}

/// A connection behind one type.
pub type BoxIo = Box<dyn Io>;

/// Where a connection leads.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Target {
    /// What is dialled, host:port.
    pub addr: String,
    /// The name that the other side is known by: what its certificate must say.
    pub host: String,
}

impl Target {
    /// A target that is known by the host that is dialled.
    pub fn new(addr: impl Into<String>) -> Self {
        let addr = addr.into();
        let host = addr.rsplit_once(':').map_or(addr.as_str(), |(host, _)| host);
        let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
        Self { addr, host }
    }
}

type Connecting = BoxFuture<'static, io::Result<BoxIo>>;

/// Makes connections. Cheap to clone. The caller sets the deadline.
#[derive(Clone)]
pub struct Dial(Arc<dyn Fn(Target) -> Connecting + Send + Sync>);

impl Dial {
    /// Connections made by `connect`.
    pub fn new(connect: impl Fn(Target) -> Connecting + Send + Sync + 'static) -> Self {
        Self(Arc::new(connect))
    }

    /// TCP, with TLS inside when certificates are given.
    pub fn secured(tls: Option<&Tls>, protocol: Protocol) -> Self {
        let Some(tls) = tls.cloned() else { return Self::tcp() };
        Self::new(move |target| {
            let tls = tls.clone();
            Box::pin(async move { tls.connect(&target, protocol).await })
        })
    }

    /// TCP without delay.
    pub fn tcp() -> Self {
        Self::new(|target| {
            Box::pin(async move {
                let stream = TcpStream::connect(&target.addr).await?;
                stream.set_nodelay(true)?;
                Ok(Box::new(stream) as BoxIo)
            })
        })
    }

    /// One connection.
    ///
    /// # Errors
    /// The network's.
    pub async fn connect(&self, target: Target) -> io::Result<BoxIo> {
        (self.0)(target).await
    }
}

impl std::fmt::Debug for Dial {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Dial")
    }
}

/// The connections that a TCP listener takes in.
pub fn tcp_incoming(listener: TcpListener) -> impl Stream<Item = io::Result<BoxIo>> + Send {
    // Said here, because the server builder's own setting does not reach a listener that is given.
    let incoming = TcpIncoming::from(listener).with_nodelay(Some(true));
    incoming.map(|stream| stream.map(|stream| Box::new(stream) as BoxIo))
}

/// The connections that a listener takes in, over TLS when certificates are given.
pub fn secured_incoming(
    listener: TcpListener,
    tls: Option<&Tls>,
    protocol: Protocol,
) -> BoxStream<'static, io::Result<BoxIo>> {
    match tls.cloned() {
        Some(tls) => tls.incoming(listener, protocol).boxed(),
        None => tcp_incoming(listener).boxed(),
    }
}

/// How a role is reached and reaches others.
pub struct RoleIo {
    /// Where others reach it, host:port.
    pub addr: String,
    /// Connections of others.
    pub incoming: BoxStream<'static, io::Result<BoxIo>>,
    /// Its own gRPC connections to others.
    pub dial: Dial,
    /// Its own connections to storage nodes.
    pub dial_frames: Dial,
}

impl RoleIo {
    /// TCP, advertised as `host` and the port of the listener, where `protocol` is spoken.
    ///
    /// # Errors
    /// When the listener has no address.
    pub fn over_tcp(
        host: &str,
        listener: TcpListener,
        tls: Option<&Tls>,
        protocol: Protocol,
    ) -> io::Result<Self> {
        let port = listener.local_addr()?.port();
        // An IPv6 address needs its brackets, or nobody could tell where the port begins.
        let addr = match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        Ok(Self {
            addr,
            incoming: secured_incoming(listener, tls, protocol),
            dial: Dial::secured(tls, Protocol::Grpc),
            dial_frames: Dial::secured(tls, Protocol::Frames),
        })
    }
}

impl std::fmt::Debug for RoleIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleIo").field("addr", &self.addr).finish_non_exhaustive()
    }
}

/// A connection that was taken in, as tonic wants it.
pub(crate) struct Accepted(pub(crate) BoxIo);

impl Connected for Accepted {
    type ConnectInfo = ();
    fn connect_info(&self) {}
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write_vectored(cx, bufs)
    }

    fn is_write_vectored(&self) -> bool {
        self.0.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_of_host_is_advertised_so_that_it_can_be_dialled() {
        for (host, dialled) in
            [("::1", "[::1]"), ("[::1]", "[::1]"), ("10.0.0.7", "10.0.0.7"), ("a.b", "a.b")]
        {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let io = RoleIo::over_tcp(host, listener, None, Protocol::Grpc).unwrap();
            assert_eq!(io.addr, format!("{dialled}:{port}"));
        }
    }

    #[test]
    fn a_target_is_known_by_its_host() {
        assert_eq!(Target::new("worker-1.workers:5000").host, "worker-1.workers");
        assert_eq!(Target::new("127.0.0.1:5000").host, "127.0.0.1");
        assert_eq!(Target::new("[::1]:5000").host, "::1");
    }
}
