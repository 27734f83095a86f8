//! The store as a whole: requirements, crashes, snapshots, passing and final errors.

mod examined;
mod first_format;
mod full;
mod mixed;
mod parted;
mod read_only;
mod struck;
mod truth;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

use cstore_log::{Disk, Fault, FaultyDisk, Verb};
use futures_util::FutureExt;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::index::Index;
use super::*;

/// An observer that keeps what it was told of keys that begin with `n`.
#[derive(Debug, Default)]
struct Mirror(Mutex<BTreeMap<Vec<u8>, Versioned>>);

impl Mirror {
    fn copy(&self) -> BTreeMap<Vec<u8>, Versioned> {
        self.0.lock().clone()
    }
}

impl Observer for Mirror {
    fn follows(&self, key: &[u8]) -> bool {
        key.starts_with(b"n")
    }

    fn observe(&self, Change { key, old, new }: Change<'_>) -> Result<(), MetaError> {
        let mut mirror = self.0.lock();
        if let Some(old) = old {
            assert_eq!(
                mirror.get(key),
                Some(old),
                "the old value is the one before"
            );
        }
        match new {
            Some(new) => drop(mirror.insert(key.to_vec(), new.clone())),
            None => drop(mirror.remove(key)),
        }
        Ok(())
    }

    fn forget(&self) {
        self.0.lock().clear();
    }
}

fn options(snapshot_bytes: u64) -> SledOptions {
    SledOptions {
        snapshot_bytes,
        max_log_bytes: 1 << 30,
        file_bytes: 64 << 10,
        cache_bytes: 4 << 20,
    }
}

fn open_mirrored(dir: &Path, disk: &FaultyDisk, snapshot_bytes: u64) -> (SledMeta, Arc<Mirror>) {
    let mirror = Arc::new(Mirror::default());
    let disk: Arc<dyn Disk> = Arc::new(disk.clone());
    (
        SledMeta::open(dir, disk, &options(snapshot_bytes), mirror.clone()).unwrap(),
        mirror,
    )
}

pub(super) fn open(dir: &Path, disk: &FaultyDisk, snapshot_bytes: u64) -> SledMeta {
    open_mirrored(dir, disk, snapshot_bytes).0
}

pub(super) fn put(key: &[u8], value: Vec<u8>) -> Batch {
    let mut batch = Batch::default();
    batch.put(key.to_vec(), value);
    batch
}

/// Position that the snapshot in `dir` covers.
fn covered(dir: &Path) -> Position {
    let found = snapshot::look(dir).unwrap();
    found.map_or(0, |found| found.position)
}

async fn content(meta: &SledMeta) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let found = meta.scan(b"n", None, usize::MAX).await.unwrap();
    found
        .into_iter()
        .map(|(key, found)| (key, found.value))
        .collect()
}

async fn pairs(meta: &SledMeta) -> BTreeMap<Vec<u8>, Versioned> {
    meta.scan(b"n", None, usize::MAX)
        .await
        .unwrap()
        .into_iter()
        .collect()
}

#[tokio::test]
async fn i2_requirements_are_checked_within_one_group_too() {
    let dir = tempfile::tempdir().unwrap();
    let meta = Arc::new(open(dir.path(), &FaultyDisk::new(), 1 << 30));
    let racers = (0..50u8).map(|n| {
        let meta = meta.clone();
        async move {
            let mut batch = put(b"none", vec![n]);
            batch.require_absent(b"none".to_vec());
            meta.commit(batch).await
        }
    });
    let results = futures_util::future::join_all(racers).await;
    let won = results.iter().filter(|result| result.is_ok()).count();
    let lost = results
        .iter()
        .filter(|result| matches!(result, Err(MetaError::Conflict)))
        .count();
    assert_eq!((won, lost), (1, 49));
    let version = meta.get(b"none").await.unwrap().unwrap().version;
    let mut stale = put(b"none", vec![99]);
    stale.require_version(b"none".to_vec(), version + 1);
    assert!(matches!(meta.commit(stale).await, Err(MetaError::Conflict)));
}

#[tokio::test]
async fn on_a_disk_with_one_thread_a_commit_is_answered_at_once() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::with_one_thread();
    let meta = open(dir.path(), &disk, 1 << 30);
    assert_eq!(
        meta.commit(put(b"na", vec![1]))
            .now_or_never()
            .unwrap()
            .unwrap(),
        1
    );
    drop(meta);
    let meta = open(dir.path(), &disk.power_loss(1), 1 << 30);
    assert_eq!(content(&meta).await.len(), 1);
    meta.close().await.unwrap();
    assert!(meta.commit(put(b"nb", vec![1])).await.is_err());
}

