//! Bytes of version 2, pinned: another implementation reads them. And what is no message is
//! refused.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cstore_types::{
    Block, BlockId, BlockKind, ErrorCode, Fault, MapVersion, PartNo, SealSeq, SessionId,
    SessionUsage, SpaceUsage, StoreUuid,
};
use cstore_wire::frame::{HEADER, decode_header};
use cstore_wire::{
    BlockReply, Opcode, Prefix, PutStatus, Request, Response, SealedBlock, TraceField,
};
use proptest::prelude::*;

const S: SessionId = SessionId::from_bytes([0x11; 16]);

fn id(n: u8) -> BlockId {
    BlockId::from_bytes([n; 32])
}

fn prefix() -> Prefix {
    Prefix {
        request_id: 7,
        map_version: MapVersion(3),
        trace: None,
        knows_version_3: false,
    }
}

fn requests() -> Vec<(Request, String)> {
    let (s, a, b) = ("11".repeat(16), "aa".repeat(32), "bb".repeat(32));
    let head = "07000000".to_owned() + "00" + "0300000000000000";
    let bytes = Bytes::from_static(b"xy");
    let part = PartNo(9);
    vec![
        (
            Request::HaveBlocks {
                session: S,
                ids: vec![id(0xaa), id(0xbb)],
            },
            format!("3061000000{head}{s}02000000{a}{b}"),
        ),
        (
            Request::PutBlocks {
                session: S,
                blocks: vec![Block {
                    id: id(0xaa),
                    kind: BlockKind::Data,
                    bytes: bytes.clone(),
                }],
            },
            format!("3148000000{head}{s}01000000{a}01020000007879"),
        ),
        (
            Request::GetBlocks {
                ids: vec![id(0xaa)],
            },
            format!("3231000000{head}01000000{a}"),
        ),
        (
            Request::Seal {
                session: S,
                part,
                ids: vec![id(0xaa)],
            },
            format!("3345000000{head}{s}0900000001000000{a}"),
        ),
        (
            Request::Unpin { session: S },
            format!("341d000000{head}{s}"),
        ),
        (
            Request::PutSeal {
                session: S,
                part,
                ids: vec![id(0xaa)],
                blocks: vec![SealedBlock {
                    index: 0,
                    kind: BlockKind::Manifest,
                    bytes,
                }],
            },
            format!("3554000000{head}{s}0900000001000000{a}010000000000000002020000007879"),
        ),
        (
            Request::Usage {
                sessions: vec![SessionUsage {
                    session: S,
                    ends: true,
                }],
            },
            format!("3622000000{head}01000000{s}01"),
        ),
        (Request::Ping, format!("3e0d000000{head}")),
        (Request::Goodbye, format!("3f0d000000{head}")),
    ]
}

fn responses() -> Vec<(Response, String)> {
    let head = "07000000000000000000000000".to_owned();
    let (store, seal_seq) = (StoreUuid::from_bytes([0x22; 16]), SealSeq(5));
    let refusal = Fault::new(ErrorCode::Full, "no").retry_after(Duration::from_millis(100));
    vec![
        (Response::Ok, format!("020d000000{head}")),
        (Response::AllHere, format!("060d000000{head}")),
        (
            Response::SomeMissing(vec![true, false, true]),
            format!("0712000000{head}0300000005"),
        ),
        (
            Response::PutResult(vec![
                PutStatus::Stored,
                PutStatus::Duplicate,
                PutStatus::Refused(ErrorCode::Full),
            ]),
            format!("4114000000{head}03000000000149"),
        ),
        (
            Response::Block(BlockReply {
                index: 1,
                last: true,
                result: Ok(Bytes::from_static(b"z")),
            }),
            format!("4214000000{head}0100000001007a"),
        ),
        (
            Response::Block(BlockReply {
                index: 1,
                last: false,
                result: Err(ErrorCode::NotFound),
            }),
            format!("4213000000{head}010000000041"),
        ),
        (
            Response::Sealed {
                store,
                seal_seq,
                nonce: 0,
                new: vec![true],
            },
            format!(
                "432a000000{head}{}05000000000000000100000001",
                "22".repeat(16)
            ),
        ),
        (
            Response::SealMissing(vec![4]),
            format!("4415000000{head}0100000004000000"),
        ),
        (Response::SealConflict, format!("450d000000{head}")),
        (
            Response::Usage(SpaceUsage {
                blocks: 1,
                bytes: 2,
                shared_blocks: 3,
                shared_bytes: 4,
            }),
            format!(
                "462d000000{head}0100000000000000020000000000000003000000000000000400000000000000"
            ),
        ),
        (
            Response::Error(refusal),
            format!("0016000000{head}096400000002006e6f"),
        ),
    ]
}

#[test]
fn every_request_of_version_2_has_these_bytes() {
    for (request, expected) in requests() {
        let bytes = request.to_bytes(&prefix());
        assert_eq!(hex::encode(&bytes), expected, "{request:?}");
        let (opcode, payload) = split(bytes);
        assert_eq!(Request::decode(opcode, payload), Ok((prefix(), request)));
    }
}

#[test]
fn every_answer_of_version_2_has_these_bytes() {
    for (response, expected) in responses() {
        let bytes = response.to_bytes(&Prefix::answer(7));
        assert_eq!(hex::encode(&bytes), expected, "{response:?}");
        let (opcode, payload) = split(bytes);
        assert_eq!(
            Response::decode(opcode, payload),
            Ok((Prefix::answer(7), response))
        );
    }
}

