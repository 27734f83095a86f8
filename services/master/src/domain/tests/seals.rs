//! Seals: a disk that went back behind what the master has seen of it.

use cstore_log::{FaultyDisk, Gate, HookedDisk, Verb};
use cstore_types::epoch::{Epoch, SealPoint, SeenSeals, first_seq};
use cstore_types::{ClusterSecret, ErrorCode, NodeId, SealSeq, WriteCondition};

use super::super::*;
use super::fixture::*;

const A: u64 = 0xa;
const B: u64 = 0xb;
const C: u64 = 0xc;

fn point(number: u32, counter: u64, nonce: u64) -> SealPoint {
    SealPoint {
        seq: SealSeq(first_seq(number) - 1 + counter),
        nonce,
    }
}

/// The report of storage-1 with epochs, each with its nonce and the seal in front of it.
struct Report {
    head: SealPoint,
    epochs: Vec<Epoch>,
    doubts: Vec<DoubtReport>,
}

impl Report {
    /// One epoch of nonce A, up to `counter`.
    fn original(counter: u64) -> Self {
        Self {
            head: point(1, counter, A),
            epochs: vec![Epoch {
                number: 1,
                nonce: A,
                end_before: 0,
            }],
            doubts: Vec::new(),
        }
    }

    /// An older copy: its epoch A ended at `end`, and it writes in epoch B now.
    fn copy(end: u64, counter: u64) -> Self {
        let mut report = Self::original(end);
        report.epochs.push(Epoch {
            number: 2,
            nonce: B,
            end_before: point(1, end, A).seq.0,
        });
        report.head = point(2, counter, B);
        report
    }

    /// The right disk: its epoch A ended at `end`, and it writes in an epoch of nonce C.
    fn right(end: u64, counter: u64) -> Self {
        let mut report = Self::copy(end, counter);
        report.epochs[1].nonce = C;
        report.head = point(2, counter, C);
        report
    }

    fn with_doubt(mut self, seal: SealPoint, accepted: bool) -> Self {
        self.doubts.push(DoubtReport {
            number: 1,
            kind: "store_older".to_owned(),
            detail: String::new(),
            accepted,
            seal: Some(seal),
        });
        self
    }

    async fn register(&self, master: &Master) -> Option<SealPoint> {
        let node = Node {
            told: Told::Epochs(self.epochs.clone()),
            doubts: self.doubts.clone(),
            ..node(NodeRole::Storage, Some(disk(1, self.head.seq.0)))
        };
        let id = NodeId::new("storage-1").unwrap();
        let registered = master.members.register(id, node).await.unwrap();
        registered.seen.map(|seen| seen.newest)
    }

    fn beat(&self, master: &Master) -> HeartbeatOutcome {
        master.members.heartbeat(Heartbeat {
            told: Told::Epochs(self.epochs.clone()),
            doubts: self.doubts.clone(),
            ..heartbeat(
                "storage-1",
                NodeRole::Storage,
                Some(disk(1, self.head.seq.0)),
            )
        })
    }
}

/// A commit whose seal on storage-1 is `seal`, under a name of its own.
fn commit(fixture: &Fixture, n: u8, seal: SealPoint) -> Commit {
    let mut commit = fixture.commit(session(n), &format!("f{n}"), WriteCondition::Any);
    commit.seals[0].point = seal;
    commit
}

fn seen(master: &Master) -> SealPoint {
    let record = master.context.derived.store(store_of(1)).unwrap();
    record.seen.newest
}

/// Registers storage-1 and publishes a file on it. Returns its seal.
async fn with_a_file(fixture: &Fixture) -> SealPoint {
    let sealed = point(1, 40, A);
    Report::original(40).register(&fixture.master).await;
    let file = commit(fixture, 1, sealed);
    fixture.master.uploads.commit(&file).await.unwrap();
    sealed
}

/// Returns true if the master holds the disk that sent the heartbeat to be older than it should be.
fn is_suspect(outcome: &HeartbeatOutcome) -> bool {
    matches!(outcome, HeartbeatOutcome::Renewed { suspect: true, .. })
}

