//! Folders whose snapshot, log and index are not of one copy, or not of one moment: each is told
//! from the others by the links of its batches.

use cstore_types::history::{Place, Point, place};

use super::super::index::{FoundIndex, stored};
use super::truth::{Content, Folder, damage, find, flip};
use super::*;
use crate::limits::{INDEX_CACHE_BYTES, MAX_LINKS};

/// Writes a snapshot of what the index of a closed folder holds.
fn take_snapshot(folder: &Folder) {
    let FoundIndex { index, applied, .. } = Index::find(folder.path(), INDEX_CACHE_BYTES).unwrap();
    let at = (applied.position, applied.link);
    snapshot::write_all(folder.path(), &index, at).unwrap();
}

/// A folder that was copied twice after its third batch: one copy stays as it is, the other takes
/// two batches. Then the folder takes five, a snapshot, and one more into the same log.
struct Forked {
    ours: Folder,
    theirs: Folder,
    old: Folder,
    expected: Content,
}

async fn forked() -> Forked {
    let ours = Folder::new();
    ours.write(0, 3, 7).await;
    let (old, theirs) = (ours.copy(), ours.copy());
    theirs.write(100, 2, 2).await;
    ours.write(10, 5, 1).await;
    take_snapshot(&ours);
    ours.write(20, 1, 1).await;
    let expected = ours.content().await;
    Forked {
        ours,
        theirs,
        old,
        expected,
    }
}

fn swap_index(folder: &Folder, from: &Folder) {
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    copy_folder(&from.path().join("index"), &folder.path().join("index"));
}

/// Replaces the `n`th file of the log by that of another copy.
fn swap_log_file(folder: &Folder, from: &Folder, n: usize) {
    let name = from.log_files()[n].file_name().unwrap().to_owned();
    let target = folder.path().join("log").join(name);
    std::fs::copy(&from.log_files()[n], target).unwrap();
}

#[tokio::test]
async fn i1_an_index_of_another_copy_that_ends_before_the_snapshot_is_made_anew() {
    let Forked {
        ours,
        theirs,
        expected,
        ..
    } = forked().await;
    swap_index(&ours, &theirs);
    assert_eq!(ours.content().await, expected);
}

#[tokio::test]
async fn i6_an_index_that_ends_before_the_snapshot_goes_on_if_the_log_has_its_place() {
    let Forked {
        ours,
        old,
        expected,
        ..
    } = forked().await;
    let damaged = ours.copy();
    swap_index(&ours, &old);
    assert_eq!(ours.content().await, expected);

    // What lies between is damaged: the snapshot has it.
    let file = damaged.log_files()[1].clone();
    flip(&file, find(&file, b"n0011"));
    let without = damaged.copy().without_index();
    assert_eq!(without.content().await, expected);
    swap_index(&damaged, &old);
    assert_eq!(damaged.content().await, expected);
}

#[tokio::test]
async fn i2_a_newer_snapshot_beside_an_older_log_and_index_counts() {
    let Forked { ours, old, .. } = forked().await;
    std::fs::copy(ours.snapshot(), old.snapshot()).unwrap();
    let at = covered(old.path());
    let meta = old.open();
    assert_eq!(meta.position(), at);
    meta.commit(put(b"nnew", vec![9])).await.unwrap();
    meta.close().await.unwrap();
    drop(meta);
    let content = old.without_index().content().await;
    assert_eq!(content.get(&b"nnew"[..]), Some(&vec![9]));
}

#[tokio::test]
async fn i1_a_snapshot_of_another_copy_does_not_win_over_log_and_index() {
    let ours = Folder::new();
    ours.write(0, 3, 7).await;
    let theirs = ours.copy();
    theirs.write(100, 4, 2).await;
    take_snapshot(&theirs);
    ours.write(10, 4, 1).await;
    let expected = ours.content().await;
    // At the end of the log, and before it.
    for more in [0, 2] {
        ours.write(30, more, 1).await;
        let expected = match more {
            0 => expected.clone(),
            _ => ours.content().await,
        };
        for has_index in [true, false] {
            let mut folder = ours.copy();
            std::fs::copy(theirs.snapshot(), folder.snapshot()).unwrap();
            if !has_index {
                folder = folder.without_index();
            }
            assert_eq!(folder.content().await, expected, "{more}, {has_index}");
            let alone = folder.without_index();
            assert_eq!(alone.content().await, expected, "{more}, {has_index}");
        }
    }
}