#[test]
fn a_trace_field_travels_behind_the_prefix() {
    let trace = TraceField::new([1; 16], [2; 8], 1);
    let prefix = Prefix {
        trace: Some(trace),
        ..prefix()
    };
    let bytes = Request::Ping.to_bytes(&prefix);
    let expected = format!(
        "3e27000000070000000103000000000000000{}{}{}01",
        "0",
        "01".repeat(16),
        "02".repeat(8)
    );
    assert_eq!(hex::encode(&bytes), expected);
    let (opcode, payload) = split(bytes);
    assert_eq!(Request::decode(opcode, payload).unwrap().0, prefix);
    assert_eq!(trace.parts(), ([1; 16], [2; 8], 1));
}

fn split(mut bytes: Bytes) -> (Opcode, Bytes) {
    let header = bytes.split_to(HEADER);
    let (opcode, len) = decode_header(*header.first_chunk().unwrap()).unwrap();
    assert_eq!(len as usize, bytes.len());
    (opcode, bytes)
}

#[test]
fn i10_every_truncation_of_every_message_is_refused() {
    let requests = requests()
        .into_iter()
        .map(|(request, _)| request.to_bytes(&prefix()));
    let responses = responses()
        .into_iter()
        .map(|(response, _)| response.to_bytes(&Prefix::answer(7)));
    for bytes in requests.chain(responses) {
        let (opcode, payload) = split(bytes);
        for cut in 0..payload.len() {
            let short = payload.slice(..cut);
            // The bytes of a block go to the end of its frame, so a shorter block is a message of
            // its own.
            if opcode != Opcode::Block {
                assert!(
                    Request::decode(opcode, short.clone()).is_err(),
                    "{opcode:?} cut at {cut}"
                );
                assert!(
                    Response::decode(opcode, short).is_err(),
                    "{opcode:?} cut at {cut}"
                );
            }
        }
        let mut long = BytesMut::from(&payload[..]);
        long.extend_from_slice(&[0]);
        if opcode != Opcode::Block {
            assert!(
                Request::decode(opcode, long.clone().freeze()).is_err(),
                "{opcode:?} with a byte too many"
            );
            assert!(
                Response::decode(opcode, long.freeze()).is_err(),
                "{opcode:?} with a byte too many"
            );
        }
    }
}

#[test]
fn i10_lengths_are_checked_against_both_bounds_before_anything_is_reserved() {
    for opcode in Opcode::ALL {
        let (min, max) = opcode.payload_bounds();
        let header = |len: u32| {
            [&[opcode.byte()][..], &len.to_le_bytes()]
                .concat()
                .try_into()
                .unwrap()
        };
        assert!(
            decode_header(header(min)).is_ok() && decode_header(header(max)).is_ok(),
            "{opcode:?}"
        );
        assert!(
            decode_header(header(max + 1)).is_err() && decode_header(header(u32::MAX)).is_err(),
            "{opcode:?}"
        );
        if let Some(below) = min.checked_sub(1) {
            assert!(decode_header(header(below)).is_err(), "{opcode:?}");
        }
    }
    assert!(
        decode_header([0x99, 0, 0, 0, 0])
            .unwrap_err()
            .to_string()
            .contains("0x99")
    );
}

#[test]
fn i10_counts_that_lie_reserve_nothing() {
    let mut payload = BytesMut::new();
    payload.extend_from_slice(&hex::decode("07000000000300000000000000").unwrap());
    payload.extend_from_slice(S.as_bytes());
    payload.extend_from_slice(&u32::MAX.to_le_bytes());
    payload.extend_from_slice(&[0; 64]);
    for opcode in [
        Opcode::HaveBlocks,
        Opcode::PutBlocks,
        Opcode::Seal,
        Opcode::PutSeal,
    ] {
        assert!(
            Request::decode(opcode, payload.clone().freeze()).is_err(),
            "{opcode:?}"
        );
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(20_000))]
    #[test]
    fn i10_garbage_never_panics(byte: u8, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
        if let Ok(opcode) = Opcode::from_byte(byte) {
            let payload = Bytes::from(payload);
            let _ = Request::decode(opcode, payload.clone());
            let _ = Response::decode(opcode, payload);
        }
    }
}

/// A program from before it refuses the flag, and never gets the nonce.
#[test]
fn the_nonce_of_a_seal_is_sent_only_to_those_who_take_it() {
    let prefix = |knows_version_3| Prefix {
        knows_version_3,
        ..prefix()
    };
    let seal = Request::Seal {
        session: SessionId::from_bytes([1; 16]),
        part: PartNo(0),
        ids: vec![BlockId::from_bytes([2; 32])],
    };
    let (plain, with) = (seal.to_bytes(&prefix(false)), seal.to_bytes(&prefix(true)));
    let flags = HEADER + 4;
    assert_eq!(with[flags], plain[flags] | 2);
    assert_eq!(with[flags + 1..], plain[flags + 1..]);

    let sealed = |nonce| Response::Sealed {
        store: StoreUuid::from_bytes([3; 16]),
        seal_seq: SealSeq(4),
        nonce,
        new: vec![true],
    };
    let answer = Prefix::answer(7);
    let (plain, with) = (sealed(0).to_bytes(&answer), sealed(5).to_bytes(&answer));
    assert_eq!(with.len(), plain.len() + 8);
    assert_eq!(with[plain.len()..], 5u64.to_le_bytes());
    for (bytes, nonce) in [(plain, 0), (with, 5)] {
        let decoded = Response::decode(Opcode::Sealed, bytes.slice(HEADER..));
        assert_eq!(decoded.unwrap().1, sealed(nonce));
    }
}
