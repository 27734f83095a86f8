//! Storage nodes that are away when the master starts.

use cstore_types::history::Point;
use cstore_types::{ErrorCode, NodeId};

use super::super::*;
use super::fixture::*;
use crate::store::keys::StoreState;

/// The next life of the master of a fixture, which has heard nobody yet.
async fn next_life(fixture: &Fixture) -> Master {
    let context = fixture.master.context.clone();
    let key = cstore_types::ClusterSecret::generate()
        .unwrap()
        .ticket_key();
    Master::open(context, key).await.unwrap()
}

fn id(n: u8) -> NodeId {
    NodeId::new(&format!("storage-{n}")).unwrap()
}

async fn register(master: &Master, n: u8, noted: Option<Point>) {
    let node = Node {
        told: Told::Sequence,
        noted,
        ..node(NodeRole::Storage, Some(disk(n, 0)))
    };
    master.members.register(id(n), node).await.unwrap();
}

#[tokio::test]
async fn i4_s03_space_waits_for_a_store_that_is_away_until_a_person_excuses_it() {
    let fixture = Fixture::new().await;
    let next = next_life(&fixture).await;
    register(&next, 1, None).await;
    let members = &next.members;
    assert!(!members.may_release());
    assert_eq!(members.unheard_stores(), 1);
    let waits = members.releases_wait_for().unwrap();
    assert!(waits.contains(&store_of(2).to_string()), "{waits}");
    assert!(waits.contains("admin node away storage-2"), "{waits}");

    let refused = members.excuse(&id(1)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PreconditionFailed);
    let refused = members.excuse(&id(9)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::InvalidArgument);
    assert!(!members.may_release());

    members.excuse(&id(2)).await.unwrap();
    let era = next.context.derived.era();
    assert!(era.is_some());
    members.excuse(&id(2)).await.unwrap();
    assert_eq!(next.context.derived.era(), era, "uploads go on");
    assert!(members.may_release());
    assert_eq!(
        (members.unheard_stores(), members.releases_wait_for()),
        (0, None)
    );
    let record = next.context.derived.store(store_of(2)).unwrap();
    assert_eq!(record.state, StoreState::Away);

    // It outlives the master, and ends when the node is back.
    let third = next_life(&fixture).await;
    register(&third, 1, None).await;
    assert!(third.members.may_release());
    register(&third, 2, None).await;
    let record = third.context.derived.store(store_of(2)).unwrap();
    assert_eq!(record.state, StoreState::Up);
    let fourth = next_life(&fixture).await;
    register(&fourth, 1, None).await;
    assert!(!fourth.members.may_release());
}

/// Seals that are committed meanwhile do not end it, and it keeps what is known of the store.
#[tokio::test]
async fn i4_a_store_that_is_excused_keeps_its_newest_seal() {
    let fixture = Fixture::new().await;
    fixture.publish(1, "a").await;
    let before = fixture.master.context.derived.store(store_of(2)).unwrap();
    let next = next_life(&fixture).await;
    register(&next, 1, None).await;
    next.members.excuse(&id(2)).await.unwrap();
    let after = next.context.derived.store(store_of(2)).unwrap();
    assert_eq!(
        (after.seen, after.accepted, &after.node),
        (before.seen, before.accepted, &before.node)
    );
}

/// Excusing a store does not make it a store that agrees.
#[tokio::test]
async fn i4_an_excused_store_that_has_obeyed_another_history_contests_the_master_when_it_is_back() {
    let fixture = Fixture::new().await;
    let next = next_life(&fixture).await;
    register(&next, 1, None).await;
    next.members.excuse(&id(2)).await.unwrap();
    assert!(next.members.may_release());
    let elsewhere = Point {
        term: 1,
        life: 0xee,
        position: 1_000,
        ..Point::default()
    };
    register(&next, 2, Some(elsewhere)).await;
    assert!(!next.members.may_release());
    assert!(
        next.members
            .releases_wait_for()
            .unwrap()
            .contains("operator")
    );
    let refused = next.members.excuse(&id(1)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PreconditionFailed);
}

/// The network was cut for longer than a lease, and the process of the node lived on: it beats, and
/// never registers.
#[tokio::test(start_paused = true)]
async fn i4_s03_an_excused_node_that_is_heard_again_is_not_excused_any_more() {
    let fixture = Fixture::new().await;
    tokio::time::advance(LEASE * 2).await;
    let members = &fixture.master.members;
    members.excuse(&id(2)).await.unwrap();
    let state = || {
        let record = fixture.master.context.derived.store(store_of(2));
        record.unwrap().state
    };
    assert_eq!(state(), StoreState::Away);
    let outcome = fixture.beat("storage-2", NodeRole::Storage, Some(disk(2, 0)));
    assert!(matches!(outcome, HeartbeatOutcome::Renewed { .. }));
    members.take_reported(store_of(2)).await.unwrap();
    assert_eq!(state(), StoreState::Up);

    // The next life of this folder, or an older copy of it, waits for the node.
    let next = next_life(&fixture).await;
    register(&next, 1, None).await;
    assert!(!next.members.may_release());
}

/// The disk of a node does not open: it registers, fails and is started again, so it is never lost.
#[tokio::test(start_paused = true)]
async fn i12_a_node_whose_disk_does_not_open_can_be_excused() {
    let fixture = Fixture::new().await;
    let next = next_life(&fixture).await;
    register(&next, 1, None).await;
    let come = async || {
        let unopened = Node {
            told: Told::Nothing,
            ..node(NodeRole::Storage, Some(disk(2, 0)))
        };
        next.members.register(id(2), unopened).await.unwrap();
    };
    come().await;
    assert!(!next.members.may_release());
    next.members.excuse(&id(2)).await.unwrap();
    assert!(next.members.may_release());
    come().await;
    assert!(next.members.may_release(), "it is not back yet");
}
