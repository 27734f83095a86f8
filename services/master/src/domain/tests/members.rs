//! Members: leases, roles, disks that went back in time, the frozen map.

use cstore_types::{ErrorCode, NodeId, SealSeq, WriteCondition};

use super::super::*;
use super::fixture::*;

fn state_of(fixture: &Fixture, id: &str) -> Option<NodeState> {
    let nodes = fixture.master.members.nodes();
    nodes
        .into_iter()
        .find(|view| view.id.as_str() == id)
        .map(|view| view.state)
}

#[tokio::test(start_paused = true)]
async fn a_node_is_lost_after_its_lease_and_uploads_wait_for_it() {
    let fixture = Fixture::new().await;
    let begin = async || {
        let uploads = &fixture.master.uploads;
        uploads
            .begin(&tenant(), None, &WriteCondition::Absent, 1)
            .await
    };
    begin().await.unwrap();
    tokio::time::advance(LEASE + std::time::Duration::from_millis(1)).await;
    fixture.beat("storage-1", NodeRole::Storage, Some(disk(1, 0)));
    fixture.beat("worker-1", NodeRole::Worker, None);
    assert_eq!(state_of(&fixture, "storage-2"), Some(NodeState::Lost));
    assert_eq!(
        fixture.master.waiting_for().as_deref(),
        Some("storage node storage-2 is lost"),
        "the list of nodes shows the reason of the refusal"
    );
    let refused = begin().await.unwrap_err();
    assert_eq!(
        (refused.code, refused.message.as_str()),
        (ErrorCode::Unavailable, "storage node storage-2 is lost")
    );
    fixture.beat("storage-2", NodeRole::Storage, Some(disk(2, 0)));
    assert_eq!(
        begin().await.unwrap()[0].worker.as_str(),
        "worker-1",
        "the other worker is lost"
    );
}

