//! TLS 1.3 on the inner ports, when a folder with certificates is given: gRPC and frames alike.
//!
//! Every node has a certificate of one private CA. A client checks that the certificate is of that
//! CA and carries the name or address that it dialled; a server, if it is told to, that its caller
//! has a certificate of that CA too. The bearer and the handshake of the frames are demanded inside
//! as without TLS. Files that change are taken in by the next connection, without a restart; a set
//! that cannot be used leaves the one before in place.

mod material;
pub(crate) mod protocol;

use std::io;
use std::net::IpAddr;
use std::path::PathBuf;
use std::sync::Arc;

use cstore_proto::error_chain;
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use parking_lot::Mutex;
use rustls_pki_types::ServerName;
use tokio::net::{TcpListener, TcpStream};
use tokio::time::{Instant, timeout};

use crate::limits::{MAX_HANDSHAKES, TLS_HANDSHAKE_DEADLINE, TLS_RELOAD_INTERVAL};
use crate::transport::io::{BoxIo, Target};
pub use material::TlsError;
use material::{Material, Stamp};
use protocol::Protocol;

/// Certificates of one node. Cheap to clone.
#[derive(Clone)]
pub struct Tls(Arc<Inner>);

struct Inner {
    dir: PathBuf,
    client_auth: bool,
    state: Mutex<State>,
}

struct State {
    material: Arc<Material>,
    stamp: Stamp,
    looked: Instant,
}

impl std::fmt::Debug for Tls {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tls")
            .field("dir", &self.0.dir)
            .field("client_auth", &self.0.client_auth)
            .finish_non_exhaustive()
    }
}

impl Tls {
    /// Reads `ca.pem`, `cert.pem` and `key.pem` of a folder. With `client_auth` servers demand a
    /// certificate of their callers.
    ///
    /// # Errors
    /// [`TlsError`], with the file that cannot be used.
    pub fn load(dir: impl Into<PathBuf>, client_auth: bool) -> Result<Self, TlsError> {
        let dir = dir.into();
        let stamp = Stamp::of(&dir);
        let material = Arc::new(Material::load(&dir, client_auth)?);
        let state = Mutex::new(State {
            material,
            stamp,
            looked: Instant::now(),
        });
        Ok(Self(Arc::new(Inner {
            dir,
            client_auth,
            state,
        })))
    }

    /// The material as it is on the disk now, if it can be used.
    fn material(&self) -> Arc<Material> {
        let mut state = self.0.state.lock();
        if state.looked.elapsed() < TLS_RELOAD_INTERVAL {
            return state.material.clone();
        }
        state.looked = Instant::now();
        let stamp = Stamp::of(&self.0.dir);
        if stamp != state.stamp {
            // Also when it cannot be used, so that it is said once.
            state.stamp = stamp;
            match Material::load(&self.0.dir, self.0.client_auth) {
                Ok(material) => {
                    tracing::info!(dir = %self.0.dir.display(), "certificates were renewed");
                    state.material = Arc::new(material);
                }
                Err(error) => {
                    let error = error_chain(&error);
                    tracing::warn!(dir = %self.0.dir.display(), %error, "new certificates cannot be used, the old ones stay");
                }
            }
        }
        state.material.clone()
    }

    /// Makes a connection.
    ///
    /// # Errors
    /// The network's, and `InvalidData` when the other side is not who it should be.
    pub async fn connect(&self, target: &Target, protocol: Protocol) -> io::Result<BoxIo> {
        let name = match target.host.parse::<IpAddr>() {
            Ok(ip) => ServerName::from(ip),
            Err(_) => ServerName::try_from(target.host.clone()).map_err(io::Error::other)?,
        };
        let stream = TcpStream::connect(&target.addr).await?;
        stream.set_nodelay(true)?;
        let connector = self.material().connector(protocol);
        Ok(Box::new(connector.connect(name, stream).await?))
    }

    /// Shakes hands with a caller, within five seconds.
    ///
    /// # Errors
    /// The caller's mistakes.
    pub(crate) async fn accept(&self, stream: TcpStream, protocol: Protocol) -> io::Result<BoxIo> {
        let accepting = self.material().acceptor(protocol).accept(stream);
        Ok(Box::new(timeout(TLS_HANDSHAKE_DEADLINE, accepting).await??))
    }

    /// The connections that a listener takes in, once hands are shaken. One caller that is slow or
    /// wrong holds up nobody else.
    pub(crate) fn incoming(
        self,
        listener: TcpListener,
        protocol: Protocol,
    ) -> impl Stream<Item = io::Result<BoxIo>> + Send {
        let state = (self, listener, FuturesUnordered::new());
        futures_util::stream::unfold(state, move |(tls, listener, mut shaking)| async move {
            loop {
                tokio::select! {
                    accepted = listener.accept(), if shaking.len() < MAX_HANDSHAKES => {
                        let (stream, peer) = match accepted {
                            Ok(accepted) => accepted,
                            Err(error) => return Some((Err(error), (tls, listener, shaking))),
                        };
                        let tls = tls.clone();
                        shaking.push(async move {
                            let _ = stream.set_nodelay(true);
                            (tls.accept(stream, protocol).await, peer)
                        });
                    }
                    Some((accepted, peer)) = shaking.next() => match accepted {
                        Ok(io) => return Some((Ok(io), (tls, listener, shaking))),
                        Err(error) => tracing::info!(%peer, %error, "refused a caller at the TLS handshake"),
                    },
                }
            }
        })
    }
}
