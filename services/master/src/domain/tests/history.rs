//! History: a master that its storage nodes know to be an older copy, or another one.

use cstore_types::history::{Place, Point, place};
use cstore_types::{ErrorCode, NodeId, WriteCondition};

use super::super::*;
use super::fixture::*;
use crate::store::{Change, MetaStore, Observer};

/// A place that no history of a test has written.
pub(super) fn elsewhere() -> Point {
    Point {
        term: 1,
        life: 0xee,
        position: 1_000,
        ..Point::default()
    }
}

/// Lets storage-`n` tell that it has noted `noted`. Returns what it is told.
pub(super) fn beat(master: &Master, n: u8, noted: Point, doubts: Vec<DoubtReport>) -> Telling {
    let outcome = master.members.heartbeat(Heartbeat {
        noted: Some(noted),
        doubts,
        ..heartbeat(&format!("storage-{n}"), NodeRole::Storage, Some(disk(n, 0)))
    });
    match outcome {
        HeartbeatOutcome::Renewed { telling, .. } => telling,
        other => panic!("{other:?}"),
    }
}

pub(super) fn doubt() -> DoubtReport {
    DoubtReport {
        number: 5,
        kind: "master".to_owned(),
        detail: String::new(),
        accepted: false,
        seal: None,
    }
}

fn judge(telling: &Telling, noted: &Point) -> Place {
    place(&telling.lives, telling.head.position, |_| None, noted)
}

#[tokio::test]
async fn i4_a_node_is_told_what_it_needs_to_find_what_it_has_noted() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let first = beat(master, 1, Point::default(), Vec::new());
    assert_eq!(first.head, master.state().head);
    fixture.publish(1, "a").await;
    let second = beat(master, 1, first.head, Vec::new());
    assert!(second.head.position > first.head.position);
    assert_eq!(judge(&second, &first.head), Place::Contains);
    assert_eq!(judge(&second, &second.head), Place::Contains);
    assert_eq!(judge(&first, &second.head), Place::Ahead);
    assert_eq!(judge(&second, &elsewhere()), Place::Fork);
    assert!(fixture.master.members.may_release());
}

#[tokio::test]
async fn i4_a_contested_master_writes_and_releases_nothing_and_answers_reads() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    fixture.publish(1, "a").await;
    assert!(master.members.may_release());

    beat(master, 2, elsewhere(), Vec::new());
    assert!(!master.members.may_release());
    let why = master.waiting_for().unwrap();
    assert!(
        why.contains("storage-2") && why.contains("hold accept"),
        "{why}"
    );
    let commit = fixture.commit(session(2), "b", WriteCondition::Any);
    let refused = master.uploads.commit(&commit).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::MetadataOlder);
    let of_a = name("a");
    let tenant = tenant();
    let removed = master.namespace.delete_file(&tenant, &of_a, "");
    assert_eq!(removed.await.unwrap_err().code, ErrorCode::MetadataOlder);
    let position = master.state().head.position;
    let silent = std::time::Duration::from_secs(7_200);
    tokio::time::pause();
    for _ in 0..2 {
        let judged = master
            .releases
            .judge(store_of(1), &[session(9)], false)
            .await;
        assert_eq!(judged[0].1, Verdict::Open, "nobody ends it");
        tokio::time::advance(silent).await;
    }
    assert_eq!(master.state().head.position, position);
    master.namespace.get_file(&tenant, &of_a).await.unwrap();

    // The node has noted this history after all: it was restarted from its own folder.
    beat(master, 2, master.state().head, Vec::new());
    assert!(master.members.may_release());
    assert_eq!(master.context.derived.contested(), None);
}

#[tokio::test]
async fn i12_a_contested_master_goes_on_when_it_is_accepted_for_each_node_and_for_what_was_noted() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    for n in 1..=2 {
        beat(master, n, elsewhere(), vec![doubt()]);
    }
    let id = |n: u8| NodeId::new(&format!("storage-{n}")).unwrap();
    let wrong = master.members.accept_doubt(&id(1), 7).await.unwrap_err();
    assert_eq!(wrong.code, ErrorCode::InvalidArgument);

    master.members.accept_doubt(&id(1), 5).await.unwrap();
    let told = beat(master, 1, elsewhere(), vec![doubt()]);
    assert_eq!(told.accepted, Some(elsewhere()));
    assert!(master.context.derived.contested().is_some(), "storage-2");
    let other = Point {
        position: 1_001,
        ..elsewhere()
    };
    let told = beat(master, 1, other, vec![doubt()]);
    assert_eq!(told.accepted, None, "another place was not accepted");
    beat(master, 1, elsewhere(), vec![doubt()]);

    master.members.accept_doubt(&id(2), 5).await.unwrap();
    beat(master, 2, elsewhere(), vec![doubt()]);
    assert_eq!(master.context.derived.contested(), None);
    for n in 1..=2 {
        let told = beat(master, n, master.state().head, Vec::new());
        assert_eq!(told.accepted, None);
    }
    let tenant = tenant();
    let begun = master.uploads.begin(&tenant, None, &WriteCondition::Any, 1);
    let session = begun.await.unwrap().remove(0).session;
    let commit = fixture.commit(session, "a", WriteCondition::Any);
    master.uploads.commit(&commit).await.unwrap();
}

