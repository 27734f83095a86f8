//! Inspection of a disk: it changes nothing, and says what a start then does.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::path::{Path, PathBuf};

use cstore_log::RealDisk;
use cstore_storage::engine::Engine;
use cstore_storage::{DiskInspection, OpenError, inspect};
use cstore_testkit::engine::{CAPACITY, identity, mark, numbered, open, store};
use cstore_testkit::folder::contents;
use cstore_testkit::{CLUSTER, DEDUP_KEY, session};
use cstore_types::epoch::{SealPoint, SeenSeals};
use cstore_types::inspection::{KnownDisk, MasterFacts, PayloadScope, StartOutcome};
use cstore_types::{SealSeq, error_chain};

const BLOCKS: u64 = 12;
const LEN: usize = 60_000;

/// Returns a folder with a disk of several segments, which was stopped cleanly.
async fn whole() -> tempfile::TempDir {
    let dir = tempfile::tempdir().unwrap();
    fill(dir.path(), 0..BLOCKS).await.close().unwrap();
    dir
}

async fn fill(dir: &Path, numbers: std::ops::Range<u64>) -> Engine {
    let engine = open(RealDisk::open(dir).unwrap(), CAPACITY).unwrap();
    for n in numbers {
        store(&engine, n, LEN).await.unwrap();
    }
    engine
}

fn copy(from: &Path) -> tempfile::TempDir {
    let to = tempfile::tempdir().unwrap();
    copy_into(from, to.path());
    to
}

fn copy_into(from: &Path, to: &Path) {
    for entry in std::fs::read_dir(from).unwrap() {
        let entry = entry.unwrap();
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            std::fs::create_dir_all(&target).unwrap();
            copy_into(&entry.path(), &target);
        } else {
            std::fs::copy(entry.path(), target).unwrap();
        }
    }
}

fn segments(dir: &Path) -> Vec<PathBuf> {
    let found = std::fs::read_dir(dir.join("segments")).unwrap();
    let mut paths: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|end| end == "bin"));
    paths.sort();
    paths
}

/// Flips a byte; from the end of the file if `at` is negative.
fn flip(path: &Path, at: i64) {
    let mut bytes = std::fs::read(path).unwrap();
    let len = i64::try_from(bytes.len()).unwrap();
    let at = usize::try_from(if at < 0 { len + at } else { at }).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Returns the segment and offsets at which bytes lie.
fn find(dir: &Path, needle: &[u8]) -> (PathBuf, Vec<i64>) {
    for path in segments(dir) {
        let bytes = std::fs::read(&path).unwrap();
        let places = bytes.windows(needle.len()).enumerate();
        let places: Vec<i64> = places
            .filter(|(_, window)| *window == needle)
            .map(|(at, _)| i64::try_from(at).unwrap())
            .collect();
        if !places.is_empty() {
            return (path, places);
        }
    }
    panic!("no segment has these bytes")
}

/// Returns the answer of a master that knows the key and has seen nothing of the disk.
fn key_alone() -> MasterFacts {
    MasterFacts {
        cluster: Some((CLUSTER, DEDUP_KEY)),
        ..MasterFacts::default()
    }
}

fn list<'a>(found: &'a DiskInspection, what: &str) -> &'a [String] {
    let mut lists = found.inspection.findings.iter();
    let list = lists.find(|list| list.what == what);
    list.map_or(&[], |list| &list.shown)
}

/// Returns the words for a start that is refused. The engine of these tests does not know its
/// folder.
fn refusal(dir: &Path, error: &OpenError) -> String {
    let error = error_chain(error).to_string();
    format!(
        "refuses: {}",
        error.replace("memory", &dir.display().to_string())
    )
}

