//! From a ticket to a commit: which uploads are admitted, and what master and storage nodes hear of
//! their end.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cstore_node::clock::Clock;
use cstore_proto::v1::transfer_client::TransferClient;
use cstore_proto::v1::transfer_server::TransferServer;
use cstore_proto::{TicketClaims, v1};
use cstore_testkit::fake::{FakeMaster, Reply};
use cstore_testkit::{CLUSTER, secret, session};
use cstore_types::limits::MAX_NAME_BYTES;
use cstore_types::{
    Chunking, ClusterUuid, ErrorCode, Fault, Incarnation, MapVersion, NodeId, Tenant,
};
use cstore_wire::Opcode;
use md5::{Digest, Md5};
use sha2::Sha256;
use tokio::time::{Instant, sleep, timeout};

use super::cluster::{Cluster, Expected, MAP};
use crate::grpc::Door;
use crate::limits::{BLIND_BYTES, UNSPLIT_BYTES};
use crate::metrics::TransferMetrics;
use crate::session::{Active, Session, Sessions};
use crate::upload::{Stored, Upload};

pub(super) const BLOCK: u32 = 1_000;
const NOW: i64 = 1_000_000;
pub(super) const BODY: Bytes = Bytes::from_static(&[7; 2_500]);

/// A time of day that the test sets.
#[derive(Debug)]
struct FixedClock(AtomicI64);

impl Clock for FixedClock {
    fn now_ms(&self) -> i64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// A worker with its cluster and master.
pub(super) struct Worker {
    pub(super) cluster: Cluster,
    pub(super) master: FakeMaster,
    sessions: Sessions,
    clock: Arc<FixedClock>,
}

impl Worker {
    pub(super) async fn new() -> Self {
        let cluster = Cluster::new(3);
        let master = FakeMaster::default();
        let clock = Arc::new(FixedClock(AtomicI64::new(NOW)));
        let sessions = Sessions {
            stores: cluster.route.stores.clone(),
            master: master.client().await,
            ticket_key: secret().ticket_key(),
            budget: cluster.budget.clone(),
            active: Active::default(),
            clock: clock.clone(),
            worker_id: "worker-1".to_owned(),
        };
        Self {
            cluster,
            master,
            sessions,
            clock,
        }
    }

    /// Begins an upload and puts and seals the body.
    async fn store(&self, header: v1::UploadHeader) -> (Session, Stored) {
        self.store_body(header, BODY).await
    }

    async fn store_body(&self, header: v1::UploadHeader, body: Bytes) -> (Session, Stored) {
        let (session, mut upload) = self.sessions.begin(header).unwrap();
        upload.push(body).await.unwrap();
        (session, upload.finish().await.unwrap())
    }

    /// Checks which requests the session's end has sent: the number of commits and aborts, and at most
    /// one Unpin to each node. No pins may be left.
    pub(super) async fn assert_ended(&self, commits: usize, aborts: usize) {
        // A successful commit drops the pins after its reply.
        sleep(Duration::from_millis(10)).await;
        assert_eq!(
            (
                commit_requests(&self.master).len(),
                self.master.count::<v1::AbortUploadRequest>()
            ),
            (commits, aborts)
        );
        for store in &self.cluster.stores {
            assert!(store.count(Opcode::Unpin) <= 1, "{}", store.node);
            assert_eq!(store.pins(session(1)), 0);
        }
        assert_eq!(self.cluster.budget.held(), 0);
    }

    pub(super) fn is_active(&self) -> bool {
        self.sessions.active.lock().remove(&session(1))
    }

