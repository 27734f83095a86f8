//! The content of uploads: what is stored where, what it is described as, and that it reads back.

use std::collections::HashSet;

use bytes::Bytes;
use cstore_testkit::session;
use cstore_types::limits::{MAX_IDS, MAX_PART_BYTES};
use cstore_types::{BlockId, SessionId};
use cstore_wire::Opcode;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::cluster::{Cluster, Expected, pieces_of, random_body, random_pieces};
use crate::limits::{BATCH_BLOCKS, BATCH_BYTES, BLIND_BYTES};
use crate::upload::Stored;

/// Returns whether a body is longer than what the worker puts and seals in one request per node.
fn is_long(len: usize, block: u32) -> bool {
    let whole_blocks = len / block as usize;
    whole_blocks * block as usize >= BATCH_BYTES || whole_blocks >= BATCH_BLOCKS
}

/// Checks an upload of `body` into a cluster that held the blocks `known` before.
fn check(
    cluster: &Cluster,
    stored: &Stored,
    session: SessionId,
    body: &Bytes,
    block: u32,
    known: &HashSet<BlockId>,
) {
    let expected = Expected::new(body, block);
    assert_eq!(
        hex::encode(stored.root.encode()),
        hex::encode(&expected.root)
    );
    assert_eq!(stored.etag.to_string(), expected.etag);
    assert_eq!(stored.blocks, expected.blocks.len() as u64);
    assert_eq!(
        (stored.new.blocks, stored.new.bytes),
        expected.new_beside(known)
    );

    // Each node holds and has sealed the blocks of its partitions, and no others.
    let ids = expected.ids();
    let mut seals = Vec::new();
    for store in &cluster.stores {
        let of_node: HashSet<BlockId> = ids
            .iter()
            .copied()
            .filter(|id| *cluster.route.node_of(id) == store.node)
            .collect();
        let held = store.ids();
        assert!(
            held.iter()
                .all(|id| *cluster.route.node_of(id) == store.node)
        );
        assert!(held.is_superset(&of_node));
        let (parts, last_seal) = store.parts(session);
        let sealed: HashSet<BlockId> = parts.into_iter().flatten().collect();
        assert_eq!(sealed, of_node, "{}", store.node);
        seals.extend(last_seal.map(|seq| (store.uuid, seq)));
    }
    let mut found: Vec<_> = stored
        .seals
        .iter()
        .map(|seal| (seal.store, seal.point.seq))
        .collect();
    found.sort_unstable();
    assert_eq!(
        found, seals,
        "one seal for each node that holds blocks, its last one"
    );

    // The way that the bytes took.
    let calls = cluster.take_calls();
    let count = |opcode| calls.iter().filter(|call| call.opcode == opcode).count();
    assert!(calls.iter().all(|call| call.session == Some(session)));
    if is_long(body.len(), block) {
        assert_eq!(count(Opcode::PutSeal), 0);
    } else {
        assert_eq!(count(Opcode::PutSeal), seals.len());
        let asks = if body.len() > BLIND_BYTES {
            seals.len()
        } else {
            0
        };
        assert_eq!(
            (count(Opcode::HaveBlocks), calls.len()),
            (asks, seals.len() + asks)
        );
    }
    if body.len() > BLIND_BYTES {
        let sent: Vec<&BlockId> = calls.iter().flat_map(|call| &call.sent).collect();
        assert!(
            sent.iter().all(|id| !known.contains(id)),
            "a block that a node holds is not sent"
        );
    }
}