/// Inspects a disk, checks that nothing of it has changed, and that a start does what was said.
fn check(dir: &Path, master: Option<&MasterFacts>) -> DiskInspection {
    let before = contents(dir);
    let found = inspect(dir, PayloadScope::All, master).unwrap();
    assert_eq!(contents(dir), before, "the folder has changed");

    let opened = open(RealDisk::open(dir).unwrap(), CAPACITY);
    let (outcome, start) = (found.inspection.outcome, &found.inspection.start);
    let engine = match opened {
        Ok(engine) => engine,
        Err(error) => {
            assert_eq!(*start, refusal(dir, &error));
            assert_eq!(outcome, StartOutcome::Refused);
            return found;
        }
    };
    let doubts = engine.hold().doubts();
    let said = doubts.iter().map(|doubt| {
        let accepted = if doubt.accepted { "accepted: " } else { "" };
        format!("{} {}: {accepted}{doubt}", doubt.number, doubt.kind.name())
    });
    let said: Vec<String> = said.collect();
    assert_eq!(list(&found, "doubts"), said, "{start}");
    assert_eq!(
        engine.hold().is_held(),
        outcome == StartOutcome::Held,
        "{start}"
    );
    // A block is unreadable if, and only if, it was named. Its upload was, too.
    for n in 0..BLOCKS {
        let id = numbered(n, LEN).id;
        let reads = engine.read_block(&id).is_ok();
        if master.is_some() || reads {
            let named = list(&found, "damaged blocks");
            let is_named = named.iter().any(|line| line.starts_with(&id.to_string()));
            assert!(!reads || !is_named, "block {n} reads well and was named");
        }
        if !reads && outcome == StartOutcome::Damaged {
            assert!(found.hit.contains(&session(n)), "block {n}: {start}");
        }
    }
    found
}

#[tokio::test]
async fn a_whole_disk_starts_whole_with_or_without_the_key() {
    let dir = whole().await;
    assert!(segments(dir.path()).len() > 2);
    for master in [None, Some(key_alone())] {
        let dir = copy(dir.path());
        let found = check(dir.path(), master.as_ref());
        let Inspected { outcome, start } = short(&found);
        assert_eq!((outcome, start), (StartOutcome::Whole, "starts whole"));
        assert!(found.inspection.findings.is_empty());
    }
    // A kill leaves an end that is cut off, and nothing that is damaged.
    let killed = tempfile::tempdir().unwrap();
    let engine = fill(killed.path(), 0..5).await;
    let copied = copy(killed.path());
    drop(engine);
    assert_eq!(
        short(&check(copied.path(), None)).outcome,
        StartOutcome::Whole
    );
}

struct Inspected<'a> {
    outcome: StartOutcome,
    start: &'a str,
}

fn short(found: &DiskInspection) -> Inspected<'_> {
    Inspected {
        outcome: found.inspection.outcome,
        start: &found.inspection.start,
    }
}

#[tokio::test]
async fn a_flipped_byte_of_a_payload_is_named_as_its_block() {
    let dir = whole().await;
    let (segment, places) = find(dir.path(), &mark(3));
    flip(&segment, places[0] + 5_000);
    for (master, words) in [
        (Some(key_alone()), "1 block is unreadable"),
        (None, "in damaged frames some are unreadable"),
    ] {
        let dir = copy(dir.path());
        let found = check(dir.path(), master.as_ref());
        assert_eq!(found.inspection.outcome, StartOutcome::Damaged);
        assert!(
            found.inspection.start.contains(words),
            "{}",
            found.inspection.start
        );
        assert!(found.hit.contains(&session(3)));
        assert_eq!(list(&found, "damaged parts of segments").len(), 1);
    }
    let none = inspect(dir.path(), PayloadScope::None, None).unwrap();
    assert_eq!(
        none.inspection.outcome,
        StartOutcome::Whole,
        "no payload is read"
    );
    let sample = inspect(dir.path(), PayloadScope::Sample, None).unwrap();
    assert_eq!(
        sample.inspection.outcome,
        StartOutcome::Damaged,
        "few segments are all read"
    );
}

