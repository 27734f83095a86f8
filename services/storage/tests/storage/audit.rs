//! Audits: sets that the master has committed and that the disk does not have are a doubt, unless
//! that is known or accepted.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use cstore_log::{Fault, FaultyDisk, Verb};
use cstore_storage::engine::{Answer, AuditPage, Doubt, DoubtKind, Engine, MasterHistory};
use cstore_testkit::engine::{CAPACITY, numbered, open_memory};
use cstore_testkit::session;
use cstore_types::epoch::{SealPoint, SeenSeals};
use cstore_types::history::{Life, Point};
use cstore_types::{PartNo, SealSeq, SessionId};

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
        if let Some(finding) = &found.finding {
            audit.settle(finding);
        }
        lost.extend(found.lost);
    }
    lost
}

/// A disk of several segments without one of them, and the sessions that were committed on it.
async fn without_a_segment() -> (FaultyDisk, Vec<SessionId>) {
    let disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let committed = engine.holdings().sessions();
    drop(engine);
    let disk = disk.kill();
    let folder = segments(&disk);
    take_file(&*folder, &names(&folder)[1]);
    (disk, committed)
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
    let (disk, committed) = without_a_segment().await;

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
    let (disk, committed) = without_a_segment().await;
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

/// A person accepts while a round goes on; the page in the same answer has more lost sets.
#[tokio::test]
async fn i12_an_accept_in_a_round_is_not_asked_for_twice() {
    let disk = FaultyDisk::new();
    let engine = with_three_sets(&disk).await;
    let page = |numbers: std::ops::Range<u64>, is_last| AuditPage {
        sessions: sessions(numbers.clone()),
        last: Some(session(numbers.end - 1)),
        is_last,
    };
    let round = engine.audit();
    round.begin();
    let first = round.take(&page(10..12, false)).finding.unwrap();
    round.settle(&first);
    let number = lost_sets(&engine).unwrap().number;
    let second = round.take(&page(12..14, false)).finding.unwrap();
    engine.hold().accept(number).unwrap();
    // Settled late, and not in their order.
    round.settle(&second);
    round.settle(&first);
    assert!(!engine.hold().is_held(), "{:?}", engine.hold().doubts());

    assert!(round.is_outdated());
    audit(&engine, &sessions([1, 2, 3, 10, 11, 12, 13]));
    assert!(!engine.hold().is_held(), "{:?}", engine.hold().doubts());
    round.settle(&first);
    let listed = lost_sets(&engine).unwrap();
    assert_eq!((listed.count, listed.accepted), (4, true));
}

/// A segment was lost and accepted long ago, and no file rests on what it had. Later sets are lost
/// for another reason.
#[tokio::test]
async fn i4_an_accepted_loss_that_was_counted_does_not_explain_a_later_one() {
    let disk = filled().await;
    let folder = segments(&disk);
    take_file(&*folder, &names(&folder)[1]);
    let engine = open_memory(&disk, CAPACITY).unwrap();
    for doubt in engine.hold().doubts() {
        engine.hold().accept(doubt.number).unwrap();
    }
    let mut committed = engine.holdings().sessions();
    assert_eq!(audit(&engine, &committed), []);
    drop(engine);
    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    assert_eq!(audit(&engine, &committed), []);
    assert_eq!(lost_sets(&engine), None);

    committed.push(session(999_999));
    assert_eq!(audit(&engine, &committed).len(), 1);
    assert!(engine.hold().is_held(), "{:?}", engine.hold().doubts());
}

/// A history of one life.
fn history(life: u64, position: u64, accepted: Option<Point>) -> MasterHistory {
    let lives = vec![Life {
        term: 1,
        life,
        first: 1,
        ..Life::default()
    }];
    let head = Point {
        term: 1,
        life,
        position,
        ..Point::default()
    };
    MasterHistory {
        head,
        lives,
        accepted,
    }
}

fn hear(engine: &Engine, history: MasterHistory, seen: Option<SealPoint>) -> bool {
    let answer = Answer {
        seen: seen.map(SeenSeals::from),
        history: Some(history),
    };
    engine.judge().agrees(&answer) || engine.judge().judge(&answer)
}

/// The doubt about a master is gone with its accept, and that about an older disk when the master
/// has taken the disk. The process ends before the next round does.
#[tokio::test]
async fn i12_what_an_accept_has_cost_is_no_hold_after_a_restart() {
    for is_about_master in [true, false] {
        let disk = FaultyDisk::new();
        let engine = with_three_sets(&disk).await;
        assert!(hear(&engine, history(0xa, 120, None), None));
        if is_about_master {
            engine.judge().keep_noted().unwrap();
            let noted = engine.judge().noted();
            assert!(!hear(&engine, history(0xb, 100, None), None));
            assert!(hear(&engine, history(0xb, 100, Some(noted)), None));
            engine.judge().keep_noted().unwrap();
        } else {
            let lost = SealPoint {
                seq: SealSeq(u64::MAX >> 8),
                nonce: 7,
            };
            assert!(!hear(&engine, history(0xa, 120, None), Some(lost)));
            let number = engine.hold().doubts()[0].number;
            engine.hold().accept(number).unwrap();
            let head = engine.judge().seal_point(engine.seal_seq());
            assert!(hear(&engine, history(0xa, 121, None), Some(head)));
        }
        assert!(!engine.hold().is_held());
        drop(engine);

        let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
        audit(&engine, &sessions([1, 2, 3, 9]));
        assert!(!engine.hold().is_held(), "{:?}", engine.hold().doubts());
        assert_eq!(lost_sets(&engine).unwrap().count, 1);
        audit(&engine, &sessions([1, 2, 3, 9, 10]));
        assert!(engine.hold().is_held(), "that was not accepted");
    }
}

/// A person accepts a missing segment, and the process dies when the inventory has given it up and
/// the doubt is not accepted yet: the next open takes the doubt for disproved.
#[tokio::test]
async fn i12_an_accept_that_dies_half_way_is_not_asked_for_twice() {
    for nth in 1..=4 {
        let (disk, committed) = without_a_segment().await;

        let engine = open_memory(&disk, CAPACITY).unwrap();
        let doubts = engine.hold().doubts();
        let missing = doubts.iter().find(|doubt| doubt.kind == DoubtKind::Missing);
        disk.strike(Verb::Sync, nth, Fault::Eio);
        let outcome = engine.hold().accept(missing.unwrap().number);
        disk.calm();
        drop(engine);
        let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
        for doubt in engine.hold().doubts() {
            engine.hold().accept(doubt.number).unwrap();
        }
        audit(&engine, &committed);
        assert!(!engine.hold().is_held(), "sync {nth} failed: {outcome:?}");
    }
}