/// Each node is accepted by a batch of its own: a master that dies between two of them still knows
/// the first one, and is contested by the rest.
#[tokio::test]
async fn i12_s06_an_accept_that_is_cut_off_is_gone_on_with_node_by_node() {
    let fixture = Fixture::new().await;
    let id = |n: u8| NodeId::new(&format!("storage-{n}")).unwrap();
    for n in 1..=2 {
        beat(&fixture.master, n, elsewhere(), vec![doubt()]);
    }
    let members = &fixture.master.members;
    members.accept_doubt(&id(1), 5).await.unwrap();

    let context = fixture.master.context.clone();
    let key = cstore_types::ClusterSecret::generate().unwrap();
    let next = Master::open(context, key.ticket_key()).await.unwrap();
    for n in 1..=2 {
        let node = Node {
            told: Told::Sequence,
            noted: Some(elsewhere()),
            doubts: vec![doubt()],
            ..node(NodeRole::Storage, Some(disk(n, 0)))
        };
        let registered = next.members.register(id(n), node).await.unwrap();
        let accepted = (n == 1).then(elsewhere);
        assert_eq!(registered.telling.accepted, accepted, "storage-{n}");
    }
    assert!(next.context.derived.contested().is_some());
    assert!(!next.members.may_release());
    for n in 1..=2 {
        next.members.accept_doubt(&id(n), 5).await.unwrap();
    }
    assert_eq!(next.context.derived.contested(), None);
    assert!(next.members.may_release());
}

/// The node that has obeyed another history is gone for good, or its disk does not open any more.
#[tokio::test]
async fn i12_a_contest_of_a_node_that_does_not_return_can_be_ended() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    let id = NodeId::new("storage-2").unwrap();
    let contest = async || {
        let unopened = Node {
            told: Told::Nothing,
            noted: Some(elsewhere()),
            ..node(NodeRole::Storage, Some(disk(2, 0)))
        };
        master.members.register(id.clone(), unopened).await.unwrap();
        assert!(master.context.derived.contested().is_some());
        let tenant = tenant();
        let begun = master.uploads.begin(&tenant, None, &WriteCondition::Any, 1);
        assert_eq!(begun.await.unwrap_err().code, ErrorCode::MetadataOlder);
    };

    contest().await;
    let listed = master
        .members
        .nodes()
        .into_iter()
        .find(|view| view.id == id);
    let listed = listed.unwrap().node.doubts;
    assert_eq!((listed.len(), listed[0].kind.as_str()), (1, "master"));
    let number = listed[0].number;
    master.members.accept_doubt(&id, number).await.unwrap();
    assert_eq!(master.context.derived.contested(), None, "at once");

    let other = Point {
        position: 2_000,
        ..elsewhere()
    };
    beat(master, 1, other, Vec::new());
    assert!(master.context.derived.contested().is_some());
    tokio::time::pause();
    tokio::time::advance(LEASE * 2).await;
    let lost = NodeId::new("storage-1").unwrap();
    let given_up = master
        .members
        .give_up_store(&master.releases, &lost, store_of(1));
    given_up.await.unwrap();
    assert_eq!(master.context.derived.contested(), None);
}

/// A process that was resumed twice with its memory writes on in one life on both sides.
#[tokio::test]
async fn i4_a_node_that_has_heard_a_copy_of_this_process_contests_it() {
    let fixture = Fixture::new().await;
    let master = &fixture.master;
    fixture.publish(1, "a").await;
    let ours = fixture.store.head();
    assert_ne!(ours.chain, 0);
    fixture.publish(2, "b").await;

    beat(master, 1, ours, Vec::new());
    assert_eq!(master.context.derived.contested(), None);
    let of_a_copy = Point {
        chain: ours.chain ^ 1,
        ..ours
    };
    beat(master, 1, of_a_copy, Vec::new());
    assert!(master.context.derived.contested().is_some());
    let unlinked = Point { chain: 0, ..ours };
    beat(master, 1, unlinked, Vec::new());
    assert_eq!(master.context.derived.contested(), None, "not known");
}

