//! Seals: a disk that went back behind what the master has seen of it.

use cstore_types::epoch::{Epoch, SealPoint, first_seq};
use cstore_types::{ClusterSecret, ErrorCode, NodeId, SealSeq, WriteCondition};

use super::super::*;
use super::fixture::*;

const A: u64 = 0xa;
const B: u64 = 0xb;

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
            ..node(NodeRole::Storage, Some(disk(1, self.head.seq.0)))
        };
        let id = NodeId::new("storage-1").unwrap();
        master.members.register(id, node).await.unwrap()
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
    commit.seals[0].seq = seal.seq;
    commit
}

fn seen(master: &Master) -> SealPoint {
    master.context.derived.store(store_of(1)).unwrap().seen
}

/// The beat after the one that has found the doubt.
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
    Report::original(40).register(master).await;
    let sealed = point(1, 40, A);
    master
        .uploads
        .commit(&commit(&fixture, 1, sealed))
        .await
        .unwrap();

    let copy = Report::copy(36, 50).with_doubt(sealed, false);
    copy.register(master).await;
    assert!(is_suspect(&copy.beat(master)));
    let newer = commit(&fixture, 2, point(2, 50, B));
    master.uploads.commit(&newer).await.unwrap();
    assert_eq!(seen(master), sealed);
}

#[tokio::test]
async fn i12_an_accepted_older_disk_is_taken_as_it_is_and_only_for_the_seal_that_was_accepted() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    Report::original(40).register(master).await;
    let sealed = point(1, 40, A);
    master
        .uploads
        .commit(&commit(&fixture, 1, sealed))
        .await
        .unwrap();

    for (seal, accepted) in [(sealed, false), (point(1, 39, A), true)] {
        let other = Report::copy(36, 50).with_doubt(seal, accepted);
        other.register(master).await;
        other.beat(master);
        master.members.take_accepted(store_of(1)).await.unwrap();
        assert_eq!(seen(master), sealed);
    }
    let accepted = Report::copy(36, 50).with_doubt(sealed, true);
    assert!(!is_suspect(&accepted.beat(master)));
    for _ in 0..2 {
        master.members.take_accepted(store_of(1)).await.unwrap();
        assert_eq!(seen(master), point(2, 50, B));
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
