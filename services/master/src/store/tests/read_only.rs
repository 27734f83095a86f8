//! A folder with a hole that nothing makes good: what is left of it is served and rescued, as it is
//! and no further, and nothing in the folder changes.

use std::path::PathBuf;

use cstore_log::RealDisk;
use cstore_types::history::{Place, place};

use super::super::index::{FoundIndex, stored};
use super::super::keys::{CLUSTER, ClusterRecord, ERA, PLACEMENT};
use super::super::read_only::ReadOnlyMeta;
use super::super::rescue::rescue_with;
use super::super::room::{SharedGauge, Space, by_statvfs};
use super::truth::{Content, Folder, damage, find, flip};
use super::*;
use crate::limits::INDEX_CACHE_BYTES;

/// A folder of a cluster with 100 names, whose first batch is the record of the cluster.
async fn whole() -> Folder {
    let folder = Folder::new();
    let meta = folder.open();
    let cluster = ClusterRecord::random().unwrap();
    meta.commit(put(CLUSTER, cluster.encode())).await.unwrap();
    meta.close().await.unwrap();
    drop(meta);
    folder.write(0, 100, 7).await;
    folder
}

/// Returns all files below `dir` with their bytes.
fn files(dir: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut found = BTreeMap::new();
    for entry in std::fs::read_dir(dir).unwrap() {
        let entry = entry.unwrap();
        if entry.file_type().unwrap().is_dir() {
            found.extend(files(&entry.path()));
        } else {
            found.insert(entry.path(), std::fs::read(entry.path()).unwrap());
        }
    }
    found
}

/// Opens what is left of a folder after an open for writing was refused.
fn open_rest(folder: &Folder) -> Result<(ReadOnlyMeta, Arc<Mirror>), MetaError> {
    let refusal = folder.refusal();
    let log = RealDisk::open(folder.path().join("log")).unwrap();
    let mirror = Arc::new(Mirror::default());
    let options = options(1 << 30);
    ReadOnlyMeta::open(folder.path(), log, &options, &*mirror, refusal).map(|meta| (meta, mirror))
}

fn reason(meta: &ReadOnlyMeta) -> String {
    let state = meta.writer_state();
    let state = state.borrow();
    state.read_only().unwrap().to_string()
}

async fn served(meta: &dyn MetaStore) -> Content {
    let found = meta.scan(b"n", None, usize::MAX).await.unwrap();
    found
        .into_iter()
        .map(|(key, found)| (key, found.value))
        .collect()
}

/// Returns the first `count` names of `all`: name `n` is batch `n + 2`.
fn first(all: &Content, count: u64) -> Content {
    let names = all.iter().take(count as usize);
    names
        .map(|(key, value)| (key.clone(), value.clone()))
        .collect()
}

/// Number of names that were rescued, and whether something is known to be missing.
type Outcome = Result<(u64, bool), MetaError>;

/// Rescues what is left of a folder. Returns also the keys that were left out.
fn rescue_to(folder: &Folder, file: &Path) -> (Outcome, Vec<Vec<u8>>) {
    let log = RealDisk::open(folder.path().join("log")).unwrap();
    let mut left_out = Vec::new();
    let leave_out = &mut |key: &[u8]| left_out.push(key.to_vec());
    let with = (&options(1 << 30), &by_statvfs());
    let rescued = rescue_with(folder.path(), Some(log), file, leave_out, with);
    let rescued = rescued.map(|rescued| (rescued.names, rescued.extent.is_partial()));
    (rescued, left_out)
}

/// Starts another folder from a rescued snapshot, as an operator does.
fn start_from(file: &Path) -> Folder {
    let folder = Folder::new();
    std::fs::copy(file, folder.snapshot()).unwrap();
    folder
}

/// Removes file `n` of the log.
fn remove_log_file(folder: &Folder, n: usize) {
    std::fs::remove_file(&folder.log_files()[n]).unwrap();
}

