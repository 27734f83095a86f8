//! Uploads to nodes that refuse, break off, forget and reply nonsense: how each of them ends, after
//! how many tries, and that nothing was sealed unless the upload ended well.

use std::time::Duration;

use bytes::Bytes;
use cstore_testkit::fake::{Call, StoreReply};
use cstore_testkit::session;
use cstore_types::{BlockId, ErrorCode, Fault, SealSeq, StoreUuid, error_chain};
use cstore_wire::{Opcode, PutStatus, Response};
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{Instant, timeout};

use super::cluster::{Cluster, Expected, random_body};
use crate::limits::{BATCH_BYTES, BLIND_BYTES};
use crate::upload::Stored;

/// Few enough blocks that no recipe has leaves, which would be requests of their own.
const BLOCK: u32 = 16_384;
/// Requests that are sent for one when all of them fail in a way that may pass.
const ALL_TRIES: usize = 4;

/// Longer than any upload of these tests takes, also one that fails.
const NEVER: Duration = Duration::from_secs(3_600);

/// A way that an upload takes, and the requests of it.
#[derive(Debug, Clone, Copy)]
struct Way {
    len: usize,
    requests: &'static [Opcode],
}

/// Put and sealed in one request.
const BLIND: Way = Way {
    len: BLIND_BYTES,
    requests: &[Opcode::PutSeal],
};
/// The same, after a question.
const SMALL: Way = Way {
    len: BLIND_BYTES + 1,
    requests: &[Opcode::HaveBlocks, Opcode::PutSeal],
};
/// In batches.
const LONG: Way = Way {
    len: BATCH_BYTES,
    requests: &[Opcode::HaveBlocks, Opcode::PutBlocks, Opcode::Seal],
};
const WAYS: [Way; 3] = [BLIND, SMALL, LONG];

fn body(way: Way) -> Bytes {
    random_body(&mut StdRng::seed_from_u64(way.len as u64), way.len)
}

/// Uploads the body of a way to one node that gives these replies to one kind of request.
async fn upload(
    way: Way,
    opcode: Opcode,
    replies: Vec<StoreReply>,
) -> (Cluster, Result<Stored, Fault>) {
    let cluster = Cluster::new(1);
    cluster.stores[0].script(opcode, replies);
    let stored = cluster.store(session(1), BLOCK, &body(way)).await;
    (cluster, stored)
}

/// Returns how many blocks came with each request of an opcode.
fn sent_with(calls: &[Call], opcode: Opcode) -> Vec<usize> {
    calls
        .iter()
        .filter(|call| call.opcode == opcode)
        .map(|call| call.sent.len())
        .collect()
}

/// Checks that an upload fails like this and that nothing of it is sealed. Returns the fault. 0
/// tries are not counted.
async fn assert_fails(
    way: Way,
    opcode: Opcode,
    reply: StoreReply,
    code: ErrorCode,
    text: &str,
    tries: usize,
) -> Fault {
    let cluster = Cluster::new(1);
    cluster.stores[0].always(opcode, reply.clone());
    let body = body(way);
    let stored = timeout(NEVER, cluster.store(session(1), BLOCK, &body))
        .await
        .expect("tries are bounded");
    let fault = stored.unwrap_err();
    let context = format!("{way:?}, {opcode:?}, {reply:?}");
    assert_eq!(fault.code, code, "{context}: {fault:?}");
    let message = error_chain(&fault).to_string();
    assert!(message.contains(text), "{context}: {message}");
    assert!(
        message.contains("storage-1"),
        "the node is named: {context}: {message}"
    );
    if tries > 0 {
        assert_eq!(cluster.count(opcode), tries, "{context}");
    }
    cluster.assert_nothing_sealed(session(1));
    assert_eq!(cluster.budget.held(), 0, "{context}");
    fault
}

