//! HTTP/1.1 and HTTP/2 over accepted sockets, with a bound on everything that a client can make us
//! hold or wait for.
//!
//! | what a client does | bound |
//! |---|---|
//! | connects and says nothing, or half a head | `CSTORE_HEADER_TIMEOUT_MS`; evicted sooner if a limit is reached |
//! | keeps a connection without a request | the same over HTTP/1.1; over HTTP/2 it must answer pings |
//! | sends a body, or takes an answer, not at all | `CSTORE_IDLE_TIMEOUT_MS`; over HTTP/2 its stream is reset, see [`crate::listener::stall`] |
//! | … byte by byte | `CSTORE_MIN_RATE`, over 30 s of waiting |
//! | opens many connections | `CSTORE_MAX_CONNECTIONS`, `CSTORE_MAX_CONNECTIONS_PER_ADDRESS`, see [`crate::listener::limiter`] |
//! | sends long or many headers | 32 KiB, 100 headers |
//! | opens many streams of HTTP/2, or resets them | 128 at a time, hyper's bounds on resets |

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::Body;
use axum::extract::Request;
use axum::response::Response;
use cstore_node::listen::{pause_after, set_nodelay};
use cstore_node::{Shutdown, TaskGroup};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tower::ServiceExt;

use crate::app::Shared;
use crate::config::Config;
use crate::limits::{
    H2_CONNECTION_WINDOW, H2_PING_INTERVAL, H2_STREAM_WINDOW, MAX_H2_STREAMS, MAX_HEAD_BYTES,
    MAX_HEADERS, READ_BUFFER,
};
use crate::listener::limiter::{ConnectionLimiter, LimitReached, Limits, Slot};
use crate::listener::slot_body::SlotBody;
use crate::listener::stall::Watched;
use crate::listener::timed_io::TimedIo;

/// Answer to a connection that is not admitted. It fits every socket buffer, so it is sent without
/// waiting.
const NO_ROOM: &[u8] =
    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\ncontent-length: 0\r\n\r\n";

/// Serves until the shutdown, then lets running requests end.
pub(crate) async fn serve(listener: TcpListener, router: Router, app: Shared, shutdown: Shutdown) {
    let limits = Limits {
        total: app.config.max_connections,
        per_address: app.config.max_connections_per_address,
    };
    let host = Host {
        limiter: ConnectionLimiter::new(limits),
        builder: builder(&app.config),
        router,
        app: app.clone(),
        stop: shutdown.clone(),
    };
    let group = TaskGroup::new(shutdown.clone());
    tokio::select! {
        () = shutdown.triggered() => {}
        () = host.accept(&listener, &group) => {}
    }
    drop(listener);
    let late = group.drain(app.config.drain_timeout).await;
    if late > 0 {
        tracing::warn!(
            connections = late,
            "dropped connections that did not end in time"
        );
    }
}

/// State that all connections share.
#[derive(Clone)]
struct Host {
    limiter: ConnectionLimiter,
    builder: auto::Builder<Watched>,
    router: Router,
    app: Shared,
    stop: Shutdown,
}

impl Host {
    async fn accept(&self, listener: &TcpListener, group: &TaskGroup) {
        let mut failures = 0;
        loop {
            match listener.accept().await {
                Ok((stream, peer)) => {
                    failures = 0;
                    set_nodelay(&stream);
                    if let Some(slot) = self.admit(&stream, peer.ip()).await {
                        let host = self.clone();
                        group.spawn("connection", host.attend(stream, slot));
                    }
                }
                Err(error) => {
                    failures += 1;
                    let pause = pause_after(&error, failures);
                    // Without file descriptors no connection can be accepted before another one
                    // ends.
                    let evicted = !pause.is_zero() && self.limiter.evict_idle();
                    tracing::warn!(%error, ?pause, made_room = evicted, "cannot accept a connection");
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }

    /// Returns the slot of a connection, `None` if all connections of its address are busy. If all
    /// connections of the gateway are busy, this one waits, and those after it wait in the kernel's
    /// bounded queue.
    async fn admit(&self, stream: &TcpStream, address: std::net::IpAddr) -> Option<Arc<Slot>> {
        loop {
            match self.limiter.admit(address) {
                Ok((slot, n_evicted)) => {
                    self.app.metrics.sent_away(n_evicted);
                    return Some(slot);
                }
                Err(LimitReached::Total) => self.limiter.changed().await,
                Err(LimitReached::Address) => {
                    self.app.metrics.refused_address();
                    tracing::debug!(%address, "all connections of this address are busy");
                    let _ = stream.try_write(NO_ROOM);
                    return None;
                }
            }
        }
    }

    async fn attend(self, stream: TcpStream, slot: Arc<Slot>) {
        let counted = self.app.metrics.connection();
        let config = &self.app.config;
        let io = TimedIo::new(
            stream,
            slot.clone(),
            config.header_timeout,
            config.idle_timeout,
            config.min_rate,
        );
        let connection = self.connection(io, &slot);
        tokio::pin!(connection);
        let mut ended = tokio::select! {
            ended = &mut connection => Some(ended),
            () = slot.evicted() => None,
        };
        if ended.is_none() {
            tracing::debug!("a connection without a request makes room for another");
            // Its last answer may still be on the way to the socket, with the deadlines that hold
            // there.
            ended = tokio::select! {
                biased;
                () = slot.all_sent() => None,
                ended = &mut connection => Some(ended),
            };
        }
        if let Some(Err(error)) = ended {
            tracing::debug!(error, "a connection ended badly");
        }
        drop(counted);
    }

    /// One connection: after the shutdown it finishes the request that runs and takes no other.
    async fn connection(
        &self,
        io: TimedIo,
        slot: &Arc<Slot>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let service = service_fn(|request| answer(self.router.clone(), slot.clone(), request));
        let connection = self.builder.serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = &mut connection => return ended,
            () = self.stop.triggered() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

/// A request that runs. Keeps its slot busy until it is dropped.
struct RequestInFlight(Arc<Slot>);

impl Drop for RequestInFlight {
    fn drop(&mut self) {
        self.0.end();
    }
}

async fn answer(
    router: Router,
    slot: Arc<Slot>,
    request: hyper::Request<Incoming>,
) -> Result<Response, Infallible> {
    if !slot.begin() {
        // The connection is about to be dropped.
        return std::future::pending().await;
    }
    let in_flight = RequestInFlight(slot);
    let request: Request = request.map(Body::new);
    let Ok(response) = router.oneshot(request).await;
    Ok(response.map(|body| Body::new(SlotBody::new(body, in_flight))))
}

fn builder(config: &Config) -> auto::Builder<Watched> {
    let mut builder = auto::Builder::new(Watched {
        idle: config.idle_timeout,
    });
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(config.header_timeout)
        // A client that closes its sending side after its request still gets the answer.
        .half_close(true)
        .max_headers(MAX_HEADERS)
        .max_buf_size(READ_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD_BYTES as u32)
        .max_concurrent_streams(MAX_H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(H2_PING_INTERVAL);
    builder
}
