//! A master that is read-only: it serves names, and tells nobody anything to go by.

use bytes::Bytes;
use cstore_log::Disk;
use cstore_proto::v1;
use cstore_proto::v1::cluster_server::Cluster;
use cstore_types::history::{Point, may_obey};
use cstore_types::{Caller, ErrorCode, NodeId, WriteCondition};
use tonic::Request;

use super::super::*;
use super::fixture::*;
use super::history::{beat, doubt, elsewhere};
use crate::grpc::Services;

/// A folder with the file `a`, the removed file `b`, and a disk whose node was accepted although it
/// has obeyed another history. Returns also the disk of the log.
async fn folder() -> (Fixture, Arc<cstore_log::FaultyDisk>) {
    let disk = Arc::new(cstore_log::FaultyDisk::with_one_thread());
    let fixture = Fixture::on(disk.clone()).await;
    fixture.publish(1, "a").await;
    fixture.publish(2, "b").await;
    fixture.delete("b").await.unwrap();
    let master = &fixture.master;
    beat(master, 2, elsewhere(), vec![doubt()]);
    let node = NodeId::new("storage-2").unwrap();
    master.members.accept_doubt(&node, 5).await.unwrap();
    let telling = beat(master, 2, elsewhere(), vec![doubt()]);
    assert_eq!(telling.accepted, Some(elsewhere()));
    (fixture, disk)
}

async fn register(master: &Master, n: u8, noted: Point) -> Result<Registered, Fault> {
    let node = Node {
        noted: Some(noted),
        ..node(NodeRole::Storage, Some(disk(n, 0)))
    };
    let id = NodeId::new(&format!("storage-{n}")).unwrap();
    master.members.register(id, node).await
}

fn obeys(noted: &Point, told: &Telling) -> bool {
    may_obey(noted, &told.lives, &told.head, told.accepted.as_ref())
}

#[tokio::test]
async fn i1_a_read_only_master_serves_names_and_refuses_each_write_with_the_damage() {
    let (fixture, disk) = folder().await;
    let master = fixture.read_only(disk).await;
    let served = master.namespace.get_file(&tenant(), &name("a")).await;
    assert_eq!(served.unwrap().0.meta.size, 16);
    let query = ListQuery::new(tenant(), String::new(), "", 10, String::new());
    let listed = master.namespace.list_files(&query.unwrap()).await.unwrap();
    assert_eq!(listed.files.len(), 1);
    assert_eq!(master.context.derived.usage.of(&tenant()).files, 1);
    // All changes are there, so the name is not.
    let missing = master.namespace.get_file(&tenant(), &name("b")).await;
    assert_eq!(missing.unwrap_err().code, ErrorCode::NotFound);

    let node = NodeId::new("storage-1").unwrap();
    let worker = NodeId::new("worker-1").unwrap();
    let commit = fixture.commit(session(9), "c", WriteCondition::Any);
    let again = fixture.commit(session(1), "a", WriteCondition::Any);
    let rename = Fixture::second_name("a", "d");
    let Master {
        uploads,
        namespace,
        releases,
        members,
        ..
    } = &master;
    let any = WriteCondition::Any;
    let refusals = [
        uploads.begin(&tenant(), None, &any, 1).await.map(drop),
        uploads.commit(&commit).await.map(drop),
        uploads.commit(&again).await.map(drop),
        uploads.abort(&commit.claims).await.map(drop),
        namespace.delete_file(&tenant(), &name("a"), "").await,
        namespace.delete_file(&tenant(), &name("none"), "").await,
        namespace.rename_file(&rename).await.map(drop),
        namespace.copy_file(&rename).await.map(drop),
        members.accept_doubt(&node, 1).await,
        members.excuse(&node).await,
        members
            .give_up_store(releases, &node, store_of(1))
            .await
            .map(drop),
        members.excuse(&worker).await,
        releases.drop_kept(&[session(3)]).await.map(drop),
        releases.acknowledge(store_of(1), &[session(2)]).await,
        releases.end(session(9)).await.map(drop),
    ];
    for (n, refusal) in refusals.into_iter().enumerate() {
        let refusal = refusal.unwrap_err();
        assert_eq!(refusal.code, ErrorCode::Unavailable, "{n}: {refusal:?}");
        for says in ["position 3 after 1", "cstore admin rescue FILE"] {
            assert!(refusal.message.contains(says), "{n}: {refusal:?}");
        }
    }
    let why = master.waiting_for().unwrap();
    assert!(why.starts_with("the master is read-only"), "{why}");
    assert_eq!(master.not_writable(), Some(why));
}

