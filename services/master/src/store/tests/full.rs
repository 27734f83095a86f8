//! Full file systems: all names can be deleted after other writers took all free space, snapshots
//! have space, and an unusable index ends the writer.

use std::os::unix::fs::MetadataExt;
use std::sync::atomic::{AtomicU64, Ordering};

use cstore_log::RealDisk;
use cstore_testkit::seed;
use rand::seq::SliceRandom;

use super::room::{SharedGauge, Space};
use super::*;

const MIB: u64 = 1 << 20;

/// A model of a file system: counts the files of a folder and the bytes that other writers have
/// taken.
#[derive(Debug, Clone)]
struct CountedFs {
    total: u64,
    others: Arc<AtomicU64>,
    /// Minimum of the free bytes; negative if more was written than the file system holds.
    least: Arc<Mutex<i64>>,
}

impl CountedFs {
    fn new(total: u64) -> Self {
        Self {
            total,
            others: Arc::default(),
            least: Arc::new(Mutex::new(i64::MAX)),
        }
    }

    fn free(&self, dir: &Path) -> i64 {
        let mut files = BTreeMap::new();
        allocated(dir, &mut files);
        allocated_without_name(dir, &mut files);
        let taken = files.values().sum::<u64>() + self.others.load(Ordering::Relaxed);
        let free = self.total as i64 - taken as i64;
        let mut least = self.least.lock();
        *least = free.min(*least);
        free
    }

    fn gauge(&self) -> SharedGauge {
        let fs = self.clone();
        SharedGauge(Arc::new(move |dir: &Path| {
            Ok(Space {
                free: u64::try_from(fs.free(dir)).unwrap_or(0),
                total: fs.total,
            })
        }))
    }

    /// Takes all free space, as another writer does.
    fn fill(&self, dir: &Path) {
        let free = u64::try_from(self.free(dir)).unwrap();
        self.others.fetch_add(free, Ordering::Relaxed);
    }
}

/// Collects the allocated bytes of each file in a folder by inode, so that a file that is renamed
/// during the walk counts once.
fn allocated(folder: &Path, files: &mut BTreeMap<u64, u64>) {
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        match entry.metadata() {
            Ok(found) if found.is_dir() => allocated(&entry.path(), files),
            Ok(found) => drop(files.insert(found.ino(), found.blocks() * 512)),
            // Removed since the folder was listed.
            Err(_) => {}
        }
    }
}

/// Collects the allocated bytes of open files of this process that had a name in a folder.
fn allocated_without_name(folder: &Path, files: &mut BTreeMap<u64, u64>) {
    let open = std::fs::read_dir("/proc/self/fd").unwrap().flatten();
    for descriptor in open.map(|entry| entry.path()) {
        let is_of_folder = std::fs::read_link(&descriptor).is_ok_and(|target| {
            target.starts_with(folder) && target.to_string_lossy().ends_with(" (deleted)")
        });
        if is_of_folder && let Ok(found) = std::fs::metadata(&descriptor) {
            files.insert(found.ino(), found.blocks() * 512);
        }
    }
}

fn open_with(
    dir: &Path,
    disk: Arc<dyn Disk>,
    gauge: SharedGauge,
    options: &SledOptions,
) -> SledMeta {
    SledMeta::open_with(dir, disk, options, Arc::new(Mirror::default()), gauge).unwrap()
}

fn delete(key: &[u8]) -> Batch {
    let mut batch = Batch::default();
    batch.delete(key.to_vec());
    batch
}

/// Commits names until one is refused because the disk is full. Returns the committed keys.
async fn fill(meta: &SledMeta, first: u32) -> Vec<Vec<u8>> {
    let mut keys = Vec::new();
    loop {
        let key = key_of(b'n', first + keys.len() as u32);
        match meta.commit(put(&key, vec![7; 3_000])).await {
            Ok(_) => keys.push(key),
            Err(MetaError::Full) => return keys,
            Err(error) => panic!("{error}"),
        }
        assert!(keys.len() < 50_000, "names are never refused");
    }
}

