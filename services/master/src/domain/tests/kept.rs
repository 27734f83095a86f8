//! Uploads that may have committed in a history that a person has given up: nothing of them is
//! released until a person drops them.

use cstore_types::{ErrorCode, NodeId, SessionId, WriteCondition};

use super::super::*;
use super::fixture::*;
use super::history::{beat, doubt, elsewhere};
use crate::store::keys::Ending;

/// Accepts the master for a storage node that has obeyed another history.
async fn accept(master: &Master, n: u8) {
    beat(master, n, elsewhere(), vec![doubt()]);
    let id = NodeId::new(&format!("storage-{n}")).unwrap();
    master.members.accept_doubt(&id, 5).await.unwrap();
    beat(master, n, elsewhere(), vec![doubt()]);
    beat(master, n, master.state().head, Vec::new());
}

/// Lets a store report a session twice, with the life of a ticket in between.
async fn report_for_long(master: &Master, session: SessionId) -> Verdict {
    let store = store_of(1);
    for _ in 0..2 {
        master.releases.judge(store, &[session], true).await;
        tokio::time::advance(master.context.limits.ticket_ttl).await;
    }
    let mut judged = master.releases.judge(store, &[session], true).await;
    judged.remove(0).1
}

async fn of_new_era(fixture: &Fixture) -> SessionId {
    let condition = WriteCondition::Any;
    let begun = fixture
        .master
        .uploads
        .begin(&tenant(), None, &condition, 1)
        .await;
    begun.unwrap().remove(0).session
}

#[tokio::test(start_paused = true)]
async fn i4_an_upload_that_an_accepted_master_does_not_know_is_kept() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let before = of_new_era(&fixture).await;
    accept(master, 1).await;

    let after = of_new_era(&fixture).await;
    for unknown in [session(9), before] {
        assert_eq!(report_for_long(master, unknown).await, Verdict::Kept);
    }
    let ended = report_for_long(master, after).await;
    assert_eq!(ended, Verdict::Ended(Ending::Aborted), "it was begun here");
    assert_eq!(master.releases.due(store_of(1), 100), [after]);
    assert_eq!(master.context.derived.n_kept(), 2);
    fixture.check("two are kept").await;

    // A second accept ends no earlier one.
    let era = master.context.derived.era().unwrap();
    assert!(era.is_of(after) && !era.is_of(before));
    accept(master, 2).await;
    assert_ne!(master.context.derived.era(), Some(era));
    assert_eq!(report_for_long(master, session(8)).await, Verdict::Kept);
    assert_eq!(report_for_long(master, session(9)).await, Verdict::Kept);
    assert_eq!(master.releases.due(store_of(1), 100), [after]);
}

/// Counts an upload as undecided until the upload was silent for the lifetime of a ticket, and as
/// kept from then on.
#[tokio::test(start_paused = true)]
async fn i12_uploads_that_will_be_kept_are_counted_before_they_are() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let ttl = master.context.limits.ticket_ttl;
    let report = async |session| master.releases.judge(store_of(1), &[session], true).await;
    let undecided = || master.context.derived.undecided(ttl);
    report(session(8)).await;
    assert_eq!(undecided(), (0, std::time::Duration::ZERO), "no accept");

    accept(master, 1).await;
    let own = of_new_era(&fixture).await;
    report(own).await;
    tokio::time::advance(ttl / 4).await;
    report(session(9)).await;
    assert_eq!(
        undecided(),
        (2, ttl * 3 / 4),
        "the first was reported before"
    );
    assert_eq!(master.context.derived.n_kept(), 0);

    tokio::time::advance(ttl * 3 / 4).await;
    report(session(8)).await;
    assert_eq!(undecided(), (1, ttl / 4));
    assert_eq!(master.context.derived.n_kept(), 1);
    tokio::time::advance(ttl).await;
    report(session(9)).await;
    assert_eq!(undecided(), (0, std::time::Duration::ZERO));
    assert_eq!(master.context.derived.n_kept(), 2);
}

#[tokio::test(start_paused = true)]
async fn i2_an_upload_that_may_have_committed_elsewhere_neither_commits_late_nor_is_aborted() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    accept(master, 1).await;
    // The place of its ticket is one of this history: both copies have it.
    let commit = fixture.commit(session(3), "a", WriteCondition::Any);
    let aborted = master.uploads.abort(&commit.claims).await.unwrap();
    assert_eq!(aborted, Aborted::Ended);
    assert_eq!(master.context.derived.kept_after(None, 10), [session(3)]);
    let refused = master.uploads.commit(&commit).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied, "{refused:?}");

    // The history that was given up may have ended it, and its sets be gone although they were
    // sealed: it is refused although nothing is known against it.
    let unknown = fixture.commit(session(2), "c", WriteCondition::Any);
    for _ in 0..2 {
        let refused = master.uploads.commit(&unknown).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::PermissionDenied, "{refused:?}");
    }

    // One that expired is refused finally, and its blocks stay.
    let late = fixture.commit(session(4), "b", WriteCondition::Any);
    fixture
        .clock
        .jump(std::time::Duration::from_secs(86_400), true);
    tokio::time::advance(master.context.limits.lease).await;
    for n in 1..=2 {
        beat(master, n, master.state().head, Vec::new());
    }
    let refused = master.uploads.commit(&late).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied, "{refused:?}");
    assert_eq!(
        master.context.derived.kept_after(None, 10),
        [session(2), session(3), session(4)]
    );
    assert_eq!(master.releases.due(store_of(1), 100), []);
    fixture.check("two are kept").await;
}

