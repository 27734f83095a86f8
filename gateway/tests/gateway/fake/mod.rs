//! A master and a worker that live in this process, remember what they were told and answer what a
//! test wants.

mod master;
mod worker;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use cstore_gateway::Config;
use cstore_node::admin::Readiness;
use cstore_node::{HostPort, Shutdown};
use cstore_proto::v1::cluster_server::ClusterServer;
use cstore_proto::v1::namespace_server::NamespaceServer;
use cstore_proto::v1::transfer_server::TransferServer;
use cstore_proto::v1::uploads_server::UploadsServer;
use cstore_proto::v1::write_condition::Condition;
use cstore_proto::{TicketClaims, v1};
use cstore_testkit::{PATIENCE, nobody, secret};
use cstore_types::{
    Chunking, ClusterUuid, ErrorCode, Incarnation, MapVersion, NodeId, SessionId, Tenant, TicketKey,
};
use futures_util::Stream;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tonic::transport::server::TcpIncoming;
use tonic::{Response, Status};

/// The answers of a streaming call.
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// What the fakes know. A commit happens when an upload came whole.
#[derive(Default)]
pub(crate) struct State {
    pub(crate) files: BTreeMap<String, (Bytes, v1::FileInfo)>,
    pub(crate) commits: u64,
    pub(crate) begun: u64,
    pub(crate) broken: u64,
    pub(crate) aborts: u64,
    /// The next calls of these kinds fail so, once each.
    pub(crate) refuse_begin: Option<Status>,
    pub(crate) refuse_put: Option<Status>,
    /// The next put commits and then fails so: its answer is lost.
    pub(crate) lose_answer: Option<Status>,
    /// Before the next abort somebody else removes what its session published.
    pub(crate) remove_before_abort: bool,
    /// An upload is refused after this many bytes.
    pub(crate) full_after: Option<u64>,
    /// Downloads stop after this many bytes, without End.
    pub(crate) cut_after: Option<usize>,
    /// The next ticket, and one ready worker, are at an address where nobody listens.
    pub(crate) dead_ticket: bool,
    /// Bytes of uploads that came in as streams.
    pub(crate) came: usize,
    pub(crate) last_header: Option<v1::UploadHeader>,
    /// Sessions that were committed or aborted.
    committed: Vec<Bytes>,
    aborted: Vec<Bytes>,
}

#[derive(Clone)]
pub(crate) struct Fake {
    pub(crate) state: Arc<Mutex<State>>,
    worker_addr: String,
    /// Where nobody listens, and the socket that keeps it so.
    dead_addr: String,
    _nobody: Arc<TcpSocket>,
}

/// A gateway before the fakes.
pub(crate) struct Setup {
    pub(crate) addr: SocketAddr,
    pub(crate) fake: Fake,
    pub(crate) shutdown: Shutdown,
    pub(crate) done: tokio::task::JoinHandle<Result<(), cstore_gateway::Error>>,
}

pub(crate) async fn start() -> Setup {
    start_with(|_| {}).await
}

/// As [`start`], with another configuration of the gateway.
pub(crate) async fn start_with(tune: impl FnOnce(&mut Config)) -> Setup {
    let inner = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let inner_addr = inner.local_addr().unwrap();
    let (dead_addr, nobody) = nobody();
    let fake = Fake {
        state: Arc::default(),
        worker_addr: inner_addr.to_string(),
        dead_addr,
        _nobody: Arc::new(nobody),
    };
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    health
        .set_service_status("", tonic_health::ServingStatus::Serving)
        .await;
    let server = tonic::transport::Server::builder()
        .add_service(health_service)
        .add_service(NamespaceServer::new(fake.clone()))
        .add_service(UploadsServer::new(fake.clone()))
        .add_service(ClusterServer::new(fake.clone()))
        .add_service(TransferServer::new(fake.clone()))
        .serve_with_incoming_shutdown(
            TcpIncoming::from(inner).with_nodelay(Some(true)),
            async move { stop.triggered().await },
        );
    drop(cstore_node::shutdown::spawn("fakes", server));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let no_variables: BTreeMap<String, String> = BTreeMap::new();
    let mut config = Config::from_env(&mut cstore_node::Env::new(&no_variables));
    config.anonymous = true;
    config.master_addr = HostPort::new("127.0.0.1", inner_addr.port());
    config.drain_timeout = PATIENCE;
    tune(&mut config);
    let readiness = Readiness::new(&[]);
    let metrics = cstore_mesh::RoleMetrics::default();
    let run = cstore_gateway::run(
        config,
        secret(),
        listener,
        readiness.clone(),
        metrics,
        shutdown.clone(),
    );
    let done = cstore_node::shutdown::spawn("gateway", run);
    tokio::time::timeout(PATIENCE, started(addr))
        .await
        .expect("the gateway starts");
    Setup {
        addr,
        fake,
        shutdown,
        done,
    }
}

