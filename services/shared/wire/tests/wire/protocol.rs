//! Rules of version 2 for peers that break the protocol, and for every value that a message can
//! have.
//!
//! Time is paused: it moves on only when both ends wait for it, so a busy machine misses no
//! deadline.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::Duration;

use bytes::Bytes;
use cstore_testkit::CLUSTER;
use cstore_types::{
    Block, BlockId, BlockKind, ErrorCode, Fault, FrameKey, MapVersion, NodeId, PartNo, SealSeq,
    SessionId, SessionUsage, SpaceUsage, StoreUuid,
};
use cstore_wire::frame::{HEADER, decode_header};
use cstore_wire::handshake::{Direction, Hello, Role, prove};
use cstore_wire::{
    BlockReply, Connection, Prefix, PutStatus, Request, Response, SealedBlock, ServerConfig,
    TraceField,
};
use futures_util::FutureExt;
use proptest::collection::vec;
use proptest::prelude::*;
use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use crate::server::{self, KEY, LONG, client_config, server_config};

fn serve(stream: DuplexStream) -> tokio::task::JoinHandle<()> {
    let config = ServerConfig {
        progress_deadline: Duration::from_secs(1),
        ..server_config()
    };
    server::serve(stream, config)
}

fn hello(versions: std::ops::RangeInclusive<u16>) -> Bytes {
    Hello {
        min_version: *versions.start(),
        max_version: *versions.end(),
        role: Role::Worker,
        cluster: CLUSTER,
        nonce: [1; 32],
        max_frame: 1 << 24,
        node: NodeId::new("worker-1").unwrap(),
    }
    .encode()
}

async fn send(stream: &mut DuplexStream, opcode: u8, payload: &[u8]) {
    let len = u32::try_from(payload.len()).unwrap().to_le_bytes();
    stream
        .write_all(&[&[opcode][..], &len, payload].concat())
        .await
        .unwrap();
}

async fn receive(stream: &mut DuplexStream) -> (u8, Bytes) {
    let mut header = [0; HEADER];
    stream.read_exact(&mut header).await.unwrap();
    let mut payload = vec![0; u32::from_le_bytes(header[1..].try_into().unwrap()) as usize];
    stream.read_exact(&mut payload).await.unwrap();
    (header[0], payload.into())
}

/// Connects a peer that holds the key and from then on sends arbitrary bytes.
async fn member() -> (DuplexStream, tokio::task::JoinHandle<()>) {
    let (mut ours, theirs) = tokio::io::duplex(64 << 10);
    let server = serve(theirs);
    let hello = hello(2..=2);
    send(&mut ours, 0x03, &hello).await;
    let (_, welcome) = receive(&mut ours).await;
    let signed = &welcome[..welcome.len() - 32];
    let proof = prove(
        &FrameKey::from_bytes(KEY),
        Direction::Client,
        &hello,
        signed,
    );
    send(&mut ours, 0x03, &[&[4][..], &proof].concat()).await;
    assert_eq!(receive(&mut ours).await.0, 0x02, "the proof is good");
    (ours, server)
}

#[tokio::test(start_paused = true)]
async fn i13_a_version_that_is_not_spoken_is_refused_with_the_range_that_is() {
    for (versions, spoken) in [
        (0..=1, false),
        (4..=9, false),
        (1..=9, true),
        (2..=2, true),
        (3..=3, true),
    ] {
        let (mut ours, theirs) = tokio::io::duplex(64 << 10);
        let server = serve(theirs);
        send(&mut ours, 0x03, &hello(versions.clone())).await;
        let (opcode, answer) = receive(&mut ours).await;
        assert_eq!(
            (opcode, answer[0]),
            (0x03, if spoken { 2 } else { 3 }),
            "{versions:?}"
        );
        if !spoken {
            assert_eq!(answer[2..6], [2, 0, 3, 0], "it speaks 2 to 3");
            assert!(
                String::from_utf8_lossy(&answer).contains("2 to 3 are"),
                "{answer:?}"
            );
            tokio::time::timeout(LONG, server).await.unwrap().unwrap();
        }
    }
}

#[tokio::test(start_paused = true)]
async fn i10_a_member_that_breaks_the_protocol_is_told_why_and_the_connection_ends() {
    let huge_put = [&[0x31][..], &u32::MAX.to_le_bytes()].concat();
    let answers_to_a_server = [&[0x02, 13, 0, 0, 0][..], &[0; 13]].concat();
    let unknown = vec![0x99, 0, 0, 0, 0];
    for rude in [huge_put, answers_to_a_server, unknown] {
        let (mut ours, server) = member().await;
        ours.write_all(&rude).await.unwrap();
        let (opcode, why) = receive(&mut ours).await;
        assert_eq!(opcode, 0x00, "{rude:?}");
        assert!(why.len() > 20, "it says why: {why:?}");
        assert_eq!(
            tokio::time::timeout(LONG, ours.read(&mut [0; 1]))
                .await
                .unwrap()
                .unwrap(),
            0
        );
        tokio::time::timeout(LONG, server).await.unwrap().unwrap();
    }
}

