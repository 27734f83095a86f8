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
use std::net::IpAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use axum::Router;
use axum::body::{Body, HttpBody};
use axum::extract::Request;
use axum::response::Response;
use cstore_node::connections::{
    ConnectionLimiter, ConnectionLimits, LimitReached, NotBegun, RequestInFlight, Slot,
};
use cstore_node::listen::{pause_after, set_nodelay};
use cstore_node::{Shutdown, TaskGroup};
use cstore_types::ErrorCode;
use futures_util::StreamExt;
use http::Method;
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tower::ServiceExt;

use crate::api::trace::NO_TRACE;
use crate::app::Shared;
use crate::config::Config;
use crate::error::ApiError;
use crate::limits::{
    ADMISSION_PATIENCE, DROPPED_BODY, DROPPED_BODY_TIME, EVICTION_GRACE, H2_CONNECTION_WINDOW,
    H2_PING_INTERVAL, H2_STREAM_WINDOW, MAX_H2_STREAMS, MAX_HEAD_BYTES, MAX_HEADERS, MAX_WAITING,
    READ_BUFFER,
};

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
    let limits = ConnectionLimits {
        total: app.config.max_connections,
        per_address: app.config.max_connections_per_address,
    };
    let host = Host {
        limiter: ConnectionLimiter::new(limits),
        waiting: Arc::new(Semaphore::new(MAX_WAITING)),
        refused: Arc::new(Semaphore::new(MAX_WAITING)),
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
    /// Bounds the connections that wait for a place.
    waiting: Arc<Semaphore>,
    /// Bounds the connections that were refused and are read on.
    refused: Arc<Semaphore>,
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
                    self.receive(stream, peer.ip(), group);
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

    /// Serves a connection, or refuses it. The accept loop does not wait for a place: that is done by
    /// the connection's own task, for at most [`ADMISSION_PATIENCE`], while few others do.
    fn receive(&self, stream: TcpStream, address: IpAddr, group: &TaskGroup) {
        let host = self.clone();
        match self.admit(address) {
            Ok(slot) => drop(group.spawn("connection", host.attend(stream, slot))),
            Err(LimitReached::Address) => self.refuse(stream, address, LimitReached::Address),
            Err(LimitReached::Total) => match self.waiting.clone().try_acquire_owned() {
                Ok(place) => {
                    let waiting = host.attend_later(stream, address, place);
                    drop(group.spawn("connection that waits", waiting));
                }
                Err(_) => self.refuse(stream, address, LimitReached::Total),
            },
        }
    }

    fn admit(&self, address: IpAddr) -> Result<Arc<Slot>, LimitReached> {
        let (slot, n_evicted) = self.limiter.admit(address)?;
        self.app.metrics.sent_away(n_evicted);
        Ok(slot)
    }

    /// Serves a connection as soon as another one ends or becomes idle, or refuses it after a while.
    async fn attend_later(self, stream: TcpStream, address: IpAddr, place: OwnedSemaphorePermit) {
        let admission = async {
            loop {
                let changed = self.limiter.changed();
                tokio::pin!(changed);
                changed.as_mut().enable();
                if let Ok(slot) = self.admit(address) {
                    return slot;
                }
                changed.await;
            }
        };
        let admitted = tokio::time::timeout(ADMISSION_PATIENCE, admission).await;
        drop(place);
        match admitted {
            Ok(slot) => self.attend(stream, slot).await,
            Err(_) => self.refuse(stream, address, LimitReached::Total),
        }
    }

    /// Sends 503 to a connection that is not admitted, and reads on for a while, if few others are
    /// read on.
    fn refuse(&self, stream: TcpStream, address: IpAddr, reached: LimitReached) {
        self.app.metrics.refused_address();
        tracing::debug!(%address, ?reached, "all connections are busy");
        let _ = stream.try_write(NO_ROOM);
        if let Ok(place) = self.refused.clone().try_acquire_owned() {
            let lingering = async move {
                linger_briefly(stream).await;
                drop(place);
            };
            drop(cstore_node::shutdown::spawn(
                "refused connection",
                lingering,
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
            let stopped = async {
                self.stop.triggered().await;
                tokio::time::sleep(EVICTION_GRACE).await;
            };
            tokio::select! {
                () = linger(stream, min_rate) => {}
                () = slot.evicted() => {}
                () = stopped => {}
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
        let has_unread = Arc::<AtomicBool>::default();
        let connection = self.connection(io, slot, &has_unread);
        tokio::pin!(connection);
        let ended = tokio::select! {
            ended = &mut connection => Some(ended),
            () = slot.evicted() => None,
        };
        if ended.is_none() {
            tracing::debug!("a connection without a request makes room for another");
            // The last response may not have reached the socket yet; over HTTP/2 its frames may not
            // even have reached the connection. The connection is therefore polled BEFORE `all_sent`.
            let sent = async {
                tokio::select! {
                    biased;
                    _ = &mut connection => {}
                    () = slot.all_sent() => {}
                }
            };
            let _: Result<(), _> = tokio::time::timeout(EVICTION_GRACE, sent).await;
        }
        match ended {
            // An evicted connection makes room now, and is not counted any more.
            None => false,
            Some(Ok(())) => has_unread.load(Ordering::Relaxed),
            Some(Err(error)) => {
                tracing::debug!(error, "a connection ended badly");
                // hyper answers a malformed head and ends with an error.
                true
            }
        }
    }

    /// Serves one request. The connection is busy until the response is sent or dropped.
    async fn answer(
        self,
        begun: Result<RequestInFlight, NotBegun>,
        has_unread: Arc<AtomicBool>,
        request: hyper::Request<Incoming>,
    ) -> Result<Response, Infallible> {
        let in_flight = match begun {
            Ok(in_flight) => in_flight,
            // The connection is about to be dropped.
            Err(NotBegun::Evicted) => return std::future::pending().await,
            Err(NotBegun::Share) => {
                self.app.metrics.over_share();
                has_unread.store(!request.body().is_end_stream(), Ordering::Relaxed);
                return Ok(over_share());
            }
        };
        has_unread.store(false, Ordering::Relaxed);
        let request = request.map(|body| UnreadBody::new(body, has_unread));
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
        let Ok(response) = self.router.oneshot(request).await;
        Ok(response.map(|body| Body::new(SlotBody::new(body, in_flight))))
    }

    /// One connection: after the shutdown it finishes the request that runs and takes no other.
    async fn connection(
        &self,
        io: TimedIo,
        slot: &Arc<Slot>,
        has_unread: &Arc<AtomicBool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        let service = service_fn(|request| {
            // Begun here and not by the future: hyper may read the body BEFORE it polls the future,
            // and bytes that come to an idle connection count as its head.
            let begun = slot.begin();
            self.clone().answer(begun, has_unread.clone(), request)
        });
        let connection = self.builder.serve_connection(TokioIo::new(io), service);
        tokio::pin!(connection);
        tokio::select! {
            ended = &mut connection => return ended,
            () = self.stop.triggered() => connection.as_mut().graceful_shutdown(),
        }
        connection.await
    }
}

/// Returns the answer to a request whose address has its share of requests. It has no trace: nothing
/// of it is looked at.
fn over_share() -> Response {
    let error = ApiError::new(
        ErrorCode::RateLimited,
        "your address has its share of requests that run at once; wait until some have ended",
    );
    error.closing().render(NO_TRACE)
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