#[tokio::test(start_paused = true)]
async fn i3_what_is_kept_is_released_when_a_person_drops_it() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    fixture.publish(1, "a").await;
    accept(master, 1).await;
    for n in [5, 7, 6] {
        assert_eq!(report_for_long(master, session(n)).await, Verdict::Kept);
    }
    let derived = &master.context.derived;
    assert_eq!(derived.kept_after(None, 2), [session(5), session(6)]);
    assert_eq!(derived.kept_after(Some(session(6)), 2), [session(7)]);

    // A committed session and an unknown one are not kept: they stay as they are.
    let named = [session(1), session(5), session(7), session(8), session(5)];
    assert_eq!(master.releases.drop_kept(&named).await, Ok(2));
    assert_eq!(derived.kept_after(None, 10), [session(6)]);
    for n in 1..=2 {
        let due = master.releases.due(store_of(n), 100);
        assert_eq!(due, [session(5), session(7)]);
    }
    let verdict = master.releases.verdict(session(1)).await.unwrap();
    assert!(matches!(verdict, Verdict::Committed(_)));
    fixture.check("one is kept").await;
}

/// The disk that knows better is lost for good, so nobody accepts its doubt: what others hold of
/// the history that goes with it stays all the same. The master may have been started again since
/// it was contested, and say only that it has not heard that disk.
#[tokio::test(start_paused = true)]
async fn i4_going_on_without_the_disk_that_contested_the_master_keeps_what_others_hold() {
    for (is_restarted, is_excused) in [(false, false), (true, false), (true, true)] {
        let fixture = Fixture::new().await;
        let mut master = None;
        beat(&fixture.master, 2, elsewhere(), vec![doubt()]);
        if is_restarted {
            let context = fixture.master.context.clone();
            context.derived.contest(None);
            let secret = cstore_types::ClusterSecret::generate().unwrap();
            let next = Master::open(context, secret.ticket_key()).await.unwrap();
            let one = Node {
                told: Told::Sequence,
                ..node(NodeRole::Storage, Some(disk(1, 0)))
            };
            let id = NodeId::new("storage-1").unwrap();
            next.members.register(id, one).await.unwrap();
            master = Some(next);
        }
        let master = master.as_ref().unwrap_or(&fixture.master);
        tokio::time::advance(master.context.limits.lease * 2).await;
        let id = NodeId::new("storage-2").unwrap();
        let members = &master.members;
        match is_excused {
            true => members.excuse(&id).await.unwrap(),
            false => {
                let given_up = members.give_up_store(&master.releases, &id, store_of(2));
                given_up.await.map(drop).unwrap();
            }
        }
        beat(master, 1, master.state().head, Vec::new());
        assert!(members.may_release());
        assert_eq!(report_for_long(master, session(9)).await, Verdict::Kept);
    }
}

/// A commit has looked at the era, and waits for what disks tell; meanwhile the master is accepted.
#[tokio::test]
async fn i4_a_commit_does_not_pass_an_accept_that_it_meets() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    beat(master, 1, elsewhere(), vec![doubt()]);
    let unknown = fixture.commit(session(2), "c", WriteCondition::Any);
    let telling = master.members.told.clone().write_owned().await;
    let uploads = master.uploads.clone();
    let mut committing = Box::pin(async move { uploads.commit(&unknown).await });
    for _ in 0..100 {
        assert!(futures_util::poll!(&mut committing).is_pending());
        tokio::task::yield_now().await;
    }
    let id = NodeId::new("storage-1").unwrap();
    master.members.accept_doubt(&id, 5).await.unwrap();
    drop(telling);
    let refused = committing.await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied, "{refused:?}");
    assert_eq!(master.context.derived.kept_after(None, 10), [session(2)]);
}

/// A second accept, between the look at the era and the batch: the batch is refused, and decided
/// again.
#[tokio::test]
async fn i4_a_batch_of_an_era_that_has_ended_is_refused() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    for n in 1..=2 {
        let mut batch = crate::store::Batch::default();
        let _ = master
            .context
            .derived
            .is_of_other_era(session(2), &mut batch);
        batch.put(b"n".to_vec(), Vec::new());
        accept(master, n).await;
        let outcome = master.context.store.commit(batch).await;
        assert!(matches!(outcome, Err(crate::store::MetaError::Conflict)));
    }
}
