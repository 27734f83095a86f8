//! Upload sessions: tickets, conditions, verdicts, releases, and how a session ended.

use std::sync::Arc;

use cstore_types::epoch::SealPoint;
use cstore_types::history::Point;
use cstore_types::limits::MAX_STORAGE_NODES;
use cstore_types::{ErrorCode, SealSeq, SessionId, StoreUuid, WriteCondition};

use super::super::uploads::Published;
use super::super::*;
use super::fixture::*;
use crate::store::keys::{Ending, SessionRecord};

async fn publish(fixture: &Fixture, commit: &Commit) -> Result<Published, ErrorCode> {
    fixture
        .master
        .uploads
        .commit(commit)
        .await
        .map_err(|fault| fault.code)
}

#[tokio::test(start_paused = true)]
async fn a_ticket_is_good_until_it_expires_and_longer_while_its_upload_makes_progress() {
    let fixture = Fixture::new().await;
    let tickets = fixture
        .master
        .uploads
        .begin(&tenant(), None, &WriteCondition::Absent, 3)
        .await
        .unwrap();
    let workers: Vec<&str> = tickets
        .iter()
        .map(|claims| claims.worker.as_str())
        .collect();
    assert_eq!(
        workers,
        ["worker-1", "worker-2", "worker-1"],
        "workers take turns"
    );
    assert!(
        tickets
            .iter()
            .all(|claims| claims.expires_ms == fixture.clock.now_ms() + millis(TTL))
    );

    let in_time = fixture.commit(session(1), "in-time", WriteCondition::Absent);
    let late = fixture.commit(session(2), "late", WriteCondition::Absent);
    let active = fixture.commit(session(3), "active", WriteCondition::Absent);
    fixture
        .clock
        .advance(TTL - std::time::Duration::from_millis(1));
    publish(&fixture, &in_time).await.unwrap();
    fixture.clock.advance(std::time::Duration::from_millis(1));
    assert_eq!(
        publish(&fixture, &late).await,
        Err(ErrorCode::Unavailable),
        "workers may yet report progress"
    );
    tokio::time::advance(LEASE).await;
    assert_eq!(
        publish(&fixture, &late).await,
        Err(ErrorCode::PermissionDenied)
    );
    let verdict = fixture.master.releases.verdict(session(2)).await;
    assert_eq!(
        verdict,
        Ok(Verdict::Ended(Ending::Aborted)),
        "final: no later try may publish"
    );
    fixture
        .master
        .context
        .derived
        .activity
        .progress([session(3)].into_iter());
    publish(&fixture, &active).await.unwrap();
    // A published file stays published: an expired ticket only ends sessions that are open.
    publish(&fixture, &in_time).await.unwrap();
}

#[tokio::test]
async fn a_ticket_of_another_cluster_or_incarnation_publishes_nothing() {
    let fixture = Fixture::new().await;
    let mut commit = fixture.commit(session(1), "a", WriteCondition::Any);
    commit.claims.incarnation = Incarnation(2);
    assert_eq!(
        publish(&fixture, &commit).await,
        Err(ErrorCode::PermissionDenied)
    );
    let mut commit = fixture.commit(session(1), "a", WriteCondition::Any);
    commit.claims.cluster = ClusterUuid::from_bytes([9; 16]);
    assert_eq!(
        publish(&fixture, &commit).await,
        Err(ErrorCode::PermissionDenied)
    );
    assert_eq!(
        fixture.master.releases.verdict(session(1)).await,
        Ok(Verdict::Open)
    );
}

/// Two copies of the metadata each give out tickets. What was uploaded with one of the other copy
/// is neither published nor ended by this one.
#[tokio::test]
async fn i2_a_ticket_of_another_history_publishes_and_ends_nothing() {
    let fixture = Fixture::new().await;
    fixture.publish(7, "before").await;
    let head = fixture.store.head();
    let elsewhere = |change: &dyn Fn(&mut Point)| {
        let mut point = head;
        change(&mut point);
        point
    };
    let foreign = [
        elsewhere(&|point| point.life ^= 1),
        elsewhere(&|point| point.term += 1),
        elsewhere(&|point| point.position += 1),
        elsewhere(&|point| point.chain ^= 1),
    ];
    for issued in foreign {
        let mut commit = fixture.commit(session(1), "a", WriteCondition::Any);
        commit.claims.issued = Some(issued);
        let refused = fixture.master.uploads.commit(&commit).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::PermissionDenied, "{issued}");
        assert!(refused.message.contains("upload the file again"));
        let refused = fixture.master.uploads.abort(&commit.claims).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::PermissionDenied);
        let verdict = fixture.master.releases.verdict(session(1)).await;
        assert_eq!(verdict, Ok(Verdict::Open), "{issued}");
    }

    // Its own history goes on, also for a program that records no place in its tickets.
    fixture.publish(8, "after").await;
    for (n, issued) in [(1, Some(head)), (2, None), (3, Some(Point::default()))] {
        let name = format!("file {n}");
        let mut commit = fixture.commit(session(n), &name, WriteCondition::Any);
        commit.claims.issued = issued;
        publish(&fixture, &commit).await.unwrap();
    }
}

