//! A worker in memory, whose files a fake master keeps.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use cstore_mesh::GrpcServer;
use cstore_proto::v1;
use cstore_proto::v1::transfer_server::{Transfer, TransferServer};
use cstore_proto::v1::{download_response, upload_request};
use cstore_types::ErrorCode;
use futures_util::{StreamExt, stream};
use parking_lot::Mutex;
use tonic::{Request, Response, Status, Streaming};

use super::script::Reply;
use super::{FakeMaster, Replies};

/// State of a [`FakeWorker`]. A test may set and read it at any time.
#[derive(Debug, Default)]
pub struct WorkerState {
    /// Bytes after which a streamed upload is refused as the disk is full.
    pub full_after: Option<usize>,
    /// Bytes after which a download stops without its end.
    pub cut_after: Option<usize>,
    /// Bytes of streamed uploads that came.
    pub received: usize,
    /// Header of the last upload that came whole.
    pub last_header: Option<v1::UploadHeader>,
    next: Reply,
}

/// A worker in memory. It publishes an upload that came whole at its master, and serves the files
/// of the master.
#[derive(Debug, Clone, Default)]
pub struct FakeWorker {
    /// Master that has the files.
    pub master: FakeMaster,
    state: Arc<Mutex<WorkerState>>,
}

impl FakeWorker {
    /// Adds the service of this worker to a server.
    pub fn add_to(&self, server: GrpcServer) -> GrpcServer {
        server.add_service(TransferServer::new(self.clone()))
    }

    /// Looks at the state or changes it.
    pub fn with<T>(&self, act: impl FnOnce(&mut WorkerState) -> T) -> T {
        act(&mut self.state.lock())
    }

    /// Gives this reply to the next upload that came whole, once.
    pub fn reply_next(&self, reply: Reply) {
        self.with(|state| state.next = reply);
    }

    async fn receive(
        &self,
        mut messages: Streaming<v1::UploadRequest>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let (mut header, mut body, mut finish) = (None, BytesMut::new(), None);
        while let Some(message) = messages.message().await? {
            match message.message {
                Some(upload_request::Message::Header(found)) => header = Some(found),
                Some(upload_request::Message::Chunk(chunk)) => {
                    body.extend_from_slice(&chunk);
                    self.with(|state| state.received += chunk.len());
                }
                Some(upload_request::Message::Finish(found)) => finish = Some(found),
                None => {}
            }
            if self.with(|state| state.full_after.is_some_and(|limit| body.len() > limit)) {
                return Err(cstore_proto::status(ErrorCode::Full, "the store is full"));
            }
        }
        let finish = finish.ok_or_else(|| Status::invalid_argument("no finish"))?;
        assert_eq!(finish.length, body.len() as u64);
        self.commit(header.expect("a header comes first"), body.freeze())
            .await
    }

    async fn commit(
        &self,
        header: v1::UploadHeader,
        body: Bytes,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let reply = self.with(|state| {
            state.last_header = Some(header.clone());
            std::mem::take(&mut state.next)
        });
        let publish = || {
            self.master.with(|master| {
                let file = v1::FileInfo {
                    name: header.name,
                    size: body.len() as u64,
                    etag: format!("e{}-1", master.n_commits()),
                    content_type: header.content_type,
                    sha256: header.expect_sha256,
                    metadata: header.metadata,
                    blocks: 1,
                    ..v1::FileInfo::default()
                };
                let session = header.ticket.unwrap_or_default().body;
                let condition = header.condition.as_ref();
                let replaced = master.publish(session, condition, file.clone(), body)?;
                Ok(v1::UploadResponse {
                    file: Some(file),
                    replaced,
                    new_blocks: 1,
                    new_bytes: 1,
                    worker_id: "worker-1".to_owned(),
                })
            })
        };
        reply.send(publish).await
    }
}

#[tonic::async_trait]
impl Transfer for FakeWorker {
    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        // Like a worker, on a task that outlives the call.
        let (fake, messages) = (self.clone(), request.into_inner());
        let work = async move { fake.receive(messages).await };
        cstore_node::shutdown::spawn("upload", work)
            .await
            .expect("the fake does not panic")
    }

    async fn put_small(
        &self,
        request: Request<v1::PutSmallRequest>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let request = request.into_inner();
        self.commit(request.header.expect("a header"), request.body)
            .await
    }

    type DownloadStream = Replies<v1::DownloadResponse>;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let name = String::from_utf8(request.recipe_root.to_vec()).unwrap();
        let content = self.master.with(|master| master.files[&name].0.clone());
        let cut = self.with(|state| state.cut_after);

        let (from, to) = (request.offset, request.offset + request.length);
        let wanted = content.slice(from as usize..to as usize);
        let sent = wanted.slice(..cut.unwrap_or(wanted.len()).min(wanted.len()));
        let mut messages: Vec<_> = sent
            .chunks(3)
            .map(|chunk| download_response::Message::Chunk(Bytes::copy_from_slice(chunk)))
            .collect();
        if cut.is_none() {
            messages.push(download_response::Message::End(v1::DownloadEnd {
                length: request.length,
            }));
        }
        let reply = |message| {
            Ok(v1::DownloadResponse {
                message: Some(message),
            })
        };
        Ok(Response::new(
            stream::iter(messages.into_iter().map(reply)).boxed(),
        ))
    }

    type GetRecipeStream = Replies<v1::GetRecipeResponse>;

    async fn get_recipe(
        &self,
        _: Request<v1::GetRecipeRequest>,
    ) -> Result<Response<Self::GetRecipeStream>, Status> {
        Err(Status::unimplemented("the fake has no recipes"))
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