/// Waits until requests are no longer refused because it starts.
async fn started(addr: SocketAddr) {
    loop {
        let answer = crate::http::send(addr, "GET /api/stats HTTP/1.1\r\nHost: x\r\n\r\n").await;
        if answer.status != 503 {
            return;
        }
        tokio::task::yield_now().await;
    }
}

fn key() -> TicketKey {
    secret().ticket_key()
}

/// The claims of the `n`th ticket: its file is cut into blocks of 4 bytes.
fn claims(n: u64, worker_addr: &str) -> TicketClaims {
    let mut session = [0; 16];
    session[..8].copy_from_slice(&n.to_le_bytes());
    TicketClaims {
        session: SessionId::from_bytes(session),
        cluster: ClusterUuid::from_bytes([1; 16]),
        incarnation: Incarnation(1),
        worker: NodeId::new("worker-1").unwrap(),
        worker_addr: worker_addr.to_owned(),
        map_version: MapVersion(1),
        chunking: Chunking::Fixed(4),
        tenant: Tenant::default(),
        expires_ms: i64::MAX,
    }
}

impl Fake {
    pub(crate) fn with<T>(&self, act: impl FnOnce(&mut State) -> T) -> T {
        act(&mut self.state.lock().unwrap())
    }

    pub(crate) fn put_file(&self, name: &str, content: &'static [u8]) {
        let info = v1::FileInfo {
            name: name.to_owned(),
            size: content.len() as u64,
            etag: "0123-1".to_owned(),
            modified_ms: 784_111_777_000,
            content_type: "text/plain".to_owned(),
            ..v1::FileInfo::default()
        };
        self.with(|state| {
            state
                .files
                .insert(name.to_owned(), (Bytes::from_static(content), info))
        });
    }

    fn check(
        state: &State,
        name: &str,
        condition: Option<&v1::WriteCondition>,
    ) -> Result<(), Status> {
        let taken = state.files.get(name);
        match condition.and_then(|condition| condition.condition.as_ref()) {
            None | Some(Condition::Absent(_)) if taken.is_some() => Err(cstore_proto::status(
                ErrorCode::AlreadyExists,
                "a file of this name exists",
            )),
            Some(Condition::EtagEquals(etag))
                if taken.is_none_or(|(_, info)| info.etag != *etag) =>
            {
                Err(cstore_proto::status(
                    ErrorCode::PreconditionFailed,
                    "another etag",
                ))
            }
            _ => Ok(()),
        }
    }

    fn commit(
        &self,
        header: v1::UploadHeader,
        body: Bytes,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        self.with(|state| {
            let session = header.ticket.clone().unwrap_or_default().body;
            state.last_header = Some(header.clone());
            if let Some(status) = state.refuse_put.take() {
                return Err(status);
            }
            if state.aborted.contains(&session) {
                return Err(cstore_proto::status(
                    ErrorCode::PreconditionFailed,
                    "aborted",
                ));
            }
            Self::check(state, &header.name, header.condition.as_ref())?;
            let info = v1::FileInfo {
                name: header.name.clone(),
                size: body.len() as u64,
                etag: format!("e{}-1", state.commits),
                content_type: header.content_type.clone(),
                sha256: header.expect_sha256.clone(),
                metadata: header.metadata.clone(),
                blocks: 1,
                ..v1::FileInfo::default()
            };
            state.commits += 1;
            state.committed.push(session);
            let replaced = state
                .files
                .insert(header.name, (body, info.clone()))
                .is_some();
            if let Some(status) = state.lose_answer.take() {
                return Err(status);
            }
            let worker_id = "worker-1".to_owned();
            Ok(Response::new(v1::UploadResponse {
                file: Some(info),
                replaced,
                new_blocks: 1,
                new_bytes: 1,
                worker_id,
            }))
        })
    }
}

/// A connection to the gateway.
pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap()
}