/// A proposal is polled once, so that the writer has it, then dropped.
#[tokio::test]
async fn i11_a_batch_whose_caller_is_gone_is_applied_and_observed_like_any_other() {
    let dir = tempfile::tempdir().unwrap();
    let (meta, mirror) = open_mirrored(dir.path(), &FaultyDisk::new(), 1 << 30);
    for n in 0..100u8 {
        let dropped = meta.commit(put(&[b'n', n], vec![n])).now_or_never();
        assert!(dropped.is_none_or(|result| result.is_ok()));
    }
    // The queue is in order: what comes after this one's answer has seen all the others.
    meta.commit(Batch::default()).await.unwrap();
    assert_eq!(meta.position(), 101);
    let stored = pairs(&meta).await;
    assert_eq!(stored.len(), 100);
    assert_eq!(mirror.copy(), stored);
}

/// Acknowledged changes survive kills, power loss and the loss of the whole index, with and without
/// snapshots; what the observer is told at the open equals what it was told live.
#[tokio::test]
async fn i6_acknowledged_changes_survive_power_loss_and_a_lost_index() {
    for seed in 1..25u64 {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let snapshot_bytes = if seed % 2 == 0 { 4_096 } else { 1 << 30 };
        let mut disk = FaultyDisk::new();
        let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
        for _ in 0..4 {
            let (meta, mirror) = open_mirrored(dir.path(), &disk, snapshot_bytes);
            assert_eq!(content(&meta).await, model, "seed {seed}");
            assert_eq!(
                pairs(&meta).await,
                mirror.copy(),
                "seed {seed}: told at the open"
            );
            for _ in 0..rng.random_range(1..60) {
                let key = format!("n{}", rng.random_range(0..20)).into_bytes();
                if rng.random_bool(0.3) {
                    let mut batch = Batch::default();
                    batch.delete(key.clone());
                    meta.commit(batch).await.unwrap();
                    model.remove(&key);
                } else {
                    let value = vec![rng.random(); rng.random_range(0..300)];
                    meta.commit(put(&key, value.clone())).await.unwrap();
                    model.insert(key, value);
                }
            }
            assert_eq!(pairs(&meta).await, mirror.copy(), "seed {seed}: told live");
            if rng.random_bool(0.3) {
                meta.close().await.unwrap();
            }
            drop(meta);
            disk = if rng.random_bool(0.5) {
                disk.kill()
            } else {
                disk.power_loss(rng.random())
            };
            if rng.random_bool(0.5) {
                std::fs::remove_dir_all(dir.path().join("index")).unwrap();
            }
        }
    }
}

/// Commits race with checkpoints on their own thread; each life ends in a kill without the index.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i6_snapshots_beside_commits_lose_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FaultyDisk::new();
    let mut model: BTreeMap<Vec<u8>, Vec<u8>> = BTreeMap::new();
    for life in 0..6u8 {
        let meta = Arc::new(open(dir.path(), &disk, 16 << 10));
        assert_eq!(content(&meta).await, model, "life {life}");
        let writers = (0..4u8).map(|writer| {
            let meta = meta.clone();
            async move {
                let mut rng = StdRng::seed_from_u64(u64::from(life) * 4 + u64::from(writer));
                let mut written = BTreeMap::new();
                for n in 0..400u32 {
                    let key = format!("n{writer}/{}", rng.random_range(0..200)).into_bytes();
                    let value = [vec![life], n.to_le_bytes().to_vec(), vec![7; 60]].concat();
                    meta.commit(put(&key, value.clone())).await.unwrap();
                    written.insert(key, value);
                }
                written
            }
        });
        for written in futures_util::future::join_all(writers).await {
            model.extend(written);
        }
        drop(meta);
        disk = disk.kill();
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    }
    assert!(covered(dir.path()) > 0, "snapshots were taken");
}

#[tokio::test]
async fn an_index_that_ends_before_the_log_begins_is_rebuilt_from_the_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let old_index = tempfile::tempdir().unwrap();
    // On this disk checkpoints run within the commit that makes them due.
    let disk = FaultyDisk::with_one_thread();
    let meta = open(dir.path(), &disk, 2_048);
    meta.commit(put(b"n0", vec![0])).await.unwrap();
    meta.close().await.unwrap();
    drop(meta);
    copy_folder(&dir.path().join("index"), &old_index.path().join("index"));

    let disk = disk.kill();
    let meta = open(dir.path(), &disk, 2_048);
    for n in 0..3_000u32 {
        meta.commit(put(format!("n{n}").as_bytes(), vec![1; 100]))
            .await
            .unwrap();
    }
    let expected = content(&meta).await;
    drop(meta);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    copy_folder(&old_index.path().join("index"), &dir.path().join("index"));

    let meta = open(dir.path(), &disk.kill(), 2_048);
    assert_eq!(content(&meta).await, expected);
}