#[tokio::test]
async fn a_commit_without_a_whole_recipe_or_a_known_store_is_refused() {
    let fixture = Fixture::new().await;
    let fine = fixture.commit(session(1), "a", WriteCondition::Any);
    for wrong in [
        Commit {
            root: vec![1, 2, 3],
            ..fine.clone()
        },
        Commit {
            size: 17,
            ..fine.clone()
        },
        Commit {
            seals: Vec::new(),
            ..fine.clone()
        },
        Commit {
            seals: vec![fine.seals[0]; 17],
            ..fine.clone()
        },
    ] {
        assert_eq!(
            publish(&fixture, &wrong).await,
            Err(ErrorCode::InvalidArgument)
        );
    }
    let unknown = Commit {
        seals: vec![Seal {
            store: store_of(9),
            ..fine.seals[0]
        }],
        ..fine.clone()
    };
    assert_eq!(
        publish(&fixture, &unknown).await,
        Err(ErrorCode::Unavailable)
    );
    publish(&fixture, &fine).await.unwrap();
}

#[tokio::test]
async fn i10_a_commit_names_at_most_as_many_stores_as_a_cluster_may_have() {
    let fixture = Fixture::new().await;
    let commit = |n_stores: usize| {
        let seals = (0..n_stores as u128).map(|n| Seal {
            store: StoreUuid::from_bytes((1_000 + n).to_be_bytes()),
            point: SealPoint {
                seq: SealSeq(1),
                nonce: 0,
            },
        });
        Commit {
            seals: seals.collect(),
            ..fixture.commit(session(1), "a", WriteCondition::Any)
        }
    };
    let refused = fixture
        .master
        .uploads
        .commit(&commit(MAX_STORAGE_NODES + 1))
        .await
        .unwrap_err();
    let text =
        format!("field seals: must name at most {MAX_STORAGE_NODES} stores, each at most 16 times");
    assert_eq!(
        (refused.code, refused.message),
        (ErrorCode::InvalidArgument, text)
    );
    // The stores are not registered, but may be when the commit is repeated.
    assert_eq!(
        publish(&fixture, &commit(MAX_STORAGE_NODES)).await,
        Err(ErrorCode::Unavailable)
    );
}

#[tokio::test]
async fn each_condition_holds_or_ends_the_session() {
    let etag = "9e107d9d372bb6826bd81d3542a419d6-1";
    let equals = |etag: &str| WriteCondition::EtagEquals(etag.to_owned());
    let fixture = Fixture::new().await;
    fixture.publish(1, "there").await;
    let mut n = 10;
    for (condition, of_missing, of_present) in [
        (WriteCondition::Absent, None, Some(ErrorCode::AlreadyExists)),
        (WriteCondition::Any, None, None),
        (
            WriteCondition::Exists,
            Some(ErrorCode::PreconditionFailed),
            None,
        ),
        (equals(etag), Some(ErrorCode::PreconditionFailed), None),
        (
            equals("no etag"),
            Some(ErrorCode::PreconditionFailed),
            Some(ErrorCode::PreconditionFailed),
        ),
    ] {
        for (file, expected) in [
            (format!("missing-{n}"), of_missing),
            ("there".to_owned(), of_present),
        ] {
            n += 1;
            let commit = fixture.commit(session(n), &file, condition.clone());
            assert_eq!(
                publish(&fixture, &commit).await.err(),
                expected,
                "{condition:?} of {file}"
            );
            let verdict = fixture.master.releases.verdict(session(n)).await.unwrap();
            match expected {
                None => assert!(matches!(verdict, Verdict::Committed(_))),
                Some(_) => assert_eq!(verdict, Verdict::Ended(Ending::Aborted)),
            }
        }
    }
    fixture.check("after all conditions").await;
}

/// The first try of a commit lands between the two reads of its second try: the condition then
/// fails against the file of the session itself.
#[tokio::test]
async fn i11_nobody_is_told_that_a_name_is_taken_by_its_own_file() {
    let fixture = Arc::new(Fixture::new().await);
    let commit = fixture.commit(session(1), "a", WriteCondition::Absent);
    let first_try = {
        let (fixture, commit) = (fixture.clone(), commit.clone());
        move || -> futures_util::future::BoxFuture<'static, ()> {
            Box::pin(async move { drop(fixture.master.uploads.commit(&commit).await.unwrap()) })
        }
    };
    fixture
        .store
        .before_get(keys::name_key(&tenant(), &name("a")), Box::new(first_try));
    let published = publish(&fixture, &commit).await.unwrap();
    assert_eq!(
        (published.file.meta.version, published.replaced),
        (1, false)
    );
    fixture.check("after two tries at once").await;
}