#[tokio::test(start_paused = true)]
async fn a_frame_that_is_cut_in_the_middle_ends_the_connection() {
    let (mut ours, server) = member().await;
    ours.write_all(&[0x30, 97, 0, 0, 0, 1, 2, 3]).await.unwrap();
    drop(ours);
    tokio::time::timeout(LONG, server).await.unwrap().unwrap();
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_the_connection_to_the_others() {
    let (ours, theirs) = tokio::io::duplex(64 << 10);
    serve(theirs);
    let connection = Connection::over(ours, &client_config()).await.unwrap();
    for n in 0..7 {
        let request = Request::Unpin {
            session: SessionId::from_bytes([n; 16]),
        };
        let call = connection.call(&request, MapVersion(1), None, LONG);
        assert!(
            call.now_or_never().is_none(),
            "it waits, and is dropped here"
        );
    }
    let ping = connection
        .call(&Request::Ping, MapVersion(1), None, LONG)
        .await;
    assert_eq!(ping.unwrap(), Response::Ok);
}

fn ids() -> impl Strategy<Value = Vec<BlockId>> {
    vec(any::<[u8; 32]>().prop_map(BlockId::from_bytes), 1..40)
}

fn kind() -> impl Strategy<Value = BlockKind> {
    prop_oneof![Just(BlockKind::Data), Just(BlockKind::Manifest)]
}

fn content() -> impl Strategy<Value = Bytes> {
    vec(any::<u8>(), 1..200).prop_map(Bytes::from)
}

fn request() -> impl Strategy<Value = Request> {
    let session = || any::<[u8; 16]>().prop_map(SessionId::from_bytes);
    let part = || any::<u32>().prop_map(PartNo);
    let block = (any::<[u8; 32]>(), kind(), content()).prop_map(|(id, kind, bytes)| Block {
        id: BlockId::from_bytes(id),
        kind,
        bytes,
    });
    let with_blocks = ids().prop_flat_map(|ids| {
        let index = 0..u32::try_from(ids.len()).unwrap();
        let block = (index, kind(), content()).prop_map(|(index, kind, bytes)| SealedBlock {
            index,
            kind,
            bytes,
        });
        (Just(ids), proptest::option::of(block))
    });
    prop_oneof![
        (session(), ids()).prop_map(|(session, ids)| Request::HaveBlocks { session, ids }),
        (session(), vec(block, 1..20))
            .prop_map(|(session, blocks)| Request::PutBlocks { session, blocks }),
        ids().prop_map(|ids| Request::GetBlocks { ids }),
        (session(), part(), ids()).prop_map(|(session, part, ids)| Request::Seal {
            session,
            part,
            ids
        }),
        session().prop_map(|session| Request::Unpin { session }),
        (session(), part(), with_blocks).prop_map(|(session, part, (ids, block))| {
            Request::PutSeal {
                session,
                part,
                ids,
                blocks: block.into_iter().collect(),
            }
        }),
        vec((session(), any::<bool>()), 1..20).prop_map(|sessions| Request::Usage {
            sessions: sessions
                .into_iter()
                .map(|(session, ends)| SessionUsage { session, ends })
                .collect(),
        }),
        Just(Request::Ping),
        Just(Request::Goodbye),
    ]
}

fn response() -> impl Strategy<Value = Response> {
    let code = || {
        prop_oneof![
            Just(ErrorCode::Full),
            Just(ErrorCode::NotFound),
            Just(ErrorCode::DataLoss)
        ]
    };
    let status = prop_oneof![
        Just(PutStatus::Stored),
        Just(PutStatus::Duplicate),
        code().prop_map(PutStatus::Refused),
    ];
    let block = (
        any::<u32>(),
        any::<bool>(),
        prop_oneof![content().prop_map(Ok), code().prop_map(Err)],
    );
    let sealed = (any::<[u8; 16]>(), any::<u64>(), vec(any::<bool>(), 0..40));
    prop_oneof![
        Just(Response::Ok),
        Just(Response::AllHere),
        Just(Response::SealConflict),
        any::<[u64; 4]>().prop_map(
            |[blocks, bytes, shared_blocks, shared_bytes]| Response::Usage(SpaceUsage {
                blocks,
                bytes,
                shared_blocks,
                shared_bytes
            })
        ),
        vec(any::<bool>(), 1..100).prop_map(Response::SomeMissing),
        vec(status, 1..40).prop_map(Response::PutResult),
        block.prop_map(|(index, last, result)| Response::Block(BlockReply {
            index,
            last,
            result
        })),
        sealed.prop_map(|(store, seq, new)| Response::Sealed {
            store: StoreUuid::from_bytes(store),
            seal_seq: SealSeq(seq),
            nonce: 0,
            new,
        }),
        vec(any::<u32>(), 1..40).prop_map(Response::SealMissing),
        (code(), any::<u32>(), "[ -~]{0,100}").prop_map(|(code, retry_after_ms, message)| {
            Response::Error(Fault {
                code,
                message,
                retry_after: (retry_after_ms > 0)
                    .then(|| Duration::from_millis(retry_after_ms.into())),
                source: None,
            })
        }),
    ]
}

fn prefix() -> impl Strategy<Value = Prefix> {
    let trace = (any::<[u8; 16]>(), any::<[u8; 8]>(), any::<u8>());
    (any::<u32>(), any::<u64>(), proptest::option::of(trace)).prop_map(
        |(request_id, map, trace)| Prefix {
            request_id,
            map_version: MapVersion(map),
            trace: trace.map(|(trace, span, flags)| TraceField::new(trace, span, flags)),
            knows_version_3: false,
        },
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]
    #[test]
    fn every_message_comes_back_as_it_was(prefix in prefix(), request in request(), response in response()) {
        for (bytes, is_request) in [(request.to_bytes(&prefix), true), (response.to_bytes(&prefix), false)] {
            let mut payload = bytes.clone();
            let header = payload.split_to(HEADER);
            let (opcode, len) = decode_header(*header.first_chunk().unwrap()).unwrap();
            prop_assert_eq!(len as usize, payload.len());
            if is_request {
                prop_assert_eq!(Request::decode(opcode, payload), Ok((prefix, request.clone())));
            } else {
                prop_assert_eq!(Response::decode(opcode, payload), Ok((prefix, response.clone())));
            }
        }
    }
}