#[tokio::test]
async fn i1_a_name_that_may_be_in_what_is_missing_is_not_said_to_be_missing() {
    let (fixture, disk) = folder().await;
    for name in disk.list().unwrap() {
        disk.remove(&name).unwrap();
    }
    let master = fixture.read_only_after_kill(disk).await;
    let missing = master.namespace.get_file(&tenant(), &name("b")).await;
    let missing = missing.unwrap_err();
    assert_eq!(missing.code, ErrorCode::Unavailable);
    assert!(missing.message.contains("later changes may be missing"));
}

/// Another master will follow, so what is told of this one's history must not be noted.
#[tokio::test]
async fn i4_nodes_take_a_read_only_master_for_the_right_one_and_note_nothing_of_it() {
    let (fixture, disk) = folder().await;
    let head = fixture.master.state().head;
    let master = fixture.read_only(disk).await;
    assert_eq!(master.state().head, head);
    let earlier = Point {
        position: head.position - 2,
        chain: 0,
        ..head
    };
    for noted in [head, earlier, Point::default()] {
        for _ in 0..2 {
            let told = register(&master, 1, noted).await.unwrap().telling;
            assert!(obeys(&noted, &told), "{told:?}");
            assert_eq!((told.head, told.accepted), (noted, None));
            let told = beat(&master, 1, noted, Vec::new());
            assert!(obeys(&noted, &told), "{told:?}");
            assert_eq!((told.head, told.accepted), (noted, None));
        }
    }

    // One that has obeyed what this history lacks is in doubt, also if it was accepted: an accept
    // is obeyed by noting this history.
    let further = Point {
        position: head.position + 1,
        chain: 0,
        ..head
    };
    for noted in [further, elsewhere()] {
        let told = register(&master, 2, noted).await.unwrap().telling;
        assert!(!obeys(&noted, &told), "{told:?}");
        let told = beat(&master, 2, noted, vec![doubt()]);
        assert!(!obeys(&noted, &told), "{told:?}");
        assert_eq!(told.head, head);
    }
    assert!(!master.members.may_release());
    assert!(master.members.releases_wait_for().is_some());
}

#[tokio::test]
async fn i4_a_read_only_master_takes_no_disk_in_that_it_does_not_know() {
    let (fixture, disk) = folder().await;
    let master = fixture.read_only(disk).await;
    let refused = register(&master, 3, Point::default()).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable, "{refused:?}");
    // An empty disk would be formatted if it was not refused.
    let empty = Node {
        told: Told::Nothing,
        ..node(NodeRole::Storage, Some(super::fixture::disk(3, 0)))
    };
    let id = NodeId::new("storage-3").unwrap();
    let refused = master.members.register(id, empty).await.unwrap_err();
    assert_eq!(refused.code, ErrorCode::Unavailable, "{refused:?}");
    register(&master, 1, Point::default()).await.unwrap();
}

#[tokio::test]
async fn i4_a_read_only_master_gives_no_verdict_release_or_audit() {
    let (fixture, disk) = folder().await;
    let noted = fixture.master.state().head;
    let report = |released: &[u8]| v1::StorageReport {
        store_uuid: Bytes::copy_from_slice(store_of(1).as_bytes()),
        unconfirmed: [1, 2, 9]
            .iter()
            .map(|n| Bytes::copy_from_slice(session(*n).as_bytes()))
            .collect(),
        released: released
            .iter()
            .map(|n| Bytes::copy_from_slice(session(*n).as_bytes()))
            .collect(),
        audit: Some(v1::AuditCursor::default()),
        noted: Some(noted.into()),
        fill_pressure: 100,
        protocol: 4,
        ..v1::StorageReport::default()
    };
    let ask = async |master: Master, released: &[u8]| {
        let _ = register(&master, 1, noted).await.unwrap();
        let _ = register(&master, 2, Point::default()).await.unwrap();
        let services = Services {
            master: Arc::new(master),
            shutdown: cstore_node::shutdown::Shutdown::new(),
        };
        let mut request = Request::new(v1::HeartbeatRequest {
            node_id: "storage-1".to_owned(),
            role: v1::Role::Storage.into(),
            ready: true,
            storage: Some(report(released)),
            ..v1::HeartbeatRequest::default()
        });
        request.extensions_mut().insert(Caller::Storage);
        services.heartbeat(request).await.unwrap().into_inner()
    };

    let master = fixture.read_only(disk).await;
    let waiting = master.releases.of_store(store_of(1));
    assert_eq!(waiting, [session(2)]);
    let answer = ask(master, &[2]).await;
    assert!(answer.verdicts.is_empty(), "{answer:?}");
    assert!(answer.releases.is_empty(), "{answer:?}");
    assert!(answer.accept_doubts.is_empty(), "{answer:?}");
    assert!(answer.audit.is_none(), "{answer:?}");
    let history = answer.history.unwrap();
    assert_eq!(history.head.map(Point::from), Some(noted));
    assert!(history.accepted.is_none());
}