    /// Returns a client of the service, without a connection between them.
    pub(super) fn client(&self) -> TransferClient<TransferServer<Door>> {
        let door = Door {
            sessions: self.sessions.clone(),
            metrics: TransferMetrics::default(),
        };
        TransferClient::new(TransferServer::new(door))
    }
}

fn commit_requests(master: &FakeMaster) -> Vec<v1::CommitUploadRequest> {
    master.requests()
}

fn claims() -> TicketClaims {
    TicketClaims {
        session: session(1),
        cluster: CLUSTER,
        incarnation: Incarnation(1),
        worker: NodeId::new("worker-1").unwrap(),
        worker_addr: "worker-1:1".to_owned(),
        map_version: MAP,
        chunking: Chunking::fixed(BLOCK.into()).unwrap(),
        tenant: Tenant::new("team-7").unwrap(),
        expires_ms: NOW + 1,
        issued: None,
    }
}

fn header_with(claims: &TicketClaims) -> v1::UploadHeader {
    v1::UploadHeader {
        ticket: Some(claims.sign(&secret().ticket_key())),
        tenant: "team-7".to_owned(),
        name: "a/file".to_owned(),
        content_type: "text/plain".to_owned(),
        metadata: [("color".to_owned(), "red".to_owned())].into(),
        ..v1::UploadHeader::default()
    }
}

pub(super) fn header() -> v1::UploadHeader {
    header_with(&claims())
}

fn begin(worker: &Worker, header: v1::UploadHeader) -> Result<(Session, Upload), Fault> {
    worker.sessions.begin(header)
}

#[tokio::test(start_paused = true)]
async fn a_ticket_that_is_not_valid_here_is_refused_with_its_reason() {
    let worker = Worker::new().await;
    assert!(begin(&worker, header()).is_ok());
    let of_ticket = |change: &dyn Fn(&mut TicketClaims)| {
        let mut claims = claims();
        change(&mut claims);
        header_with(&claims)
    };
    let forged = {
        let mut header = header();
        let ticket = header.ticket.as_mut().unwrap();
        let mut body = ticket.body.to_vec();
        body[3] ^= 1;
        ticket.body = body.into();
        header
    };
    let denied = ErrorCode::PermissionDenied;
    let refused = [
        (forged, denied, "not made by this cluster"),
        (
            of_ticket(&|c| c.cluster = ClusterUuid::from_bytes([9; 16])),
            denied,
            "of another cluster",
        ),
        (of_ticket(&|c| c.expires_ms = NOW), denied, "has expired"),
        (
            of_ticket(&|c| c.tenant = Tenant::new("team-8").unwrap()),
            denied,
            "of another tenant",
        ),
        (
            v1::UploadHeader {
                tenant: String::new(),
                ..header()
            },
            denied,
            "of another tenant",
        ),
        (
            v1::UploadHeader {
                ticket: None,
                ..header()
            },
            ErrorCode::InvalidArgument,
            "ticket is missing",
        ),
        (
            of_ticket(&|c| c.map_version = MapVersion(MAP.0 - 1)),
            ErrorCode::Unavailable,
            "placement map",
        ),
        (
            of_ticket(&|c| c.map_version = MapVersion(MAP.0 + 1)),
            ErrorCode::Unavailable,
            "placement map",
        ),
    ];
    for (header, code, text) in refused {
        let fault = begin(&worker, header).unwrap_err();
        assert_eq!(fault.code, code, "{fault:?}");
        assert!(fault.message.contains(text), "{fault:?}");
    }
    // The time of day is the clock's.
    worker.clock.0.store(NOW + 1, Ordering::Relaxed);
    assert_eq!(
        begin(&worker, header()).unwrap_err().message,
        "upload ticket has expired"
    );
    assert_eq!(
        worker.cluster.take_calls().len(),
        0,
        "no node hears of an upload that is refused"
    );
}

#[tokio::test(start_paused = true)]
async fn a_field_that_breaks_its_rule_is_named() {
    let worker = Worker::new().await;
    let many: BTreeMap<String, String> = (0..40)
        .map(|n| (format!("key-{n}"), String::new()))
        .collect();
    let wrong = [
        (
            "name",
            v1::UploadHeader {
                name: String::new(),
                ..header()
            },
        ),
        (
            "name",
            v1::UploadHeader {
                name: "x".repeat(MAX_NAME_BYTES + 1),
                ..header()
            },
        ),
        (
            "metadata",
            v1::UploadHeader {
                metadata: many,
                ..header()
            },
        ),
        (
            "expect_md5",
            v1::UploadHeader {
                expect_md5: vec![0; 15].into(),
                ..header()
            },
        ),
        (
            "expect_sha256",
            v1::UploadHeader {
                expect_sha256: vec![0; 33].into(),
                ..header()
            },
        ),
    ];
    for (field, header) in wrong {
        let fault = begin(&worker, header).unwrap_err();
        assert_eq!(fault.code, ErrorCode::InvalidArgument, "{fault:?}");
        assert!(fault.message.contains(field), "{field}: {fault:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_says_what_was_stored() {
    let worker = Worker::new().await;
    let sha256: [u8; 32] = Sha256::digest(&BODY).into();
    let header = v1::UploadHeader {
        expect_md5: Md5::digest(&BODY).to_vec().into(),
        expect_sha256: sha256.to_vec().into(),
        condition: Some(v1::WriteCondition {
            condition: Some(v1::write_condition::Condition::Any(true)),
        }),
        ..header()
    };
    worker.master.put_file(&header.name, b"replaced");
    let (upload, stored) = worker.store(header.clone()).await;
    let seals: Vec<v1::StoreSeal> = stored
        .seals
        .iter()
        .map(|seal| v1::StoreSeal {
            store_uuid: seal.store.as_bytes().to_vec().into(),
            seal_seq: seal.point.seq.0,
            nonce: seal.point.nonce,
        })
        .collect();
    let response = upload.commit(stored).await.unwrap();

    let expected = Expected::new(&BODY, BLOCK);
    let commits = commit_requests(&worker.master);
    let sent = commits.first().unwrap();
    assert_eq!(
        (&sent.ticket, &sent.tenant, &sent.name),
        (&header.ticket, &header.tenant, &header.name)
    );
    assert_eq!((sent.size, sent.blocks), (2_500, 3));
    assert_eq!(sent.recipe_root, expected.root);
    assert_eq!(sent.etag, expected.etag);
    assert_eq!(
        (&sent.content_type, &sent.metadata),
        (&header.content_type, &header.metadata)
    );
    assert_eq!(sent.sha256, sha256[..]);
    assert_eq!(sent.seals, seals);
    assert!(!seals.is_empty());
    assert_eq!(
        response.file.map(|file| (file.name, file.size)),
        Some((header.name, 2_500))
    );
    assert!(response.replaced);
    assert_eq!((response.new_blocks, response.new_bytes), (2, 1_500));
    assert_eq!(response.worker_id, "worker-1");
    worker.assert_ended(1, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_commit_drops_the_pins_of_its_session_if_there_can_be_any() {
    let bodies = [
        (UNSPLIT_BYTES, false),
        // A small disk may have written the blocks before their set: one of the three nodes has more
        // than fit.
        (3 * UNSPLIT_BYTES + 1, true),
        (BLIND_BYTES + 1, true),
    ];
    for (bytes, has_pins) in bodies {
        let worker = Worker::new().await;
        // Blocks that differ: equal ones are sent once.
        let body: Vec<u8> = (0..bytes)
            .flat_map(|n| (n as u32 / BLOCK).to_le_bytes())
            .take(bytes)
            .collect();
        let body = Bytes::from(body);
        let (upload, stored) = worker.store_body(header(), body).await;
        upload.commit(stored).await.unwrap();
        worker.assert_ended(1, 0).await;
        for store in &worker.cluster.stores {
            assert_eq!(store.count(Opcode::Unpin), usize::from(has_pins));
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_that_is_refused_for_good_is_sent_once_and_drops_the_pins() {
    for code in ErrorCode::ALL
        .into_iter()
        .filter(|code| !code.is_retryable())
    {
        let worker = Worker::new().await;
        worker
            .master
            .reply_next::<v1::CommitUploadRequest>([Reply::refuse(code, "no")]);
        let (upload, stored) = worker.store(header()).await;
        let fault = upload.commit(stored).await.unwrap_err();
        assert_eq!((fault.code, fault.message.as_str()), (code, "no"));
        worker.assert_ended(1, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_unknown_outcome_is_repeated_until_it_succeeds() {
    for code in [
        ErrorCode::Unavailable,
        ErrorCode::Deadline,
        ErrorCode::Overloaded,
    ] {
        let worker = Worker::new().await;
        // More than the client of the master repeats by itself.
        worker
            .master
            .reply_next::<v1::CommitUploadRequest>(vec![Reply::refuse(code, "restarting"); 9]);
        let (upload, stored) = worker.store(header()).await;
        assert!(!worker.is_active());
        let response = upload.commit(stored).await.unwrap();
        assert!(
            worker.is_active(),
            "the ticket does not expire while the commit is repeated"
        );
        assert_eq!(response.file.map(|file| file.size), Some(2_500));
        let commits = commit_requests(&worker.master);
        assert!(
            commits.iter().all(|commit| *commit == commits[0]),
            "each repetition is the same commit"
        );
        worker.assert_ended(10, 0).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_commit_of_unknown_outcome_is_never_aborted() {
    let worker = Worker::new().await;
    worker
        .master
        .reply_always::<v1::CommitUploadRequest>([Reply::refuse(ErrorCode::Unavailable, "away")]);
    let (upload, stored) = worker.store(header()).await;
    let begun = Instant::now();
    let committed = timeout(Duration::from_secs(3_600), upload.commit(stored)).await;
    let fault = committed.expect("repetitions are bounded").unwrap_err();
    assert_eq!(
        (fault.code, fault.message.as_str()),
        (ErrorCode::Unavailable, "away")
    );
    let took = begun.elapsed().as_secs();
    assert!((29..=36).contains(&took), "{took} s");
    let commits = commit_requests(&worker.master).len();
    worker.assert_ended(commits, 0).await;
}

#[tokio::test(start_paused = true)]
async fn a_body_with_another_digest_is_aborted_and_never_committed() {
    for with_md5 in [true, false] {
        let worker = Worker::new().await;
        let mut header = header();
        match with_md5 {
            true => header.expect_md5 = vec![1; 16].into(),
            false => header.expect_sha256 = vec![1; 32].into(),
        }
        let (upload, stored) = worker.store(header.clone()).await;
        let fault = upload.commit(stored).await.unwrap_err();
        assert_eq!(fault.code, ErrorCode::InvalidArgument);
        assert!(
            fault
                .message
                .contains(if with_md5 { "MD5" } else { "SHA-256" }),
            "{fault:?}"
        );
        assert_eq!(
            worker.master.requests::<v1::AbortUploadRequest>()[0].ticket,
            header.ticket
        );
        worker.assert_ended(0, 1).await;
    }
}

#[tokio::test(start_paused = true)]
async fn pins_are_dropped_also_when_the_master_does_not_abort_and_a_node_is_away() {
    let worker = Worker::new().await;
    worker
        .master
        .reply_always::<v1::AbortUploadRequest>([Reply::refuse(ErrorCode::Internal, "no")]);
    let (upload, _) = worker.store(header()).await;
    worker.cluster.stores[0].go_away();
    upload.abort().await;
    assert_eq!(worker.master.count::<v1::AbortUploadRequest>(), 1);
    let unpins = worker
        .cluster
        .stores
        .iter()
        .map(|store| store.count(Opcode::Unpin));
    assert_eq!(unpins.collect::<Vec<_>>(), [0, 1, 1]);
}
