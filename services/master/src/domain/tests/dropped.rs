//! Rules whose caller goes away: at whatever await a future is dropped, memory and metadata agree.

use cstore_types::{NodeId, WriteCondition};
use futures_util::future::{BoxFuture, FutureExt};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use super::super::*;
use super::fixture::*;

/// A rule that writes, over a prepared master.
type Rule = for<'a> fn(&'a Fixture) -> BoxFuture<'a, Result<(), Fault>>;

/// Prepares two files, a second name, and a session that waits for its release.
async fn prepared() -> Fixture {
    let fixture = Fixture::new().await;
    fixture.publish(1, "a").await;
    fixture.publish(2, "b").await;
    fixture.publish(3, "deleted").await;
    fixture
        .master
        .namespace
        .copy_file(&Fixture::second_name("a", "a2"))
        .await
        .unwrap();
    fixture.delete("deleted").await.unwrap();
    fixture.clock.advance(RELEASE_DELAY);
    fixture
}

const RULES: [(&str, Rule); 11] = [
    ("commit of a new name", |f| {
        let commit = f.commit(session(9), "new", WriteCondition::Absent);
        async move { f.master.uploads.commit(&commit).await.map(drop) }.boxed()
    }),
    ("commit over a name", |f| {
        let commit = f.commit(session(9), "b", WriteCondition::Any);
        async move { f.master.uploads.commit(&commit).await.map(drop) }.boxed()
    }),
    ("commit that its condition refuses", |f| {
        let commit = f.commit(session(9), "b", WriteCondition::Absent);
        async move { f.master.uploads.commit(&commit).await.map(drop) }.boxed()
    }),
    ("abort", |f| {
        async move {
            f.master
                .uploads
                .abort(&f.claims(session(9)))
                .await
                .map(drop)
        }
        .boxed()
    }),
    ("delete of a last name", |f| f.delete("b").boxed()),
    ("delete of one of two names", |f| f.delete("a").boxed()),
    ("rename over a name", |f| {
        async move {
            f.master
                .namespace
                .rename_file(&Fixture::second_name("a", "b"))
                .await
                .map(drop)
        }
        .boxed()
    }),
    ("copy over a name", |f| {
        async move {
            f.master
                .namespace
                .copy_file(&Fixture::second_name("b", "a"))
                .await
                .map(drop)
        }
        .boxed()
    }),
    ("acknowledgement of a release", |f| {
        async move {
            f.master
                .releases
                .acknowledge(store_of(1), &[session(3)])
                .await
        }
        .boxed()
    }),
    ("verdict on an abandoned and a released session", |f| {
        async move {
            f.master
                .releases
                .acknowledge(store_of(1), &[session(3)])
                .await?;
            f.master
                .releases
                .judge(store_of(1), &[session(3), session(8)], true)
                .await;
            Ok(())
        }
        .boxed()
    }),
    ("registration of a new disk", |f| {
        f.register_storage(7, 0).boxed()
    }),
];

#[tokio::test]
async fn i3_i11_a_rule_that_is_dropped_at_any_await_leaves_memory_as_a_restart_would_derive_it() {
    for (what, rule) in RULES {
        let mut polls = 0;
        loop {
            let fixture = prepared().await;
            let finished = poll_then_drop(rule(&fixture), polls).await.is_some();
            fixture
                .check(&format!("{what}, dropped after {polls} polls"))
                .await;
            // The remains of the dropped rule do not disturb the next caller.
            let _ = rule(&fixture).await;
            fixture
                .check(&format!("{what}, dropped after {polls} polls and repeated"))
                .await;
            if finished {
                break;
            }
            polls += 1;
        }
        assert!(polls > 2, "{what}: has awaits to be dropped at");
    }
}

/// Seen: a registration that was dropped after its map was durable left a master that never became
/// ready.
#[tokio::test]
async fn i12_a_map_that_a_dropped_registration_froze_is_in_use_at_once() {
    let mut polls = 0;
    loop {
        let fixture = Fixture::new().await;
        // A master of its own, with no map yet.
        let members = Membership::new(fixture.master.context.clone());
        let id = NodeId::new("storage-1").unwrap();
        let registered = poll_then_drop(
            members.register(id, node(NodeRole::Storage, Some(disk(1, 0)))),
            polls,
        )
        .await;
        let stored = fixture
            .master
            .context
            .store
            .get(crate::store::keys::PLACEMENT)
            .await
            .unwrap();
        assert_eq!(
            stored.is_some(),
            fixture.master.context.derived.placement().is_some()
        );
        if registered.is_some() {
            return;
        }
        polls += 1;
    }
}

/// Histories of all rules over few names, some dropped midway: after each step the memory equals a
/// fold from scratch.
#[tokio::test]
async fn the_derived_state_of_random_histories_equals_a_fold_from_scratch() {
    let (first, cases) = cstore_testkit::seed_and_cases(1, 20);
    for seed in first..first + cases {
        println!("CSTORE_SEED={seed} CSTORE_CASES=1");
        let mut rng = StdRng::seed_from_u64(seed);
        let fixture = Fixture::new().await;
        for step in 0..60u8 {
            let file = format!("f{}", rng.random_range(0..5));
            let other = format!("f{}", rng.random_range(0..5));
            let old = session(rng.random_range(0..=step));
            let master = &fixture.master;
            let claims = fixture.claims(old);
            let rule: BoxFuture<'_, ()> = match rng.random_range(0..8) {
                0..3 => {
                    let condition = if rng.random_bool(0.5) {
                        WriteCondition::Any
                    } else {
                        WriteCondition::Absent
                    };
                    let commit = fixture.commit(
                        if rng.random_bool(0.9) {
                            session(step)
                        } else {
                            old
                        },
                        &file,
                        condition,
                    );
                    async move { drop(master.uploads.commit(&commit).await) }.boxed()
                }
                3 => fixture.delete(&file).map(drop).boxed(),
                4 => async move {
                    drop(
                        master
                            .namespace
                            .rename_file(&Fixture::second_name(&file, &other))
                            .await,
                    )
                }
                .boxed(),
                5 => async move {
                    drop(
                        master
                            .namespace
                            .copy_file(&Fixture::second_name(&file, &other))
                            .await,
                    )
                }
                .boxed(),
                6 => async move {
                    let store = store_of(1 + step % 2);
                    let due = master.releases.due(store, 100);
                    drop(master.releases.acknowledge(store, &due).await);
                }
                .boxed(),
                _ => async move { drop(master.uploads.abort(&claims).await) }.boxed(),
            };
            let polls = if rng.random_bool(0.3) {
                rng.random_range(0..12)
            } else {
                usize::MAX
            };
            poll_then_drop(rule, polls).await;
            fixture.clock.advance(RELEASE_DELAY / 3);
            fixture.check(&format!("seed {seed}, step {step}")).await;
        }
    }
}