#[tokio::test(start_paused = true)]
async fn a_refusal_that_cannot_pass_ends_the_upload_at_once_with_its_code() {
    for way in WAYS {
        for opcode in way.requests {
            let codes = ErrorCode::ALL
                .into_iter()
                .filter(|code| *code != ErrorCode::Overloaded);
            for code in codes {
                let refuse = StoreReply::Refuse(Fault::new(code, "for a reason"));
                assert_fails(way, *opcode, refuse, code, "for a reason", 1).await;
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_busy_node_is_asked_four_times_within_the_bounds_of_the_pause() {
    let millis = Duration::from_millis;
    let pauses = [
        (None, millis(10)),
        (Some(millis(300)), millis(300)),
        (Some(millis(60_000)), millis(1_000)),
    ];
    for way in WAYS {
        for opcode in way.requests {
            for (asked, pause) in pauses {
                let mut busy = Fault::new(ErrorCode::Overloaded, "busy");
                busy.retry_after = asked;
                let replies = vec![StoreReply::Refuse(busy.clone()); ALL_TRIES - 1];
                let begun = Instant::now();
                let (cluster, stored) = upload(way, *opcode, replies).await;
                // The timer of the runtime has steps of a millisecond.
                let (took, least) = (begun.elapsed(), pause * 3);
                assert!(
                    took >= least && took <= least + millis(10),
                    "{way:?} {opcode:?}: {took:?}"
                );
                assert_eq!(cluster.count(*opcode), ALL_TRIES);
                cluster
                    .assert_reads_back(&stored.unwrap(), &body(way))
                    .await;

                let refuse = StoreReply::Refuse(busy);
                let fault = assert_fails(
                    way,
                    *opcode,
                    refuse,
                    ErrorCode::Overloaded,
                    "busy",
                    ALL_TRIES,
                )
                .await;
                assert_eq!(
                    fault.retry_after, asked,
                    "the client hears when to come again"
                );
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_connection_that_breaks_is_made_again_three_times() {
    for way in WAYS {
        for opcode in way.requests {
            for reply in [StoreReply::Disconnect, StoreReply::DoAndDisconnect] {
                let (cluster, stored) =
                    upload(way, *opcode, vec![reply.clone(); ALL_TRIES - 1]).await;
                let stored = stored.unwrap();
                assert_eq!(cluster.count(*opcode), ALL_TRIES);
                assert_eq!(stored.root.encode(), Expected::new(&body(way), BLOCK).root);
                assert_eq!(cluster.stores[0].parts(session(1)).0.len(), 1);
                cluster.assert_reads_back(&stored, &body(way)).await;
            }
            let lost = "connection to storage is lost";
            assert_fails(
                way,
                *opcode,
                StoreReply::Disconnect,
                ErrorCode::Unavailable,
                lost,
                ALL_TRIES,
            )
            .await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn breaks_and_refusals_share_the_bound_of_tries() {
    let busy = StoreReply::Refuse(Fault::new(ErrorCode::Overloaded, "busy"));
    let replies = vec![
        busy.clone(),
        StoreReply::Disconnect,
        busy,
        StoreReply::Disconnect,
    ];
    let (cluster, stored) = upload(BLIND, Opcode::PutSeal, replies).await;
    assert_eq!(stored.unwrap_err().code, ErrorCode::Unavailable);
    assert_eq!(cluster.count(Opcode::PutSeal), ALL_TRIES);
}

#[tokio::test(start_paused = true)]
async fn a_node_that_does_not_reply_fails_the_upload_after_thirty_seconds() {
    for way in WAYS {
        for opcode in way.requests {
            let begun = Instant::now();
            assert_fails(
                way,
                *opcode,
                StoreReply::Hold,
                ErrorCode::Deadline,
                "30000 ms",
                1,
            )
            .await;
            assert_eq!(begun.elapsed().as_secs(), 30);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_away_is_waited_for_ten_seconds() {
    for way in WAYS {
        let cluster = Cluster::new(1);
        cluster.stores[0].go_away();
        let begun = Instant::now();
        let fault = cluster
            .store(session(1), BLOCK, &body(way))
            .await
            .unwrap_err();
        assert_eq!(
            fault,
            Fault::new(ErrorCode::Unavailable, "storage node storage-1 is away")
        );
        assert_eq!(begun.elapsed().as_secs(), 10);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_does_not_fit_the_request_is_a_defect() {
    let of_other_requests = [
        Response::Ok,
        Response::AllHere,
        Response::PutResult(vec![PutStatus::Stored; 3]),
    ];
    for way in WAYS {
        for opcode in way.requests {
            for response in of_other_requests.clone() {
                let fits = *opcode == Opcode::HaveBlocks && response == Response::AllHere;
                if !fits {
                    assert_fails(
                        way,
                        *opcode,
                        StoreReply::Instead(response),
                        ErrorCode::Internal,
                        "",
                        0,
                    )
                    .await;
                }
            }
        }
    }
    // The wrong number of entries.
    for way in [SMALL, LONG] {
        for count in [1, 200, 5_000] {
            let reply = StoreReply::Instead(Response::SomeMissing(vec![true; count]));
            assert_fails(
                way,
                Opcode::HaveBlocks,
                reply,
                ErrorCode::Internal,
                "SomeMissing",
                0,
            )
            .await;
        }
    }
    let sealed = Response::Sealed {
        store: StoreUuid::from_bytes([1; 16]),
        seal_seq: SealSeq(1),
        nonce: 0,
        new: vec![],
    };
    let reply = StoreReply::Instead(sealed);
    assert_fails(
        LONG,
        Opcode::HaveBlocks,
        reply.clone(),
        ErrorCode::Internal,
        "Sealed",
        0,
    )
    .await;
    assert_fails(
        LONG,
        Opcode::PutBlocks,
        reply,
        ErrorCode::Internal,
        "Sealed",
        0,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_full_node_is_named() {
    let full = StoreReply::RefuseBlocks(ErrorCode::Full);
    assert_fails(
        LONG,
        Opcode::PutBlocks,
        full,
        ErrorCode::Full,
        "storage node storage-1 is full",
        1,
    )
    .await;
    let refused = StoreReply::RefuseBlocks(ErrorCode::DataLoss);
    let text = "storage node storage-1 refused a block: data_loss";
    assert_fails(
        LONG,
        Opcode::PutBlocks,
        refused,
        ErrorCode::DataLoss,
        text,
        1,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn a_part_that_was_sealed_with_other_blocks_is_a_defect() {
    for (way, opcode) in [
        (BLIND, Opcode::PutSeal),
        (SMALL, Opcode::PutSeal),
        (LONG, Opcode::Seal),
    ] {
        let conflict = StoreReply::Instead(Response::SealConflict);
        assert_fails(
            way,
            opcode,
            conflict,
            ErrorCode::Internal,
            "sealed this part with other blocks",
            1,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_that_a_node_lost_before_the_seal_are_sent_again_from_memory() {
    let cluster = Cluster::new(1);
    let body = body(SMALL);
    // Another upload has put the blocks, but not sealed them.
    let store = &cluster.stores[0];
    store.always(
        Opcode::Seal,
        StoreReply::Refuse(Fault::new(ErrorCode::Internal, "no")),
    );
    let mut longer = body.to_vec();
    longer.resize(BATCH_BYTES + 1, 0);
    cluster
        .store(session(1), BLOCK, &longer.into())
        .await
        .unwrap_err();
    store.take_calls();

    store.script(Opcode::PutSeal, [StoreReply::LoseBlocks]);
    let stored = cluster.store(session(2), BLOCK, &body).await.unwrap();
    let sent = sent_with(&store.take_calls(), Opcode::PutSeal);
    // The last block is shorter in this body, so the node had never seen it.
    let lost = BLIND_BYTES / BLOCK as usize;
    assert_eq!(sent, [1, lost], "what is missing is sent, and nothing else");
    cluster.assert_reads_back(&stored, &body).await;
}

#[tokio::test(start_paused = true)]
async fn a_node_that_keeps_losing_blocks_is_given_three_tries() {
    for way in [BLIND, SMALL] {
        let missing = StoreReply::Instead(Response::SealMissing(vec![0, 3]));
        let (cluster, first) = upload(way, Opcode::PutSeal, Vec::new()).await;
        first.unwrap();
        cluster.take_calls();
        cluster.stores[0].script(Opcode::PutSeal, vec![missing.clone(); 2]);
        let stored = cluster.store(session(2), BLOCK, &body(way)).await.unwrap();
        assert_eq!(
            sent_with(&cluster.take_calls(), Opcode::PutSeal)[1..],
            [2, 2]
        );
        cluster.assert_reads_back(&stored, &body(way)).await;

        let text = "storage node storage-1 keeps losing blocks";
        assert_fails(
            way,
            Opcode::PutSeal,
            missing,
            ErrorCode::Unavailable,
            text,
            3,
        )
        .await;
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_that_a_node_lost_after_they_left_memory_end_the_upload() {
    let text = "storage node storage-1 lost 64 blocks of this upload; send it again";
    assert_fails(
        LONG,
        Opcode::Seal,
        StoreReply::LoseBlocks,
        ErrorCode::Unavailable,
        text,
        1,
    )
    .await;
}

#[tokio::test(start_paused = true)]
async fn one_node_of_several_fails_the_upload() {
    for way in WAYS {
        for opcode in way.requests {
            let cluster = Cluster::new(3);
            cluster.stores[1].always(
                *opcode,
                StoreReply::Refuse(Fault::new(ErrorCode::Full, "no room")),
            );
            let fault = cluster
                .store(session(1), BLOCK, &body(way))
                .await
                .unwrap_err();
            assert_eq!(fault.code, ErrorCode::Full);
            let (parts, _) = cluster.stores[1].parts(session(1));
            assert_eq!(parts, Vec::<Vec<BlockId>>::new());
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_failed_batch_ends_a_long_upload_before_its_end() {
    let cluster = Cluster::new(1);
    cluster.stores[0].always(Opcode::PutBlocks, StoreReply::RefuseBlocks(ErrorCode::Full));
    let mut upload = cluster.upload(session(1), 65_536);
    let mut random = StdRng::seed_from_u64(5);
    let mut pushed = 0;
    let fault = loop {
        assert!(
            pushed < 10 * BATCH_BYTES,
            "the failure is noticed while the client sends"
        );
        let piece = random_body(&mut random, BATCH_BYTES / 2);
        pushed += piece.len();
        match upload.push(piece).await {
            Ok(()) => {}
            Err(fault) => break fault,
        }
    };
    assert_eq!(fault.code, ErrorCode::Full);
    drop(upload);
    cluster.assert_nothing_sealed(session(1));
}
