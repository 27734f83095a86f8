//! A master in memory.

mod cluster;
mod namespace;
mod uploads;

use std::any::Any;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use cstore_mesh::member::connect_master;
use cstore_mesh::{ClientOptions, Dial, GrpcServer, MasterClient, MeshMetrics};
use cstore_proto::v1::cluster_server::ClusterServer;
use cstore_proto::v1::namespace_server::NamespaceServer;
use cstore_proto::v1::uploads_server::UploadsServer;
use cstore_proto::v1::write_condition::Condition;
use cstore_proto::{Caller, Signer, v1};
use cstore_types::{ErrorCode, SessionId};
use parking_lot::Mutex;
use tokio::time::Instant;
use tonic::{Request, Response, Status};

use super::script::{Reply, Script};
use super::{grpc_server, serve_over_pipes};
use crate::secret;

/// State of a [`FakeMaster`]. A test may set and read it at any time.
#[derive(Debug, Default)]
pub struct MasterState {
    /// Contents and descriptions of the files by name.
    pub files: BTreeMap<String, (Bytes, v1::FileInfo)>,
    /// Addresses of the workers that the view shows as ready. The first one gets the tickets.
    pub workers: Vec<String>,
    /// Address in the next tickets instead of that of the first worker, once.
    pub next_ticket: Option<String>,
    /// The next abort finds that another client has removed the file of its session.
    pub remove_before_abort: bool,
    /// A view ends after its first message. Otherwise it stays open.
    pub ends_views: bool,
    /// Heartbeats are asked to register again, until a registration comes.
    pub forgot: bool,
    /// The master suspects the disk of every node.
    pub is_suspect: bool,
    /// The release list. An acknowledged session leaves it.
    pub releases: BTreeSet<SessionId>,
    /// Sessions that committed, each with the ETag that it published.
    committed: Vec<(Bytes, String)>,
    aborted: Vec<Bytes>,
    begun: u64,
    script: Script,
}

/// A master in memory that keeps the requests that came, and whose replies a test may choose.
///
/// Unless told otherwise it does what the real one does for one tenant and without durability:
/// conditions of writes, tickets, commits and aborts, releases until they are acknowledged.
/// Renames and copies only reply; usage is made up.
#[derive(Debug, Clone, Default)]
pub struct FakeMaster(Arc<Mutex<MasterState>>);

impl FakeMaster {
    /// Adds the services of this master to a server.
    pub fn add_to(&self, server: GrpcServer) -> GrpcServer {
        server
            .add_service(NamespaceServer::new(self.clone()))
            .add_service(UploadsServer::new(self.clone()))
            .add_service(ClusterServer::new(self.clone()))
    }

    /// Serves over pipes until the runtime ends. Returns the way to connect.
    pub async fn dial(&self) -> Dial {
        serve_over_pipes(self.add_to(grpc_server().await))
    }

    /// Serves over pipes until the runtime ends. Returns a client that calls as a worker.
    pub async fn client(&self) -> MasterClient {
        self.client_of(Caller::Worker).await
    }

    /// Serves over pipes until the runtime ends. Returns a client that calls as `caller`.
    pub async fn client_of(&self, caller: Caller) -> MasterClient {
        let signer = Signer::new(&secret(), caller);
        let options = ClientOptions {
            dial: self.dial().await,
            ..ClientOptions::new("test", signer, MeshMetrics::default())
        };
        connect_master("127.0.0.1:1", &options).unwrap()
    }

    /// Looks at the state or changes it.
    pub fn with<T>(&self, act: impl FnOnce(&mut MasterState) -> T) -> T {
        act(&mut self.0.lock())
    }

    /// Gives these replies to the next requests of type `R`, one each.
    pub fn reply_next<R: Any>(&self, replies: impl IntoIterator<Item = Reply>) {
        self.with(|state| state.script.next::<R>(replies));
    }

    /// Gives these replies again and again to the requests of type `R`, after those of
    /// [`Self::reply_next`]. The first request of the type gets the first one.
    pub fn reply_always<R: Any>(&self, pattern: impl IntoIterator<Item = Reply>) {
        self.with(|state| state.script.repeat::<R>(pattern));
    }

    /// Gives this reply to all requests that have no other one.
    pub fn reply_to_all(&self, reply: Reply) {
        self.with(|state| state.script.all(reply));
    }

    /// Returns the requests of type `R` in their order.
    pub fn requests<R: Any + Clone>(&self) -> Vec<R> {
        self.timed_requests().into_iter().map(|(_, r)| r).collect()
    }

    /// Returns the requests of type `R` in their order, with the times at which they came.
    pub fn timed_requests<R: Any + Clone>(&self) -> Vec<(Instant, R)> {
        self.with(|state| state.script.requests())
    }

    /// Returns the number of requests of type `R`.
    pub fn count<R: Any>(&self) -> usize {
        self.with(|state| state.script.count::<R>())
    }

    /// Returns the number of requests of all types.
    pub fn count_all(&self) -> usize {
        self.with(|state| state.script.count_all())
    }

    /// Returns the number of sessions that published a file.
    pub fn n_commits(&self) -> usize {
        self.with(|state| state.committed.len())
    }

    /// Adds a file without an upload.
    pub fn put_file(&self, name: &str, content: &'static [u8]) {
        let info = v1::FileInfo {
            name: name.to_owned(),
            size: content.len() as u64,
            etag: "0123-1".to_owned(),
            modified_ms: 784_111_777_000,
            content_type: "text/plain".to_owned(),
            ..v1::FileInfo::default()
        };
        let file = (Bytes::from_static(content), info);
        self.with(|state| state.files.insert(name.to_owned(), file));
    }

    /// Keeps the request, and does it as far as the reply to it says.
    async fn serve<R, T>(
        &self,
        request: Request<R>,
        act: impl FnOnce(&mut MasterState, R) -> Result<T, Status>,
    ) -> Result<Response<T>, Status>
    where
        R: Any + Clone + Send,
        T: Default,
    {
        let request = request.into_inner();
        let reply = self.with(|state| state.script.receive(&request));
        reply.send(|| self.with(|state| act(state, request))).await
    }
}

impl MasterState {
    /// Checks the condition of a write.
    fn check(&self, name: &str, condition: Option<&v1::WriteCondition>) -> Result<(), Status> {
        let taken = self.files.get(name);
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

    /// Publishes the file of a session. Returns true if a file of its name was there.
    pub(super) fn publish(
        &mut self,
        session: Bytes,
        condition: Option<&v1::WriteCondition>,
        file: v1::FileInfo,
        body: Bytes,
    ) -> Result<bool, Status> {
        if self.aborted.contains(&session) {
            return Err(cstore_proto::status(
                ErrorCode::PreconditionFailed,
                "aborted",
            ));
        }
        self.check(&file.name, condition)?;
        self.committed.push((session, file.etag.clone()));
        Ok(self.files.insert(file.name.clone(), (body, file)).is_some())
    }

    pub(super) fn n_commits(&self) -> usize {
        self.committed.len()
    }
}