fn copy_folder(from: &Path, to: &Path) {
    std::fs::create_dir_all(to).unwrap();
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

#[tokio::test]
async fn i6_a_failed_sync_ends_writes_and_keeps_reads() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new();
    let meta = open(dir.path(), &disk, 1 << 30);
    meta.commit(put(b"na", vec![1])).await.unwrap();
    disk.strike(Verb::Sync, 1, Fault::Eio);
    assert!(matches!(
        meta.commit(put(b"nb", vec![2])).await,
        Err(MetaError::Log(_))
    ));
    assert!(matches!(
        meta.commit(put(b"nc", vec![3])).await,
        Err(MetaError::Log(_))
    ));
    assert!(matches!(
        &*meta.writer_state().borrow(),
        WriterState::Ended(_)
    ));
    assert_eq!(
        content(&meta).await,
        BTreeMap::from([(b"na".to_vec(), vec![1])])
    );
}

fn key_of(tag: u8, n: u32) -> Vec<u8> {
    [&[tag][..], &n.to_be_bytes()].concat()
}

/// Commits until the log rolls to its next file while no file can be made.
///
/// Keys begin with `tag`. Returns the number of the batch that was refused.
async fn strike_a_roll(fault: Fault, tag: u8) -> (SledMeta, FaultyDisk, tempfile::TempDir, u32) {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::new();
    let meta = open(dir.path(), &disk, 1 << 30);
    meta.commit(put(b"nfirst", vec![1])).await.unwrap();
    disk.strike(Verb::Create, 1, fault);
    for n in 0..1_000u32 {
        if meta
            .commit(put(&key_of(tag, n), vec![7; 2_000]))
            .await
            .is_err()
        {
            return (meta, disk, dir, n);
        }
    }
    panic!("the log never rolled");
}

#[tokio::test]
async fn i12_a_roll_without_descriptors_is_an_answer_and_the_next_batch_tries_again() {
    for fault in [Fault::Emfile, Fault::Eio] {
        let (meta, disk, dir, n) = strike_a_roll(fault, b'x').await;
        let key = key_of(b'x', n);
        assert!(matches!(
            &*meta.writer_state().borrow(),
            WriterState::Blocked(MetaError::Log(_))
        ));
        assert_eq!(
            meta.get(&key).await.unwrap(),
            None,
            "a refused batch changes nothing"
        );

        let position = meta.commit(put(&key, vec![8])).await.unwrap();
        assert!(matches!(
            &*meta.writer_state().borrow(),
            WriterState::Writable
        ));
        drop(meta);
        let meta = open(dir.path(), &disk.power_loss(1), 1 << 30);
        assert_eq!(meta.position(), position);
        assert_eq!(meta.get(&key).await.unwrap().unwrap().value, [8]);
    }
}

#[tokio::test]
async fn i7_a_roll_without_room_refuses_names_and_gives_of_the_ballast_to_the_rest() {
    let (meta, disk, dir, n) = strike_a_roll(Fault::Enospc, b'n').await;
    assert!(
        matches!(&*meta.writer_state().borrow(), WriterState::Writable),
        "full is no trouble of the writer"
    );
    let ballast = || dir.path().join("ballast").metadata().unwrap().len();
    let whole = ballast();

    // The next roll finds no room either, but a delete has to go through.
    disk.strike(Verb::Create, 1, Fault::Enospc);
    let mut batch = Batch::default();
    batch.delete(key_of(b'n', n - 1));
    meta.commit(batch).await.unwrap();
    assert!(ballast() < whole);
    assert_eq!(meta.get(&key_of(b'n', n - 1)).await.unwrap(), None);
    meta.commit(put(&key_of(b'n', n), vec![8])).await.unwrap();
}

#[tokio::test]
async fn i7_a_group_without_room_refuses_its_names_only() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::with_one_thread();
    let meta = open(dir.path(), &disk, 1 << 30);
    meta.commit(put(b"nold", vec![1])).await.unwrap();
    // The log tries again after it has cut the active file.
    disk.strike(Verb::Create, 1, Fault::Enospc);
    disk.strike(Verb::Create, 2, Fault::Enospc);
    let mut delete = Batch::default();
    delete.delete(b"nold".to_vec());
    // More than what the first file has left: the group has to roll.
    let outcomes = meta.propose_together(vec![put(b"nnew", vec![7; 70_000]), delete]);
    let [added, deleted] = outcomes.try_into().unwrap();
    assert!(matches!(added.await.unwrap(), Err(MetaError::Full)));
    deleted.await.unwrap().unwrap();
    assert_eq!(content(&meta).await, BTreeMap::new());
}