#[tokio::test]
async fn i7_i12_all_names_can_be_deleted_when_others_have_taken_the_rest() {
    let mut rng = StdRng::seed_from_u64(seed(20_261_127));
    let dir = tempfile::tempdir().unwrap();
    let fs = CountedFs::new(32 * MIB);
    let log = || RealDisk::open(dir.path().join("log")).unwrap();
    let options = SledOptions::default();
    let mut meta = open_with(dir.path(), log(), fs.gauge(), &options);
    let mut first = 0;
    let mut stored = Vec::new();
    for round in 0..3 {
        let mut keys = fill(&meta, first).await;
        first += keys.len() as u32;
        stored.push(keys.len());
        // After this batch the writer has begun every snapshot that is due.
        meta.commit(delete(b"none")).await.unwrap();
        fs.fill(dir.path());

        keys.shuffle(&mut rng);
        let kept = keys.split_off(keys.len() * 9 / 10);
        for (n, key) in keys.iter().enumerate() {
            let deleted = meta.commit(delete(key)).await;
            deleted.unwrap_or_else(|error| panic!("round {round}, delete {n}: {error}"));
        }
        let mut expected: Vec<_> = kept.clone();
        expected.sort();
        assert_eq!(Vec::from_iter(content(&meta).await.into_keys()), expected);
        assert!(*fs.least.lock() >= 0, "sled may have met a full disk");

        // Snapshot and log are complete: the index is rebuilt from them.
        drop(meta);
        std::fs::remove_dir_all(dir.path().join("index")).unwrap();
        meta = open_with(dir.path(), log(), fs.gauge(), &options);
        assert_eq!(Vec::from_iter(content(&meta).await.into_keys()), expected);
        for key in kept {
            meta.commit(delete(&key)).await.unwrap();
        }
        fs.others.store(0, Ordering::Relaxed);
    }
    assert!(stored[0] > 500 && stored[2] * 2 >= stored[0], "{stored:?}");
    assert!(*fs.least.lock() >= 0, "sled may have met a full disk");
}

#[tokio::test]
async fn a_snapshot_that_would_not_fit_is_not_begun_and_the_log_stays() {
    let dir = tempfile::tempdir().unwrap();
    let fs = CountedFs::new(256 * MIB);
    let disk: Arc<dyn Disk> = Arc::new(FaultyDisk::with_one_thread());
    // Deletes need 4 MiB and a file of the log. The free 6 MiB leave no ballast, as after a copy of
    // the folder to a nearly full disk.
    fs.others.store(250 * MIB, Ordering::Relaxed);
    let meta = open_with(dir.path(), disk, fs.gauge(), &options(1 << 30));
    for n in 0..200u32 {
        meta.commit(put(&n.to_be_bytes(), vec![1; 3_000]))
            .await
            .unwrap();
    }
    assert_eq!(covered(dir.path()), 0);

    // Space is freed: the next batch retries the snapshot, although the log has hardly grown.
    fs.others.store(200 * MIB, Ordering::Relaxed);
    meta.commit(put(b"one more", vec![1])).await.unwrap();
    assert!(covered(dir.path()) > 0);
}

#[tokio::test]
async fn i12_a_snapshot_needs_no_room_for_names_that_are_deleted() {
    let dir = tempfile::tempdir().unwrap();
    let fs = CountedFs::new(256 * MIB);
    let mut disk = FaultyDisk::with_one_thread();
    let open = |disk: &FaultyDisk| {
        let log: Arc<dyn Disk> = Arc::new(disk.clone());
        open_with(dir.path(), log, fs.gauge(), &options(1 << 30))
    };
    let meta = open(&disk);
    for n in 0..3_000 {
        meta.commit(put(&key_of(b'n', n), vec![1; 3_000]))
            .await
            .unwrap();
    }
    for n in 0..3_000 {
        meta.commit(delete(&key_of(b'n', n))).await.unwrap();
    }
    drop(meta);
    disk = disk.kill();
    assert_eq!(covered(dir.path()), 0);

    // The log has 9 MiB of deleted names. A snapshot of that size would not fit.
    std::fs::remove_file(dir.path().join("ballast")).unwrap();
    fs.fill(dir.path());
    fs.others.fetch_sub(13 * MIB, Ordering::Relaxed);
    let meta = open(&disk);
    meta.commit(delete(b"none")).await.unwrap();
    assert!(covered(dir.path()) > 0);
}

#[tokio::test]
async fn i12_deletes_that_the_log_has_no_room_for_wait_for_a_snapshot() {
    let dir = tempfile::tempdir().unwrap();
    let options = SledOptions {
        max_log_bytes: 2 << 20,
        ..options(1 << 30)
    };
    let disk = RealDisk::open(dir.path().join("log")).unwrap();
    let meta = open_with(dir.path(), disk, CountedFs::new(1 << 30).gauge(), &options);
    let keys = fill(&meta, 0).await;
    assert!((100..600).contains(&keys.len()), "{}", keys.len());

    // Commits more frames than fit the log at once.
    for key in keys {
        meta.commit(delete(&key)).await.unwrap();
        for again in 0..3u8 {
            meta.commit(put(b"tombstone", vec![again])).await.unwrap();
        }
    }
    meta.commit(put(b"nnew", vec![1])).await.unwrap();
    meta.close().await.unwrap();
}

/// Truncates the file of the index under a running store: pages that are not cached are unreadable.
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