#[tokio::test]
async fn i11_a_repeated_commit_is_answered_alike_also_when_others_have_changed_the_name() {
    type Change = for<'a> fn(&'a Fixture) -> futures_util::future::BoxFuture<'a, ()>;
    let changes: [(&str, Change); 4] = [
        ("nothing", |_| Box::pin(async {})),
        ("deleted", |f| {
            Box::pin(async { f.delete("a").await.unwrap() })
        }),
        ("overwritten", |f| Box::pin(f.publish(8, "a"))),
        ("renamed", |f| {
            Box::pin(async {
                drop(
                    f.master
                        .namespace
                        .rename_file(&Fixture::second_name("a", "z"))
                        .await
                        .unwrap(),
                )
            })
        }),
    ];
    for (what, change) in changes {
        for condition in [WriteCondition::Absent, WriteCondition::Any] {
            let fixture = Fixture::new().await;
            let commit = fixture.commit(session(1), "a", condition);
            let first = publish(&fixture, &commit).await.unwrap();
            change(&fixture).await;
            let files = fixture.master.context.derived.usage.total().files;
            assert_eq!(
                publish(&fixture, &commit).await,
                Ok(first.clone()),
                "{what}"
            );
            let aborted = fixture.master.uploads.abort(&commit.claims).await.unwrap();
            match what {
                "nothing" | "renamed" => {
                    assert_eq!(aborted, Aborted::Committed(first.file), "{what}")
                }
                _ => assert_eq!(aborted, Aborted::Removed { version: 1 }, "{what}"),
            }
            assert_eq!(
                fixture.master.context.derived.usage.total().files,
                files,
                "nothing is stored twice"
            );
            fixture.check(what).await;
        }
    }
}

/// Otherwise a ticket that is used twice would "succeed" with a file that is stored nowhere.
#[tokio::test]
async fn i1_a_commit_that_asks_for_something_else_than_the_first_is_refused_also_after_its_removal()
{
    let fixture = Fixture::new().await;
    let first = fixture.commit(session(1), "a", WriteCondition::Any);
    let other_name = fixture.commit(session(1), "b", WriteCondition::Any);
    // The recipe of this one names another block.
    let other_root = fixture.commit(session(2), "a", WriteCondition::Any).root;
    let other_content = Commit {
        root: other_root,
        ..first.clone()
    };

    publish(&fixture, &first).await.unwrap();
    for is_removed in [false, true] {
        if is_removed {
            fixture.delete("a").await.unwrap();
        }
        for other in [&other_name, &other_content] {
            assert_eq!(
                publish(&fixture, other).await,
                Err(ErrorCode::PreconditionFailed),
                "{is_removed}"
            );
        }
        publish(&fixture, &first).await.unwrap();
    }
    assert_eq!(fixture.master.context.derived.usage.total().files, 0);
    fixture.check("after all tries").await;
}

#[tokio::test]
async fn an_aborted_session_never_commits_and_says_so() {
    let fixture = Fixture::new().await;
    let commit = fixture.commit(session(1), "a", WriteCondition::Any);
    for _ in 0..2 {
        assert_eq!(
            fixture.master.uploads.abort(&commit.claims).await.unwrap(),
            Aborted::Ended
        );
    }
    assert_eq!(
        publish(&fixture, &commit).await,
        Err(ErrorCode::PermissionDenied)
    );
}

#[tokio::test]
async fn a_tombstone_of_an_older_program_is_unknown_and_never_called_aborted() {
    let fixture = Fixture::new().await;
    let commit = fixture.commit(session(1), "a", WriteCondition::Any);
    let mut batch = Batch::default();
    batch.put(
        keys::session_key(session(1)),
        SessionRecord::Ended(Ending::Unknown).encode(),
    );
    fixture.master.context.store.commit(batch).await.unwrap();
    assert_eq!(
        publish(&fixture, &commit).await,
        Err(ErrorCode::Unavailable)
    );
    let aborted = fixture.master.uploads.abort(&commit.claims).await;
    assert_eq!(
        aborted.map_err(|fault| fault.code),
        Err(ErrorCode::Unavailable)
    );
}

