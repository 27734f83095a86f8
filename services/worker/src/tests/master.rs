//! A master in memory that can be told how to reply to commits and aborts.

use std::collections::VecDeque;
use std::sync::Arc;

use cstore_mesh::member::connect_master;
use cstore_mesh::{BoxIo, Dial, GrpcServer, MasterClient, MeshMetrics, ServerOptions};
use cstore_node::shutdown::spawn;
use cstore_proto::v1::uploads_server::{Uploads, UploadsServer};
use cstore_proto::{Caller, Signer, Verifier, to_status, v1};
use cstore_testkit::secret;
use cstore_types::Fault;
use parking_lot::Mutex;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

/// Bytes that a connection holds in each direction.
const PIPE: usize = 64 << 10;
/// Connections that wait to be accepted.
const CONNECTIONS: usize = 8;

/// The requests that came, and the replies to the next ones.
#[derive(Debug, Default)]
struct State {
    commits: Vec<v1::CommitUploadRequest>,
    aborts: Vec<v1::AbortUploadRequest>,
    commit_script: VecDeque<Fault>,
    /// Refuses all commits after those of the script.
    always: Option<Fault>,
    /// Refuses all aborts.
    abort_fault: Option<Fault>,
}

/// A master in memory.
#[derive(Debug, Clone, Default)]
pub(super) struct FakeMaster(Arc<Mutex<State>>);

impl FakeMaster {
    /// Serves this master and returns a client of it.
    pub(super) async fn client(&self) -> MasterClient {
        let (connected, connections) = mpsc::channel::<std::io::Result<BoxIo>>(CONNECTIONS);
        let options = ServerOptions {
            role: "master",
            verifier: Verifier::new(&secret()),
            reflection: false,
            metrics: MeshMetrics::default(),
            drain: std::time::Duration::from_secs(1),
        };
        let server = GrpcServer::new(options).await.unwrap();
        server.health().set_serving(true).await;
        let server = server.add_service(UploadsServer::new(self.clone()));
        spawn(
            "fake master",
            server.serve_over(ReceiverStream::new(connections), std::future::pending()),
        );

        let dial = Dial::new(move |_| {
            let connected = connected.clone();
            Box::pin(async move {
                let (ours, theirs) = tokio::io::duplex(PIPE);
                let refused = |_| std::io::Error::from(std::io::ErrorKind::ConnectionRefused);
                connected
                    .send(Ok(Box::new(theirs)))
                    .await
                    .map_err(refused)?;
                Ok(Box::new(ours) as BoxIo)
            })
        });
        let signer = Signer::new(&secret(), Caller::Worker);
        let options = cstore_mesh::ClientOptions::new("worker", signer, MeshMetrics::default());
        connect_master(
            "127.0.0.1:4100",
            &cstore_mesh::ClientOptions { dial, ..options },
        )
        .unwrap()
    }

    /// Refuses the next commits, one by each of these.
    pub(super) fn refuse_commits(&self, faults: impl IntoIterator<Item = Fault>) {
        self.0.lock().commit_script.extend(faults);
    }

    /// Refuses all commits after those that [`Self::refuse_commits`] names.
    pub(super) fn always_refuse(&self, fault: Fault) {
        self.0.lock().always = Some(fault);
    }

    pub(super) fn refuse_aborts(&self, fault: Fault) {
        self.0.lock().abort_fault = Some(fault);
    }

    pub(super) fn commits(&self) -> Vec<v1::CommitUploadRequest> {
        self.0.lock().commits.clone()
    }

    pub(super) fn aborts(&self) -> Vec<v1::AbortUploadRequest> {
        self.0.lock().aborts.clone()
    }
}

#[tonic::async_trait]
impl Uploads for FakeMaster {
    async fn begin_upload(
        &self,
        _: Request<v1::BeginUploadRequest>,
    ) -> Result<Response<v1::BeginUploadResponse>, Status> {
        Err(Status::unimplemented("a worker makes no tickets"))
    }

    async fn commit_upload(
        &self,
        request: Request<v1::CommitUploadRequest>,
    ) -> Result<Response<v1::CommitUploadResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.0.lock();
        let file = v1::FileInfo {
            name: request.name.clone(),
            size: request.size,
            blocks: request.blocks,
            ..v1::FileInfo::default()
        };
        state.commits.push(request);
        match state
            .commit_script
            .pop_front()
            .or_else(|| state.always.clone())
        {
            Some(fault) => Err(to_status(fault)),
            None => Ok(Response::new(v1::CommitUploadResponse {
                file: Some(file),
                replaced: true,
                ..v1::CommitUploadResponse::default()
            })),
        }
    }

    async fn abort_upload(
        &self,
        request: Request<v1::AbortUploadRequest>,
    ) -> Result<Response<v1::AbortUploadResponse>, Status> {
        let mut state = self.0.lock();
        state.aborts.push(request.into_inner());
        match state.abort_fault.clone() {
            Some(fault) => Err(to_status(fault)),
            None => Ok(Response::new(v1::AbortUploadResponse::default())),
        }
    }
}
