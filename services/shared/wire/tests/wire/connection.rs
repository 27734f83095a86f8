//! Both ends of a connection over a pipe: who gets in, what happens when somebody is rude.
//!
//! Time is paused: it moves on only when both ends wait for it, so a busy machine misses no
//! deadline.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::Duration;

use bytes::Bytes;
use cstore_types::{
    BlockId, ClusterUuid, ErrorCode, FrameKey, MapVersion, NodeId, SessionId, error_chain,
};
use cstore_wire::{ClientConfig, ClientError, Connection, Request, Response, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::server::{self, server_config};

const S: SessionId = SessionId::from_bytes([1; 16]);
const SHORT: Duration = Duration::from_millis(300);

fn client_config() -> ClientConfig {
    ClientConfig {
        handshake_deadline: Duration::from_secs(5),
        progress_deadline: Duration::from_secs(5),
        ..server::client_config()
    }
}

fn serve(stream: DuplexStream) -> tokio::task::JoinHandle<()> {
    let config = ServerConfig {
        handshake_deadline: SHORT,
        progress_deadline: SHORT,
        idle_deadline: Duration::from_secs(60),
        ..server_config()
    };
    server::serve(stream, config)
}

async fn connect(config: ClientConfig) -> Result<Connection, ClientError> {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    serve(theirs);
    Connection::over(ours, &config).await
}

async fn ask(connection: &Connection, request: Request) -> Result<Response, ClientError> {
    connection
        .call(&request, MapVersion(1), None, Duration::from_secs(5))
        .await
}

fn have() -> Request {
    Request::HaveBlocks {
        session: S,
        ids: vec![BlockId::from_bytes([1; 32])],
    }
}

#[tokio::test(start_paused = true)]
async fn i13_a_wrong_key_cluster_or_name_never_gets_past_the_handshake() {
    assert!(connect(client_config()).await.is_ok());
    let wrong_key = ClientConfig {
        key: FrameKey::from_bytes([9; 32]),
        ..client_config()
    };
    let error = error_chain(&connect(wrong_key).await.unwrap_err()).to_string();
    assert!(
        error.contains("does not hold the cluster secret"),
        "{error}"
    );
    let wrong_cluster = ClientConfig {
        cluster: ClusterUuid::from_bytes([9; 16]),
        ..client_config()
    };
    let error = error_chain(&connect(wrong_cluster).await.unwrap_err()).to_string();
    assert!(error.contains("belongs to cluster"), "{error}");
    let wrong_name = ClientConfig {
        expect: NodeId::new("storage-2").unwrap(),
        ..client_config()
    };
    let error = error_chain(&connect(wrong_name).await.unwrap_err()).to_string();
    assert!(
        error.contains("expected node storage-2, found storage-1"),
        "{error}"
    );
}

#[tokio::test(start_paused = true)]
async fn i13_a_peer_without_the_key_or_with_the_servers_own_proof_gets_no_answer() {
    use cstore_wire::handshake::{Hello, Role};
    for reflect in [false, true] {
        let (mut ours, theirs) = tokio::io::duplex(64 << 10);
        let server = serve(theirs);
        let hello = Hello {
            min_version: 2,
            max_version: 2,
            role: Role::Worker,
            cluster: cstore_testkit::CLUSTER,
            nonce: [1; 32],
            max_frame: 1,
            node: NodeId::new("worker-1").unwrap(),
        }
        .encode();
        let mut frame = vec![0x03];
        frame.extend((hello.len() as u32).to_le_bytes());
        frame.extend(&hello);
        ours.write_all(&frame).await.unwrap();
        let mut header = [0; 5];
        ours.read_exact(&mut header).await.unwrap();
        let mut welcome = vec![0; u32::from_le_bytes(header[1..].try_into().unwrap()) as usize];
        ours.read_exact(&mut welcome).await.unwrap();
        let proof = if reflect {
            welcome[welcome.len() - 32..].to_vec()
        } else {
            vec![0; 32]
        };
        let mut frame = vec![0x03, 33, 0, 0, 0, 4];
        frame.extend(proof);
        ours.write_all(&frame).await.unwrap();
        let mut answer = Vec::new();
        ours.read_to_end(&mut answer).await.unwrap();
        assert!(
            answer.first() == Some(&0x00) && answer.len() < 200,
            "an Error frame, then the end: {answer:?}"
        );
        server.await.unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn i13_a_peer_that_does_not_shake_hands_in_time_is_dropped() {
    let (mut ours, theirs) = tokio::io::duplex(1 << 10);
    let server = serve(theirs);
    ours.write_all(&[0x03]).await.unwrap();
    tokio::time::timeout(Duration::from_secs(5), server)
        .await
        .unwrap()
        .unwrap();
}

#[tokio::test(start_paused = true)]
async fn answers_come_in_any_order_and_a_slow_one_holds_nobody_up() {
    let connection = connect(client_config()).await.unwrap();
    let slow = connection.call(&Request::Unpin { session: S }, MapVersion(1), None, SHORT);
    let begun = tokio::time::Instant::now();
    let quick = async {
        for _ in 0..100 {
            assert_eq!(ask(&connection, have()).await.unwrap(), Response::AllHere);
        }
        assert!(
            begun.elapsed() < SHORT,
            "the quick calls waited for the slow one"
        );
    };
    let (slow, ()) = tokio::join!(slow, quick);
    assert!(matches!(slow, Err(ClientError::Deadline(_))), "{slow:?}");
    assert_eq!(ask(&connection, Request::Ping).await.unwrap(), Response::Ok);
}

#[tokio::test(start_paused = true)]
async fn a_refusal_and_a_panicking_handler_answer_that_call_only() {
    let connection = connect(client_config()).await.unwrap();
    let blocks = vec![cstore_types::Block {
        id: BlockId::from_bytes([1; 32]),
        kind: cstore_types::BlockKind::Data,
        bytes: Bytes::from_static(b"x"),
    }];
    let full = ask(&connection, Request::PutBlocks { session: S, blocks })
        .await
        .unwrap_err();
    assert_eq!(full.code(), ErrorCode::Full);
    let ids = vec![BlockId::from_bytes([1; 32])];
    let panicked = ask(
        &connection,
        Request::Seal {
            session: S,
            part: cstore_types::PartNo(0),
            ids,
        },
    )
    .await;
    assert_eq!(panicked.unwrap_err().code(), ErrorCode::Internal);
    assert_eq!(ask(&connection, have()).await.unwrap(), Response::AllHere);
}

#[tokio::test(start_paused = true)]
async fn blocks_arrive_in_any_order_with_their_index() {
    let connection = connect(client_config()).await.unwrap();
    let ids: Vec<BlockId> = (1..=200u8).map(|n| BlockId::from_bytes([n; 32])).collect();
    let mut stream = connection
        .get_blocks(ids, 100_000, MapVersion(1), None, Duration::from_secs(5))
        .await
        .unwrap();
    let mut seen = 0;
    while let Some(block) = stream.next().await {
        let block = block.unwrap();
        let n = block.index as u8 + 1;
        assert_eq!(block.result.unwrap(), vec![n; n.into()]);
        seen += 1;
    }
    assert_eq!(seen, 200);
}

#[tokio::test(start_paused = true)]
async fn a_broken_connection_ends_every_waiting_call_as_unknown() {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    let server = serve(theirs);
    let connection = Connection::over(ours, &client_config()).await.unwrap();
    let waiting = ask(&connection, Request::Unpin { session: S });
    let cut = async {
        tokio::task::yield_now().await;
        server.abort();
    };
    let (answer, ()) = tokio::join!(waiting, cut);
    assert!(
        matches!(answer, Err(ClientError::Disconnected(_))),
        "{answer:?}"
    );
    connection.closed().await;
    assert!(matches!(
        ask(&connection, have()).await,
        Err(ClientError::Disconnected(_))
    ));
}
