//! Downloads from nodes that lose, damage and delay blocks: never a wrong byte, bounded tries,
//! everything given back.

use std::time::Duration;

use bytes::Bytes;
use cstore_testkit::fake::{FakeStore, ReadReply};
use cstore_testkit::session;
use cstore_types::{BlockId, Chunking, ErrorCode, Fault, Root, RootBuilder, error_chain};
use cstore_wire::Opcode;
use futures_util::FutureExt;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Cluster, Expected, random_body};
use crate::download::{Chunk, download};
use crate::limits::{CHUNKS_AHEAD, FIRST_WINDOW, OPEN_BYTES};

const BLOCK: u32 = 65_536;
/// GetBlocks that are sent for one when all of them fail in a way that may pass.
const ALL_TRIES: usize = 4;

fn body(len: usize) -> Bytes {
    random_body(&mut StdRng::seed_from_u64(8), len)
}

/// Starts a cluster that holds a file. Returns the root of its recipe, too.
async fn cluster_with(nodes: u8, block: u32, body: &Bytes) -> (Cluster, Root) {
    let cluster = Cluster::new(nodes);
    let stored = cluster.store(session(1), block, body).await.unwrap();
    cluster.take_calls();
    (cluster, stored.root)
}

/// Removes (0) or changes a block at the node that holds it.
fn damage(cluster: &Cluster, id: &BlockId, kind: usize) {
    let damaged = |store: &FakeStore| match kind {
        0 => store.remove(id),
        1 => store.change(id, |bytes| bytes[0] ^= 1),
        2 => store.change(id, |bytes| bytes.truncate(bytes.len() - 1)),
        _ => store.change(id, |bytes| bytes.push(0)),
    };
    assert!(
        cluster.stores.iter().any(|store| damaged(store)),
        "no node holds the block"
    );
}

