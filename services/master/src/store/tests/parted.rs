//! Folders of one history that have parted: a snapshot or an index of the one beside the log of the
//! other.

use super::super::index::FoundIndex;
use super::truth::Folder;
use super::*;
use crate::limits::INDEX_CACHE_BYTES;

fn take_snapshot(folder: &Folder) {
    let FoundIndex { index, applied, .. } = Index::find(folder.path(), INDEX_CACHE_BYTES).unwrap();
    let at = (applied.position, applied.link);
    snapshot::write_all(folder.path(), &index, at).unwrap();
}

/// Two folders of one history that have parted: the second one has a snapshot that lies beyond the
/// end of the first one's log.
async fn parted() -> (Folder, Folder) {
    let ours = Folder::new();
    ours.write(0, 3, 7).await;
    let theirs = ours.copy();
    theirs.write(100, 60, 2).await;
    take_snapshot(&theirs);
    // A life of several files.
    ours.write(10, 40, 1).await;
    take_snapshot(&ours);
    (ours, theirs)
}

#[tokio::test]
async fn i1_s23_a_snapshot_of_another_copy_beyond_the_log_does_not_win() {
    let (ours, theirs) = parted().await;
    let expected = ours.content().await;
    std::fs::copy(theirs.snapshot(), ours.snapshot()).unwrap();
    assert_eq!(ours.copy().content().await, expected);

    // Without an index log and snapshot contradict each other, and the log goes back to its first
    // batch.
    let without = ours.copy().without_index();
    assert_eq!(without.content().await, expected);
}

/// The log does not reach back to the beginning any more: the index is the only whole copy, and the
/// lives of both are what tells them apart.
#[tokio::test]
async fn i1_s23_the_only_whole_index_is_not_removed_for_a_snapshot_of_another_copy() {
    for is_long_lived in [false, true] {
        let (ours, theirs) = parted().await;
        if !is_long_lived {
            // A life that begins in the rest of the log.
            ours.write(20, 1, 1).await;
        }
        let expected = ours.content().await;
        let files = ours.log_files();
        let first_left = files.len() - 1;
        for file in &files[..first_left] {
            std::fs::remove_file(file).unwrap();
        }
        assert_eq!(ours.copy().content().await, expected, "a checkpoint did it");
        std::fs::copy(theirs.snapshot(), ours.snapshot()).unwrap();
        assert_eq!(ours.copy().content().await, expected, "made whole");

        let without = ours.copy().without_index();
        match is_long_lived {
            // Nothing is left that could tell.
            true => drop(without.try_open(1 << 30)),
            false => {
                let refused = without.refusal();
                let text = cstore_types::error_chain(&refused).to_string();
                assert!(text.contains("snapshot is of another copy"), "{text}");
            }
        }
        std::fs::remove_file(ours.snapshot()).unwrap();
        assert_eq!(ours.content().await, expected);
    }
}

/// The other way around: the snapshot goes on with the history of the log, whose end is gone.
#[tokio::test]
async fn i2_a_snapshot_that_goes_on_behind_the_log_wins_over_an_index_that_has_less() {
    let ours = Folder::new();
    ours.write(0, 3, 7).await;
    let older = ours.copy();
    ours.write(10, 4, 1).await;
    take_snapshot(&ours);
    let expected = ours.content().await;
    std::fs::copy(ours.snapshot(), older.snapshot()).unwrap();
    assert_eq!(older.copy().content().await, expected);
    assert_eq!(older.without_index().content().await, expected);
}

/// The snapshot alone is the truth, because its log was retired or it was restored, and an index of
/// another copy lies beside it.
#[tokio::test]
async fn i2_s23_without_a_log_an_index_of_another_copy_is_made_anew_or_a_person_decides() {
    let ours = Folder::new();
    ours.write(0, 3, 7).await;
    let theirs = ours.copy();
    theirs.write(100, 2, 2).await;
    ours.write(10, 6, 1).await;
    take_snapshot(&ours);
    let expected = ours.content().await;
    for file in ours.log_files() {
        std::fs::remove_file(file).unwrap();
    }
    std::fs::remove_dir_all(ours.path().join("index")).unwrap();
    copy_folder(&theirs.path().join("index"), &ours.path().join("index"));

    let refused = ours.copy().refusal();
    let text = cstore_types::error_chain(&refused).to_string();
    assert!(text.contains("snapshot.bin and index"), "{text}");
    assert_eq!(ours.copy().without_index().content().await, expected);
    let untrusted = ours.with_index_of_another_boot();
    assert_eq!(untrusted.content().await, expected);
}