/// One way to damage a folder of 101 batches.
struct Case {
    what: &'static str,
    /// The index is of another boot; otherwise there is none.
    has_index: bool,
    spoil: fn(&Folder),
    /// A part of the reason.
    says: &'static str,
}

fn without_third_file(folder: &Folder) {
    remove_log_file(folder, 2);
}

fn without_newest_file(folder: &Folder) {
    remove_log_file(folder, folder.log_files().len() - 1);
}

const CASES: [Case; 8] = [
    Case {
        what: "gap, no index",
        has_index: false,
        spoil: without_third_file,
        says: "whole in the log but after the first of these",
    },
    Case {
        what: "damaged record, no index",
        has_index: false,
        spoil: |folder| {
            let file = &folder.log_files()[1];
            flip(file, find(file, b"n0010"));
        },
        says: "changes 12 to 101 are left out: 1 missing or damaged, 89 whole in the log",
    },
    Case {
        what: "gap",
        has_index: true,
        spoil: without_third_file,
        says: "no change is missing",
    },
    Case {
        what: "newest file is gone",
        has_index: true,
        spoil: without_newest_file,
        says: "later changes may be missing",
    },
    Case {
        what: "snapshot is gone, and the first file",
        has_index: true,
        spoil: |folder| {
            std::fs::remove_file(folder.snapshot()).unwrap();
            remove_log_file(folder, 0);
        },
        says: "no change is missing",
    },
    Case {
        what: "owner is gone",
        has_index: true,
        spoil: |folder| std::fs::remove_file(folder.path().join("log-owner")).unwrap(),
        says: "later changes may be missing",
    },
    Case {
        what: "owner is another one",
        has_index: true,
        spoil: |folder| flip(&folder.path().join("log-owner"), 3),
        says: "may be",
    },
    Case {
        what: "the folder log is empty",
        has_index: true,
        spoil: |folder| {
            for _ in folder.log_files() {
                remove_log_file(folder, 0);
            }
        },
        says: "later changes may be missing",
    },
];

/// Opens what is left of a folder, and checks that it is the beginning of `all`. Returns its
/// position.
async fn check_served(folder: &Folder, all: &Content, Case { what, says, .. }: &Case) -> Position {
    let (meta, mirror) = open_rest(folder).unwrap();
    let reason = reason(&meta);
    let position = meta.position();
    for says in [
        *says,
        "cstore admin rescue FILE",
        &format!("position {position},"),
    ] {
        assert!(reason.contains(says), "{what}: {reason}");
    }
    let expected = first(all, position - 1);
    assert_eq!(served(&meta).await, expected, "{what}");
    let mirrored = mirror.copy().into_iter();
    let mirrored: Content = mirrored.map(|(key, value)| (key, value.value)).collect();
    assert_eq!(mirrored, expected, "{what}");
    assert_eq!(meta.head().position, position);

    let refused = meta.commit(put(b"nmore", vec![1])).await.unwrap_err();
    assert!(matches!(refused, MetaError::ReadOnly(_)), "{refused:?}");
    assert_eq!(served(&meta).await, expected, "{what}");
    meta.close().await.unwrap();
    position
}

#[tokio::test]
async fn i1_what_is_left_of_a_folder_with_a_hole_is_served_and_rescued_and_the_folder_stays() {
    let whole = whole().await;
    let all = whole.content().await;
    assert!(whole.log_files().len() >= 5);
    let last = whole.open().position();
    assert_eq!(last, 101);

    for case in &CASES {
        let what = case.what;
        let folder = match case.has_index {
            true => whole.copy().with_index_of_another_boot(),
            false => whole.copy().without_index(),
        };
        (case.spoil)(&folder);
        let before = files(folder.path());
        let position = check_served(&folder, &all, case).await;
        match case.has_index {
            true => assert_eq!(position, last, "{what}"),
            false => assert!((5..last).contains(&position), "{what}: {position}"),
        }
        assert!(
            files(folder.path()) == before,
            "{what}: the folder has changed"
        );

        let outside = tempfile::tempdir().unwrap();
        let file = outside.path().join("rescued");
        let (rescued, left_out) = rescue_to(&folder, &file);
        assert_eq!(rescued.unwrap(), (position - 1, position < last), "{what}");
        assert!(left_out.is_empty());
        assert!(
            files(folder.path()) == before,
            "{what}: the folder has changed"
        );
        assert_eq!(files(outside.path()).len(), 1, "{what}: no scratch is left");

        let started = start_from(&file);
        let expected = first(&all, position - 1);
        assert_eq!(started.content().await, expected, "{what}");
        started.write(500, 1, 9).await;
        assert_eq!(started.content().await.len(), expected.len() + 1, "{what}");
    }
}