#[tokio::test]
async fn a_store_that_is_restarted_often_takes_its_snapshots_all_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let mut disk = FaultyDisk::with_one_thread();
    for life in 0..4u8 {
        assert_eq!(covered(dir.path()), 0, "life {life}");
        let meta = open(dir.path(), &disk, 64 << 10);
        for n in 0..6u8 {
            meta.commit(put(&[b'n', life, n], vec![1; 100]))
                .await
                .unwrap();
        }
        drop(meta);
        disk = disk.kill();
        if covered(dir.path()) > 0 {
            return;
        }
    }
    panic!("four times 24 KiB of log are more than 64 KiB");
}

/// An observer that is told of a change reads a position that is not before it.
#[derive(Debug, Default)]
struct PositionWatch(std::sync::OnceLock<std::sync::Weak<SledMeta>>);

impl Observer for PositionWatch {
    fn follows(&self, _: &[u8]) -> bool {
        true
    }

    fn observe(&self, change: Change<'_>) -> Result<(), MetaError> {
        if let (Some(meta), Some(new)) =
            (self.0.get().and_then(std::sync::Weak::upgrade), change.new)
        {
            assert!(
                meta.position() >= new.version,
                "position {} of {}",
                meta.position(),
                new.version
            );
        }
        Ok(())
    }

    fn forget(&self) {}
}

#[tokio::test]
async fn a_change_is_never_seen_before_its_position() {
    let dir = tempfile::tempdir().unwrap();
    let watch = Arc::new(PositionWatch::default());
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::new());
    let meta =
        Arc::new(SledMeta::open(dir.path(), disk, &options(1 << 30), watch.clone()).unwrap());
    watch.0.set(Arc::downgrade(&meta)).unwrap();
    for n in 0..10 {
        meta.commit(put(b"n", vec![n])).await.unwrap();
    }
    assert!(matches!(
        &*meta.writer_state().borrow(),
        WriterState::Writable
    ));
}

#[tokio::test]
async fn an_index_that_a_restore_left_behind_is_not_restored_into() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::with_one_thread();
    let meta = open(dir.path(), &disk, 4_096);
    for n in 0..50u32 {
        meta.commit(put(format!("n{n}").as_bytes(), vec![1]))
            .await
            .unwrap();
    }
    let expected = content(&meta).await;
    drop(meta);
    std::fs::remove_dir_all(dir.path().join("index")).unwrap();
    let left = Index::rebuilt(dir.path(), 1 << 20).unwrap();
    let ghost = super::index::stored(b"nghost", 1, b"x");
    left.insert_stored(vec![(b"nghost".to_vec(), ghost)])
        .unwrap();
    left.flush().unwrap();
    drop(left);
    let meta = open(dir.path(), &disk.kill(), 4_096);
    assert_eq!(content(&meta).await, expected);
}

#[tokio::test]
async fn seals_only_rise_whatever_the_order_of_the_commits() {
    use cstore_types::epoch::{SealPoint, SeenSeals};
    use cstore_types::{NodeId, SealSeq, StoreUuid};
    let dir = tempfile::tempdir().unwrap();
    let meta = open(dir.path(), &FaultyDisk::new(), 1 << 30);
    let key = keys::store_key(StoreUuid::from_bytes([1; 16]));
    let raise = |seq| {
        let mut batch = Batch::default();
        let seal = SealPoint {
            seq: SealSeq(seq),
            nonce: 0,
        };
        batch.raise_seal(key.clone(), seal, None);
        batch
    };
    assert!(
        matches!(meta.commit(raise(1)).await, Err(MetaError::Conflict)),
        "the store is not known"
    );
    let record = keys::StoreRecord {
        seen: SeenSeals::default(),
        accepted: cstore_types::history::Point::default(),
        state: keys::StoreState::Up,
        node: NodeId::new("s1").unwrap(),
    };
    meta.commit(put(&key, record.encode())).await.unwrap();
    let raised = [7, 5, 9, 9, 2].map(|seq| meta.commit(raise(seq)));
    assert!(
        futures_util::future::join_all(raised)
            .await
            .iter()
            .all(Result::is_ok)
    );
    let found = meta.get(&key).await.unwrap().unwrap();
    assert_eq!(
        keys::StoreRecord::decode(&found.value)
            .unwrap()
            .seen
            .newest
            .seq,
        SealSeq(9)
    );
}
