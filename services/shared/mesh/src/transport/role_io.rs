//! The connections of one role, both ways.

use std::io;

use futures_util::StreamExt;
use futures_util::stream::BoxStream;
use tokio::net::TcpListener;

use crate::server::accepted::Accepted;
use crate::server::admission::Admission;
use crate::transport::dial::{Dial, secured_incoming};
use crate::transport::local::LocalServers;
use crate::transport::tls::Tls;
use crate::transport::tls::protocol::Protocol;

/// The listening side and the dialling side of a role.
pub struct RoleIo {
    /// Address under which other roles reach this one, host:port.
    pub addr: String,
    /// Connections that other roles have opened.
    pub incoming: BoxStream<'static, io::Result<Accepted>>,
    /// Dials gRPC connections to other roles.
    pub dial: Dial,
    /// Dials frame connections to storage nodes.
    pub dial_frames: Dial,
}

impl RoleIo {
    /// Uses TCP, with TLS if certificates are given, for a role that serves gRPC. The role is
    /// advertised as `host` and the port of the listener.
    ///
    /// # Errors
    /// The operating system's if the listener has no address.
    pub fn grpc_over_tcp(
        host: &str,
        listener: TcpListener,
        tls: Option<&Tls>,
        admission: Admission,
    ) -> io::Result<Self> {
        let port = listener.local_addr()?.port();
        let incoming = admission.accept(listener, tls.cloned()).boxed();
        Ok(Self::new(host, port, tls, incoming))
    }

    /// Uses TCP, with TLS if certificates are given, for a role that serves frames. The caller bounds
    /// the connections. The role is advertised as `host` and the port of the listener.
    ///
    /// # Errors
    /// The operating system's if the listener has no address.
    pub fn frames_over_tcp(
        host: &str,
        listener: TcpListener,
        tls: Option<&Tls>,
    ) -> io::Result<Self> {
        let port = listener.local_addr()?.port();
        let incoming = secured_incoming(listener, tls, Protocol::Frames);
        let incoming = incoming.map(|io| io.map(Accepted::from)).boxed();
        Ok(Self::new(host, port, tls, incoming))
    }

    fn new(
        host: &str,
        port: u16,
        tls: Option<&Tls>,
        incoming: BoxStream<'static, io::Result<Accepted>>,
    ) -> Self {
        // An IPv6 address needs its brackets, otherwise the port could not be told from it.
        let addr = match host.contains(':') && !host.starts_with('[') {
            true => format!("[{host}]:{port}"),
            false => format!("{host}:{port}"),
        };
        Self {
            addr,
            incoming,
            dial: Dial::secured(tls, Protocol::Grpc),
            dial_frames: Dial::secured(tls, Protocol::Frames),
        }
    }

    /// Adds the roles of the same process, which are called without connections.
    #[must_use]
    pub fn within(self, local: LocalServers) -> Self {
        Self {
            dial: self.dial.within(local.clone()),
            dial_frames: self.dial_frames.within(local),
            ..self
        }
    }
}

impl std::fmt::Debug for RoleIo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RoleIo")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn every_kind_of_host_is_advertised_so_that_it_can_be_dialled() {
        for (host, dialled) in [
            ("::1", "[::1]"),
            ("[::1]", "[::1]"),
            ("10.0.0.7", "10.0.0.7"),
            ("a.b", "a.b"),
        ] {
            let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
            let port = listener.local_addr().unwrap().port();
            let io = RoleIo::frames_over_tcp(host, listener, None).unwrap();
            assert_eq!(io.addr, format!("{dialled}:{port}"));
        }
    }
}