#[tokio::test]
async fn i8_a_damaged_value_is_an_error_of_its_key_and_is_left_out_of_a_rescue() {
    let whole = whole().await;
    let all = whole.content().await;
    let spoil = |key: &[u8], value: &[u8]| {
        let folder = whole.copy();
        let FoundIndex { index, .. } = Index::find(folder.path(), INDEX_CACHE_BYTES).unwrap();
        let mut damaged = stored(key, 2, value);
        damaged[9] ^= 1;
        index.insert_stored(vec![(key.to_vec(), damaged)]).unwrap();
        index.close().unwrap();
        drop(index);
        remove_log_file(&folder, 2);
        folder
    };
    let folder = spoil(b"n0040", &[7; 3_000]);
    let before = files(folder.path());
    let (meta, _) = open_rest(&folder).unwrap();
    assert!(
        reason(&meta).contains("1 value is damaged"),
        "{}",
        reason(&meta)
    );
    let error = meta.get(b"n0040").await.unwrap_err();
    assert!(matches!(damage(&error), DamageKind::Value { .. }));
    let mut expected = all.clone();
    expected.remove(&b"n0040"[..]);
    assert_eq!(served(&meta).await, expected);
    // A page is full also if a damaged value lies in it.
    let page = meta.scan(b"n", Some(b"n0038"), 3).await.unwrap();
    let keys: Vec<&[u8]> = page.iter().map(|(key, _)| key.as_slice()).collect();
    assert_eq!(keys, [b"n0039", b"n0041", b"n0042"]);
    drop(meta);
    assert!(files(folder.path()) == before, "the folder has changed");

    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("rescued");
    let (rescued, left_out) = rescue_to(&folder, &file);
    assert_eq!(rescued.unwrap(), (99, true));
    assert_eq!(left_out, [b"n0040"]);
    let started = start_from(&file);
    assert_eq!(started.content().await, expected);

    // A second rescue leaves the first one as it is.
    let bytes = std::fs::read(&file).unwrap();
    assert!(matches!(
        rescue_to(&folder, &file).0,
        Err(MetaError::Io { .. })
    ));
    assert_eq!(std::fs::read(&file).unwrap(), bytes);

    // Without the map or the identity of the cluster no block would be found.
    for key in [PLACEMENT, CLUSTER] {
        let folder = spoil(key, b"value");
        remove_log_file(&folder, 0);
        let file = outside.path().join("none");
        assert!(rescue_to(&folder, &file).0.is_err());
        assert_eq!(files(outside.path()).len(), 1, "nothing is left");
    }
}

/// A session that the rescued metadata does not know may have committed.
#[tokio::test]
async fn i4_a_rescued_snapshot_begins_another_era_and_keeps_history() {
    let whole = whole().await;
    let meta = whole.open();
    meta.commit(put(b"nlast", vec![1])).await.unwrap();
    let at = meta.head();
    meta.close().await.unwrap();
    drop(meta);
    let judge = |meta: &SledMeta| {
        let history = meta.history();
        place(&history.lives, history.position, |p| meta.link_at(p), &at)
    };

    let outside = tempfile::tempdir().unwrap();
    let mut eras = Vec::new();
    for (n, is_behind) in [false, true].into_iter().enumerate() {
        let folder = whole.copy();
        let newest = folder.log_files().len() - 1;
        remove_log_file(&folder, newest);
        let folder = if is_behind {
            folder.without_index()
        } else {
            folder
        };
        let file = outside.path().join(n.to_string());
        rescue_to(&folder, &file).0.unwrap();
        let started_folder = start_from(&file);
        let started = started_folder.open();
        assert_eq!(judge(&started) == Place::Contains, !is_behind);
        started.commit(put(b"nmore", vec![1])).await.unwrap();
        assert_eq!(judge(&started) == Place::Contains, !is_behind);
        eras.push(started.get(ERA).await.unwrap().unwrap().value);
    }
    assert_ne!(eras[0], eras[1]);
}