#[tokio::test]
async fn i3_a_release_is_due_after_its_delay_or_under_pressure_until_every_store_has_acknowledged()
{
    let fixture = Fixture::new().await;
    fixture.publish(1, "a").await;
    fixture.delete("a").await.unwrap();
    let releases = &fixture.master.releases;
    assert_eq!(releases.due(store_of(1), 0), []);
    assert_eq!(
        releases.due(store_of(1), 80),
        [session(1)],
        "a full node gets it at once"
    );
    fixture.clock.advance(RELEASE_DELAY);
    assert_eq!(releases.due(store_of(1), 0), [session(1)]);

    releases
        .acknowledge(store_of(1), &[session(1), session(7)])
        .await
        .unwrap();
    assert_eq!(releases.due(store_of(1), 100), []);
    assert_eq!(releases.due(store_of(2), 0), [session(1)]);
    releases
        .acknowledge(store_of(2), &[session(1)])
        .await
        .unwrap();
    assert_eq!(fixture.master.context.derived.releases.len(), 0);

    // A store that still reports sets of it has not dropped them, whatever it said.
    let verdicts = releases.judge(store_of(2), &[session(1)], true).await;
    let [(judged, Verdict::Ended(Ending::Removed { version: 1, .. }))] = &verdicts[..] else {
        panic!("{verdicts:?}")
    };
    assert_eq!(*judged, session(1));
    assert_eq!(releases.due(store_of(2), 0), [session(1)]);
    assert_eq!(releases.due(store_of(1), 0), []);
    fixture.check("after all acknowledgements").await;
}

#[tokio::test]
async fn i3_stores_that_acknowledge_at_the_same_time_take_nothing_back() {
    let fixture = Fixture::new().await;
    let sessions: Vec<SessionId> = (1..=20).map(session).collect();
    for n in 1..=20 {
        fixture.publish(n, "a").await;
    }
    fixture.delete("a").await.unwrap();
    let releases = &fixture.master.releases;
    let (one, two) = tokio::join!(
        releases.acknowledge(store_of(1), &sessions),
        releases.acknowledge(store_of(2), &sessions),
    );
    one.and(two).unwrap();
    assert_eq!(fixture.master.context.derived.releases.len(), 0);
    fixture.check("after both").await;
}

#[tokio::test(start_paused = true)]
async fn an_open_session_is_given_up_when_it_was_silent_for_the_life_of_a_ticket() {
    let fixture = Fixture::new().await;
    let releases = &fixture.master.releases;
    let store = store_of(1);
    let judged = async |n| releases.judge(store, &[session(n)], true).await.remove(0).1;
    assert_eq!(
        judged(1).await,
        Verdict::Open,
        "the first report starts the clock"
    );
    tokio::time::advance(TTL / 2).await;
    fixture
        .master
        .context
        .derived
        .activity
        .progress([session(2)].into_iter());
    tokio::time::advance(TTL / 2).await;
    assert_eq!(
        (judged(1).await, judged(2).await),
        (Verdict::Open, Verdict::Open)
    );
    assert_eq!(
        releases.due(store, 0),
        [session(1)],
        "silent for so long: it is ended now"
    );
    assert_eq!(judged(1).await, Verdict::Ended(Ending::Aborted));
    tokio::time::advance(TTL / 2).await;
    judged(2).await;
    assert_eq!(judged(2).await, Verdict::Ended(Ending::Aborted));
}

/// The clock decides when a deleted file's blocks go, and whether a ticket is still good: nothing
/// that is there is lost by it.
#[tokio::test(start_paused = true)]
async fn i3_s17_a_clock_that_jumps_by_ten_years_frees_nothing_that_is_needed() {
    const TEN_YEARS: std::time::Duration = std::time::Duration::from_secs(10 * 365 * 86_400);
    for is_ahead in [true, false] {
        let fixture = Fixture::new().await;
        fixture.publish(1, "kept").await;
        let late = fixture.commit(session(2), "late", WriteCondition::Any);
        let open = fixture.commit(session(3), "open", WriteCondition::Any);
        fixture
            .master
            .releases
            .judge(store_of(1), &[session(3)], true)
            .await;
        fixture.clock.jump(TEN_YEARS, is_ahead);

        let outcome = publish(&fixture, &late).await;
        if is_ahead {
            // Whether progress has renewed it is not known in the first lease.
            assert_eq!(outcome, Err(ErrorCode::Unavailable));
        } else {
            outcome.unwrap();
        }
        let judged = &fixture.master.releases;
        let sessions = [session(1), session(3)];
        let verdicts = judged.judge(store_of(1), &sessions, true).await;
        assert!(matches!(verdicts[0].1, Verdict::Committed(_)));
        assert_eq!(
            verdicts[1].1,
            Verdict::Open,
            "its silence is measured without the clock"
        );
        assert!(judged.due(store_of(1), 0).is_empty());
        fixture.clock.jump(TEN_YEARS, !is_ahead);
        publish(&fixture, &open).await.unwrap();
    }
}
