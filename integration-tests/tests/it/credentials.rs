//! I13 and I11 at the gRPC doors.

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::mesh;
use cstore_mesh::MasterClient;
use cstore_proto::v1;
use tonic::Code;

use crate::PROGRAM;

fn master(cluster: &Cluster, bearer: &str) -> MasterClient {
    mesh::master(&cluster.master, bearer)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_no_grpc_door_opens_without_the_secret() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::builder(PROGRAM).start()).await.unwrap();
    for bearer in ["", "wrong", &"0".repeat(64)] {
        let denied = master(&cluster, bearer).list_files(v1::ListFilesRequest::default()).await.unwrap_err();
        assert_eq!(denied.code(), Code::Unauthenticated, "{denied}");
        let denied = master(&cluster, bearer).register(v1::RegisterRequest::default()).await.unwrap_err();
        assert_eq!(denied.code(), Code::Unauthenticated, "{denied}");
        let mut worker = mesh::worker(&cluster.addr("worker-1"), bearer);
        let denied = worker.put_small(v1::PutSmallRequest::default()).await.unwrap_err();
        assert_eq!(denied.code(), Code::Unauthenticated, "{denied}");
        let denied = worker.download(v1::DownloadRequest::default()).await.unwrap_err();
        assert_eq!(denied.code(), Code::Unauthenticated, "{denied}");
    }
    master(&cluster, &cluster.bearer()).list_files(v1::ListFilesRequest::default()).await.unwrap();
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}

fn small(ticket: Option<v1::Ticket>, name: &str, body: &'static [u8]) -> v1::PutSmallRequest {
    let header = v1::UploadHeader { ticket, name: name.to_owned(), ..v1::UploadHeader::default() };
    let body = bytes::Bytes::from_static(body);
    v1::PutSmallRequest { header: Some(header), crc32c: crc32c::crc32c(&body), body }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i11_i13_tickets_must_be_ours_and_a_repeated_upload_answers_the_same() {
    let cluster = tokio::task::spawn_blocking(|| Cluster::builder(PROGRAM).start()).await.unwrap();
    let bearer = cluster.bearer();
    let mut worker = mesh::worker(&cluster.addr("worker-1"), &bearer);
    let missing = worker.put_small(small(None, "a", b"x")).await.unwrap_err();
    assert!(missing.message().contains("ticket is missing"), "{missing}");
    let forged = v1::Ticket { body: bytes::Bytes::from_static(b"forged"), ..v1::Ticket::default() };
    let foreign = worker.put_small(small(Some(forged), "a", b"x")).await.unwrap_err();
    assert_eq!(foreign.code(), Code::PermissionDenied, "{foreign}");

    let begun = master(&cluster, &bearer).begin_upload(v1::BeginUploadRequest::default()).await.unwrap();
    let ticket = begun.tickets.into_iter().next();
    let first = worker.put_small(small(ticket.clone(), "a", b"x")).await.unwrap().into_inner();
    let second = worker.put_small(small(ticket.clone(), "a", b"x")).await.unwrap().into_inner();
    assert_eq!(first.file, second.file, "the same session and content: the same success");
    let other = worker.put_small(small(ticket.clone(), "a", b"other")).await.unwrap_err();
    assert!(matches!(other.code(), Code::FailedPrecondition | Code::Internal), "{other}");

    let aborted = master(&cluster, &bearer).begin_upload(v1::BeginUploadRequest::default()).await.unwrap();
    let ticket = aborted.tickets.into_iter().next();
    let abort = v1::AbortUploadRequest { ticket: ticket.clone() };
    assert!(!master(&cluster, &bearer).abort_upload(abort).await.unwrap().committed);
    let late = worker.put_small(small(ticket, "late", b"x")).await.unwrap_err();
    assert_eq!(late.code(), Code::PermissionDenied, "a tombstoned session never commits: {late}");
    tokio::task::spawn_blocking(move || drop(cluster)).await.unwrap();
}