#[tokio::test]
async fn i1_parts_that_contradict_each_other_or_say_nothing_are_not_served() {
    let ours = whole().await;
    let theirs = ours.copy();
    ours.write(200, 10, 1).await;
    theirs.write(300, 20, 2).await;
    let all = ours.content().await;

    // The index of another copy, which reaches further than the log.
    let folder = ours.copy();
    std::fs::remove_dir_all(folder.path().join("index")).unwrap();
    copy_folder(&theirs.path().join("index"), &folder.path().join("index"));
    let (meta, _) = open_rest(&folder).unwrap();
    assert_eq!(served(&meta).await, all);
    drop(meta);

    // Neither an index nor the beginning of the log.
    let folder = ours.copy().without_index();
    remove_log_file(&folder, 0);
    let refusal = folder.refusal();
    let error = open_rest(&folder).unwrap_err();
    assert_eq!(error.to_string(), refusal.to_string());
    assert!(!folder.path().join("scratch").try_exists().unwrap());

    // A snapshot of a newer program.
    let folder = ours.copy().with_index_of_another_boot();
    let mut bytes = std::fs::read(folder.snapshot()).unwrap();
    bytes[7] = b'4';
    std::fs::write(folder.snapshot(), bytes).unwrap();
    remove_log_file(&folder, 0);
    let error = open_rest(&folder).unwrap_err();
    assert_eq!(*damage(&error), DamageKind::SnapshotMagic);
}

/// The log alone is left, up to a hole: the index was overwritten.
#[tokio::test]
async fn i1_an_index_that_does_not_open_leaves_what_is_in_front_of_the_hole() {
    let folder = whole().await;
    let all = folder.content().await;
    let garbage = [0x5a; 8_192];
    for file in files(&folder.path().join("index")).keys() {
        std::fs::write(file, garbage).unwrap();
    }
    without_third_file(&folder);
    let before = files(folder.path());
    let (meta, _) = open_rest(&folder).unwrap();
    let position = meta.position();
    assert!((5..101).contains(&position), "{position}");
    assert_eq!(served(&meta).await, first(&all, position - 1));
    drop(meta);
    assert!(files(folder.path()) == before, "the folder has changed");
}

#[tokio::test]
async fn i8_a_value_from_behind_the_last_batch_is_not_served() {
    let folder = whole().await;
    let FoundIndex { index, .. } = Index::find(folder.path(), INDEX_CACHE_BYTES).unwrap();
    let later = stored(b"n0500", 900, b"later");
    index
        .insert_stored(vec![(b"n0500".to_vec(), later)])
        .unwrap();
    index.close().unwrap();
    drop(index);
    without_newest_file(&folder);
    let (meta, mirror) = open_rest(&folder).unwrap();
    assert!(reason(&meta).contains("1 value is damaged"));
    let error = meta.get(b"n0500").await.unwrap_err();
    assert!(matches!(damage(&error), DamageKind::Value { .. }));
    assert_eq!(served(&meta).await.len(), 100);
    assert_eq!(mirror.copy().len(), 100);
    drop(meta);
    let outside = tempfile::tempdir().unwrap();
    let (_, left_out) = rescue_to(&folder, &outside.path().join("rescued"));
    assert_eq!(left_out, [b"n0500"]);
}

