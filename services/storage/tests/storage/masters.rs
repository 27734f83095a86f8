//! Masters: a disk obeys only a master whose history contains what the disk has obeyed before.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use cstore_log::FaultyDisk;
use cstore_storage::EngineError;
use cstore_storage::engine::{AcceptError, Answer, DoubtKind, Engine, MasterHistory};
use cstore_testkit::engine::{CAPACITY, numbered, open_memory, store};
use cstore_testkit::session;
use cstore_types::epoch::SeenSeals;
use cstore_types::history::{Life, Point};

use crate::hold::{LEN, N_FILES, filled, try_to_free};

const A: u64 = 0xa;
const B: u64 = 0xb;

/// The history of a master whose lives are (number, first position), at `position`.
fn history(lives: &[(u64, u64)], position: u64) -> MasterHistory {
    let terms = 1u64..;
    let lives: Vec<Life> = terms
        .zip(lives)
        .map(|(term, (life, first))| Life {
            term,
            life: *life,
            first: *first,
            ..Life::default()
        })
        .collect();
    let last = lives.last().copied().unwrap_or_default();
    MasterHistory {
        head: Point {
            term: last.term,
            life: last.life,
            position,
            ..Point::default()
        },
        lives,
        accepted: None,
    }
}

fn answer(history: MasterHistory) -> Answer {
    Answer {
        seen: None,
        history: Some(history),
    }
}

/// Takes an answer as a storage node does. Returns true if it may be obeyed.
fn hear(engine: &Engine, history: MasterHistory) -> bool {
    let answer = answer(history);
    engine.judge().agrees(&answer) || engine.judge().judge(&answer)
}

fn kinds(engine: &Engine) -> Vec<DoubtKind> {
    let doubts = engine.hold().doubts();
    let open = doubts.iter().filter(|doubt| !doubt.accepted);
    open.map(|doubt| doubt.kind).collect()
}

#[tokio::test]
async fn i4_s02_an_older_master_that_overtakes_is_not_obeyed_and_the_right_one_ends_the_doubt() {
    let mut disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(hear(&engine, history(&[(A, 1)], 120)));
    engine.judge().keep_noted().unwrap();
    drop(engine);

    // An older copy as it was, one that has taken writes, and one that has taken more than it
    // lacks.
    let copies = [
        history(&[(A, 1)], 100),
        history(&[(A, 1), (B, 101)], 110),
        history(&[(A, 1), (B, 101)], 150),
        history(&[(B, 1)], 120),
    ];
    for older in copies {
        disk = disk.kill();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        for _ in 0..3 {
            assert!(!hear(&engine, older.clone()), "{older:?}");
        }
        assert_eq!(kinds(&engine), [DoubtKind::Master]);
        try_to_free(&engine).await;
        assert_eq!(engine.holdings().sessions().len() as u64, N_FILES);
        let refused = store(&engine, 600, LEN).await.unwrap_err();
        assert!(matches!(refused, EngineError::Held(_)), "{refused:?}");
        for n in 0..N_FILES {
            engine.read_block(&numbered(n, LEN).id).unwrap();
        }
        let number = engine.hold().doubts()[0].number;
        let refused = engine.hold().accept(number).unwrap_err();
        assert!(matches!(refused, AcceptError::Elsewhere(_)));

        // It is doubted by the next process, too, before that has heard anybody.
        drop(engine);
        disk = disk.kill();
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert!(engine.hold().is_held());

        assert!(hear(&engine, history(&[(A, 1)], 120)));
        assert_eq!(kinds(&engine), []);
    }
    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    store(&engine, 600, LEN).await.unwrap();
    engine.releaser().release(session(0)).await.unwrap();
}

#[tokio::test]
async fn i4_restarts_of_the_right_master_are_no_doubt() {
    let mut disk = filled().await;
    let mut lives = Vec::new();
    let mut position = 0;
    for n in 0..30 {
        lives.push((0x100 + n, position + 1));
        position += 1 + n;
        let engine = open_memory(&disk, CAPACITY).unwrap();
        for ahead in 0..3 {
            assert!(hear(&engine, history(&lives, position + ahead)));
        }
        position += 2;
        if n % 3 == 0 {
            engine.judge().keep_noted().unwrap();
        }
        assert_eq!(kinds(&engine), []);
        drop(engine);
        disk = disk.kill();
    }
}

/// A process that was resumed twice with its memory writes on in one life on both sides. The link
/// of the same position tells them apart.
#[tokio::test]
async fn i4_a_copy_of_the_running_master_is_not_obeyed() {
    let linked = |position, chain| {
        let mut history = history(&[(A, 1)], position);
        history.head.chain = chain;
        history
    };
    let disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(hear(&engine, linked(120, 7)));
    assert!(!hear(&engine, linked(120, 8)));
    assert_eq!(kinds(&engine), [DoubtKind::Master]);
    assert!(hear(&engine, linked(120, 7)));

    // Further on it shows once the life has ended: the next one says behind which link it began.
    let after = |chain_before| {
        let mut history = history(&[(A, 1), (B, 121)], 130);
        history.lives[1].chain_before = chain_before;
        history
    };
    assert!(!hear(&engine, after(8)));
    assert!(hear(&engine, after(7)));
    assert_eq!(kinds(&engine), []);
}