#[tokio::test(start_paused = true)]
async fn i7_the_refusal_of_an_upload_has_the_reason_of_the_node_that_is_not_ready() {
    let fixture = Fixture::new().await;
    let beat = |reason: &str| {
        fixture.master.members.heartbeat(Heartbeat {
            ready: false,
            reason: reason.to_owned(),
            ..heartbeat("storage-2", NodeRole::Storage, Some(disk(2, 0)))
        })
    };
    for (reason, says) in [
        (
            "disk takes no writes",
            "storage node storage-2 is not ready: disk takes no writes",
        ),
        ("", "storage node storage-2 is not ready"),
    ] {
        beat(reason);
        let uploads = &fixture.master.uploads;
        let (tenant, condition) = (tenant(), WriteCondition::Absent);
        let begun = uploads.begin(&tenant, None, &condition, 1).await;
        let refused = begun.unwrap_err();
        let found = (refused.code, refused.message.as_str());
        assert_eq!(found, (ErrorCode::Unavailable, says));
    }

    // A node that is silent may have ended for another reason since.
    beat("disk takes no writes");
    tokio::time::advance(LEASE * 2).await;
    let why = fixture.master.members.waiting_for();
    assert_eq!(why.as_deref(), Some("storage node storage-1 is lost"));
    fixture.beat("storage-1", NodeRole::Storage, Some(disk(1, 0)));
    let why = fixture.master.members.waiting_for();
    assert_eq!(why.as_deref(), Some("storage node storage-2 is lost"));
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_is_lost_for_long_is_forgotten_and_a_storage_node_never() {
    let fixture = Fixture::new().await;
    tokio::time::advance(std::time::Duration::from_secs(600)).await;
    fixture.register_worker(3).await;
    fixture.master.members.forget_workers();
    assert!(state_of(&fixture, "worker-1").is_some());
    tokio::time::advance(LEASE * 2).await;
    fixture.master.members.forget_workers();
    assert_eq!(state_of(&fixture, "worker-1"), None);
    assert!(state_of(&fixture, "worker-3").is_some() && state_of(&fixture, "storage-1").is_some());
}

/// Whether the disk is suspect, and its newest seal that was seen.
fn renewed(outcome: HeartbeatOutcome) -> (bool, u64) {
    match outcome {
        HeartbeatOutcome::Renewed { suspect, seen, .. } => (suspect, seen.unwrap().newest.seq.0),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn i12_an_accepted_doubt_is_told_until_the_node_says_that_it_has_accepted_it() {
    let fixture = Fixture::new().await;
    fixture.register_storage(1, 0).await.unwrap();
    let doubt = |number, accepted| DoubtReport {
        number,
        kind: "segment_missing".to_owned(),
        detail: "segment 00000002 is missing".to_owned(),
        accepted,
        seal: None,
    };
    let beat = |doubts: Vec<DoubtReport>| {
        fixture.master.members.heartbeat(Heartbeat {
            doubts,
            ..heartbeat("storage-1", NodeRole::Storage, Some(disk(1, 0)))
        })
    };
    let told = |outcome| match outcome {
        HeartbeatOutcome::Renewed { accepting, .. } => accepting,
        other => panic!("{other:?}"),
    };
    assert!(told(beat(vec![doubt(3, false), doubt(4, true)])).is_empty());

    let members = &fixture.master.members;
    let id = NodeId::new("storage-1").unwrap();
    for wrong in [0, 4, 7] {
        let refused = members.accept_doubt(&id, wrong).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::InvalidArgument);
        assert!(refused.message.contains("[3]"), "{}", refused.message);
    }
    let nobody = NodeId::new("storage-9").unwrap();
    let refused = members.accept_doubt(&nobody, 3).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::NotFound);

    members.accept_doubt(&id, 3).await.unwrap();
    assert_eq!(told(beat(vec![doubt(3, false)])), [3]);
    assert_eq!(told(beat(vec![doubt(3, false)])), [3], "until it is done");
    assert!(told(beat(vec![doubt(3, true)])).is_empty());
}

#[tokio::test]
async fn i4_s09_a_disk_that_is_older_than_its_seals_is_suspect_and_the_master_is_sure_of_itself() {
    let fixture = Fixture::new().await;
    let mut commit = fixture.commit(session(1), "a", WriteCondition::Any);
    commit
        .seals
        .iter_mut()
        .for_each(|seal| seal.point.seq = SealSeq(10));
    fixture.master.uploads.commit(&commit).await.unwrap();

    fixture.register_storage(1, 9).await.unwrap();
    fixture.register_storage(2, 10).await.unwrap();
    assert_eq!(
        renewed(fixture.beat("storage-1", NodeRole::Storage, Some(disk(1, 9)))),
        (true, 10)
    );
    // A heartbeat that a commit overtook proves nothing: only a registration can find a disk
    // suspect.
    assert_eq!(
        renewed(fixture.beat("storage-2", NodeRole::Storage, Some(disk(2, 1)))),
        (false, 10)
    );
    assert_eq!(state_of(&fixture, "storage-1"), Some(NodeState::Suspect));
    assert_eq!(fixture.master.context.derived.contested(), None);
    assert_eq!(
        renewed(fixture.beat("storage-1", NodeRole::Storage, Some(disk(1, 10)))),
        (false, 10)
    );
}

#[tokio::test]
async fn i1_s11_two_storage_nodes_with_each_others_disks_are_refused() {
    let fixture = Fixture::new().await;
    let known = |n: u8| fixture.master.context.derived.store(store_of(n));
    let before = [known(1), known(2)];
    for is_open in [true, false] {
        for (n, of) in [(1, 2), (2, 1)] {
            let swapped = Node {
                told: if is_open {
                    Told::Sequence
                } else {
                    Told::Nothing
                },
                ..node(NodeRole::Storage, Some(disk(of, 0)))
            };
            let id = NodeId::new(&format!("storage-{n}")).unwrap();
            let refused = fixture.master.members.register(id, swapped).await;
            let refused = refused.unwrap_err();
            assert_eq!(refused.code, ErrorCode::PermissionDenied);
            let text = refused.message;
            assert!(text.contains(&store_of(of).to_string()), "{text}");
            assert!(text.contains(&format!("storage-{of}")), "{text}");
        }
    }
    assert_eq!([known(1), known(2)], before);
}

#[tokio::test]
async fn a_store_belongs_to_one_node_and_a_node_has_one_role() {
    let fixture = Fixture::new().await;
    let register = async |id: &str, node: Node| {
        let id = NodeId::new(id).unwrap();
        fixture
            .master
            .members
            .register(id, node)
            .await
            .map_err(|fault| fault.code)
    };
    let denied = Err(ErrorCode::PermissionDenied);
    assert_eq!(
        register("storage-9", node(NodeRole::Storage, Some(disk(1, 0)))).await,
        denied
    );
    assert_eq!(
        register("storage-1", node(NodeRole::Worker, None)).await,
        denied
    );
    assert_eq!(
        register("worker-1", node(NodeRole::Storage, Some(disk(8, 0)))).await,
        denied
    );
    assert_eq!(
        fixture.beat("storage-1", NodeRole::Worker, None),
        HeartbeatOutcome::RegisterAgain,
        "a beat of another role renews nothing"
    );
    assert_eq!(
        fixture.beat("nobody", NodeRole::Worker, None),
        HeartbeatOutcome::RegisterAgain
    );
}

/// A volume that is not mounted looks like a disk that was formatted anew.
#[tokio::test(start_paused = true)]
async fn i1_a_known_node_with_another_disk_is_refused_until_a_person_gives_the_old_one_up() {
    let fixture = Fixture::new().await;
    let Master {
        members, releases, ..
    } = &fixture.master;
    let id = NodeId::new("storage-1").unwrap();
    let other = || node(NodeRole::Storage, Some(disk(8, 0)));
    let refused = members.register(id.clone(), other()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied);
    for word in [
        store_of(1).to_string(),
        store_of(8).to_string(),
        "node replace storage-1".to_owned(),
    ] {
        assert!(refused.message.contains(&word), "{}", refused.message);
    }
    assert!(
        fixture.master.context.derived.store(store_of(8)).is_none(),
        "nothing is written"
    );

    // Only a disk of this node, and only one that is not there.
    let give_up = |store| members.give_up_store(releases, &id, store);
    let wrong = give_up(store_of(2)).await.unwrap_err();
    assert_eq!(wrong.code, ErrorCode::InvalidArgument);
    assert!(
        wrong.message.contains(&store_of(1).to_string()),
        "{}",
        wrong.message
    );
    assert_eq!(
        give_up(store_of(1)).await.unwrap_err().code,
        ErrorCode::PreconditionFailed
    );
    tokio::time::advance(LEASE * 2).await;

    // Sessions that wait for the lost disk are not waited for any more; the other disk's are.
    for n in 0..3 {
        fixture.master.releases.end(session(n)).await.unwrap();
    }
    assert_eq!(give_up(store_of(1)).await.unwrap(), 3);
    assert!(releases.of_store(store_of(1)).is_empty());
    assert_eq!(releases.of_store(store_of(2)).len(), 3);
    members.register(id.clone(), other()).await.unwrap();

    // The old one is another disk now.
    let old = node(NodeRole::Storage, Some(disk(1, 0)));
    let refused = members.register(id, old).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied);
}

