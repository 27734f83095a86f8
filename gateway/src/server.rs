//! HTTP/1.1 and HTTP/2 over accepted sockets, with a bound on everything that a client can make us hold or wait for.

use std::time::Duration;

use axum::Router;
use cstore_node::Shutdown;
use cstore_node::listen::{AcceptLimits, accept_loop};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto;
use hyper_util::service::TowerToHyperService;
use tokio::net::TcpListener;

use crate::app::Shared;
use crate::timed_io::TimedIo;

/// All headers of a request together. A name of 1,024 bytes is at most 3 KiB in a path.
const MAX_HEAD: usize = 32 << 10;
const MAX_HEADERS: usize = 100;
const MAX_H2_STREAMS: u32 = 128;
const H2_STREAM_WINDOW: u32 = 1 << 20;
const H2_CONNECTION_WINDOW: u32 = 4 << 20;
/// hyper's least for the first read: also the bound of what one connection buffers of a body.
const READ_BUFFER: usize = 256 << 10;
const H2_PING: Duration = Duration::from_secs(20);

/// Serves until the shutdown, then lets running requests end.
pub(crate) async fn serve(listener: TcpListener, router: Router, app: Shared, shutdown: Shutdown) {
    let limits = AcceptLimits { connections: app.config.max_connections, drain: app.config.drain_timeout };
    let builder = builder(app.config.header_timeout);
    let stop = shutdown.clone();
    accept_loop(listener, limits, shutdown, move |stream, peer| {
        let counted = app.metrics.connection();
        let io = TimedIo::new(stream, app.config.header_timeout, app.config.idle_timeout);
        let (builder, router, stop) = (builder.clone(), router.clone(), stop.clone());
        async move {
            if let Err(error) = connection(&builder, io, router, stop).await {
                tracing::debug!(%peer, error, "a connection ended badly");
            }
            drop(counted);
        }
    })
    .await;
}

/// One connection: after the shutdown it finishes the request that runs and takes no other.
async fn connection(
    builder: &auto::Builder<TokioExecutor>,
    io: TimedIo,
    router: Router,
    stop: Shutdown,
) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let connection = builder.serve_connection(TokioIo::new(io), TowerToHyperService::new(router));
    tokio::pin!(connection);
    tokio::select! {
        ended = &mut connection => return ended,
        () = stop.triggered() => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}

fn builder(header_timeout: Duration) -> auto::Builder<TokioExecutor> {
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(header_timeout)
        .max_headers(MAX_HEADERS)
        .max_buf_size(READ_BUFFER);
    builder
        .http2()
        .timer(TokioTimer::new())
        .max_header_list_size(MAX_HEAD as u32)
        .max_concurrent_streams(MAX_H2_STREAMS)
        .initial_stream_window_size(H2_STREAM_WINDOW)
        .initial_connection_window_size(H2_CONNECTION_WINDOW)
        .keep_alive_interval(H2_PING);
    builder
}
