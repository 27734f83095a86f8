//! A master and a worker that live in this process, remember what they were told and answer what a test wants.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};

use bytes::{Bytes, BytesMut};
use cstore_gateway::Config;
use cstore_node::admin::Readiness;
use cstore_node::{HostPort, Shutdown};
use cstore_proto::v1::cluster_server::{Cluster, ClusterServer};
use cstore_proto::v1::namespace_server::{Namespace, NamespaceServer};
use cstore_proto::v1::transfer_server::{Transfer, TransferServer};
use cstore_proto::v1::uploads_server::{Uploads, UploadsServer};
use cstore_proto::v1::write_condition::Condition;
use cstore_proto::{TicketClaims, v1};
use cstore_types::{
    Chunking, ClusterSecret, ClusterUuid, ErrorCode, Incarnation, MapVersion, NodeId, SessionId, Tenant,
    TicketKey,
};
use futures_util::{Stream, StreamExt, stream};
use std::pin::Pin;
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use tonic::transport::server::TcpIncoming;
use tonic::{Request, Response, Status, Streaming};

use crate::http::PATIENCE;

pub(crate) type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

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
    let nobody = nobody();
    let fake = Fake {
        state: Arc::default(),
        worker_addr: inner_addr.to_string(),
        dead_addr: nobody.local_addr().unwrap().to_string(),
        _nobody: Arc::new(nobody),
    };
    let shutdown = Shutdown::new();
    let stop = shutdown.clone();
    let (health, health_service) = tonic_health::server::health_reporter();
    health.set_service_status("", tonic_health::ServingStatus::Serving).await;
    let server = tonic::transport::Server::builder()
        .add_service(health_service)
        .add_service(NamespaceServer::new(fake.clone()))
        .add_service(UploadsServer::new(fake.clone()))
        .add_service(ClusterServer::new(fake.clone()))
        .add_service(TransferServer::new(fake.clone()))
        .serve_with_incoming_shutdown(TcpIncoming::from(inner).with_nodelay(Some(true)), async move {
            stop.triggered().await
        });
    drop(cstore_node::shutdown::spawn("fakes", server));

    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let no_variables: BTreeMap<String, String> = BTreeMap::new();
    let mut config = Config::from_env(&mut cstore_node::Env::new(&no_variables));
    config.anonymous = true;
    config.master_addr = HostPort::new("127.0.0.1", inner_addr.port());
    config.drain_timeout = PATIENCE;
    tune(&mut config);
    let secret = ClusterSecret::parse("0123456789abcdef0123456789abcdef").unwrap();
    let readiness = Readiness::new(&[]);
    let metrics = cstore_mesh::RoleMetrics::default();
    let run = cstore_gateway::run(config, secret, listener, readiness.clone(), metrics, shutdown.clone());
    let done = cstore_node::shutdown::spawn("gateway", run);
    tokio::time::timeout(PATIENCE, started(addr)).await.expect("the gateway starts");
    Setup { addr, fake, shutdown, done }
}