#[tokio::test(start_paused = true)]
async fn a_block_that_is_missing_or_damaged_breaks_the_download_off_before_a_wrong_byte() {
    let body = body(6 << 20);
    let expected = Expected::new(&body, BLOCK);
    let in_first_window = (FIRST_WINDOW / u64::from(BLOCK)) as usize;
    for at in [
        0,
        1,
        in_first_window - 1,
        in_first_window,
        in_first_window + 40,
        expected.blocks.len() - 1,
    ] {
        for kind in 0..4 {
            let (cluster, root) = cluster_with(2, BLOCK, &body).await;
            let id = expected.blocks[at].0;
            damage(&cluster, &id, kind);
            let (received, sent) = cluster.read(&root, 0..body.len() as u64).await;
            let fault = sent.unwrap_err();
            assert_eq!(fault.code, ErrorCode::DataLoss, "block {at}, {kind}");
            let word = if kind == 0 { "missing" } else { "damaged" };
            assert_eq!(fault.message, format!("block {id:?} is {word}"));
            assert!(
                received.len() <= at * BLOCK as usize,
                "block {at}: {} bytes",
                received.len()
            );
            assert!(
                received == body[..received.len()],
                "what was sent is the beginning of the file"
            );
            if at < in_first_window {
                assert_eq!(received.len(), 0, "the error comes before the first byte");
            } else {
                // Windows that were fetched before the one with the block are sent, the one just
                // before it in part.
                let sent_before = if at == in_first_window {
                    1
                } else {
                    FIRST_WINDOW as usize
                };
                assert!(
                    received.len() >= sent_before,
                    "block {at}: {} bytes",
                    received.len()
                );
            }
            assert_eq!(cluster.budget.held(), 0);
            // A range without the block is not affected.
            if at > 0 {
                let (received, sent) = cluster.read(&root, 10..1_000).await;
                assert!(sent == Ok(990) && received == body[10..1_000]);
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_leaf_of_the_recipe_that_is_missing_or_damaged_breaks_the_download_off() {
    let body = body(200 * 1_000);
    let expected = Expected::new(&body, 1_000);
    let leaf = expected.leaves[0];
    for kind in 0..5 {
        let (cluster, root) = cluster_with(2, 1_000, &body).await;
        match kind {
            // A leaf that can be read, but names two blocks in the wrong order.
            4 => {
                let swap = |bytes: &mut Vec<u8>| {
                    let (first, second) = bytes[8..].split_at_mut(40);
                    first[..32].swap_with_slice(&mut second[..32]);
                };
                let at_node = cluster
                    .stores
                    .iter()
                    .find(|store| store.ids().contains(&leaf))
                    .unwrap();
                assert!(at_node.change(&leaf, swap));
            }
            kind => damage(&cluster, &leaf, kind),
        }
        let (received, sent) = cluster.read(&root, 0..1_000).await;
        let word = if kind == 0 { "missing" } else { "damaged" };
        assert_eq!(
            sent,
            Err(Fault::new(
                ErrorCode::DataLoss,
                format!("block {leaf:?} is {word}")
            ))
        );
        assert_eq!(received.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_of_another_length_than_the_recipe_says_is_damage() {
    let body = body(3 * 1_000);
    let (cluster, _) = cluster_with(1, 1_000, &body).await;
    for wrong in [999, 1_001] {
        let mut builder = RootBuilder::new(Chunking::fixed(1_000).unwrap());
        for (n, (id, len)) in Expected::new(&body, 1_000).blocks.into_iter().enumerate() {
            let len = if n == 1 { wrong } else { len };
            builder
                .push(id, len, &mut |_| unreachable!("three blocks need no leaf"))
                .unwrap();
        }
        let root = builder
            .finish(&mut |_| unreachable!("three blocks need no leaf"))
            .unwrap();
        let (received, sent) = cluster.read(&root, 0..root.size()).await;
        assert_eq!(sent.unwrap_err().code, ErrorCode::DataLoss);
        assert_eq!(received.len(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reply_that_does_not_fit_the_blocks_asked_for_sends_no_byte() {
    let body = body(500_000);
    let damaged = ErrorCode::DataLoss;
    for (reply, code, text) in [
        (
            ReadReply::IndexBeyond,
            ErrorCode::Internal,
            "block index beyond the request",
        ),
        (ReadReply::RepeatFirst, damaged, "is damaged"),
        (ReadReply::Rotate, damaged, "is damaged"),
        (
            ReadReply::RefuseBlocks(ErrorCode::NotFound),
            damaged,
            "is missing",
        ),
        (
            ReadReply::RefuseBlocks(ErrorCode::DataLoss),
            damaged,
            "is damaged",
        ),
        (
            ReadReply::RefuseBlocks(ErrorCode::Internal),
            ErrorCode::Internal,
            "storage-1 refused a block: internal",
        ),
        (
            ReadReply::Refuse(Fault::new(ErrorCode::Full, "no")),
            ErrorCode::Full,
            "storage-1 refused a block: full",
        ),
    ] {
        // More and less than what is verified off the async threads.
        for range in [0..body.len() as u64, 100..200_000] {
            let (cluster, root) = cluster_with(1, BLOCK, &body).await;
            cluster.stores[0].always_read(reply.clone());
            let (received, sent) = cluster.read(&root, range).await;
            let fault = sent.unwrap_err();
            assert_eq!(fault.code, code, "{reply:?}");
            assert!(
                error_chain(&fault).to_string().contains(text),
                "{reply:?}: {fault:?}"
            );
            assert_eq!(received.len(), 0);
            assert_eq!(cluster.count(Opcode::GetBlocks), 1);
            assert_eq!(cluster.budget.held(), 0);
        }
    }
}

#[tokio::test(start_paused = true)]
async fn blocks_are_fetched_again_when_a_connection_breaks_but_three_times_at_most() {
    // One window, so that each try is one request.
    let body = body(200_000);
    let unavailable = ReadReply::RefuseBlocks(ErrorCode::Unavailable);
    for reply in [ReadReply::Disconnect, unavailable] {
        let (cluster, root) = cluster_with(1, BLOCK, &body).await;
        cluster.stores[0].script_reads(vec![reply.clone(); ALL_TRIES - 1]);
        let (received, sent) = cluster.read(&root, 0..body.len() as u64).await;
        assert_eq!(sent, Ok(body.len() as u64));
        assert!(received == body);
        assert_eq!(cluster.count(Opcode::GetBlocks), ALL_TRIES);

        cluster.take_calls();
        cluster.stores[0].script_reads(vec![reply; ALL_TRIES]);
        let (received, sent) = cluster.read(&root, 0..body.len() as u64).await;
        assert_eq!(sent.unwrap_err().code, ErrorCode::Unavailable);
        assert_eq!(
            (received.len(), cluster.count(Opcode::GetBlocks)),
            (0, ALL_TRIES)
        );
        assert_eq!(cluster.budget.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_node_that_is_away_or_does_not_reply_ends_the_download_in_time() {
    let body = body(500_000);
    let (cluster, root) = cluster_with(1, BLOCK, &body).await;
    cluster.stores[0].always_read(ReadReply::Hold);
    let begun = Instant::now();
    let (_, sent) = cluster.read(&root, 0..body.len() as u64).await;
    assert_eq!(sent.unwrap_err().code, ErrorCode::Deadline);
    assert_eq!(
        (begun.elapsed().as_secs(), cluster.count(Opcode::GetBlocks)),
        (30, 1)
    );

    cluster.stores[0].go_away();
    let begun = Instant::now();
    let (_, sent) = cluster.read(&root, 0..body.len() as u64).await;
    assert_eq!(
        sent,
        Err(Fault::new(
            ErrorCode::Unavailable,
            "storage node storage-1 is away"
        ))
    );
    assert_eq!(begun.elapsed().as_secs(), 2);
    assert_eq!(cluster.budget.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_download_that_nobody_reads_ends_and_gives_everything_back() {
    let body = body(6 << 20);
    let (cluster, root) = cluster_with(2, BLOCK, &body).await;
    for taken in [0, 1, 5, 20] {
        let (out, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
        let range = 0..body.len() as u64;
        let sending = download(
            cluster.route.clone(),
            root.clone(),
            range,
            cluster.budget.clone(),
            out,
        );
        let reading = async move {
            for _ in 0..taken {
                chunks.recv().await.unwrap().unwrap();
            }
        };
        let (sent, ()) = tokio::join!(sending, reading);
        let fault = sent.unwrap_err();
        assert_eq!(fault.message, "nobody reads the download any more");
        assert_eq!(cluster.budget.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_reader_that_pauses_holds_no_window_and_misses_no_byte() {
    let body = body(5 << 20);
    let (cluster, root) = cluster_with(2, BLOCK, &body).await;
    for range in [0..body.len() as u64, 70_001..(5 << 20) - 33] {
        let (out, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
        let sending = download(
            cluster.route.clone(),
            root.clone(),
            range.clone(),
            cluster.budget.clone(),
            out,
        );
        let reading = async {
            let mut received = Vec::new();
            for n in 0.. {
                // Pauses at the beginning, in the middle and often in a row.
                if [0, 1, 2, 9, 17, 18, 30].contains(&n) {
                    sleep(Duration::from_secs(60)).await;
                    assert_eq!(
                        cluster.budget.held(),
                        OPEN_BYTES,
                        "only what an open download costs is held"
                    );
                }
                let Some(chunk) = chunks.recv().await else {
                    break;
                };
                received.extend_from_slice(&chunk.unwrap());
            }
            received
        };
        let (sent, received) = tokio::join!(sending, reading);
        assert_eq!(sent, Ok(range.end - range.start));
        assert!(received == body[range.start as usize..range.end as usize]);
        assert_eq!(cluster.budget.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_reader_gets_every_byte() {
    let body = body(3 << 20);
    let (cluster, root) = cluster_with(2, BLOCK, &body).await;
    for millis in [40, 300, 700, 1_100] {
        let (out, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
        let range = 0..body.len() as u64;
        let sending = download(
            cluster.route.clone(),
            root.clone(),
            range,
            cluster.budget.clone(),
            out,
        );
        let reading = async {
            let mut received = Vec::new();
            while let Some(chunk) = chunks.recv().await {
                received.extend_from_slice(&chunk.unwrap());
                sleep(Duration::from_millis(millis)).await;
            }
            received
        };
        let (sent, received) = tokio::join!(sending, reading);
        assert_eq!(sent, Ok(body.len() as u64));
        assert!(received == body, "{millis} ms for a chunk");
    }
}

#[tokio::test(start_paused = true)]
async fn downloads_that_share_a_small_budget_all_end() {
    let body = body(4 << 20);
    let cluster = Cluster::with_budget(2, 16 << 20);
    let stored = cluster.store(session(1), BLOCK, &body).await.unwrap();
    let open = (6 << 20) / OPEN_BYTES;
    let reads = (0..open).map(|_| cluster.read(&stored.root, 0..body.len() as u64));
    let all = timeout(Duration::from_secs(60), join_all(reads))
        .await
        .expect("downloads wait for each other");
    for (received, sent) in all {
        assert_eq!(sent, Ok(body.len() as u64));
        assert!(received == body);
    }
    assert_eq!(cluster.budget.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn a_download_beyond_the_budget_is_refused_as_overloaded() {
    let body = body(500_000);
    let cluster = Cluster::with_budget(1, 16 << 20);
    let root = cluster.store(session(1), BLOCK, &body).await.unwrap().root;
    let mut others = Vec::new();
    while let Some(Ok(open)) = cluster.budget.open(u64::MAX).now_or_never() {
        others.push(open);
    }
    let (received, sent) = cluster.read(&root, 0..body.len() as u64).await;
    assert_eq!(
        (received.len(), sent.unwrap_err().code),
        (0, ErrorCode::Overloaded)
    );
    assert_eq!(cluster.count(Opcode::GetBlocks), 0);
}

#[tokio::test(start_paused = true)]
async fn a_range_that_the_recipe_does_not_cover_is_no_clean_end() {
    let body = body(5_000);
    let (cluster, root) = cluster_with(1, 1_000, &body).await;
    let (received, sent) = cluster.read(&root, 10..5_001).await;
    assert_eq!(
        sent,
        Err(Fault::new(
            ErrorCode::DataLoss,
            "recipe covers 4990 of 4991 bytes"
        ))
    );
    assert!(received == body[10..]);
}
