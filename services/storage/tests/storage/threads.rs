//! Threads that wait for the file system: never a thread that serves requests.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;
use std::thread::ThreadId;

use cstore_log::{FaultyDisk, HookedDisk, Verb};
use cstore_node::shutdown::spawn;
use cstore_storage::engine::Engine;
use cstore_testkit::engine::{CAPACITY, open, store};
use cstore_testkit::session;
use parking_lot::Mutex;

/// A full disk, everything of which is released; then puts that must recycle segments, and compact.
async fn fill_release_and_fill(engine: Engine) -> ThreadId {
    for round in 0..4 {
        let mut n = round * 1_000;
        while store(&engine, n, 30_000).await.is_ok() {
            engine.unpin(session(n));
            n += 1;
        }
        for gone in (round * 1_000..n).filter(|n| round % 2 == 0 || n % 2 == 0) {
            engine.releaser().release(session(gone)).await.unwrap();
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
    let engine = open(disk, CAPACITY).unwrap();
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