/// Two processes with one name, such as the default one, would take each other's place for ever.
#[tokio::test(start_paused = true)]
async fn i12_a_node_that_is_there_keeps_its_name_until_its_lease_has_ended() {
    let fixture = Fixture::new().await;
    for (id, role, disk) in [
        ("worker-1", NodeRole::Worker, None),
        ("storage-1", NodeRole::Storage, Some(disk(1, 0))),
    ] {
        let members = &fixture.master.members;
        let second = || Node {
            addr: "127.0.0.1:2".to_owned(),
            ..node(role, disk)
        };
        let id = NodeId::new(id).unwrap();
        // The same process again, after a restart.
        members
            .register(id.clone(), node(role, disk))
            .await
            .unwrap();
        let refused = members.register(id.clone(), second()).await.unwrap_err();
        assert_eq!(refused.code, ErrorCode::PermissionDenied);
        for addr in ["127.0.0.1:1", "127.0.0.1:2"] {
            assert!(refused.message.contains(addr), "{}", refused.message);
        }
        let kept = members.nodes().into_iter().find(|view| view.id == id);
        assert_eq!(kept.unwrap().node.addr, "127.0.0.1:1");

        tokio::time::advance(LEASE * 2).await;
        members.register(id, second()).await.unwrap();
    }
}

#[tokio::test]
async fn the_map_has_the_nodes_that_came_first_and_later_ones_hold_nothing() {
    let fixture = Fixture::new().await;
    fixture.register_storage(3, 0).await.unwrap();
    let in_map = |view: &NodeView| view.in_map;
    let nodes = fixture.master.members.nodes();
    let mapped: Vec<&str> = nodes
        .iter()
        .filter(|view| in_map(view))
        .map(|view| view.id.as_str())
        .collect();
    assert_eq!(mapped, ["storage-1", "storage-2"]);
    let spare = nodes
        .iter()
        .find(|view| view.id.as_str() == "storage-3")
        .unwrap();
    assert!(
        spare.reason.contains("holds no partition"),
        "{}",
        spare.reason
    );
    assert_eq!(fixture.master.waiting_for(), None);
}