#[tokio::test]
async fn i12_another_master_is_obeyed_when_exactly_what_was_noted_is_accepted() {
    let disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(hear(&engine, history(&[(A, 1)], 120)));
    let noted = engine.judge().noted();
    let with = |accepted| MasterHistory {
        accepted: Some(accepted),
        ..history(&[(A, 1), (B, 101)], 150)
    };
    let near = Point {
        position: 119,
        ..noted
    };
    for wrong in [near, Point::default()] {
        assert!(!hear(&engine, with(wrong)));
        assert_eq!(engine.judge().noted(), noted, "it stands still");
    }
    assert!(hear(&engine, with(noted)));
    assert_eq!(kinds(&engine), []);
    engine.judge().keep_noted().unwrap();
    drop(engine);

    // From then on the history that was left is the wrong one.
    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    assert!(hear(&engine, history(&[(A, 1), (B, 101)], 151)));
    assert!(!hear(&engine, history(&[(A, 1)], 130)));
}

/// A program from before lives tells no history. It is as good as ever, until a later one was
/// heard.
#[tokio::test]
async fn i4_a_master_without_a_history_is_obeyed_only_if_no_other_was_heard() {
    let disk = FaultyDisk::new();
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let silent = Answer::default();
    assert!(engine.judge().judge(&silent));
    assert!(hear(&engine, history(&[(0, 0), (A, 7)], 9)));
    assert!(!engine.judge().judge(&silent));
    assert_eq!(kinds(&engine), [DoubtKind::Master]);
    assert!(hear(&engine, history(&[(0, 0), (A, 7)], 9)));
    assert_eq!(kinds(&engine), []);
}

/// The place that was obeyed must be known to the next process before anything is freed by it.
#[tokio::test]
async fn i4_a_noted_place_that_cannot_be_written_is_not_kept() {
    let disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(hear(&engine, history(&[(A, 1)], 120)));
    assert!(!engine.judge().is_noted_kept());
    disk.strike(cstore_log::Verb::Write, 1, cstore_log::Fault::Eio);
    assert!(engine.judge().keep_noted().is_err());
    assert!(!engine.judge().is_noted_kept());
    engine.judge().keep_noted().unwrap();
    assert!(engine.judge().is_noted_kept());

    // A clean stop leaves nothing to be heard again.
    assert!(hear(&engine, history(&[(A, 1)], 130)));
    engine.close().unwrap();
    drop(engine);
    let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
    assert_eq!(engine.judge().noted().position, 130);
}

/// The bound of what is seen: a copy that lacks nothing of what this disk was told is the same
/// history to it.
#[tokio::test]
async fn i4_s04_a_copy_that_has_all_that_was_noted_is_obeyed() {
    let disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    assert!(hear(&engine, history(&[(A, 1)], 100)));
    // The right master wrote up to 120, and nobody who lives has heard it.
    assert!(hear(&engine, history(&[(A, 1), (B, 101)], 103)));
    assert_eq!(kinds(&engine), []);
    // Whoever has heard one position more knows.
    let heard = open_memory(&filled().await, CAPACITY).unwrap();
    assert!(hear(&heard, history(&[(A, 1)], 101)));
    assert!(!hear(&heard, history(&[(A, 1), (B, 101)], 103)));
}

/// The older of the two is named: the disk is not in doubt for what the older master has not seen
/// yet.
#[tokio::test]
async fn i4_s10_an_older_disk_under_a_master_that_is_older_by_more_doubts_the_master() {
    let disk = filled().await;
    let engine = open_memory(&disk, CAPACITY).unwrap();
    let head = crate::epochs::sealed(&engine, 700).await;
    let tell = |position, seen| Answer {
        seen: Some(SeenSeals::from(seen)),
        history: Some(history(&[(A, 1)], position)),
    };
    assert!(engine.judge().judge(&tell(110, head)));
    assert!(!engine.judge().judge(&tell(100, head)));
    assert_eq!(kinds(&engine), [DoubtKind::Master]);
    try_to_free(&engine).await;
    assert_eq!(engine.holdings().sessions().len() as u64, N_FILES + 1);

    // The right master knows a seal that this disk has lost.
    let lost = cstore_types::epoch::SealPoint {
        seq: cstore_types::SealSeq(head.seq.0 + (1 << 20)),
        ..head
    };
    engine.judge().judge(&tell(120, lost));
    assert_eq!(kinds(&engine), [DoubtKind::StoreOlder]);
    try_to_free(&engine).await;
    assert_eq!(engine.holdings().sessions().len() as u64, N_FILES + 1);
}

/// The note lies in room that was taken when the disk was formatted. If even that fails, the hold
/// lives in memory, and the next process finds its reason again.
#[tokio::test]
async fn i4_s18_a_hold_that_cannot_be_written_holds_all_the_same() {
    for fault in [cstore_log::Fault::Enospc, cstore_log::Fault::Eio] {
        let disk = filled().await;
        let engine = open_memory(&disk, CAPACITY).unwrap();
        assert!(hear(&engine, history(&[(A, 1)], 120)));
        engine.judge().keep_noted().unwrap();
        for nth in 1..=8 {
            disk.strike(cstore_log::Verb::Write, nth, fault);
        }
        assert!(!hear(&engine, history(&[(A, 1)], 100)));
        assert!(engine.hold().is_held());
        try_to_free(&engine).await;
        assert_eq!(engine.holdings().sessions().len() as u64, N_FILES);
        drop(engine);

        disk.calm();
        let engine = open_memory(&disk.kill(), CAPACITY).unwrap();
        assert!(!hear(&engine, history(&[(A, 1)], 100)));
        assert_eq!(kinds(&engine), [DoubtKind::Master]);
    }
}
