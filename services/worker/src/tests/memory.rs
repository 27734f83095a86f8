//! Memory of a stream: bounded, and given back however the stream ends.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cstore_testkit::fake::StoreReply;
use cstore_testkit::session;
use cstore_wire::Opcode;
use futures_util::future::join_all;
use rand::SeedableRng;
use rand::rngs::StdRng;
use tokio::time::{sleep, timeout};

use super::cluster::{Cluster, pieces_of, random_body};
use crate::limits::{BATCH_BYTES, MAX_IN_FLIGHT};

const BLOCK: u32 = 65_536;
const PIECE: usize = 256 << 10;
/// Longer than everything that happens by itself, shorter than the deadline of a request.
const A_WHILE: Duration = Duration::from_secs(5);

fn body(len: usize) -> Bytes {
    random_body(&mut StdRng::seed_from_u64(6), len)
}

#[tokio::test(start_paused = true)]
async fn a_client_waits_while_a_store_holds_its_blocks_back() {
    for opcode in [Opcode::HaveBlocks, Opcode::PutBlocks] {
        let cluster = Cluster::new(2);
        cluster
            .stores
            .iter()
            .for_each(|store| store.always(opcode, StoreReply::Hold));
        let body = body(4 * MAX_IN_FLIGHT);
        let accepted = Arc::new(AtomicUsize::new(0));
        let mut upload = cluster.upload(session(1), BLOCK);
        let push_all = async {
            for piece in pieces_of(&body, PIECE) {
                let len = piece.len();
                upload.push(piece).await.unwrap();
                accepted.fetch_add(len, Ordering::Relaxed);
            }
            upload.finish().await.unwrap()
        };
        tokio::pin!(push_all);

        assert!(
            timeout(A_WHILE, &mut push_all).await.is_err(),
            "the client is not stopped"
        );
        let held = accepted.load(Ordering::Relaxed);
        assert!(held >= MAX_IN_FLIGHT, "only {held} bytes were accepted");
        assert!(
            held <= MAX_IN_FLIGHT + BATCH_BYTES,
            "{held} bytes were accepted"
        );
        assert_eq!(cluster.budget.held(), MAX_IN_FLIGHT as u64);
        let at_stores: u64 = cluster.take_calls().iter().map(|call| call.bytes).sum();
        assert_eq!(
            at_stores,
            if opcode == Opcode::PutBlocks {
                MAX_IN_FLIGHT as u64
            } else {
                0
            }
        );

        cluster.stores.iter().for_each(|store| store.release());
        let stored = push_all.await;
        cluster.assert_reads_back(&stored, &body).await;
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_is_dropped_ends_its_requests_and_gives_everything_back() {
    let cluster = Cluster::new(2);
    cluster
        .stores
        .iter()
        .for_each(|store| store.always(Opcode::HaveBlocks, StoreReply::Hold));
    let mut upload = cluster.upload(session(1), BLOCK);
    for piece in pieces_of(&body(3 * BATCH_BYTES), PIECE) {
        upload.push(piece).await.unwrap();
    }
    sleep(Duration::from_millis(10)).await;
    assert_eq!(cluster.budget.held(), 3 * BATCH_BYTES as u64);
    assert_eq!(cluster.count(Opcode::HaveBlocks), 6);

    drop(upload);
    sleep(Duration::from_millis(10)).await;
    assert_eq!(cluster.budget.held(), 0);
    // Nothing of it goes on when the nodes do.
    cluster.stores.iter().for_each(|store| store.release());
    sleep(A_WHILE).await;
    assert_eq!(cluster.count(Opcode::PutBlocks), 0);
}

#[tokio::test(start_paused = true)]
async fn an_upload_that_fails_gives_everything_back_at_once() {
    let cluster = Cluster::new(2);
    cluster.stores[0].script(
        Opcode::PutBlocks,
        [StoreReply::RefuseBlocks(cstore_types::ErrorCode::Full)],
    );
    cluster
        .stores
        .iter()
        .for_each(|store| store.always(Opcode::PutBlocks, StoreReply::Hold));
    cluster
        .store(session(1), BLOCK, &body(3 * MAX_IN_FLIGHT))
        .await
        .unwrap_err();
    sleep(Duration::from_millis(10)).await;
    assert_eq!(cluster.budget.held(), 0);
}

#[tokio::test(start_paused = true)]
async fn uploads_that_share_a_small_budget_all_end() {
    // The smallest budget that the settings allow: half of it is for uploads, less than four of
    // these want together.
    for budget in [16 << 20, 1 << 20] {
        let cluster = Cluster::with_budget(2, budget);
        let body = body(2 * MAX_IN_FLIGHT);
        let uploads = (1..=4).map(|n| cluster.store(session(n), BLOCK, &body));
        let stored = timeout(A_WHILE, join_all(uploads))
            .await
            .expect("uploads wait for each other");
        assert!(stored.iter().all(Result::is_ok));
        assert_eq!(cluster.budget.held(), 0);
    }
}

#[tokio::test(start_paused = true)]
async fn an_upload_waits_for_the_budget_of_others() {
    let cluster = Cluster::with_budget(1, 16 << 20);
    let others = cluster.budget.upload(8 << 20).await.unwrap();
    let body = body(2 * BATCH_BYTES);
    let store = cluster.store(session(1), BLOCK, &body);
    tokio::pin!(store);
    assert!(timeout(A_WHILE, &mut store).await.is_err());
    assert_eq!(cluster.take_calls().len(), 0);
    drop(others);
    let stored = store.await.unwrap();
    cluster.assert_reads_back(&stored, &body).await;
}