#[tokio::test]
async fn i4_the_newest_seal_is_told_with_its_nonce_to_the_disk_that_registers() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    assert_eq!(
        Report::original(3).register(master).await,
        Some(SealPoint::default())
    );
    let sealed = point(1, 40, A);
    let commit = commit(&fixture, 1, sealed);
    master.uploads.commit(&commit).await.unwrap();
    assert_eq!(seen(master), sealed);
    assert_eq!(
        Report::copy(36, 0).register(master).await,
        Some(sealed),
        "whatever the disk has written since"
    );
    // The disk judges; the master holds it to be old until it has.
    let outcome = Report::copy(36, 50).with_doubt(sealed, false).beat(master);
    assert!(is_suspect(&outcome));
}

#[tokio::test]
async fn i4_a_commit_over_a_disk_that_went_back_behind_its_seal_is_refused_for_good() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    Report::original(40).register(master).await;
    let lost = commit(&fixture, 1, point(1, 40, A));
    Report::copy(36, 0).register(master).await;

    let refused = master.uploads.commit(&lost).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::DataLoss);
    // Also when the right disk comes back: its blocks may be released by then.
    Report::original(40).register(master).await;
    assert!(master.uploads.commit(&lost).await.is_err());
    assert_eq!(seen(master), SealPoint::default());

    let held = commit(&fixture, 2, point(1, 36, A));
    master.uploads.commit(&held).await.unwrap();
}

#[tokio::test]
async fn i4_seals_of_a_disk_in_doubt_raise_nothing_that_the_master_has_seen() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let sealed = with_a_file(&fixture).await;

    let copy = Report::copy(36, 50).with_doubt(sealed, false);
    copy.register(master).await;
    assert!(is_suspect(&copy.beat(master)));
    let newer = commit(&fixture, 2, point(2, 50, B));
    master.uploads.commit(&newer).await.unwrap();
    assert_eq!(seen(master), sealed);
}

/// A disk is older, takes uploads in doubt, and the right one comes back: it holds everything that
/// was seen before, and lacks a file.
#[tokio::test]
async fn i4_the_right_disk_is_suspect_too_if_it_lacks_what_was_committed_over_the_older_one() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let sealed = with_a_file(&fixture).await;
    let record = || master.context.derived.store(store_of(1)).unwrap();
    let copy = |counter| Report::copy(36, counter).with_doubt(sealed, false);
    copy(0).register(master).await;
    for n in [7, 9, 8] {
        copy(n).beat(master);
        let file = commit(&fixture, u8::try_from(n).unwrap(), point(2, n, B));
        master.uploads.commit(&file).await.unwrap();
    }
    assert_eq!(record().seen.all(), [sealed, point(2, 9, B)]);

    let right = Report::original(40);
    right.register(master).await;
    let outcome = right.beat(master);
    assert!(is_suspect(&outcome));
    let HeartbeatOutcome::Renewed { seen, .. } = outcome else {
        panic!()
    };
    assert_eq!(seen.unwrap().all(), [sealed, point(2, 9, B)]);

    // A person accepts that the files of the older one are lost.
    let accepted = right.with_doubt(point(2, 9, B), true);
    accepted.beat(master);
    master.members.take_reported(store_of(1)).await.unwrap();
    assert_eq!(record().seen, SeenSeals::from(sealed));
    assert!(!is_suspect(&accepted.beat(master)));
}

/// The older disk is accepted: what was committed over it in doubt lies in front of what it writes
/// from then on, and one seal proves both.
#[tokio::test]
async fn i4_a_later_seal_of_the_accepted_disk_takes_the_place_of_that_in_doubt() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let sealed = with_a_file(&fixture).await;
    let record = || master.context.derived.store(store_of(1)).unwrap();
    let doubted = Report::copy(36, 7).with_doubt(sealed, false);
    doubted.register(master).await;
    doubted.beat(master);
    let in_doubt = commit(&fixture, 2, point(2, 7, B));
    master.uploads.commit(&in_doubt).await.unwrap();

    let accepted = Report::copy(36, 9).with_doubt(sealed, true);
    accepted.beat(master);
    master.members.take_reported(store_of(1)).await.unwrap();
    assert_eq!(record().seen, SeenSeals::from(point(2, 9, B)));
    // The next report has not come yet: the disk still counts as doubted.
    for (n, counter, left) in [(3, 8, [9, 0]), (4, 10, [9, 10])] {
        let early = commit(&fixture, n, point(2, counter, B));
        master.uploads.commit(&early).await.unwrap();
        let [newest, in_doubt] = record().seen.all();
        assert_eq!(newest, point(2, left[0], B));
        assert_eq!(in_doubt == SealPoint::default(), left[1] == 0, "{in_doubt}");
    }
    Report::copy(36, 11).beat(master);
    let later = commit(&fixture, 5, point(2, 11, B));
    master.uploads.commit(&later).await.unwrap();
    assert_eq!(record().seen, SeenSeals::from(point(2, 11, B)));
}

