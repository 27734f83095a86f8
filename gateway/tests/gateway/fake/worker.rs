//! The worker's service of the fake.

use bytes::{Bytes, BytesMut};
use cstore_proto::v1;
use cstore_proto::v1::transfer_server::Transfer;
use cstore_types::ErrorCode;
use futures_util::stream;
use tonic::{Request, Response, Status, Streaming};

use super::Answers;
use super::Fake;

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
            if self.with(|state| {
                state
                    .full_after
                    .is_some_and(|limit| body.len() as u64 > limit)
            }) {
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
    }

    type DownloadStream = Answers<v1::DownloadResponse>;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let name = String::from_utf8(request.recipe_root.to_vec()).unwrap();
        let (content, cut) = self.with(|state| (state.files[&name].0.clone(), state.cut_after));
        let (from, to) = (
            request.offset as usize,
            (request.offset + request.length) as usize,
        );
        let wanted = content.slice(from..to);
        let sent = wanted.slice(..cut.unwrap_or(wanted.len()).min(wanted.len()));
        let mut messages: Vec<_> = sent
            .chunks(3)
            .map(|chunk| v1::download_response::Message::Chunk(Bytes::copy_from_slice(chunk)))
            .collect();
        if cut.is_none() {
            messages.push(v1::download_response::Message::End(v1::DownloadEnd {
                length: request.length,
            }));
        }
        let messages = messages.into_iter().map(|message| {
            Ok(v1::DownloadResponse {
                message: Some(message),
            })
        });
        Ok(Response::new(Box::pin(stream::iter(
            messages.collect::<Vec<_>>(),
        ))))
    }

    type GetRecipeStream = Answers<v1::GetRecipeResponse>;

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