/// A release must not lie beyond the place that the node notes for it.
#[tokio::test]
async fn i4_a_history_is_shown_as_it_is_when_the_answer_is_complete() {
    let fixture = Fixture::new().await;
    let mut told = beat(&fixture.master, 1, Point::default(), Vec::new());
    fixture.publish(1, "a").await;
    let history = fixture.store.history();
    told.show(&history, &Point::default());
    assert_eq!(told.head, fixture.master.state().head);
    assert_eq!(judge(&told, &told.head), Place::Contains);
}

/// An older copy is known by a node that has heard more. It may be the one that is away.
#[tokio::test]
async fn i4_nothing_is_released_before_every_store_was_heard_in_this_life_of_the_master() {
    let fixture = Fixture::new().await;
    let context = fixture.master.context.clone();
    let key = cstore_types::ClusterSecret::generate()
        .unwrap()
        .ticket_key();
    let next = Master::open(context, key).await.unwrap();
    assert!(!next.members.may_release());
    let register = async |n: u8, told: Told| {
        let node = Node {
            told,
            ..node(NodeRole::Storage, Some(disk(n, 0)))
        };
        let id = NodeId::new(&format!("storage-{n}")).unwrap();
        next.members.register(id, node).await.unwrap();
    };
    register(1, Told::Sequence).await;
    assert!(!next.members.may_release());
    register(2, Told::Nothing).await;
    assert!(!next.members.may_release(), "its disk is being opened");
    register(2, Told::Sequence).await;
    assert!(next.members.may_release());
}

/// The first node that is heard may say that this is an older copy. What it had written before
/// would make it a fork.
#[tokio::test]
async fn i4_a_master_that_knows_stores_writes_nothing_before_it_has_heard_one() {
    let fixture = Fixture::new().await;
    fixture.publish(1, "a").await;
    let derived = std::sync::Arc::new(Derived::default());
    let context = Context {
        derived: derived.clone(),
        ..fixture.master.context.clone()
    };
    let key = cstore_types::ClusterSecret::generate().unwrap();
    let next = Master::open(context, key.ticket_key()).await.unwrap();
    let (tenant, of_a) = (tenant(), name("a"));
    let key = keys::store_key(store_of(1));
    let known = fixture.store.get(&key).await.unwrap().unwrap();
    let change = Change {
        key: &key,
        old: None,
        new: Some(&known),
    };
    derived.observe(change).unwrap();

    let refused = next.namespace.delete_file(&tenant, &of_a, "").await;
    assert_eq!(refused.unwrap_err().code, ErrorCode::Unavailable);
    let unopened = Node {
        told: Told::Nothing,
        noted: Some(next.state().head),
        ..node(NodeRole::Storage, Some(disk(1, 0)))
    };
    let id = NodeId::new("storage-1").unwrap();
    next.members.register(id, unopened).await.unwrap();
    next.namespace
        .delete_file(&tenant, &of_a, "")
        .await
        .unwrap();
}

/// The copy was made before the store had registered, so it refuses what the node wants written and
/// hears no heartbeat of it. A person can decide about it all the same, however late.
#[tokio::test(start_paused = true)]
async fn i12_a_contest_of_a_store_that_the_copy_does_not_know_can_be_accepted_later() {
    let fixture = Fixture::new().await;
    let members = &fixture.master.members;
    let id = NodeId::new("storage-9").unwrap();
    let come = async |told: Told| {
        let stranger = Node {
            told,
            noted: Some(elsewhere()),
            ..node(NodeRole::Storage, Some(disk(9, 0)))
        };
        members.register(id.clone(), stranger).await
    };
    come(Told::Nothing).await.unwrap();
    assert!(fixture.master.context.derived.contested().is_some());
    for _ in 0..2 {
        tokio::time::advance(LEASE + crate::limits::FORGET_WORKER).await;
        let refused = come(Told::Epochs(vec![Default::default()])).await;
        assert_eq!(refused.unwrap_err().code, ErrorCode::MetadataOlder);
        members.forget_workers();
    }
    let mut listed = members.nodes().into_iter();
    let doubts = listed.find(|view| view.id == id).unwrap().node.doubts;
    members.accept_doubt(&id, doubts[0].number).await.unwrap();
    assert_eq!(fixture.master.context.derived.contested(), None);
}
