//! A storage node of the same process: the promises of a connection without its frames.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cstore_types::{
    Block, BlockId, BlockKind, ErrorCode, Fault, FrameKey, MapVersion, NodeId, PartNo, SessionId,
    error_chain,
};
use cstore_wire::{
    BlockSink, ClientConfig, ClientError, Connection, Context, Handler, LocalNode, ReadBudget,
    Request, Response, ServerConfig,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::sync::Semaphore;
use tokio::time::Instant;

use crate::server::{Fake, client_config, server_config};

const S: SessionId = SessionId::from_bytes([1; 16]);
const SHORT: Duration = Duration::from_millis(300);
const BLOCK: usize = 1_000;

fn node(handler: Arc<dyn Handler>) -> LocalNode {
    LocalNode::new(Arc::new(server_config()), handler)
}

fn connect(node: &LocalNode) -> Connection {
    Connection::to_local(node, &client_config()).unwrap()
}

async fn ask(connection: &Connection, request: Request) -> Result<Response, ClientError> {
    let deadline = Duration::from_secs(5);
    connection
        .call(&request, MapVersion(1), None, deadline)
        .await
}

fn have() -> Request {
    let ids = vec![BlockId::from_bytes([1; 32])];
    Request::HaveBlocks { session: S, ids }
}

/// A node whose Unpin waits for a permit, and whose reads hold a budget.
struct Gated {
    permits: Semaphore,
    ended: AtomicUsize,
    n_read: AtomicUsize,
    budget: ReadBudget,
}

impl Gated {
    fn new(budget: u64) -> Arc<Self> {
        Arc::new(Self {
            permits: Semaphore::new(0),
            ended: AtomicUsize::new(0),
            n_read: AtomicUsize::new(0),
            budget: ReadBudget::new(budget),
        })
    }
}

impl Handler for Gated {
    fn call(
        self: Arc<Self>,
        _: Context,
        _: Request,
    ) -> BoxFuture<'static, Result<Response, Fault>> {
        async move {
            self.permits.acquire().await.unwrap().forget();
            self.ended.fetch_add(1, Ordering::SeqCst);
            Ok(Response::Ok)
        }
        .boxed()
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
            for index in 0..ids.len() {
                let mut held = blocks.reserver().reserve(&[BLOCK]).await?;
                self.n_read.fetch_add(1, Ordering::SeqCst);
                let block = Ok(Bytes::from(vec![7; BLOCK]));
                blocks.send_held(index as u32, block, &mut held).await?;
            }
            Ok(())
        }
        .boxed()
    }
}

#[tokio::test(start_paused = true)]
async fn i13_a_wrong_key_cluster_or_name_is_refused_inside_of_a_process_too() {
    let node = node(Arc::new(Fake));
    let refused = |config: ClientConfig| {
        let error = Connection::to_local(&node, &config).unwrap_err();
        error_chain(&error).to_string()
    };
    let error = refused(ClientConfig {
        key: FrameKey::from_bytes([9; 32]),
        ..client_config()
    });
    assert!(
        error.contains("does not hold the cluster secret"),
        "{error}"
    );
    let error = refused(ClientConfig {
        cluster: cstore_types::ClusterUuid::from_bytes([9; 16]),
        ..client_config()
    });
    assert!(error.contains("belongs to cluster"), "{error}");
    let error = refused(ClientConfig {
        expect: NodeId::new("storage-2").unwrap(),
        ..client_config()
    });
    assert!(
        error.contains("expected node storage-2, found storage-1"),
        "{error}"
    );
    assert_eq!(connect(&node).store(), server_config().store);
}

#[tokio::test(start_paused = true)]
async fn a_slow_a_refused_and_a_panicking_request_concern_that_request_only() {
    let connection = connect(&node(Arc::new(Fake)));
    let slow = connection.call(&Request::Unpin { session: S }, MapVersion(1), None, SHORT);
    let begun = Instant::now();
    let others = async {
        let blocks = vec![Block {
            id: BlockId::from_bytes([1; 32]),
            kind: BlockKind::Data,
            bytes: Bytes::from_static(b"x"),
        }];
        let full = ask(&connection, Request::PutBlocks { session: S, blocks }).await;
        assert_eq!(full.unwrap_err().code(), ErrorCode::Full);
        let seal = Request::Seal {
            session: S,
            part: PartNo(0),
            ids: vec![BlockId::from_bytes([1; 32])],
        };
        let panicked = ask(&connection, seal).await;
        assert_eq!(panicked.unwrap_err().code(), ErrorCode::Internal);
        for _ in 0..100 {
            assert_eq!(ask(&connection, have()).await.unwrap(), Response::AllHere);
        }
        assert_eq!(ask(&connection, Request::Ping).await.unwrap(), Response::Ok);
        assert!(begun.elapsed() < SHORT, "they waited for the slow one");
    };
    let (slow, ()) = tokio::join!(slow, others);
    assert!(matches!(slow, Err(ClientError::Deadline(_))), "{slow:?}");
}

