//! Inspection of a folder: it changes nothing, and says what a start then does.

use cstore_log::RealDisk;
use cstore_testkit::folder::contents;
use cstore_types::error_chain;
use cstore_types::inspection::{PayloadScope, StartOutcome};

use super::super::keys::{CLUSTER, ClusterRecord};
use super::super::read_only::ReadOnlyMeta;
use super::super::scratch::leave_temporary;
use super::truth::{Folder, find, flip};
use super::*;
use crate::inspect::{MetadataInspection, inspect};

/// A folder of a cluster with 60 values that no rule follows, in several files of log.
async fn whole() -> Folder {
    let folder = Folder::new();
    let meta = folder.open();
    let cluster = ClusterRecord::random().unwrap();
    meta.commit(put(CLUSTER, cluster.encode())).await.unwrap();
    for n in 0..60 {
        let key = format!("q{n:04}");
        meta.commit(put(key.as_bytes(), vec![7; 3_000]))
            .await
            .unwrap();
    }
    meta.close().await.unwrap();
    folder
}

/// Inspects a folder, checks that nothing of it has changed, and that a start does what was said.
fn check(folder: &Folder) -> MetadataInspection {
    let before = contents(folder.path());
    let found = inspect(folder.path(), PayloadScope::All).unwrap();
    assert_eq!(contents(folder.path()), before, "the folder has changed");

    let (outcome, start) = (found.inspection.outcome, &found.inspection.start);
    let damage = match folder.try_open(1 << 30) {
        Ok(_) => {
            let opens = matches!(outcome, StartOutcome::Whole | StartOutcome::Damaged);
            assert!(opens, "{start}");
            return found;
        }
        Err(damage) => damage,
    };
    let log = RealDisk::open(folder.path().join("log")).unwrap();
    let mirror = Mirror::default();
    match ReadOnlyMeta::open(folder.path(), log, &options(1 << 30), &mirror, damage) {
        Ok(rest) => {
            let state = rest.writer_state();
            let reason = state.borrow().read_only().unwrap().to_string();
            assert_eq!(*start, format!("starts read-only: {reason}"));
            assert_eq!(outcome, StartOutcome::Held);
        }
        Err(error) => {
            assert_eq!(*start, format!("refuses: {}", error_chain(&error)));
            assert_eq!(outcome, StartOutcome::Refused);
        }
    }
    found
}

/// Damages a folder.
type Blow = fn(Folder) -> Folder;

/// Blows, and what a start does then.
const CASES: [(&str, Blow, StartOutcome, &str); 10] = [
    (
        "whole",
        |folder| folder,
        StartOutcome::Whole,
        "starts whole",
    ),
    (
        "no index",
        Folder::without_index,
        StartOutcome::Whole,
        "the index is made anew",
    ),
    (
        "damaged record beside an index",
        |folder| {
            let file = &folder.log_files()[1];
            flip(file, find(file, b"q0020") + 100);
            folder
        },
        StartOutcome::Damaged,
        "index",
    ),
    (
        "damaged record without index",
        |folder| {
            let file = &folder.log_files()[1];
            flip(file, find(file, b"q0020"));
            folder.without_index()
        },
        StartOutcome::Held,
        "cstore admin rescue FILE",
    ),
    (
        "missing file beside an index",
        |folder| {
            std::fs::remove_file(&folder.log_files()[1]).unwrap();
            folder
        },
        StartOutcome::Damaged,
        "repairs from the index",
    ),
    (
        "missing file without index",
        |folder| {
            std::fs::remove_file(&folder.log_files()[1]).unwrap();
            folder.without_index()
        },
        StartOutcome::Held,
        "missing or damaged",
    ),
    (
        "log that is cut behind an index of another boot",
        |folder| {
            let newest = folder.log_files().pop().unwrap();
            std::fs::remove_file(newest).unwrap();
            folder.with_index_of_another_boot()
        },
        StartOutcome::Held,
        "starts read-only",
    ),
    (
        "no owner",
        |folder| {
            std::fs::remove_file(folder.path().join("log-owner")).unwrap();
            folder
        },
        StartOutcome::Held,
        "log-owner is missing",
    ),
    (
        "nothing that could be served",
        |folder| {
            flip(&folder.snapshot(), 0);
            std::fs::remove_file(&folder.log_files()[0]).unwrap();
            folder.without_index()
        },
        StartOutcome::Refused,
        "refuses: metadata is damaged",
    ),
    (
        "damaged snapshot that the log makes up for",
        |folder| {
            flip(&folder.snapshot(), 0);
            folder
        },
        StartOutcome::Damaged,
        "the rest of the folder has everything",
    ),
];

#[tokio::test(flavor = "multi_thread")]
async fn an_inspection_says_what_a_start_does_and_changes_nothing() {
    let whole = whole().await;
    assert!(whole.log_files().len() > 2);
    for (what, blow, outcome, words) in CASES {
        let folder = blow(whole.copy());
        let found = tokio::task::spawn_blocking(move || check(&folder)).await;
        let found = found.unwrap().inspection;
        assert_eq!(found.outcome, outcome, "{what}: {}", found.start);
        assert!(found.start.contains(words), "{what}: {}", found.start);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn metadata_in_use_is_not_judged_and_keeps_a_master_away_while_it_is_inspected() {
    let folder = whole().await;
    let lock = RealDisk::open(folder.path()).unwrap().lock("LOCK").unwrap();
    let found = inspect(folder.path(), PayloadScope::All).unwrap();
    assert_eq!(found.inspection.outcome, StartOutcome::InUse);
    drop(lock);

    let inspected = tokio::task::spawn_blocking(move || {
        let found = inspect(folder.path(), PayloadScope::None).unwrap();
        assert_eq!(found.inspection.outcome, StartOutcome::Whole);
        // A master that starts now is refused.
        let refused = RealDisk::open(folder.path()).unwrap().lock("LOCK");
        assert!(refused.is_err());
        drop(found);
        RealDisk::open(folder.path()).unwrap().lock("LOCK").unwrap();
    });
    inspected.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn i13_an_inspection_removes_the_copy_that_a_killed_one_has_left() {
    let folder = whole().await;
    let left = leave_temporary();
    let inspecting = move || drop(inspect(folder.path(), PayloadScope::None).unwrap());
    tokio::task::spawn_blocking(inspecting).await.unwrap();
    assert!(!left.try_exists().unwrap());
}