/// Uploads a body twice, checks both, and reads it back whole and in random ranges.
async fn round_trip(random: &mut StdRng, nodes: u8, body: &Bytes, block: u32) {
    let cluster = Cluster::new(nodes);
    let pieces = random_pieces(random, body);
    let first = cluster
        .store_pieces(session(1), block, pieces)
        .await
        .unwrap();
    check(&cluster, &first, session(1), body, block, &HashSet::new());

    let known = cluster.ids();
    let pieces = random_pieces(random, body);
    let second = cluster
        .store_pieces(session(2), block, pieces)
        .await
        .unwrap();
    check(&cluster, &second, session(2), body, block, &known);
    assert_eq!(cluster.ids(), known, "the same body adds no block");

    cluster.assert_reads_back(&first, body).await;
    for _ in 0..4 {
        let start = random.random_range(0..=body.len());
        let end = random.random_range(start..=body.len());
        let (received, sent) = cluster.read(&first.root, start as u64..end as u64).await;
        assert_eq!(sent, Ok((end - start) as u64));
        assert!(received == body[start..end], "{start}..{end}");
    }
    assert_eq!(cluster.budget.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn any_body_reads_back_and_is_described_as_the_formats_say() {
    let (seed, cases) = cstore_testkit::seed_and_cases(1, 40);
    for seed in seed..seed + cases {
        println!("CSTORE_SEED={seed} CSTORE_CASES=1");
        let mut random = StdRng::seed_from_u64(seed);
        let block = [1, 7, 100, 1_000, 4_096, 65_536, 300_000, 1 << 20][random.random_range(0..8)];
        let longest = (block as usize * 12_000).min(5 << 20);
        let near = [
            0,
            block as usize,
            BLIND_BYTES,
            BATCH_BYTES,
            3 * BATCH_BYTES,
            longest,
        ];
        let len = near[random.random_range(0..near.len())] + random.random_range(0..3);
        let len = if random.random_bool(0.5) {
            len.saturating_sub(2)
        } else {
            random.random_range(0..=len)
        };
        let mut body = random_body(&mut random, len.min(longest)).to_vec();
        // Some blocks are equal.
        let blocks = body.len() / block as usize;
        for _ in 0..random.random_range(0..=blocks / 2) {
            let from = random.random_range(0..blocks) * block as usize;
            let to = random.random_range(0..blocks) * block as usize;
            body.copy_within(from..from + block as usize, to);
        }
        let nodes = random.random_range(1..=4);
        round_trip(&mut random, nodes, &body.into(), block).await;
    }
}

#[tokio::test(start_paused = true)]
async fn bodies_at_the_bounds_of_blocks_and_batches_read_back() {
    let mut random = StdRng::seed_from_u64(1);
    let lens = [
        0,
        1,
        4_095,
        4_096,
        4_097,
        BLIND_BYTES - 1,
        BLIND_BYTES,
        BLIND_BYTES + 1,
    ];
    for len in lens.into_iter().chain([
        BATCH_BYTES - 1,
        BATCH_BYTES,
        BATCH_BYTES + 1,
        BATCH_BYTES + 4_096,
    ]) {
        let body = random_body(&mut random, len);
        round_trip(&mut random, 3, &body, 4_096).await;
    }
    // The bound of blocks is met before that of bytes; the recipe has leaves.
    for blocks in [
        100,
        101,
        BATCH_BLOCKS - 1,
        BATCH_BLOCKS,
        BATCH_BLOCKS + 1,
        2 * BATCH_BLOCKS,
    ] {
        let body = random_body(&mut random, blocks * 8);
        round_trip(&mut random, 2, &body, 8).await;
    }
    // A block is larger than a batch, and the last one makes a body long that had no whole batch
    // before.
    for len in [(4 << 20) - 1, 4 << 20, (4 << 20) + 1, 9 << 20] {
        let body = random_body(&mut random, len);
        round_trip(&mut random, 2, &body, 4 << 20).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_known_to_the_store_is_never_sent() {
    let mut random = StdRng::seed_from_u64(2);
    for len in [BLIND_BYTES + 1, 3 * BATCH_BYTES] {
        let cluster = Cluster::new(3);
        let body = random_body(&mut random, len);
        cluster.store(session(1), 10_000, &body).await.unwrap();
        let known = cluster.ids();
        cluster.take_calls();
        // The beginning is the same, the end is another one.
        let mut other = body.to_vec();
        let last = other.len() - 1;
        other[last] ^= 1;
        let stored = cluster
            .store(session(2), 10_000, &other.into())
            .await
            .unwrap();
        let sent: Vec<BlockId> = cluster
            .take_calls()
            .into_iter()
            .flat_map(|call| call.sent)
            .collect();
        assert!(sent.iter().all(|id| !known.contains(id)));
        assert_eq!(stored.new.blocks, 1);
        assert_eq!(stored.new.bytes, (len % 10_000) as u64);
        // The last block, and the leaf that names it where the recipe has leaves.
        let leaves = usize::from(len > 100 * 10_000);
        assert_eq!(sent.len(), 1 + leaves);
    }
}

#[tokio::test(start_paused = true)]
async fn a_block_that_repeats_within_a_batch_is_sent_once() {
    for (blocks, ask) in [(16, 0), (250, 1), (256, 1)] {
        let cluster = Cluster::new(1);
        let body = Bytes::from(vec![9; blocks * 4_096]);
        let stored = cluster.store(session(1), 4_096, &body).await.unwrap();
        let calls = cluster.stores[0].take_calls();
        let data = Expected::new(&body, 4_096).blocks[0].0;
        let sent = calls
            .iter()
            .flat_map(|call| &call.sent)
            .filter(|id| **id == data)
            .count();
        assert_eq!(
            (sent, stored.new.blocks, stored.new.bytes),
            (1, 1, 4_096),
            "{blocks} blocks"
        );
        assert_eq!(
            calls.iter().any(|call| call.opcode == Opcode::HaveBlocks),
            ask == 1
        );
    }
}

#[tokio::test(start_paused = true)]
async fn a_part_is_sealed_when_it_holds_the_most_ids() {
    let mut random = StdRng::seed_from_u64(3);
    let cluster = Cluster::new(1);
    let body = random_body(&mut random, 20_000 * 16);
    let stored = cluster.store(session(1), 16, &body).await.unwrap();
    let expected = Expected::new(&body, 16);
    let (parts, last_seal) = cluster.stores[0].parts(session(1));
    let all = 20_000 + expected.leaves.len();
    let lengths: Vec<usize> = parts.iter().map(Vec::len).collect();
    assert_eq!(lengths, [MAX_IDS, MAX_IDS, all - 2 * MAX_IDS]);
    let seals: Vec<_> = stored.seals.iter().map(|seal| seal.point.seq).collect();
    assert_eq!(seals, [last_seal.unwrap()]);
    cluster.assert_reads_back(&stored, &body).await;
}

#[tokio::test(start_paused = true)]
async fn a_part_is_sealed_when_it_holds_the_most_bytes() {
    let mut random = StdRng::seed_from_u64(4);
    let cluster = Cluster::new(1);
    let block = 4 << 20;
    let blocks_of_part = (MAX_PART_BYTES / block as u64) as usize;
    let mut upload = cluster.upload(session(1), block);
    for _ in 0..blocks_of_part + 2 {
        let bytes = random_body(&mut random, block as usize);
        for piece in pieces_of(&bytes, 1 << 20) {
            upload.push(piece).await.unwrap();
        }
    }
    let stored = upload.finish().await.unwrap();
    let (parts, last_seal) = cluster.stores[0].parts(session(1));
    assert_eq!(
        parts.iter().map(Vec::len).collect::<Vec<_>>(),
        [blocks_of_part, 2]
    );
    assert_eq!(
        stored.seals.iter().map(|seal| seal.point.seq).max(),
        last_seal
    );
}

/// The worker remembers only the blocks of the current part, so it does not know blocks of earlier
/// parts.
#[tokio::test(start_paused = true)]
async fn a_block_that_comes_again_in_a_later_part_is_sealed_there_again() {
    let mut random = StdRng::seed_from_u64(7);
    let cluster = Cluster::new(1);
    let half = random_body(&mut random, 10_000 * 16);
    let body = Bytes::from([half.clone(), half].concat());
    let stored = cluster.store(session(1), 16, &body).await.unwrap();
    let (parts, _) = cluster.stores[0].parts(session(1));
    let named: usize = parts.iter().map(Vec::len).sum();
    assert_eq!(named, 20_000 + Expected::new(&body, 16).leaves.len());
    assert_eq!(stored.new.blocks, 10_000);
}