#[tokio::test]
async fn i1_a_newest_file_of_another_copy_does_not_go_on_behind_the_index() {
    let ours = Folder::new();
    ours.write(0, 3, 7).await;
    let theirs = ours.copy();
    ours.write(10, 2, 1).await;
    ours.write(20, 1, 1).await;
    theirs.write(30, 2, 2).await;
    theirs.write(40, 3, 2).await;
    let folder = ours.copy();
    swap_log_file(&folder, &theirs, 2);
    let error = folder.refusal();
    assert!(
        matches!(damage(&error), DamageKind::Chain { .. }),
        "{error:?}"
    );

    // With a gap in front of it.
    let folder = ours.copy();
    std::fs::remove_file(&folder.log_files()[1]).unwrap();
    let name = theirs.log_files()[2].file_name().unwrap().to_owned();
    std::fs::copy(&theirs.log_files()[2], folder.path().join("log").join(name)).unwrap();
    assert!(matches!(folder.refusal(), MetaError::Damaged(_)));
}

#[tokio::test]
async fn i4_a_history_that_was_made_good_contains_what_nodes_have_noted() {
    let ours = Folder::new();
    ours.write(0, 3, 7).await;
    let theirs = ours.copy();
    ours.write(10, 3, 1).await;
    let meta = ours.open();
    let noted = Point {
        position: 5,
        chain: meta.link_at(5).unwrap(),
        ..meta.head()
    };
    meta.close().await.unwrap();
    drop(meta);
    ours.write(20, 3, 1).await;
    theirs.write(30, 3, 2).await;
    let expected = ours.content().await;
    swap_log_file(&ours, &theirs, 1);

    let meta = ours.open();
    assert_eq!(content(&meta).await, expected);
    judge_all(&meta, &[noted, meta.head()], "made good");
    let elsewhere = Point {
        life: noted.life ^ 1,
        ..noted
    };
    let ahead = Point {
        position: meta.position() + 1,
        ..meta.head()
    };
    for point in [elsewhere, ahead] {
        assert!(!meta.contains(&point), "{point:?}");
    }
}

#[tokio::test]
async fn i1_a_damaged_value_is_made_good_also_when_the_snapshot_is_missing() {
    let folder = Folder::new();
    folder.write(0, 20, 7).await;
    let expected = folder.content().await;
    damage_value(&folder, b"n0003");
    std::fs::remove_file(folder.snapshot()).unwrap();
    assert_eq!(folder.content().await, expected);

    // Neither has it.
    let file = folder.log_files()[0].clone();
    flip(&file, find(&file, b"n0003"));
    std::fs::remove_file(folder.snapshot()).unwrap();
    damage_value(&folder, b"n0003");
    for _ in 0..2 {
        assert!(matches!(folder.refusal(), MetaError::Damaged(_)));
    }
}

fn damage_value(folder: &Folder, key: &[u8]) {
    let FoundIndex { index, .. } = Index::find(folder.path(), INDEX_CACHE_BYTES).unwrap();
    let mut damaged = stored(key, 4, &[7; 3_000]);
    damaged[100] ^= 1;
    index.insert_stored(vec![(key.to_vec(), damaged)]).unwrap();
    index.close().unwrap();
}

/// An index that makes up for a hole must count at the next boot, too, until a snapshot has all of
/// it.
#[tokio::test]
async fn i1_an_open_that_could_not_make_a_hole_good_leaves_the_index_marked() {
    let folder = Folder::new();
    folder.write(0, 60, 7).await;
    let expected = folder.content().await;
    let file = folder.log_files()[0].clone();
    flip(&file, find(&file, b"n0003"));
    // A snapshot of the index fails at its damaged value.
    let whole = folder.copy();
    damage_value(&folder, b"n0050");
    let error = folder.refusal();
    assert!(matches!(damage(&error), DamageKind::Value { .. }));
    let db = sled::open(folder.path().join("index")).unwrap();
    assert!(db.get(b"\0clean").unwrap().is_some());
    drop(db);
    assert_eq!(whole.content().await, expected);
}

