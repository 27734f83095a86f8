//! Damaged frames: decode answers or refuses, it never panics, and what it takes for a request is
//! one.
//!
//! `CSTORE_SEED` picks the sequence, `CSTORE_CASES` how many frames.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a test may fail loudly and says what it did"
)]

use bytes::Bytes;
use cstore_testkit::seed_and_cases;
use cstore_types::{
    Block, BlockId, BlockKind, ErrorCode, Fault, MapVersion, PartNo, SealSeq, SessionId,
    SessionUsage, SpaceUsage, StoreUuid,
};
use cstore_wire::frame::{HEADER, decode_header};
use cstore_wire::handshake::Hello;
use cstore_wire::{
    BlockReply, Opcode, Prefix, PutStatus, Request, Response, SealedBlock, TraceField,
};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

const SESSION: SessionId = SessionId::from_bytes([3; 16]);
const PART: PartNo = PartNo(4);

fn ids(n: u8) -> Vec<BlockId> {
    (0..n).map(|n| BlockId::from_bytes([n; 32])).collect()
}

/// A sound request of every kind.
fn requests() -> Vec<Request> {
    let block = |n: u8| Block {
        id: ids(1)[0],
        kind: BlockKind::Data,
        bytes: Bytes::from(vec![n; n.into()]),
    };
    let sent = SealedBlock {
        index: 1,
        kind: BlockKind::Manifest,
        bytes: Bytes::from_static(b"leaf"),
    };
    vec![
        Request::HaveBlocks {
            session: SESSION,
            ids: ids(9),
        },
        Request::PutBlocks {
            session: SESSION,
            blocks: (1..6).map(block).collect(),
        },
        Request::GetBlocks { ids: ids(3) },
        Request::Seal {
            session: SESSION,
            part: PART,
            ids: ids(20),
        },
        Request::Unpin { session: SESSION },
        Request::PutSeal {
            session: SESSION,
            part: PART,
            ids: ids(2),
            blocks: vec![sent],
        },
        Request::Usage {
            sessions: vec![
                SessionUsage {
                    session: SESSION,
                    ends: true
                };
                5
            ],
        },
        Request::Ping,
        Request::Goodbye,
    ]
}

/// A sound response of every kind.
fn responses() -> Vec<Response> {
    vec![
        Response::Ok,
        Response::AllHere,
        Response::SomeMissing(vec![true, false, true]),
        Response::PutResult(vec![PutStatus::Stored, PutStatus::Refused(ErrorCode::Full)]),
        Response::Block(BlockReply {
            index: 0,
            last: true,
            result: Ok(Bytes::from_static(b"bytes")),
        }),
        Response::Sealed {
            store: StoreUuid::from_bytes([5; 16]),
            seal_seq: SealSeq(6),
            nonce: 0,
            new: vec![true],
        },
        Response::SealMissing(vec![1, 2]),
        Response::SealConflict,
        Response::Usage(SpaceUsage {
            blocks: 1,
            bytes: 2,
            shared_blocks: 3,
            shared_bytes: 4,
        }),
        Response::Error(Fault::new(ErrorCode::Full, "no room")),
    ]
}

/// Sound frames of every kind, requests with a trace and without.
fn sound() -> Vec<Bytes> {
    let trace = Some(TraceField::new([1; 16], [2; 8], 1));
    let prefix = |trace| Prefix {
        request_id: 7,
        map_version: MapVersion(8),
        trace,
        knows_version_3: false,
    };
    let asked = requests();
    let asked = asked
        .iter()
        .flat_map(|r| [r.to_bytes(&prefix(None)), r.to_bytes(&prefix(trace))]);
    let answered = responses();
    let answered = answered.iter().map(|r| r.to_bytes(&Prefix::answer(7)));
    asked.chain(answered).collect()
}

/// One to four damages: bytes flipped, replaced, cut off, doubled or put in.
fn damage(frame: &mut Vec<u8>, random: &mut StdRng) {
    for _ in 0..random.random_range(1..=4) {
        let at = random.random_range(0..=frame.len());
        match random.random_range(0..6) {
            0 if at < frame.len() => frame[at] ^= 1 << random.random_range(0..8),
            1 if at < frame.len() => {
                frame[at] = *[0, 1, 0x7f, 0x80, 0xff]
                    .get(random.random_range(0..5))
                    .unwrap()
            }
            2 => frame.truncate(at),
            3 => {
                let tail = frame.split_off(at);
                frame.extend_from_within(at.saturating_sub(random.random_range(0..40))..);
                frame.extend(tail);
            }
            4 => frame.insert(at, random.random()),
            _ => frame.extend((0..random.random_range(0..50)).map(|_| random.random::<u8>())),
        }
    }
}

/// Decodes a frame the way a connection does, then both ways whatever its opcode is. Answers what
/// was accepted.
fn decode(frame: &[u8]) -> u64 {
    let Some((header, payload)) = frame.split_first_chunk::<HEADER>() else {
        return 0;
    };
    let _ = Hello::decode(Bytes::copy_from_slice(payload));
    let Ok((opcode, length)) = decode_header(*header) else {
        return 0;
    };
    let payload = Bytes::copy_from_slice(payload.get(..length as usize).unwrap_or(payload));
    let mut accepted = 0;
    if let Ok((prefix, request)) = Request::decode(opcode, payload.clone()) {
        let again = request.to_bytes(&prefix);
        assert_eq!(
            again.get(HEADER..),
            Some(&payload[..]),
            "a request has one encoding only: {request:?}"
        );
        accepted += 1;
    }
    accepted += u64::from(Response::decode(opcode, payload.clone()).is_ok());
    for other in Opcode::ALL {
        let _ = Request::decode(other, payload.clone());
        let _ = Response::decode(other, payload.clone());
    }
    accepted
}

#[test]
fn i10_damaged_frames_are_answered_or_refused_and_never_a_panic() {
    let (seed, cases) = seed_and_cases(20_261_124, 1_000_000);
    let mut random = StdRng::seed_from_u64(seed);
    let sound = sound();
    let mut accepted = 0;
    for _ in 0..cases {
        let mut frame = sound[random.random_range(0..sound.len())].to_vec();
        damage(&mut frame, &mut random);
        accepted += decode(&frame);
    }
    for frame in &sound {
        assert_eq!(decode(frame), 1, "{frame:?}");
    }
    println!("{cases} damaged frames, {accepted} of them still messages");
    assert!(
        accepted > cases / 50,
        "only {accepted} of {cases}: the damage is too great to test anything"
    );
}
