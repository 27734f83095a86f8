//! Who waits for the file system: never a thread that serves requests.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;
use std::thread::ThreadId;

use bytes::Bytes;
use cstore_log::{FaultyDisk, HookedDisk, Verb};
use cstore_node::shutdown::spawn;
use cstore_storage::engine::{DiskOptions, Engine};
use cstore_types::{Block, BlockId, BlockKind, PartNo};
use parking_lot::Mutex;

use crate::model::{CAPACITY, identity, session};

async fn store(engine: &Engine, n: u64) -> bool {
    let bytes = [&n.to_le_bytes()[..], &vec![7; 30_000]].concat();
    let id = BlockId::of_many(&identity().key, &[&bytes])[0];
    let block = Block {
        id,
        kind: BlockKind::Data,
        bytes: Bytes::from(bytes),
    };
    engine
        .put_seal(session(n), PartNo(0), vec![id], vec![block])
        .await
        .is_ok()
}

/// A full disk, everything of which is released; then puts that must recycle segments, and compact.
async fn fill_release_and_fill(engine: Engine) -> ThreadId {
    for round in 0..4 {
        let mut n = round * 1_000;
        while store(&engine, n).await {
            engine.unpin(session(n));
            n += 1;
        }
        for gone in (round * 1_000..n).filter(|n| round % 2 == 0 || n % 2 == 0) {
            engine.release(session(gone)).await.unwrap();
        }
    }
    std::thread::current().id()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn no_thread_that_serves_requests_waits_for_a_removal_or_a_sync_of_the_folder() {
    let threads = Arc::new(Mutex::new(Vec::new()));
    let noted = threads.clone();
    let disk = HookedDisk::with_hook(FaultyDisk::new(), move |verb| {
        if matches!(verb, Verb::Name | Verb::SyncDir) {
            noted.lock().push(std::thread::current().id());
        }
        Ok(())
    });
    let options = DiskOptions {
        capacity: CAPACITY,
        block_size: 64,
        fresh_start: false,
        erase: None,
    };
    let engine = Engine::open(disk, "memory", &identity(), &options).unwrap();
    let server = spawn("requests", fill_release_and_fill(engine.clone()))
        .await
        .unwrap();
    assert!(
        engine.counters().retired_files.get() > 50,
        "{:?}",
        engine.counters()
    );
    assert!(!threads.lock().contains(&server));
}
