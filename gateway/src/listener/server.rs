//! HTTP/1.1 and HTTP/2 over accepted sockets, with a bound on everything that a client can make us
//! hold or wait for.
//!
//! | what a client does | bound |
//! |---|---|
//! | connects and says nothing, or half a head | `CSTORE_HEADER_TIMEOUT_MS`; evicted sooner if a limit is reached |
//! | keeps a connection without a request | the same over HTTP/1.1; over HTTP/2 it must answer pings |
//! | goes on sending after its answer | [`crate::listener::linger`] |
//! | sends a body, or takes an answer, not at all | `CSTORE_IDLE_TIMEOUT_MS`; over HTTP/2 its stream is reset, see [`crate::listener::stall`] |
//! | … byte by byte | `CSTORE_MIN_RATE`, over 30 s of waiting |
//! | opens many connections | `CSTORE_MAX_CONNECTIONS`, `CSTORE_MAX_CONNECTIONS_PER_ADDRESS`, see [`crate::listener::limiter`] |
//! | sends long or many headers | 32 KiB, 100 headers |
//! | opens many streams of HTTP/2, or resets them | 128 at a time, hyper's bounds on resets |

use std::convert::Infallible;
use std::sync::Arc;

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use cstore_node::listen::{pause_after, set_nodelay};
use cstore_node::{Shutdown, TaskGroup};
use futures_util::StreamExt;
use http::Method;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tower::ServiceExt;

use crate::app::Shared;
use crate::config::Config;
use crate::limits::{
    DROPPED_BODY, DROPPED_BODY_TIME, H2_CONNECTION_WINDOW, H2_PING_INTERVAL, H2_STREAM_WINDOW,
    MAX_H2_STREAMS, MAX_HEAD_BYTES, MAX_HEADERS, MAX_REFUSED_LINGERING, READ_BUFFER,
};
use crate::listener::limiter::{ConnectionLimiter, LimitReached, Limits, Slot};
use crate::listener::linger::{SocketReturn, linger, linger_briefly};
use crate::listener::slot_body::SlotBody;
use crate::listener::stall::Watched;
use crate::listener::timed_io::{Deadlines, TimedIo};
use crate::listener::unread_body::UnreadBody;

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
        refused_lingering: Arc::new(Semaphore::new(MAX_REFUSED_LINGERING)),
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
    /// Bounds the connections that are not admitted and read on.
    refused_lingering: Arc<Semaphore>,
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
                    if let Some((stream, slot)) = self.admit(stream, peer.ip()).await {
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
    async fn admit(
        &self,
        stream: TcpStream,
        address: std::net::IpAddr,
    ) -> Option<(TcpStream, Arc<Slot>)> {
        loop {
            match self.limiter.admit(address) {
                Ok((slot, n_evicted)) => {
                    self.app.metrics.sent_away(n_evicted);
                    return Some((stream, slot));
                }
                Err(LimitReached::Total) => self.limiter.changed().await,
                Err(LimitReached::Address) => {
                    self.app.metrics.refused_address();
                    tracing::debug!(%address, "all connections of this address are busy");
                    self.refuse(stream);
                    return None;
                }
            }
        }
    }

    /// Answers a connection that is not admitted, and closes it.
    fn refuse(&self, stream: TcpStream) {
        let _ = stream.try_write(NO_ROOM);
        if let Ok(permit) = self.refused_lingering.clone().try_acquire_owned() {
            drop(cstore_node::shutdown::spawn(
                "refused connection",
                async move {
                    linger_briefly(stream).await;
                    drop(permit);
                },
            ));
        }
    }

    async fn attend(self, stream: TcpStream, slot: Arc<Slot>) {
        let counted = self.app.metrics.connection();
        let min_rate = self.app.config.min_rate;
        let socket = SocketReturn::default();
        if self.serve_client(stream, &slot, &socket).await
            && let Some(stream) = socket.take()
        {
            tokio::select! {
                () = linger(stream, min_rate) => {}
                () = slot.evicted() => {}
            }
        }
        drop(counted);
    }

    /// Serves one client until its connection ends or is evicted, then leaves the socket at
    /// `socket`. Returns true if the client may still be sending.
    async fn serve_client(
        &self,
        stream: TcpStream,
        slot: &Arc<Slot>,
        socket: &SocketReturn,
    ) -> bool {
        let config = &self.app.config;
        let deadlines = Deadlines {
            first: config.header_timeout,
            idle: config.idle_timeout,
            min_rate: config.min_rate,
        };
        let io = TimedIo::new(stream, slot.clone(), socket.clone(), deadlines);
        let connection = self.connection(io, slot);
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
        match ended {
            // An evicted connection makes room now.
            None => false,
            Some(Ok(())) => slot.has_unread(),
            Some(Err(error)) => {
                tracing::debug!(error, "a connection ended badly");
                // hyper answers a malformed head and ends with an error.
                true
            }
        }
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
    let in_flight = RequestInFlight(slot.clone());
    let request = request.map(|body| UnreadBody::new(body, slot));
    let request: Request = match *request.method() {
        // A body has no meaning here (RFC 9110 §9.3). Dropped before the answer is made, it takes no
        // memory while the answer is on its way.
        Method::GET | Method::HEAD | Method::DELETE | Method::OPTIONS => {
            let (head, body) = request.into_parts();
            drop_body(body).await;
            Request::from_parts(head, Body::empty())
        }
        _ => request.map(Body::new),
    };
    let Ok(response) = router.oneshot(request).await;
    Ok(response.map(|body| Body::new(SlotBody::new(body, in_flight))))
}

/// Reads a short body to its end, so that the connection can be kept, and drops it.
async fn drop_body(body: UnreadBody) {
    let is_short = body
        .size_hint()
        .upper()
        .is_some_and(|bytes| bytes <= DROPPED_BODY);
    if body.is_end_stream() || !is_short {
        return;
    }
    let mut data = Body::new(body).into_data_stream();
    let reading = async { while let Some(Ok(_)) = data.next().await {} };
    let _: Result<(), _> = tokio::time::timeout(DROPPED_BODY_TIME, reading).await;
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
