//! I13 and I11 of upload tickets.

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::mesh;
use cstore_mesh::MasterClient;
use cstore_proto::{Caller, Signer, v1};
use cstore_testkit::until_blocking;
use tonic::Code;

use crate::PROGRAM;

fn master(cluster: &Cluster, signer: &Signer) -> MasterClient {
    mesh::master(&cluster.master, signer)
}

fn small(ticket: Option<v1::Ticket>, name: &str, body: &'static [u8]) -> v1::PutSmallRequest {
    let header = v1::UploadHeader {
        ticket,
        name: name.to_owned(),
        ..v1::UploadHeader::default()
    };
    let body = bytes::Bytes::from_static(body);
    v1::PutSmallRequest {
        header: Some(header),
        crc32c: crc32c::crc32c(&body),
        body,
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_i13_tickets_must_be_ours_and_a_repeated_upload_answers_the_same() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::builder(PROGRAM).start())
        .await
        .unwrap();
    let signer = Signer::new(&cluster.secret(), Caller::Gateway);
    let mut worker = mesh::worker(&cluster.addr("worker-1"), &signer);
    let missing = worker.put_small(small(None, "a", b"x")).await.unwrap_err();
    assert!(missing.message().contains("ticket is missing"), "{missing}");
    let forged = v1::Ticket {
        body: bytes::Bytes::from_static(b"forged"),
        ..v1::Ticket::default()
    };
    let foreign = worker
        .put_small(small(Some(forged), "a", b"x"))
        .await
        .unwrap_err();
    assert_eq!(foreign.code(), Code::PermissionDenied, "{foreign}");

    let begun = master(&cluster, &signer)
        .begin_upload(v1::BeginUploadRequest::default())
        .await
        .unwrap();
    let ticket = begun.tickets.into_iter().next();
    let first = worker
        .put_small(small(ticket.clone(), "a", b"x"))
        .await
        .unwrap()
        .into_inner();
    let second = worker
        .put_small(small(ticket.clone(), "a", b"x"))
        .await
        .unwrap()
        .into_inner();
    assert_eq!(
        first.file, second.file,
        "the same session and content: the same success"
    );
    let other = worker
        .put_small(small(ticket.clone(), "a", b"other"))
        .await
        .unwrap_err();
    assert!(
        matches!(other.code(), Code::FailedPrecondition | Code::Internal),
        "{other}"
    );

    let aborted = master(&cluster, &signer)
        .begin_upload(v1::BeginUploadRequest::default())
        .await
        .unwrap();
    let ticket = aborted.tickets.into_iter().next();
    let abort = v1::AbortUploadRequest {
        ticket: ticket.clone(),
    };
    assert!(
        !master(&cluster, &signer)
            .abort_upload(abort)
            .await
            .unwrap()
            .committed
    );
    let late = worker
        .put_small(small(ticket, "late", b"x"))
        .await
        .unwrap_err();
    assert_eq!(
        late.code(),
        Code::PermissionDenied,
        "a tombstoned session never commits: {late}"
    );

    let of_acme = v1::BeginUploadRequest {
        tenant: "acme".to_owned(),
        ..v1::BeginUploadRequest::default()
    };
    let ticket = master(&cluster, &signer)
        .begin_upload(of_acme)
        .await
        .unwrap()
        .tickets
        .into_iter()
        .next();
    for tenant in ["", "default", "acme-2"] {
        let mut request = small(ticket.clone(), "theirs", b"x");
        request.header.as_mut().unwrap().tenant = tenant.to_owned();
        let denied = worker.put_small(request).await.unwrap_err();
        assert_eq!(
            denied.code(),
            Code::PermissionDenied,
            "{tenant:?}: {denied}"
        );
    }
    // A worker that passes on another tenant than the ticket's is refused by the master.
    let commit = v1::CommitUploadRequest {
        ticket,
        tenant: "acme-2".to_owned(),
        name: "theirs".to_owned(),
        ..v1::CommitUploadRequest::default()
    };
    let as_worker = Signer::new(&cluster.secret(), Caller::Worker);
    let denied = master(&cluster, &as_worker)
        .commit_upload(commit)
        .await
        .unwrap_err();
    assert_eq!(denied.code(), Code::PermissionDenied, "{denied}");
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .unwrap();
}

/// The answer of a commit was lost, somebody else removed or replaced the file, and the commit is
/// repeated: it is answered like the first time, changes nothing, and leaves nothing behind.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_a_ticket_that_was_used_is_answered_alike_after_others_removed_its_file() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::one_of_each(PROGRAM).start())
        .await
        .unwrap();
    let signer = Signer::new(&cluster.secret(), Caller::Gateway);
    let mut worker = mesh::worker(&cluster.addr("worker-1"), &signer);
    let master = master(&cluster, &signer);
    let begun = master
        .begin_upload(v1::BeginUploadRequest::default())
        .await
        .unwrap();
    let ticket = begun.tickets.into_iter().next();
    let first = worker
        .put_small(small(ticket.clone(), "a", b"mine"))
        .await
        .unwrap()
        .into_inner();

    let delete = v1::DeleteFileRequest {
        name: "a".to_owned(),
        ..v1::DeleteFileRequest::default()
    };
    master.delete_file(delete).await.unwrap();
    let again = worker
        .put_small(small(ticket.clone(), "a", b"mine"))
        .await
        .unwrap()
        .into_inner();
    let as_told = |answer: &v1::UploadResponse| {
        let file = answer.file.clone().unwrap_or_default();
        (
            file.name,
            file.size,
            file.etag,
            file.version,
            answer.replaced,
        )
    };
    assert_eq!(as_told(&again), as_told(&first));
    let aborted = master
        .abort_upload(v1::AbortUploadRequest { ticket })
        .await
        .unwrap();
    assert!(
        aborted.committed && aborted.version == 1 && aborted.file.is_none(),
        "{aborted:?}"
    );

    let read = v1::GetFileRequest {
        name: "a".to_owned(),
        ..v1::GetFileRequest::default()
    };
    assert_eq!(
        master.get_file(read).await.unwrap_err().code(),
        Code::NotFound,
        "a deleted name stays deleted"
    );
    tokio::task::spawn_blocking(move || {
        until_blocking("the space of both tries", || {
            let stats = cluster.ask("GET", "/api/stats", b"").json();
            (stats["files"] == 0 && stats["unique_bytes"] == 0 && stats["pending_releases"] == 0)
                .then_some(())
        });
    })
    .await
    .unwrap();
}