#[tokio::test(start_paused = true)]
async fn requests_at_work_are_bounded_by_number() {
    let handler = Gated::new(1 << 20);
    let connection = connect(&node(handler.clone()));
    let max = server_config().max_requests;
    let unpin = Request::Unpin { session: S };
    let calls = (0..=max).map(|_| connection.call(&unpin, MapVersion(1), None, SHORT));
    let answers = futures_util::future::join_all(calls).await;
    assert!(answers.iter().all(Result::is_err));
    // The first ones still have their places, as their node has begun them.
    handler.permits.add_permits(max + 1);
    for _ in 0..max {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask(&connection, unpin.clone()).await.unwrap(), Response::Ok);
    assert_eq!(handler.ended.load(Ordering::SeqCst), max + 1);
}

#[tokio::test(start_paused = true)]
async fn i11_a_request_that_was_begun_runs_to_its_end_without_its_caller() {
    let handler = Gated::new(1 << 20);
    let connection = connect(&node(handler.clone()));
    let begun = ask(&connection, Request::Unpin { session: S }).now_or_never();
    assert!(begun.is_none());
    handler.permits.add_permits(1);
    cstore_testkit::until("the end of the request", || {
        handler.ended.load(Ordering::SeqCst) == 1
    })
    .await;
}

#[tokio::test(start_paused = true)]
async fn i12_a_node_that_closes_finishes_what_it_began_and_releases_its_handler() {
    let handler = Gated::new(1 << 20);
    let node = node(handler.clone());
    let connection = connect(&node);
    let mut at_work = Box::pin(ask(&connection, Request::Unpin { session: S }));
    assert!(at_work.as_mut().now_or_never().is_none());

    let mut closing = Box::pin(node.close(Duration::from_secs(60)));
    assert!(closing.as_mut().now_or_never().is_none());
    assert!(connection.is_closed());
    connection.closed().await;
    let refused = ask(&connection, Request::Unpin { session: S }).await;
    assert_eq!(refused.unwrap_err().code(), ErrorCode::Unavailable);
    assert!(Connection::to_local(&node, &client_config()).is_err());

    handler.permits.add_permits(1);
    assert_eq!(at_work.await.unwrap(), Response::Ok);
    closing.await;
    assert_eq!(Arc::strong_count(&handler), 1, "the handler holds the disk");
}

#[tokio::test(start_paused = true)]
async fn blocks_arrive_with_their_index_and_hold_the_budget_until_they_are_taken() {
    // Room for two blocks, beside the one that every connection may hold.
    let handler = Gated::new(4 << 10);
    let config = ServerConfig {
        credits: 3 << 10,
        ..server_config()
    };
    let node = LocalNode::new(Arc::new(config), handler.clone());
    let connection = connect(&node);
    let ids = vec![BlockId::from_bytes([7; 32]); 20];
    let deadline = Duration::from_secs(5);
    let mut stream = connection
        .get_blocks(ids.clone(), 1, MapVersion(1), None, deadline)
        .await
        .unwrap();
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
    let held = handler.n_read.load(Ordering::SeqCst);
    assert!((1..=3).contains(&held), "{held} blocks were read ahead");
    let mut indices = Vec::new();
    while let Some(block) = stream.next().await {
        let block = block.unwrap();
        assert_eq!(block.result.unwrap().len(), BLOCK);
        indices.push(block.index);
    }
    assert_eq!(indices, (0..20).collect::<Vec<_>>());
    cstore_testkit::until("the return of the budget", || {
        handler.budget.held_bytes() == 0
    })
    .await;

    // A reader that is gone ends the read.
    let stream = connection.get_blocks(ids, 1, MapVersion(1), None, deadline);
    drop(stream.await.unwrap());
    cstore_testkit::until("the return of the budget", || {
        handler.budget.held_bytes() == 0
    })
    .await;
    assert!(handler.n_read.load(Ordering::SeqCst) < 40);
}