#[tokio::test]
async fn i12_an_accepted_older_disk_is_taken_as_it_is_and_only_for_the_seal_that_was_accepted() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let sealed = with_a_file(&fixture).await;

    for (seal, accepted) in [(sealed, false), (point(1, 39, A), true)] {
        let other = Report::copy(36, 50).with_doubt(seal, accepted);
        other.register(master).await;
        other.beat(master);
        master.members.take_reported(store_of(1)).await.unwrap();
        assert_eq!(seen(master), sealed);
    }
    let accepted = Report::copy(36, 50).with_doubt(sealed, true);
    accepted.register(master).await;
    assert!(is_suspect(&accepted.beat(master)), "until it is taken");
    for _ in 0..2 {
        master.members.take_reported(store_of(1)).await.unwrap();
        assert_eq!(seen(master), point(2, 50, B));
        assert!(!is_suspect(&accepted.beat(master)));
    }
}

/// What a disk has told another life of the master may not be true any more.
#[tokio::test]
async fn i4_a_commit_waits_for_disks_that_were_not_heard_in_this_life_of_the_master() {
    let fixture = Fixture::new().await;
    Report::original(40).register(&fixture.master).await;
    let context = fixture.master.context.clone();
    let key = ClusterSecret::generate().unwrap().ticket_key();
    let next = Master::open(context, key).await.unwrap();

    let waiting = commit(&fixture, 1, point(1, 40, A));
    let refused = next.uploads.commit(&waiting).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);
    let unopened = Node {
        told: Told::Nothing,
        ..node(NodeRole::Storage, Some(disk(1, 0)))
    };
    let id = NodeId::new("storage-1").unwrap();
    next.members.register(id, unopened).await.unwrap();
    let refused = next.uploads.commit(&waiting).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable);

    Report::original(40).register(&next).await;
    let id = NodeId::new("storage-2").unwrap();
    let other = node(NodeRole::Storage, Some(disk(2, 1)));
    next.members.register(id, other).await.unwrap();
    next.uploads.commit(&waiting).await.unwrap();
}

/// A report with these epochs: number, nonce and last seal in front of each.
fn report(head: SealPoint, epochs: &[(u32, u64, SealPoint)]) -> Report {
    let epoch = |(number, nonce, before): &(u32, u64, SealPoint)| Epoch {
        number: *number,
        nonce: *nonce,
        end_before: before.seq.0,
    };
    Report {
        head,
        epochs: epochs.iter().map(epoch).collect(),
        doubts: Vec::new(),
    }
}

/// Both copies begin an epoch of the same number when they are started.
#[tokio::test]
async fn i4_a_seal_of_another_copy_with_the_same_epoch_number_is_gone() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let right = report(
        point(2, 5, C),
        &[(1, A, SealPoint::default()), (2, C, point(1, 36, A))],
    );
    right.register(master).await;
    let lost = commit(&fixture, 1, point(2, 5, C));
    Report::copy(36, 0).register(master).await;
    let refused = master.uploads.commit(&lost).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::DataLoss);
}

/// A node was started again during an upload: what it has sealed before must be there as well.
#[tokio::test]
async fn i4_every_seal_of_an_upload_is_judged_not_only_the_last_one() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let both = |n, first: SealPoint, last: SealPoint| {
        let mut both = commit(&fixture, n, first);
        let last = Seal {
            point: last,
            ..both.seals[0]
        };
        both.seals.push(last);
        both
    };
    Report::copy(36, 9).register(master).await;
    let lost = both(1, point(1, 40, A), point(2, 9, B));
    let refused = master.uploads.commit(&lost).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::DataLoss);
    let held = both(2, point(1, 36, A), point(2, 9, B));
    master.uploads.commit(&held).await.unwrap();
}