#[tokio::test]
async fn i7_without_room_for_a_copy_of_the_index_nothing_is_served_and_nothing_left() {
    let folder = whole().await.copy();
    let newest = folder.log_files().len() - 1;
    remove_log_file(&folder, newest);
    let refusal = folder.refusal();
    let before = files(folder.path());
    let gauge = SharedGauge(Arc::new(|_: &Path| {
        Ok(Space {
            free: 1 << 20,
            total: 1 << 30,
        })
    }));
    let log = RealDisk::open(folder.path().join("log")).unwrap();
    let (options, mirror) = (options(1 << 30), Mirror::default());
    let (dir, disk) = (folder.path(), log.clone());
    let opened = ReadOnlyMeta::open_with(dir, disk, &options, &mirror, refusal, &gauge);
    assert!(matches!(
        damage(&opened.unwrap_err()),
        DamageKind::Behind { .. }
    ));

    let outside = tempfile::tempdir().unwrap();
    let file = outside.path().join("rescued");
    let rescued = rescue_with(dir, Some(log), &file, &mut |_| (), (&options, &gauge));
    assert!(matches!(rescued, Err(MetaError::Full)), "{rescued:?}");
    assert!(files(outside.path()).is_empty());
    assert!(files(folder.path()) == before, "the folder has changed");
}

/// The log of a killed process has a tail that nothing proves: an open that writes would copy it.
#[tokio::test]
async fn i6_a_folder_of_a_killed_master_with_a_hole_is_left_as_it_is() {
    let folder = whole().await;
    let meta = folder.open();
    meta.commit(put(b"nlast", vec![3; 3_000])).await.unwrap();
    let killed = folder.copy().with_index_of_another_boot();
    drop(meta);
    remove_log_file(&killed, 2);
    let unfinished = killed.path().join("snapshot.new");
    std::fs::write(&unfinished, b"half").unwrap();
    let before = files(killed.path());
    // A read-only master that was killed has left it.
    let scratch = killed.path().join("scratch");
    std::fs::create_dir(&scratch).unwrap();
    std::fs::write(scratch.join("index"), b"none").unwrap();
    let (meta, _) = open_rest(&killed).unwrap();
    assert_eq!(meta.get(b"nlast").await.unwrap().unwrap().value, [3; 3_000]);
    drop(meta);
    assert!(files(killed.path()) == before, "the folder has changed");
}

/// A disk that takes no writes may hold a folder that is whole.
#[tokio::test]
async fn i12_a_folder_whose_disk_takes_no_writes_is_served_whole_and_waits_for_it() {
    let folder = whole().await;
    let all = folder.content().await;
    let log = FaultyDisk::new();
    let source = RealDisk::open(folder.path().join("log")).unwrap();
    for name in source.list().unwrap() {
        let file = source.open(&name).unwrap();
        let mut bytes = vec![0; file.size().unwrap() as usize];
        file.read_exact_at(&mut bytes, 0).unwrap();
        let copy = log.create(&name, bytes.len() as u64).unwrap();
        copy.write_all_vectored_at(&[bytes.into()], 0).unwrap();
        copy.sync_data().unwrap();
    }
    log.sync_dir().unwrap();
    log.refuse_writes(true);
    let log: Arc<dyn Disk> = Arc::new(log);
    let (mirror, options) = (Arc::new(Mirror::default()), options(1 << 30));
    let opened = SledMeta::open(folder.path(), log.clone(), &options, mirror.clone());
    let refusal = opened.unwrap_err();
    assert!(!refusal.leaves_a_rest() && refusal.is_of_the_disk());

    let meta = ReadOnlyMeta::open(folder.path(), log, &options, &*mirror, refusal).unwrap();
    assert!(reason(&meta).contains("its disk takes no writes"));
    let state = meta.writer_state();
    assert!(state.borrow().read_only().unwrap().awaits_disk());
    assert_eq!(served(&meta).await, all);
    assert!(meta.commit(put(b"n100", b"v".to_vec())).await.is_err());
}