#[tokio::test]
async fn headers_and_footers_are_mended_and_nothing_is_lost() {
    let dir = whole().await;
    for (at, what) in [
        (40, "damaged headers, which a start writes anew"),
        (
            -10,
            "footers that are damaged or unfinished, which a start writes anew or does without",
        ),
    ] {
        let dir = copy(dir.path());
        flip(&segments(dir.path())[1], at);
        let found = check(dir.path(), Some(&key_alone()));
        let start = &found.inspection.start;
        assert_eq!(
            found.inspection.outcome,
            StartOutcome::Damaged,
            "{what}: {start}"
        );
        assert!(
            start.contains("nothing that a file needs is lost"),
            "{start}"
        );
        assert_eq!(list(&found, what).len(), 1, "{what}");
        assert!(found.hit.is_empty());
    }
}

#[tokio::test]
async fn a_damaged_set_is_found_also_where_a_start_does_not_read_it() {
    let dir = whole().await;
    let (segment, places) = find(dir.path(), numbered(4, LEN).id.as_bytes());
    // In the directory of the frame, in the set, in the footer.
    flip(&segment, places[1] + 3);
    let kept = copy(dir.path());
    let found = check(kept.path(), Some(&key_alone()));
    assert_eq!(found.inspection.outcome, StartOutcome::Damaged);
    assert_eq!(list(&found, "damaged reference sets").len(), 1);
    assert!(found.hit.contains(&session(4)));

    std::fs::remove_file(dir.path().join("bitmap.bin")).unwrap();
    let found = check(dir.path(), Some(&key_alone()));
    assert_eq!(found.inspection.outcome, StartOutcome::Held);
    assert!(
        found
            .inspection
            .start
            .contains("cstore admin hold accept storage-1 1")
    );
    // The set lies there: nothing is called missing.
    let start = &found.inspection.start;
    let remedy = "; put back a whole copy of what is damaged and start again, or ";
    assert!(start.contains(remedy), "{start}");
}

#[tokio::test]
async fn what_is_missing_or_another_is_a_hold_with_its_number() {
    let dir = whole().await;
    type Blow = fn(&Path);
    let blows: [(&str, &str, Blow); 7] = [
        ("segment_missing", "put back what is missing", |dir| {
            std::fs::remove_file(&segments(dir)[1]).unwrap()
        }),
        (
            "segment_foreign",
            "put back the right file in place of the foreign one",
            |dir| {
                let all = segments(dir);
                std::fs::copy(&all[2], &all[1]).unwrap();
            },
        ),
        (
            "segment_short",
            "put back a whole copy of what is damaged",
            |dir| {
                let file = std::fs::File::options().write(true).open(&segments(dir)[1]);
                file.unwrap().set_len(70_000).unwrap();
            },
        ),
        ("superblock", "put back what is missing or damaged", |dir| {
            std::fs::remove_file(dir.join("superblock.bin")).unwrap()
        }),
        ("superblock", "put back what is missing or damaged", |dir| {
            for slot in 0..4 {
                flip(&dir.join("superblock.bin"), slot * 4_096 + 50);
            }
        }),
        ("inventory", "put back what is missing or damaged", |dir| {
            std::fs::remove_file(dir.join("inventory.bin")).unwrap()
        }),
        ("segment_missing", "put back what is missing", |dir| {
            for segment in segments(dir) {
                std::fs::remove_file(segment).unwrap();
            }
        }),
    ];
    for (kind, remedy, blow) in blows {
        for master in [None, Some(key_alone())] {
            let dir = copy(dir.path());
            blow(dir.path());
            let found = check(dir.path(), master.as_ref());
            let start = &found.inspection.start;
            assert_eq!(
                found.inspection.outcome,
                StartOutcome::Held,
                "{kind}: {start}"
            );
            let doubts = list(&found, "doubts");
            assert!(
                doubts.iter().any(|doubt| doubt.contains(kind)),
                "{kind}: {doubts:?}"
            );
            assert!(start.contains("cstore admin hold accept"), "{start}");
            assert!(start.contains(remedy), "{kind}: {start}");
        }
    }
}