#[tokio::test]
async fn i4_a_seal_of_an_epoch_whose_end_is_not_told_is_gone() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let lost = commit(&fixture, 1, point(1, 40, A));
    let holed = report(
        point(3, 1, C),
        &[(1, A, SealPoint::default()), (3, C, point(2, 1, B))],
    );
    holed.register(master).await;
    assert!(master.uploads.commit(&lost).await.is_err());
}

#[tokio::test]
async fn i4_a_late_heartbeat_of_the_process_before_changes_nothing() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    Report::original(40).register(master).await;
    let lost = commit(&fixture, 1, point(1, 40, A));
    Report::copy(36, 0).register(master).await;
    let late = Report::original(40).beat(master);
    assert_eq!(late, HeartbeatOutcome::RegisterAgain);
    assert!(master.uploads.commit(&lost).await.is_err());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i4_a_disk_registers_after_commits_whose_callers_are_gone() {
    let gate = std::sync::Arc::new(Gate::default());
    let fixture = Fixture::on(HookedDisk::gated(FaultyDisk::new(), &gate)).await;
    let master = &fixture.master;
    Report::original(40).register(master).await;
    let sealed = point(1, 40, A);
    let lost = commit(&fixture, 1, sealed);
    gate.close(Verb::Sync);
    let uploads = master.uploads.clone();
    let committing =
        cstore_node::shutdown::spawn("commit", async move { uploads.commit(&lost).await });
    let held = gate.clone();
    tokio::task::spawn_blocking(move || held.await_held(Verb::Sync))
        .await
        .unwrap();
    committing.abort();
    assert!(committing.await.unwrap_err().is_cancelled());

    let copy = Report::copy(36, 0);
    let registering = copy.register(master);
    tokio::pin!(registering);
    assert!(futures_util::poll!(&mut registering).is_pending());
    gate.open(Verb::Sync);
    assert_eq!(registering.await, Some(sealed), "it is told of the commit");
}

#[tokio::test]
async fn i4_an_accept_does_not_lower_what_commits_have_raised_since_the_report() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let right = report(
        point(3, 5, C),
        &[(1, A, SealPoint::default()), (3, C, point(1, 36, A))],
    );
    right.register(master).await;
    let sealed = point(3, 5, C);
    let first = commit(&fixture, 1, sealed);
    master.uploads.commit(&first).await.unwrap();
    let accepted = Report::copy(36, 50).with_doubt(sealed, true);
    accepted.register(master).await;
    accepted.beat(master);
    let newer = commit(&fixture, 2, point(2, 60, B));
    master.uploads.commit(&newer).await.unwrap();
    master.members.take_reported(store_of(1)).await.unwrap();
    assert_eq!(seen(master), point(2, 60, B));
}

#[tokio::test]
async fn i4_a_disk_is_suspect_until_it_has_judged_what_it_was_told() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let sealed = with_a_file(&fixture).await;
    let copy = Report::copy(36, 50);
    copy.register(master).await;
    assert!(is_suspect(&copy.beat(master)), "it has no doubt yet");
    let newer = commit(&fixture, 2, point(2, 50, B));
    master.uploads.commit(&newer).await.unwrap();
    assert_eq!(seen(master), sealed);
}

#[tokio::test]
async fn i12_an_accept_outlives_the_process_that_it_was_meant_for() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let report = Report::copy(36, 0).with_doubt(point(1, 40, A), false);
    report.register(master).await;
    report.beat(master);
    let id = NodeId::new("storage-1").unwrap();
    master.members.accept_doubt(&id, 1).await.unwrap();
    let unopened = Node {
        told: Told::Nothing,
        ..node(NodeRole::Storage, Some(disk(1, 0)))
    };
    master.members.register(id, unopened).await.unwrap();
    report.register(master).await;
    let outcome = report.beat(master);
    let HeartbeatOutcome::Renewed { accepting, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(accepting, [1]);
}

/// A disk that took no writes could not keep the number of its doubt, and the next start gives the number
/// to another one.
#[tokio::test]
async fn i4_an_accept_of_a_doubt_is_not_told_for_another_one_of_its_number() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let seen = Report::copy(36, 0).with_doubt(point(1, 40, A), false);
    seen.register(master).await;
    seen.beat(master);
    let id = NodeId::new("storage-1").unwrap();
    master.members.accept_doubt(&id, 1).await.unwrap();
    let other = Report::copy(36, 0).with_doubt(point(1, 44, A), false);
    other.register(master).await;
    let outcome = other.beat(master);
    let HeartbeatOutcome::Renewed { accepting, .. } = outcome else {
        panic!("{outcome:?}");
    };
    assert_eq!(accepting, [0; 0]);
}

