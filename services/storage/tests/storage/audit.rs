//! Audits: sets that the master has committed and that the disk does not have are a doubt, unless
//! that is known or accepted.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use cstore_log::FaultyDisk;
use cstore_storage::engine::{AuditPage, Doubt, DoubtKind, Engine};
use cstore_testkit::engine::{CAPACITY, numbered, open_memory};
use cstore_testkit::session;
use cstore_types::{PartNo, SessionId};

use crate::hold::{filled, names, segments, take_file};

/// An engine with the sets of sessions 1 to 3.
async fn with_three_sets(disk: &FaultyDisk) -> Engine {
    let engine = open_memory(disk, CAPACITY).unwrap();
    for n in 1..=3 {
        let block = numbered(n, 100);
        let (part, ids) = (PartNo(0), vec![block.id]);
        let sealed = engine.put_seal(session(n), part, ids, vec![block]);
        sealed.await.unwrap();
    }
    engine
}

/// Lets a round of the audit see `committed`, in pages of two. Returns what it has found.
fn audit(engine: &Engine, committed: &[SessionId]) -> Vec<SessionId> {
    let mut lost = Vec::new();
    let audit = engine.audit();
    audit.begin();
    let pages: Vec<&[SessionId]> = committed.chunks(2).collect();
    for (n, page) in pages.iter().enumerate() {
        let is_last = n + 1 == pages.len();
        let found = audit.take(&AuditPage {
            sessions: page.to_vec(),
            last: page.last().copied(),
            is_last,
        });
        assert_eq!(audit.cursor(), page.last().copied());
        if is_last || !found.is_empty() {
            audit.settle(is_last);
        }
        lost.extend(found);
    }
    lost
}

fn sessions(numbers: impl IntoIterator<Item = u64>) -> Vec<SessionId> {
    numbers.into_iter().map(session).collect()
}

fn lost_sets(engine: &Engine) -> Option<Doubt> {
    let mut doubts = engine.hold().doubts().into_iter();
    doubts.find(|doubt| doubt.kind == DoubtKind::LostSets)
}

#[tokio::test]
async fn i4_a_lost_set_holds_the_disk_until_a_person_accepts_it_or_it_is_back() {
    let disk = FaultyDisk::new();
    let engine = with_three_sets(&disk).await;
    assert_eq!(audit(&engine, &sessions([1, 2, 3])), []);
    assert_eq!(engine.hold().doubts(), []);

    let lost = audit(&engine, &sessions([1, 2, 8, 3, 9]));
    assert_eq!(lost, sessions([8, 9]));
    let doubt = lost_sets(&engine).unwrap();
    assert_eq!((doubt.count, doubt.accepted), (2, false));
    assert!(engine.hold().is_held());
    let text = doubt.to_string();
    assert!(text.contains(&session(8).to_string()), "{text}");

    // It outlives a kill, and ends when nothing is missing any more.
    drop(engine);
    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    assert_eq!(lost_sets(&engine).unwrap().number, doubt.number);
    audit(&engine, &sessions([1, 2, 3]));
    assert_eq!(lost_sets(&engine), None);
    assert!(!engine.hold().is_held());
}

#[tokio::test]
async fn i12_accepted_losses_hold_nothing_and_more_of_them_do() {
    let disk = FaultyDisk::new();
    let engine = with_three_sets(&disk).await;
    audit(&engine, &sessions([7, 8, 9]));
    let number = lost_sets(&engine).unwrap().number;
    engine.hold().accept(number).unwrap();
    assert!(!engine.hold().is_held() && engine.audit().is_outdated());

    audit(&engine, &sessions([1, 7, 8, 9]));
    assert!(!engine.hold().is_held());
    // Files of two of them were removed: then another loss is no old one.
    audit(&engine, &sessions([1, 9]));
    assert_eq!(lost_sets(&engine).unwrap().count, 1);
    audit(&engine, &sessions([9, 10]));
    let doubt = lost_sets(&engine).unwrap();
    assert_eq!((doubt.count, doubt.accepted), (2, false));
    assert!(engine.hold().is_held());
    engine.hold().accept(doubt.number).unwrap();
    audit(&engine, &sessions([1]));
    assert_eq!(lost_sets(&engine), None);
}

/// A segment is missing: its sets are, too, and one doubt says so. When a person has accepted that,
/// the lost sets are listed and hold nothing.
#[tokio::test]
async fn i12_sets_that_went_with_an_accepted_loss_are_listed_as_accepted() {
    let disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let committed: Vec<SessionId> = engine.holdings().sessions();
    drop(engine);
    let disk = disk.kill();
    let folder = segments(&disk);
    take_file(&*folder, &names(&folder)[1]);

    let engine = open_memory(&disk, CAPACITY).unwrap();
    let n_lost = audit(&engine, &committed).len();
    assert!(n_lost > 0);
    assert_eq!(lost_sets(&engine), None, "the missing segment says it");
    let open: Vec<u32> = engine
        .hold()
        .doubts()
        .iter()
        .map(|doubt| doubt.number)
        .collect();
    for number in open {
        engine.hold().accept(number).unwrap();
    }
    // Another process does not know that it was accepted just now.
    let (mut engine, mut disk) = (engine, disk);
    for restarts in 0..2 {
        assert_eq!(audit(&engine, &committed).len(), n_lost);
        let listed = lost_sets(&engine).unwrap();
        assert_eq!((listed.count as usize, listed.accepted), (n_lost, true));
        assert!(!engine.hold().is_held(), "after {restarts} restarts");
        drop(engine);
        disk = disk.kill();
        engine = open_memory(&disk, CAPACITY).unwrap();
    }
}

/// The process ends between the accept and the end of the next round.
#[tokio::test]
async fn i12_what_an_accepted_loss_has_taken_is_known_after_a_restart() {
    let disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let committed: Vec<SessionId> = engine.holdings().sessions();
    drop(engine);
    let disk = disk.kill();
    let folder = segments(&disk);
    take_file(&*folder, &names(&folder)[1]);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for doubt in engine.hold().doubts() {
        engine.hold().accept(doubt.number).unwrap();
    }
    drop(engine);

    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    assert!(!audit(&engine, &committed).is_empty());
    assert!(lost_sets(&engine).is_some_and(|doubt| doubt.accepted));
    assert!(!engine.hold().is_held());
}

#[tokio::test]
async fn i4_a_round_begins_again_after_an_accept() {
    let disk = FaultyDisk::new();
    let engine = with_three_sets(&disk).await;
    let audit = engine.audit();
    audit.begin();
    audit.take(&AuditPage {
        sessions: sessions([9]),
        last: Some(session(9)),
        is_last: false,
    });
    audit.settle(false);
    assert!(!audit.is_outdated());
    let number = lost_sets(&engine).unwrap().number;
    engine.hold().accept(number).unwrap();
    assert!(audit.is_outdated());
    audit.begin();
    assert_eq!((audit.cursor(), audit.is_outdated()), (None, false));
}
