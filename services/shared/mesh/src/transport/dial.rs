//! How connections are made and accepted: TCP or TLS by default, anything else (a simulated
//! network) through [`Dial::new`].

use std::io;
use std::sync::Arc;

use futures_util::future::BoxFuture;
use futures_util::stream::BoxStream;
use futures_util::{Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};
use tonic::transport::server::TcpIncoming;

use crate::transport::io::{BoxIo, Target};
use crate::transport::local::LocalServers;
use crate::transport::tls::Tls;
use crate::transport::tls::protocol::Protocol;

type Connecting = BoxFuture<'static, io::Result<BoxIo>>;

/// Makes connections, and knows which servers need none. Cheap to clone. The caller sets the
/// deadline.
#[derive(Clone)]
pub struct Dial {
    connect: Arc<dyn Fn(Target) -> Connecting + Send + Sync>,
    local: LocalServers,
}

impl Dial {
    /// Connections made by `connect`.
    pub fn new(connect: impl Fn(Target) -> Connecting + Send + Sync + 'static) -> Self {
        Self {
            connect: Arc::new(connect),
            local: LocalServers::default(),
        }
    }

    /// Returns a dial that takes no connections to the roles of this process.
    #[must_use]
    pub fn within(self, local: LocalServers) -> Self {
        Self { local, ..self }
    }

    /// Returns the servers of this process.
    pub fn local(&self) -> &LocalServers {
        &self.local
    }

    /// TCP, with TLS inside when certificates are given.
    pub fn secured(tls: Option<&Tls>, protocol: Protocol) -> Self {
        let Some(tls) = tls.cloned() else {
            return Self::tcp();
        };
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
        (self.connect)(target).await
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
