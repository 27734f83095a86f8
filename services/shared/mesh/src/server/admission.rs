//! Which connections to a gRPC port are taken, and which make room for others.
//!
//! ```text
//! accept ─▶ ConnectionLimiter ─▶ TLS handshake ─▶ preface of HTTP/2 ─▶ calls
//!            │ all busy: closed     5 s               5 s               busy while a call runs
//!            └ full: the connection that is idle longest is evicted, of the heaviest address first
//! ```
//!
//! Accepting never waits for a connection: a caller that is slow, silent or refused holds up nobody.
//! A caller with valid credentials that was evicted while it had no call connects again.

use std::io;
use std::sync::Arc;

use cstore_node::connections::{ConnectionLimiter, ConnectionLimits, Slot};
use cstore_node::listen::{pause_after, set_nodelay};
use futures_util::stream::FuturesUnordered;
use futures_util::{Stream, StreamExt};
use tokio::net::{TcpListener, TcpStream};

use crate::server::accepted::Accepted;
use crate::telemetry::metrics::MeshMetrics;
use crate::transport::io::BoxIo;
use crate::transport::tls::Tls;
use crate::transport::tls::protocol::Protocol;

/// Bounds of the connections to a gRPC port, and the metrics that count what they do.
#[derive(Debug, Clone)]
pub struct Admission {
    /// The role that listens, for the metrics.
    pub role: &'static str,
    /// Most connections in total and of one address.
    pub limits: ConnectionLimits,
    /// Metrics of the role.
    pub metrics: MeshMetrics,
}

impl Admission {
    /// Returns the connections that `listener` takes in, once they have a slot and have shaken hands.
    /// Errors of accepting are logged and bounded here; the stream has none.
    pub(crate) fn accept(
        self,
        listener: TcpListener,
        tls: Option<Tls>,
    ) -> impl Stream<Item = io::Result<Accepted>> + Send {
        // Shown from the start: an alert sees the first one only when it saw 0 before.
        self.metrics.evicted(self.role, 0);
        self.metrics.no_refusal_yet(self.role);
        let acceptor = Acceptor {
            limiter: ConnectionLimiter::new(self.limits),
            admission: self,
            listener,
            tls,
            failures: 0,
        };
        let state = (acceptor, FuturesUnordered::new());
        futures_util::stream::unfold(state, |(mut acceptor, mut opening)| async move {
            loop {
                tokio::select! {
                    admitted = acceptor.next() => if let Some((stream, slot)) = admitted {
                        opening.push(open(acceptor.tls.clone(), stream, slot));
                    },
                    Some(opened) = opening.next() => if let Some(opened) = opened {
                        return Some((Ok(opened), (acceptor, opening)));
                    },
                }
            }
        })
    }
}

struct Acceptor {
    admission: Admission,
    limiter: ConnectionLimiter,
    listener: TcpListener,
    tls: Option<Tls>,
    /// Failures to accept in a row.
    failures: u32,
}

impl Acceptor {
    /// Accepts one connection and returns it with its slot; `None` if it was refused, or accepting
    /// failed.
    async fn next(&mut self) -> Option<(TcpStream, Arc<Slot>)> {
        let (stream, peer) = match self.listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                self.failures += 1;
                let pause = pause_after(&error, self.failures);
                // Without file descriptors no connection can be accepted before another one ends.
                let evicted = !pause.is_zero() && self.limiter.evict_idle();
                tracing::warn!(%error, ?pause, made_room = evicted, "cannot accept a connection");
                tokio::time::sleep(pause).await;
                return None;
            }
        };
        self.failures = 0;
        set_nodelay(&stream);
        match self.limiter.admit(peer.ip()) {
            Ok((slot, n_evicted)) => {
                let Admission { role, metrics, .. } = &self.admission;
                metrics.evicted(role, n_evicted);
                Some((stream, slot))
            }
            Err(reached) => {
                let Admission { role, metrics, .. } = &self.admission;
                metrics.refused(role);
                tracing::debug!(%peer, ?reached, "all connections are busy");
                None
            }
        }
    }
}

/// Shakes hands if there are certificates. Returns `None` if the caller fails or is evicted.
async fn open(tls: Option<Tls>, stream: TcpStream, slot: Arc<Slot>) -> Option<Accepted> {
    let io: BoxIo = match tls {
        None => Box::new(stream),
        Some(tls) => {
            let peer = stream.peer_addr().ok();
            let shaken = tokio::select! {
                shaken = tls.accept(stream, Protocol::Grpc) => shaken,
                () = slot.evicted() => return None,
            };
            match shaken {
                Ok(io) => io,
                Err(error) => {
                    tracing::info!(?peer, %error, "refused a caller at the TLS handshake");
                    return None;
                }
            }
        }
    };
    Some(Accepted::admitted(io, slot))
}
