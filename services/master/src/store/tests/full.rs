//! Full file systems: deletes of all names go on in room that was allocated before, a snapshot fits
//! whatever others write, and an index that has failed ends the writer.

use std::sync::atomic::{AtomicU64, Ordering};

use cstore_log::RealDisk;

use super::room::{SharedGauge, Space, ballast_bytes};
use super::*;

const MIB: u64 = 1 << 20;

/// A gauge of a file system of 256 MiB that others fill and empty.
fn gauge_of(free: &Arc<AtomicU64>) -> SharedGauge {
    let free = free.clone();
    SharedGauge(Arc::new(move |_: &Path| {
        Ok(Space {
            free: free.load(Ordering::Relaxed),
            total: 256 * MIB,
        })
    }))
}

fn open_on(
    dir: &Path,
    disk: Arc<dyn Disk>,
    free: &Arc<AtomicU64>,
    options: &SledOptions,
) -> SledMeta {
    let mirror = Arc::new(Mirror::default());
    SledMeta::open_with(dir, disk, options, mirror, gauge_of(free)).unwrap()
}

fn delete(key: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.delete(key.to_vec());
    batch
}

#[tokio::test]
async fn i12_on_a_full_disk_snapshots_take_the_ballast_and_deletes_of_all_names_go_on() {
    let dir = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(1 << 30));
    let disk = FaultyDisk::with_one_thread();
    let meta = open_on(dir.path(), Arc::new(disk.clone()), &free, &options(1 << 30));
    for n in 0..500u32 {
        meta.commit(put(&key_of(b'n', n), vec![1; 1_000]))
            .await
            .unwrap();
    }
    assert_eq!(covered(dir.path()), 0);

    free.store(0, Ordering::Relaxed);
    let refused = meta.commit(put(b"nnew", vec![1])).await;
    assert!(matches!(refused, Err(MetaError::Full)));
    assert!(
        covered(dir.path()) > 0,
        "a refusal makes a snapshot worth it"
    );
    assert_eq!(ballast_bytes(dir.path()), 0, "which has taken the ballast");
    for n in 0..500u32 {
        meta.commit(delete(&key_of(b'n', n))).await.unwrap();
    }

    free.store(1 << 30, Ordering::Relaxed);
    meta.commit(put(b"nnew", vec![1])).await.unwrap();
    assert!(ballast_bytes(dir.path()) > 0);
    let expected = content(&meta).await;
    assert_eq!(expected.len(), 1);
    drop(meta);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let meta = open(dir.path(), &disk.power_loss(3), 1 << 30);
    assert_eq!(content(&meta).await, expected);
}

#[tokio::test]
async fn a_snapshot_that_would_not_fit_is_not_begun_and_the_log_stays() {
    let dir = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(1 << 30));
    let disk = Arc::new(FaultyDisk::with_one_thread());
    let meta = open_on(dir.path(), disk, &free, &options(1 << 30));
    meta.commit(put(b"nfirst", vec![1])).await.unwrap();
    free.store(0, Ordering::Relaxed);
    std::fs::remove_file(dir.path().join("ballast")).unwrap();
    for n in 0..200u32 {
        meta.commit(put(&n.to_be_bytes(), vec![1; 3_000]))
            .await
            .unwrap();
    }
    assert_eq!(covered(dir.path()), 0);

    free.store(1 << 30, Ordering::Relaxed);
    for n in 0..200u32 {
        meta.commit(put(&n.to_be_bytes(), vec![1; 3_000]))
            .await
            .unwrap();
    }
    assert_eq!(covered(dir.path()), 0, "nothing presses");
    free.store(2 * MIB, Ordering::Relaxed);
    meta.commit(put(b"one more", vec![1])).await.unwrap();
    free.store(0, Ordering::Relaxed);
    meta.commit(put(b"the last", vec![1])).await.unwrap();
    assert!(covered(dir.path()) > 0);
}

/// The log takes no file beyond its bound: as on a full disk.
#[tokio::test]
async fn i12_names_leave_the_ready_files_of_the_log_to_deletes_which_wait_for_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let free = Arc::new(AtomicU64::new(1 << 30));
    let options = SledOptions {
        max_log_bytes: 2 << 20,
        ready_files: 2,
        ..options(1 << 30)
    };
    let disk = RealDisk::open(dir.path().join("log")).unwrap();
    let meta = open_on(dir.path(), disk, &free, &options);
    let mut stored = 0;
    for n in 0..2_000u32 {
        match meta.commit(put(&key_of(b'n', n), vec![1; 1_000])).await {
            Ok(_) => stored = n + 1,
            Err(MetaError::Full) => break,
            Err(error) => panic!("{error}"),
        }
    }
    assert!((300..600).contains(&stored), "{stored}");

    // More frames than the log ever holds.
    for n in 0..stored {
        meta.commit(delete(&key_of(b'n', n))).await.unwrap();
        for again in 0..3u8 {
            meta.commit(put(b"tombstone", vec![again])).await.unwrap();
        }
    }
    meta.commit(put(b"nnew", vec![1])).await.unwrap();
    meta.close().await.unwrap();
}

/// Cuts the file of the index under a running store, so that what its cache lacks cannot be read.
async fn with_a_cut_index() -> (SledMeta, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let options = SledOptions {
        cache_bytes: 1 << 20,
        ..options(1 << 30)
    };
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::with_one_thread());
    let mirror = Arc::new(Mirror::default());
    let meta = SledMeta::open(dir.path(), disk, &options, mirror).unwrap();
    for n in 0..3_000u32 {
        meta.commit(put(&key_of(b'x', n), vec![1; 3_000]))
            .await
            .unwrap();
    }
    let file = super::index::file_in(dir.path());
    let file = std::fs::File::options().write(true).open(file).unwrap();
    file.set_len(0).unwrap();
    (meta, dir)
}

fn has_ended(meta: &SledMeta) -> bool {
    let state = meta.writer_state();
    let state = state.borrow();
    matches!(&*state, WriterState::Ended(MetaError::Index(_)))
}

#[tokio::test]
async fn an_index_that_cannot_be_read_ends_the_writer_whoever_reads() {
    let (meta, _dir) = with_a_cut_index().await;
    let found = meta.scan(b"x", None, usize::MAX).await;
    assert!(matches!(found, Err(MetaError::Index(_))), "{found:?}");
    assert!(has_ended(&meta));

    let (meta, _dir) = with_a_cut_index().await;
    for n in 0..3_000 {
        let mut batch = put(b"another", vec![1]);
        batch.require_absent(key_of(b'x', n));
        if let Err(error @ MetaError::Index(_)) = meta.commit(batch).await {
            assert!(has_ended(&meta), "{error}");
            return;
        }
    }
    panic!("the index was read to its end");
}