/// A node without a name has a new one at each start, until it has formatted its disk.
#[tokio::test(start_paused = true)]
async fn i1_nodes_that_never_had_a_disk_are_not_in_the_map_and_are_forgotten() {
    let disk_of_log = std::sync::Arc::new(cstore_log::FaultyDisk::with_one_thread());
    let fixture = Fixture::without_nodes(disk_of_log).await;
    let members = &fixture.master.members;
    let register = async |n: u8, told: Told| {
        let node = Node {
            told,
            ..node(NodeRole::Storage, Some(disk(n, 0)))
        };
        let id = NodeId::new(&format!("storage-{n}")).unwrap();
        members.register(id, node).await.unwrap();
    };
    for n in 11..=14 {
        register(n, Told::Nothing).await;
    }
    let placement = || fixture.master.context.derived.placement();
    assert_eq!(placement(), None);
    // One that had a disk and is lost may come back: the map waits for those that are there.
    register(3, Told::Sequence).await;
    tokio::time::advance(LEASE * 2).await;
    register(1, Told::Sequence).await;
    assert_eq!(placement(), None);
    register(2, Told::Sequence).await;
    let map = placement().unwrap();
    let ids: Vec<&str> = map.nodes().iter().map(|node| node.id.as_str()).collect();
    assert_eq!(ids, ["storage-1", "storage-2"]);

    tokio::time::advance(LEASE * 2 + std::time::Duration::from_secs(600)).await;
    members.forget_workers();
    let known: Vec<String> = members
        .nodes()
        .iter()
        .map(|view| view.id.to_string())
        .collect();
    assert_eq!(known, ["storage-1", "storage-2", "storage-3"]);
}

/// A node that dies between its first registration and the format of its disk has no disk yet.
#[tokio::test]
async fn i12_a_disk_that_is_not_open_yet_binds_no_name() {
    let fixture = Fixture::new().await;
    let members = &fixture.master.members;
    let id = NodeId::new("storage-3").unwrap();
    let unopened = |n| Node {
        told: Told::Nothing,
        ..node(NodeRole::Storage, Some(disk(n, 0)))
    };
    for n in 3..6 {
        members.register(id.clone(), unopened(n)).await.unwrap();
    }
    members
        .register(id.clone(), node(NodeRole::Storage, Some(disk(6, 0))))
        .await
        .unwrap();
    let refused = members.register(id, unopened(7)).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::PermissionDenied);
    assert!(refused.message.contains("replace"), "{}", refused.message);
}

#[tokio::test]
async fn a_worker_that_leaves_is_no_member_and_not_lost() {
    let fixture = Fixture::new().await;
    let beat = Heartbeat {
        id: NodeId::new("worker-1").unwrap(),
        role: NodeRole::Worker,
        ready: false,
        reason: String::new(),
        disk: None,
        told: Told::Sequence,
        noted: None,
        doubts: Vec::new(),
        leaving: true,
        max_small_bytes: 0,
    };
    assert_eq!(
        fixture.master.members.heartbeat(beat),
        HeartbeatOutcome::Left
    );
    assert_eq!(state_of(&fixture, "worker-1"), None);
}

#[tokio::test(start_paused = true)]
async fn room_that_disks_share_is_counted_once() {
    const GIB: u64 = 1 << 30;

    let fixture = Fixture::new().await;
    let on = |n, growth_bytes, room: Option<(u64, u64)>| {
        let mut report = disk(n, 0);
        report.totals.capacity_bytes = 10 * GIB;
        report.totals.free_bytes = 8 * GIB;
        report.room = room.map(|(file_system, free_bytes)| SharedRoom {
            file_system,
            free_bytes,
            growth_bytes,
        });
        fixture.beat(&format!("storage-{n}"), NodeRole::Storage, Some(report));
    };
    let totals = || {
        let totals = fixture.master.members.storage_totals();
        (totals.capacity_bytes / GIB, totals.free_bytes / GIB)
    };
    on(1, 0, None);
    on(2, 0, None);
    assert_eq!(
        totals(),
        (20, 16),
        "nodes that cannot tell their file system"
    );
    on(1, 6 * GIB, Some((1, 6 * GIB)));
    on(2, 6 * GIB, Some((2, 6 * GIB)));
    assert_eq!(totals(), (20, 16), "each has its own");
    on(2, 6 * GIB, Some((1, 5 * GIB)));
    assert_eq!(
        totals(),
        (14, 10),
        "4 within their segments, 6 of the file system"
    );
    on(2, 6 * GIB, Some((1, 100 * GIB)));
    assert_eq!(totals(), (20, 16), "enough for both");
}