/// The mark of the position that the index has applied must not go with an index that is there.
#[tokio::test]
async fn i1_an_index_that_does_not_open_for_a_moment_is_not_removed() {
    let folder = Folder::new();
    folder.write(0, 100, 7).await;
    std::fs::remove_file(folder.log_files().pop().unwrap()).unwrap();
    let db = sled::open(folder.path().join("index")).unwrap();
    let error = folder.refusal();
    assert!(matches!(error, MetaError::Index(_)), "{error:?}");
    drop(db);
    let error = folder.refusal();
    assert!(
        matches!(damage(&error), DamageKind::Behind { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn i10_a_head_of_format_1_may_name_any_position() {
    let folder = Folder::new();
    folder.write(0, 5, 7).await;
    let mut bytes = b"CSTORMS2".to_vec();
    bytes.extend([0xff; 16]);
    bytes.extend([0; 8]);
    std::fs::write(folder.snapshot(), bytes).unwrap();
    assert!(matches!(folder.refusal(), MetaError::Damaged(_)));
    let folder = folder.without_index();
    assert!(matches!(folder.refusal(), MetaError::Damaged(_)));
}

/// Judges points as the master and a storage node do.
fn judge_all(meta: &SledMeta, noted: &[Point], what: &str) {
    let history = meta.history();
    let head = history.head();
    for point in noted {
        let by_master = place(
            &history.lives,
            history.position,
            |at| meta.link_at(at),
            point,
        );
        assert_eq!(by_master, Place::Contains, "{what}: {point:?} of {head:?}");
        assert!(meta.contains(point), "{what}: {point:?} of {head:?}");
        let lives = history.lives_since(point);
        let link = |at| (at == head.position && head.chain != 0).then_some(head.chain);
        let by_storage = place(&lives, head.position, link, point);
        assert_eq!(by_storage, Place::Contains, "{what}: {point:?} of {head:?}");
    }
}

/// Whatever a healthy folder went through, each place that it ever told is still its own.
#[tokio::test]
async fn i4_kills_power_losses_and_lost_indexes_make_no_fork() {
    let (first, cases) = cstore_testkit::seed_and_cases(1, 12);
    for seed in first..first + cases {
        let mut rng = StdRng::seed_from_u64(seed);
        let dir = tempfile::tempdir().unwrap();
        let mut disk = match seed % 3 {
            0 => FaultyDisk::with_one_thread(),
            _ => FaultyDisk::new(),
        };
        let mut noted = Vec::new();
        let mut model = Content::new();
        for life in 0..8 {
            let what = format!("seed {seed}, life {life}");
            let snapshot_bytes = [6_000, 20_000, 1 << 30][rng.random_range(0..3)];
            let meta = open(dir.path(), &disk, snapshot_bytes);
            assert_eq!(content(&meta).await, model, "{what}");
            judge_all(&meta, &noted, &what);
            for _ in 0..rng.random_range(0..40) {
                let key = format!("n{}", rng.random_range(0..30)).into_bytes();
                let value = vec![rng.random(); rng.random_range(0..900)];
                if meta.commit(put(&key, value.clone())).await.is_ok() {
                    model.insert(key, value);
                }
                if rng.random_bool(0.4) {
                    noted.push(meta.head());
                }
            }
            judge_all(&meta, &noted, &what);
            if rng.random_bool(0.3) {
                meta.close().await.unwrap();
            }
            drop(meta);

            disk = match rng.random_bool(0.5) {
                true => disk.kill(),
                false => disk.power_loss(rng.random()),
            };
            match rng.random_range(0..4) {
                0 => std::fs::remove_dir_all(dir.path().join("index")).unwrap(),
                1 => {
                    let FoundIndex { index, .. } =
                        Index::find(dir.path(), INDEX_CACHE_BYTES).unwrap();
                    index.mark_in_use().unwrap();
                    index.distrust(&DamageKind::LogOwner);
                }
                _ => {}
            }
        }
    }
}

#[tokio::test]
async fn i4_the_newest_links_are_known_after_a_restart_and_are_the_same() {
    let dir = tempfile::tempdir().unwrap();
    let disk = FaultyDisk::with_one_thread();
    let meta = open(dir.path(), &disk, 1 << 30);
    for group in 0..68u32 {
        let batch = |n: u32| {
            let key = format!("n{}", n % 50).into_bytes();
            put(&key, group.to_be_bytes().to_vec())
        };
        for outcome in meta.propose_together((0..1_000).map(batch).collect()) {
            outcome.await.unwrap().unwrap();
        }
    }
    let newest = meta.position();
    assert!(newest > MAX_LINKS as u64);
    let links: Vec<_> = (1..=newest).map(|at| meta.link_at(at)).collect();
    drop(meta);
    let meta = open(dir.path(), &disk.kill(), 1 << 30);
    for (at, link) in (1..=newest).zip(links) {
        let is_kept = at > newest - MAX_LINKS as u64;
        assert_eq!(meta.link_at(at), link.filter(|_| is_kept), "{at}");
    }
}

/// A read that fails once is no damage.
#[tokio::test]
async fn i4_one_failed_read_at_an_open_changes_nothing() {
    for nth in 1..40 {
        let dir = tempfile::tempdir().unwrap();
        let disk = FaultyDisk::new();
        let meta = open(dir.path(), &disk, 1 << 30);
        for n in 0..4u8 {
            meta.commit(put(&[b'n', n], vec![n; 10])).await.unwrap();
        }
        let head = meta.head();
        meta.close().await.unwrap();
        drop(meta);

        let disk = disk.kill();
        disk.strike(Verb::Read, nth, Fault::Eio);
        let struck: Arc<dyn Disk> = Arc::new(disk.clone());
        let mirror = Arc::new(Mirror::default());
        let Ok(meta) = SledMeta::open(dir.path(), struck, &options(1 << 30), mirror) else {
            // The log did not open: the next start does.
            let meta = open(dir.path(), &disk.kill(), 1 << 30);
            assert_eq!(meta.head(), head, "read {nth}");
            continue;
        };
        assert_eq!(meta.head(), head, "read {nth}");
        assert_eq!(covered(dir.path()), 0, "read {nth}");
    }
}