/// Takes a port on which nobody listens. Connections to it are refused as long as the socket lives; a port that was
/// given back could be the next one of another test.
fn nobody() -> TcpSocket {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.1:0".parse().unwrap()).unwrap();
    socket
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
    ClusterSecret::parse("0123456789abcdef0123456789abcdef").unwrap().ticket_key()
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
        self.with(|state| state.files.insert(name.to_owned(), (Bytes::from_static(content), info)));
    }

    fn check(state: &State, name: &str, condition: Option<&v1::WriteCondition>) -> Result<(), Status> {
        let taken = state.files.get(name);
        match condition.and_then(|condition| condition.condition.as_ref()) {
            None | Some(Condition::Absent(_)) if taken.is_some() => {
                Err(cstore_proto::status(ErrorCode::AlreadyExists, "a file of this name exists"))
            }
            Some(Condition::EtagEquals(etag)) if taken.is_none_or(|(_, info)| info.etag != *etag) => {
                Err(cstore_proto::status(ErrorCode::PreconditionFailed, "another etag"))
            }
            _ => Ok(()),
        }
    }

    fn commit(&self, header: v1::UploadHeader, body: Bytes) -> Result<Response<v1::UploadResponse>, Status> {
        self.with(|state| {
            let session = header.ticket.clone().unwrap_or_default().body;
            state.last_header = Some(header.clone());
            if let Some(status) = state.refuse_put.take() {
                return Err(status);
            }
            if state.aborted.contains(&session) {
                return Err(cstore_proto::status(ErrorCode::PreconditionFailed, "aborted"));
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
            let replaced = state.files.insert(header.name, (body, info.clone())).is_some();
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

#[tonic::async_trait]
impl Uploads for Fake {
    async fn begin_upload(
        &self,
        request: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::BeginUploadResponse>, Status> {
        let request = request.into_inner();
        self.with(|state| {
            if let Some(status) = state.refuse_begin.take() {
                return Err(status);
            }
            if !request.name.is_empty() {
                Self::check(state, &request.name, request.condition.as_ref())?;
            }
            let addr =
                if std::mem::take(&mut state.dead_ticket) { &self.dead_addr } else { &self.worker_addr };
            let ticket = |n: u64| claims(n, addr).sign(&key());
            let tickets =
                (0..u64::from(request.count.max(1))).map(|n| ticket(state.begun * 100 + n)).collect();
            state.begun += 1;
            Ok(Response::new(v1::BeginUploadResponse { tickets, ..v1::BeginUploadResponse::default() }))
        })
    }

    async fn commit_upload(
        &self,
        _: Request<v1::CommitUploadRequest>,
    ) -> Result<Response<v1::CommitUploadResponse>, Status> {
        Err(Status::unimplemented("the fake worker commits by itself"))
    }

    async fn abort_upload(
        &self,
        request: Request<v1::AbortUploadRequest>,
    ) -> Result<Response<v1::AbortUploadResponse>, Status> {
        let session = request.into_inner().ticket.unwrap_or_default().body;
        self.with(|state| {
            state.aborts += 1;
            let committed = state.committed.iter().position(|known| *known == session);
            state.aborted.push(session);
            let Some(nth) = committed else { return Ok(Response::new(v1::AbortUploadResponse::default())) };
            let removed = std::mem::take(&mut state.remove_before_abort);
            if removed {
                state.files.clear();
            }
            let published = format!("e{nth}-1");
            let file =
                state.files.values().map(|(_, info)| info).find(|info| info.etag == published).cloned();
            let answer = v1::AbortUploadResponse {
                committed: true,
                version: if removed { 3 } else { 1 },
                file,
                state: None,
            };
            Ok(Response::new(answer))
        })
    }
}

impl Fake {
    async fn receive(
        &self,
        mut messages: Streaming<v1::UploadRequest>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        // Dropped without an end when the stream is reset.
        let broken = Broken(self);
        let (mut header, mut body, mut finish) = (None, BytesMut::new(), None);
        while let Some(message) = messages.message().await? {
            match message.message {
                Some(v1::upload_request::Message::Header(found)) => header = Some(found),
                Some(v1::upload_request::Message::Chunk(chunk)) => {
                    body.extend_from_slice(&chunk);
                    self.with(|state| state.came += chunk.len());
                }
                Some(v1::upload_request::Message::Finish(found)) => finish = Some(found),
                None => {}
            }
            if self.with(|state| state.full_after.is_some_and(|limit| body.len() as u64 > limit)) {
                std::mem::forget(broken);
                return Err(cstore_proto::status(ErrorCode::Full, "the store is full"));
            }
        }
        let finish = finish.ok_or_else(|| Status::invalid_argument("no finish"))?;
        assert_eq!(finish.length, body.len() as u64);
        std::mem::forget(broken);
        self.commit(header.expect("a header comes first"), body.freeze())
    }
}

#[tonic::async_trait]
impl Transfer for Fake {
    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        // As a worker does it: on a task that outlives the call.
        let (fake, messages) = (self.clone(), request.into_inner());
        let work = async move { fake.receive(messages).await };
        cstore_node::shutdown::spawn("upload", work).await.expect("the fake does not panic")
    }

    async fn put_small(
        &self,
        request: Request<v1::PutSmallRequest>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let request = request.into_inner();
        self.commit(request.header.expect("a header"), request.body)
    }

    type DownloadStream = Boxed<v1::DownloadResponse>;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let name = String::from_utf8(request.recipe_root.to_vec()).unwrap();
        let (content, cut) = self.with(|state| (state.files[&name].0.clone(), state.cut_after));
        let (from, to) = (request.offset as usize, (request.offset + request.length) as usize);
        let wanted = content.slice(from..to);
        let sent = wanted.slice(..cut.unwrap_or(wanted.len()).min(wanted.len()));
        let mut messages: Vec<_> = sent
            .chunks(3)
            .map(|chunk| v1::download_response::Message::Chunk(Bytes::copy_from_slice(chunk)))
            .collect();
        if cut.is_none() {
            messages.push(v1::download_response::Message::End(v1::DownloadEnd { length: request.length }));
        }
        let messages =
            messages.into_iter().map(|message| Ok(v1::DownloadResponse { message: Some(message) }));
        Ok(Response::new(Box::pin(stream::iter(messages.collect::<Vec<_>>()))))
    }

    type GetRecipeStream = Boxed<v1::GetRecipeResponse>;

    async fn get_recipe(
        &self,
        _: Request<v1::GetRecipeRequest>,
    ) -> Result<Response<Self::GetRecipeStream>, Status> {
        Err(Status::unimplemented("not asked for"))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let n = request.into_inner().sessions.len() as u64;
        Ok(Response::new(v1::ExplainResponse {
            blocks: 10 * n,
            bytes: 1_000 * n,
            shared_blocks: 4 * n,
            shared_bytes: 300 * n,
        }))
    }
}

/// Counts an upload that was dropped in the middle.
struct Broken<'a>(&'a Fake);

impl Drop for Broken<'_> {
    fn drop(&mut self) {
        self.0.with(|state| state.broken += 1);
    }
}

#[tonic::async_trait]
impl Namespace for Fake {
    async fn get_file(
        &self,
        request: Request<v1::GetFileRequest>,
    ) -> Result<Response<v1::GetFileResponse>, Status> {
        let name = request.into_inner().name;
        let found = self.with(|state| state.files.get(&name).map(|(_, info)| info.clone()));
        let file = found.ok_or_else(|| cstore_proto::status(ErrorCode::NotFound, "no file of this name"))?;
        Ok(Response::new(v1::GetFileResponse {
            file: Some(file),
            recipe_root: Bytes::from(name),
            state: None,
        }))
    }

    async fn list_files(
        &self,
        request: Request<v1::ListFilesRequest>,
    ) -> Result<Response<v1::ListFilesResponse>, Status> {
        let request = request.into_inner();
        let files = self.with(|state| {
            let all = state.files.values().map(|(_, info)| info.clone());
            all.filter(|info| info.name.starts_with(&request.prefix))
                .take(request.page_size as usize)
                .collect()
        });
        Ok(Response::new(v1::ListFilesResponse { files, ..v1::ListFilesResponse::default() }))
    }

    async fn delete_file(
        &self,
        request: Request<v1::DeleteFileRequest>,
    ) -> Result<Response<v1::DeleteFileResponse>, Status> {
        let removed = self.with(|state| state.files.remove(&request.into_inner().name));
        removed.ok_or_else(|| cstore_proto::status(ErrorCode::NotFound, "no file of this name"))?;
        Ok(Response::new(v1::DeleteFileResponse::default()))
    }

    async fn rename_file(
        &self,
        request: Request<v1::RenameFileRequest>,
    ) -> Result<Response<v1::RenameFileResponse>, Status> {
        let request = request.into_inner();
        let file = v1::FileInfo { name: request.to, ..v1::FileInfo::default() };
        Ok(Response::new(v1::RenameFileResponse { file: Some(file), state: None }))
    }

    async fn copy_file(
        &self,
        request: Request<v1::CopyFileRequest>,
    ) -> Result<Response<v1::CopyFileResponse>, Status> {
        let request = request.into_inner();
        let file = v1::FileInfo { name: request.to, ..v1::FileInfo::default() };
        Ok(Response::new(v1::CopyFileResponse { file: Some(file), state: None }))
    }

    async fn select_files(
        &self,
        request: Request<v1::SelectFilesRequest>,
    ) -> Result<Response<v1::SelectFilesResponse>, Status> {
        use v1::select_files_request::Selection;
        let (found, sessions) = self.with(|state| {
            let chosen = |name: &str| match &request.get_ref().selection {
                Some(Selection::Name(wanted)) => name == wanted,
                Some(Selection::Prefix(prefix)) => name.starts_with(prefix.as_str()),
                None => false,
            };
            let found: Vec<u64> =
                state.files.iter().filter(|(name, _)| chosen(name)).map(|(_, (_, info))| info.size).collect();
            let session = v1::SessionUse { session: Bytes::from_static(&[1; 16]), ends: true };
            (found.clone(), vec![session; found.len()])
        });
        if found.is_empty() && matches!(request.get_ref().selection, Some(Selection::Name(_))) {
            return Err(cstore_proto::status(ErrorCode::NotFound, "no file of this name"));
        }
        Ok(Response::new(v1::SelectFilesResponse {
            files: found.len() as u64,
            logical_bytes: found.iter().sum(),
            sessions,
            other_names: 1,
            state: None,
        }))
    }

    async fn get_usage(
        &self,
        _: Request<v1::GetUsageRequest>,
    ) -> Result<Response<v1::GetUsageResponse>, Status> {
        Ok(Response::new(v1::GetUsageResponse {
            files: 2,
            logical_bytes: 300,
            unique_bytes: 100,
            cluster_logical_bytes: 300,
            ..v1::GetUsageResponse::default()
        }))
    }
}

#[tonic::async_trait]
impl Cluster for Fake {
    async fn register(
        &self,
        _: Request<v1::RegisterRequest>,
    ) -> Result<Response<v1::RegisterResponse>, Status> {
        Err(Status::unimplemented("a gateway does not register"))
    }

    async fn heartbeat(
        &self,
        _: Request<v1::HeartbeatRequest>,
    ) -> Result<Response<v1::HeartbeatResponse>, Status> {
        Err(Status::unimplemented("a gateway does not beat"))
    }

    type WatchMapStream = Boxed<v1::ClusterView>;

    async fn watch_map(
        &self,
        _: Request<v1::WatchMapRequest>,
    ) -> Result<Response<Self::WatchMapStream>, Status> {
        let worker = |addr: &String| v1::Node {
            role: v1::Role::Worker.into(),
            state: v1::NodeState::Ready.into(),
            node_id: "worker-1".to_owned(),
            addr: addr.clone(),
            ..v1::Node::default()
        };
        let view = v1::ClusterView {
            map: Some(v1::PlacementMap::default()),
            nodes: vec![worker(&self.worker_addr), worker(&self.dead_addr)],
            ..v1::ClusterView::default()
        };
        Ok(Response::new(Box::pin(stream::iter([Ok(view)]).chain(stream::pending()))))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        Ok(Response::new(v1::ListNodesResponse::default()))
    }
}

/// A connection to the gateway.
pub(crate) async fn connect(addr: SocketAddr) -> TcpStream {
    TcpStream::connect(addr).await.unwrap()
}