/// Returns the answer of a master that has seen exactly the state of the disk in `dir`.
fn facts_of(dir: &Path, sessions: std::ops::Range<u64>) -> MasterFacts {
    let copied = copy(dir);
    let engine = open(RealDisk::open(copied.path()).unwrap(), CAPACITY).unwrap();
    let epochs = engine.judge().epochs();
    // The last epoch is that of this open, which has taken no write.
    let before = epochs[epochs.len() - 1].end_before;
    let newest: SealPoint = engine.judge().seal_point(SealSeq(before));
    let known = KnownDisk {
        node: identity().node,
        seen: SeenSeals {
            newest,
            ..SeenSeals::default()
        },
        accepted: Default::default(),
        sessions: sessions.map(session).collect(),
    };
    MasterFacts {
        disks: [(identity().store, known)].into(),
        ..key_alone()
    }
}

#[tokio::test]
async fn the_master_tells_an_older_copy_and_lost_sets() {
    let old = whole().await;
    let new = copy(old.path());
    fill(new.path(), BLOCKS..BLOCKS + 2).await.close().unwrap();
    let facts = facts_of(new.path(), 0..BLOCKS + 2);

    let found = inspect(new.path(), PayloadScope::All, Some(&facts)).unwrap();
    assert_eq!(short(&found).start, "starts whole");
    let before = contents(old.path());
    let found = inspect(old.path(), PayloadScope::All, Some(&facts)).unwrap();
    assert_eq!(contents(old.path()), before);
    assert_eq!(short(&found).outcome, StartOutcome::Held);
    assert!(list(&found, "doubts")[0].contains("store_older"));
    assert_eq!(found.hit.len(), 2);

    // A committed upload of which there never was a set.
    let facts = facts_of(new.path(), 0..BLOCKS + 3);
    let found = inspect(new.path(), PayloadScope::All, Some(&facts)).unwrap();
    assert_eq!(short(&found).outcome, StartOutcome::Held);
    assert!(list(&found, "doubts")[0].contains("sets_lost"));
    assert_eq!(found.hit.iter().collect::<Vec<_>>(), [&session(BLOCKS + 2)]);

    // The disk has another key than the cluster.
    let other = MasterFacts {
        cluster: Some((CLUSTER, cstore_types::DedupKey::from_bytes([1; 32]))),
        ..facts
    };
    let found = inspect(new.path(), PayloadScope::All, Some(&other)).unwrap();
    assert_eq!(short(&found).outcome, StartOutcome::Refused);
}

#[tokio::test]
async fn a_disk_that_is_in_use_is_not_judged_and_one_of_a_later_program_is_refused() {
    let dir = whole().await;
    let engine = fill(dir.path(), 0..0).await;
    let before = contents(dir.path());
    let found = inspect(dir.path(), PayloadScope::All, None).unwrap();
    assert_eq!(found.inspection.outcome, StartOutcome::InUse);
    assert_eq!(contents(dir.path()), before);
    engine.close().unwrap();
    drop(engine);

    // Headers and superblock of nobody: nothing says whose the segments are.
    for segment in segments(dir.path()) {
        std::fs::write(segment, vec![7; 8_192]).unwrap();
    }
    std::fs::remove_file(dir.path().join("inventory.bin")).unwrap();
    std::fs::write(dir.path().join("superblock.bin"), vec![7; 16_384]).unwrap();
    let found = inspect(dir.path(), PayloadScope::All, None).unwrap();
    assert_eq!(found.inspection.outcome, StartOutcome::Refused);
    let opened = open(RealDisk::open(dir.path()).unwrap(), CAPACITY);
    let refused = opened.unwrap_err();
    assert_eq!(found.inspection.start, refusal(dir.path(), &refused));
}