#[tokio::test]
async fn i4_a_heartbeat_with_the_store_of_another_node_changes_nothing() {
    let fixture = Fixture::new().await;
    let beat = fixture.beat("storage-1", NodeRole::Storage, Some(disk(2, 9)));
    assert_eq!(beat, HeartbeatOutcome::RegisterAgain);
}

/// The right disk takes uploads while it is in doubt because of what an older copy took. Both began
/// epochs of the same number, so their seals cannot be compared by it.
#[tokio::test]
async fn i4_what_the_right_disk_takes_in_doubt_is_remembered_whatever_its_number() {
    for counter in [5, 9, 12] {
        let fixture = Fixture::new().await;
        let master = &fixture.master;
        let newest = with_a_file(&fixture).await;
        let lost = point(2, 9, B);
        let older = Report::copy(36, 9).with_doubt(newest, false);
        older.register(master).await;
        older.beat(master);
        let file = commit(&fixture, 2, lost);
        master.uploads.commit(&file).await.unwrap();

        let right = Report::right(40, counter).with_doubt(lost, false);
        right.register(master).await;
        assert!(is_suspect(&right.beat(master)));
        // The second one has landed late.
        for n in [counter, counter - 1] {
            let file = commit(&fixture, 100 + u8::try_from(n).unwrap(), point(2, n, C));
            master.uploads.commit(&file).await.unwrap();
        }
        let record = || master.context.derived.store(store_of(1)).unwrap();
        assert_eq!(record().seen.in_doubt, point(2, counter, C));

        // A person accepts that the file of the older copy is lost. A copy of the right disk from
        // before it took its file lacks that.
        Report::right(40, counter)
            .with_doubt(lost, true)
            .beat(master);
        master.members.take_reported(store_of(1)).await.unwrap();
        assert!(!is_suspect(&Report::right(40, counter).beat(master)) || counter > 9);
        let copy = Report::original(40);
        copy.register(master).await;
        assert!(is_suspect(&copy.beat(master)), "it lacks the file");
    }
}

/// An older copy takes uploads in doubt and is accepted; then the right disk comes back and is
/// accepted in its turn.
#[tokio::test]
async fn i12_an_accepted_disk_is_not_asked_for_what_lies_in_front_of_what_was_accepted() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let newest = with_a_file(&fixture).await;
    let older = Report::copy(36, 7).with_doubt(newest, false);
    older.register(master).await;
    older.beat(master);
    let file = commit(&fixture, 2, point(2, 7, B));
    master.uploads.commit(&file).await.unwrap();
    Report::copy(36, 9).with_doubt(newest, true).beat(master);
    master.members.take_reported(store_of(1)).await.unwrap();
    assert!(!is_suspect(&Report::copy(36, 9).beat(master)));

    let lost = point(2, 9, B);
    let right = Report::right(40, 1).with_doubt(lost, false);
    right.register(master).await;
    assert!(is_suspect(&right.beat(master)));
    Report::right(40, 1).with_doubt(lost, true).beat(master);
    master.members.take_reported(store_of(1)).await.unwrap();
    assert!(!is_suspect(&Report::right(40, 1).beat(master)));
}

/// The program of a node that is not told the seal of a time of doubt cannot list a doubt about it.
#[tokio::test]
async fn i12_an_earlier_program_is_not_judged_by_a_seal_that_it_is_not_told() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let newest = with_a_file(&fixture).await;
    let older = Report::copy(36, 9).with_doubt(newest, false);
    older.register(master).await;
    older.beat(master);
    let file = commit(&fixture, 2, point(2, 9, B));
    master.uploads.commit(&file).await.unwrap();
    let right = Report::original(40);
    let node = Node {
        told: Told::Epochs(right.epochs.clone()),
        protocol: 0,
        ..node(NodeRole::Storage, Some(disk(1, right.head.seq.0)))
    };
    let id = NodeId::new("storage-1").unwrap();
    master.members.register(id, node).await.unwrap();
    assert!(!is_suspect(&right.beat(master)));
}
