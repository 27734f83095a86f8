//! Memory of answers: peers that do not read, many requests, connections that die.
//!
//! Time is paused and never moves on: a test that has to wait lets others run instead.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context as Cx, Poll, Waker};
use std::time::Duration;

use bytes::Bytes;
use cstore_types::{BlockId, Fault, MapVersion};
use cstore_wire::{
    BlockSink, Connection, Context, Handler, ReadBudget, Request, Response, ServerConfig,
    serve_connection,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream, ReadBuf};

use crate::server::{client_config, server_config};

const BLOCK: usize = 64 << 10;
/// Blocks of one request.
const COUNT: usize = 16;
/// Budget of a connection.
const CREDITS: u32 = 256 << 10;

/// Reads blocks of one size in pairs, for as many bytes as it may hold.
#[derive(Debug)]
struct Store {
    budget: ReadBudget,
    n_read: AtomicUsize,
}

impl Handler for Store {
    fn call(
        self: Arc<Self>,
        _: Context,
        _: Request,
    ) -> BoxFuture<'static, Result<Response, Fault>> {
        async { Ok(Response::Ok) }.boxed()
    }

    fn read_budget(&self) -> ReadBudget {
        self.budget.clone()
    }

    fn get_blocks(
        self: Arc<Self>,
        _: Context,
        ids: Vec<BlockId>,
        mut blocks: BlockSink,
    ) -> BoxFuture<'static, Result<(), Fault>> {
        async move {
            for start in (0..ids.len()).step_by(2) {
                let mut held = blocks.reserver().reserve(&[BLOCK; 2]).await?;
                self.n_read.fetch_add(2, Ordering::Relaxed);
                for n in start..start + 2 {
                    let bytes = Bytes::from(vec![7; BLOCK]);
                    blocks.send_held(n as u32, Ok(bytes), &mut held).await?;
                }
            }
            Ok(())
        }
        .boxed()
    }
}

/// A client's end that reads only while it is open.
#[derive(Debug)]
struct Gated {
    stream: DuplexStream,
    gate: Arc<parking_lot::Mutex<Gate>>,
}

#[derive(Debug, Default)]
struct Gate {
    is_shut: bool,
    waker: Option<Waker>,
}

impl AsyncRead for Gated {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Cx<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        let gate = self.gate.clone();
        let mut gate = gate.lock();
        if gate.is_shut {
            gate.waker = Some(cx.waker().clone());
            return Poll::Pending;
        }
        Pin::new(&mut self.stream).poll_read(cx, buf)
    }
}

impl AsyncWrite for Gated {
    fn poll_write(
        mut self: Pin<&mut Self>,
        cx: &mut Cx<'_>,
        buf: &[u8],
    ) -> Poll<std::io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Cx<'_>) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

struct Peer {
    connection: Connection,
    gate: Arc<parking_lot::Mutex<Gate>>,
    server: tokio::task::JoinHandle<()>,
}

#[allow(
    clippy::disallowed_methods,
    reason = "the task ends with the runtime of its test"
)]
async fn connect(store: &Arc<Store>) -> Peer {
    let (stream, theirs) = tokio::io::duplex(4 << 10);
    let config = ServerConfig {
        credits: CREDITS,
        max_requests: 64,
        ..server_config()
    };
    let pending = std::future::pending();
    let serving = serve_connection(theirs, Arc::new(config), store.clone(), pending);
    let server = tokio::spawn(serving);
    let gate = Arc::default();
    let stream = Gated {
        stream,
        gate: Arc::clone(&gate),
    };
    let connection = Connection::over(stream, &client_config()).await.unwrap();
    Peer {
        connection,
        gate,
        server,
    }
}

impl Peer {
    async fn ask(&self) -> cstore_wire::BlockStream {
        let ids = vec![BlockId::from_bytes([7; 32]); COUNT];
        let asked = self.connection.get_blocks(
            ids,
            // A peer that claims less than it gets does not keep to its credits.
            1,
            MapVersion(1),
            None,
            Duration::from_secs(60),
        );
        asked.await.unwrap()
    }

    fn shut(&self, is_shut: bool) {
        let mut gate = self.gate.lock();
        gate.is_shut = is_shut;
        if let Some(waker) = gate.waker.take() {
            waker.wake();
        }
    }
}

async fn count(mut stream: cstore_wire::BlockStream) -> usize {
    let mut n = 0;
    while let Some(block) = stream.next().await {
        assert_eq!(block.unwrap().result.unwrap().len(), BLOCK);
        n += 1;
    }
    n
}

/// Lets all others run until nothing changes any more.
async fn settle() {
    for _ in 0..2_000 {
        tokio::task::yield_now().await;
    }
}

fn store(bytes: u64) -> Arc<Store> {
    Arc::new(Store {
        budget: ReadBudget::new(bytes),
        n_read: AtomicUsize::new(0),
    })
}

#[tokio::test(start_paused = true)]
async fn many_requests_of_a_peer_that_does_not_read_hold_one_budget_and_others_go_on() {
    // One connection takes the whole budget, beside its exempt batch.
    let store = store(64 << 10);
    let slow = connect(&store).await;
    slow.shut(true);
    let mut streams = Vec::new();
    for _ in 0..12 {
        streams.push(slow.ask().await);
        settle().await;
        let held = store.budget.held_bytes();
        assert!(held <= CREDITS.into(), "{held} bytes are held");
    }
    // Count the bytes that were read: held by answers, or written into the pipe.
    let n_read = store.n_read.load(Ordering::Relaxed);
    assert!(
        n_read * BLOCK <= CREDITS as usize + BLOCK,
        "{n_read} blocks"
    );

    let other = connect(&store).await;
    for _ in 0..3 {
        assert_eq!(count(other.ask().await).await, COUNT);
    }

    slow.shut(false);
    for stream in streams {
        assert_eq!(count(stream).await, COUNT);
    }
    settle().await;
    assert_eq!(store.budget.held_bytes(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_dies_returns_what_its_answers_held_and_reads_no_more() {
    let store = store(1 << 20);
    let slow = connect(&store).await;
    slow.shut(true);
    let mut streams = Vec::new();
    for _ in 0..8 {
        streams.push(slow.ask().await);
    }
    settle().await;
    assert!(store.budget.held_bytes() > 0);
    let n_read = store.n_read.load(Ordering::Relaxed);
    slow.server.abort();
    settle().await;
    assert_eq!(store.budget.held_bytes(), 0);
    assert!(store.n_read.load(Ordering::Relaxed) <= n_read + 2);
    drop(streams);

    let next = connect(&store).await;
    assert_eq!(count(next.ask().await).await, COUNT);
}
