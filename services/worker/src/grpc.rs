//! cstore.v1.Transfer. Translates, and owns the tasks that outlive a broken call.

use std::future::Future;
use std::pin::Pin;

use bytes::Bytes;
use cstore_node::shutdown::spawn;
use cstore_proto::v1::transfer_server::Transfer;
use cstore_proto::v1::upload_request::Message;
use cstore_proto::{from_status, status, to_status, v1};
use cstore_types::limits::{MAX_SMALL_BYTES, UNADVERTISED_SMALL_BYTES};
use cstore_types::{ErrorCode, Fault, Root, error_chain};
use futures_util::{Stream, StreamExt};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, async_trait};

use crate::cluster::Route;
use crate::download::{Chunk, download};
use crate::error::lost_task;
use crate::limits::{CHUNKS_AHEAD, CLIENT_DEADLINE, MAX_UPLOAD_CHUNK, RECIPE_PAGE};
use crate::metrics::TransferMetrics;
use crate::recipe_walk::RecipeWalk;
use crate::session::{Session, Sessions};
use crate::trace;
use crate::upload::Upload;

/// The worker's door.
#[derive(Debug, Clone)]
pub(crate) struct Door {
    pub(crate) sessions: Sessions,
    pub(crate) metrics: TransferMetrics,
}

#[async_trait]
impl Transfer for Door {
    async fn upload(
        &self,
        request: Request<Streaming<v1::UploadRequest>>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let (sessions, messages) = (self.sessions.clone(), request.into_inner());
        // On a reset the handler's future is dropped: the upload runs on a task of its own, which
        // sees the broken stream and aborts.
        let work = counted(self.metrics.clone(), async move {
            upload(&sessions, messages).await
        });
        let result = spawn("upload", work)
            .await
            .unwrap_or_else(|error| Err(lost_task(error)));
        trace::describe_upload(result.as_ref().ok());
        Ok(Response::new(result.map_err(to_status)?))
    }

    async fn put_small(
        &self,
        request: Request<v1::PutSmallRequest>,
    ) -> Result<Response<v1::UploadResponse>, Status> {
        let (sessions, request) = (self.sessions.clone(), request.into_inner());
        if request.body.len() > MAX_SMALL_BYTES {
            let text = format!(
                "body has {} bytes, allowed are {MAX_SMALL_BYTES}",
                request.body.len()
            );
            return Err(status(ErrorCode::TooLarge, text));
        }
        // Taken BEFORE the task starts, which goes on without its caller: tasks that wait for memory
        // would be bounded by nothing.
        let held = match request.body.len() > UNADVERTISED_SMALL_BYTES {
            true => Some(
                sessions
                    .budget
                    .small_upload(request.body.len())
                    .await
                    .map_err(to_status)?,
            ),
            false => None,
        };
        // Boxed where it is made: it would be copied on the way to its task.
        let work = Box::pin(async move {
            let stored = put_small(&sessions, request).await;
            drop(held);
            stored
        });
        let work = counted(self.metrics.clone(), work);
        let result = spawn("small upload", work)
            .await
            .unwrap_or_else(|error| Err(lost_task(error)));
        trace::describe_upload(result.as_ref().ok());
        Ok(Response::new(result.map_err(to_status)?))
    }

    type DownloadStream = Pin<Box<dyn Stream<Item = Result<v1::DownloadResponse, Status>> + Send>>;

    async fn download(
        &self,
        request: Request<v1::DownloadRequest>,
    ) -> Result<Response<Self::DownloadStream>, Status> {
        let request = request.into_inner();
        let root = Root::decode(&request.recipe_root).map_err(|error| to_status(error.into()))?;
        let size = root.size();
        let end = match request.length {
            0 => size,
            length => request.offset.saturating_add(length),
        };
        if request.offset > size || end > size {
            let text = format!(
                "bytes {} to {end} are beyond the file's {size}",
                request.offset
            );
            return Err(status(ErrorCode::RangeNotSatisfiable, text));
        }
        let route = Route::new(&self.sessions.stores).map_err(to_status)?;
        let (out, chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
        let (range, metrics, budget) = (
            request.offset..end,
            self.metrics.clone(),
            self.sessions.budget.clone(),
        );
        spawn("download", async move {
            let mut running = metrics.download();
            let result = download(route, root, range, budget, out.clone()).await;
            if let Ok(bytes) = result {
                metrics.sent(&mut running, bytes);
            }
            trace::describe_download(result.as_ref().ok().copied());
            if let Err(fault) = result {
                tracing::info!(code = %fault.code, error = %error_chain(&fault), "download ends early");
                let _ = out.send(Err(fault)).await;
            }
        });
        // The end is told only when all chunks came: a download that failed is never a clean end.
        let state = (
            ReceiverStream::new(chunks),
            0u64,
            Some(end - request.offset),
        );
        let answers = futures_util::stream::unfold(state, |(mut chunks, sent, left)| async move {
            let total = left?;
            match chunks.next().await {
                Some(Ok(chunk)) => {
                    let sent = sent + chunk.len() as u64;
                    Some((
                        Ok(answer(v1::download_response::Message::Chunk(chunk))),
                        (chunks, sent, left),
                    ))
                }
                Some(Err(fault)) => Some((Err(to_status(fault)), (chunks, sent, None))),
                None if sent == total => {
                    let end = v1::DownloadEnd { length: sent };
                    Some((
                        Ok(answer(v1::download_response::Message::End(end))),
                        (chunks, sent, None),
                    ))
                }
                None => {
                    let cut = status(ErrorCode::Internal, "download ended early");
                    Some((Err(cut), (chunks, sent, None)))
                }
            }
        });
        Ok(Response::new(Box::pin(answers)))
    }

    type GetRecipeStream =
        Pin<Box<dyn Stream<Item = Result<v1::GetRecipeResponse, Status>> + Send>>;

    async fn get_recipe(
        &self,
        request: Request<v1::GetRecipeRequest>,
    ) -> Result<Response<Self::GetRecipeStream>, Status> {
        let root = Root::decode(&request.into_inner().recipe_root);
        let root = root.map_err(|error| to_status(error.into()))?;
        let route = Route::new(&self.sessions.stores).map_err(to_status)?;
        let walk = RecipeWalk::new(&root, 0..root.size());
        let pages = futures_util::stream::unfold(Some((route, walk)), |state| async move {
            let (route, mut walk) = state?;
            match recipe_page(&route, &mut walk).await {
                Ok(blocks) if blocks.is_empty() => None,
                Ok(blocks) => Some((Ok(v1::GetRecipeResponse { blocks }), Some((route, walk)))),
                Err(fault) => Some((Err(to_status(fault)), None)),
            }
        });
        Ok(Response::new(Box::pin(pages)))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let route = Route::new(&self.sessions.stores).map_err(to_status)?;
        let usage = crate::explain::explain(&route, request.into_inner())
            .await
            .map_err(to_status)?;
        Ok(Response::new(usage.into()))
    }
}

fn answer(message: v1::download_response::Message) -> v1::DownloadResponse {
    v1::DownloadResponse {
        message: Some(message),
    }
}

async fn recipe_page(route: &Route, walk: &mut RecipeWalk) -> Result<Vec<v1::RecipeBlock>, Fault> {
    let pieces = walk.next(route, u64::MAX, RECIPE_PAGE).await?;
    let block = |piece: crate::recipe_walk::Piece| v1::RecipeBlock {
        id: Bytes::copy_from_slice(piece.id.as_bytes()),
        offset: piece.offset,
        length: u32::try_from(piece.len).unwrap_or(u32::MAX),
        node_id: route.node_of(&piece.id).to_string(),
    };
    Ok(pieces.into_iter().map(block).collect())
}

/// Counts an upload from its task: on a reset nobody else sees how it ended.
async fn counted(
    metrics: TransferMetrics,
    upload: impl Future<Output = Result<v1::UploadResponse, Fault>>,
) -> Result<v1::UploadResponse, Fault> {
    let mut running = metrics.upload();
    let result = upload.await;
    if let Ok(done) = &result {
        metrics.committed(&mut running, done);
    }
    result
}

async fn put_small(
    sessions: &Sessions,
    request: v1::PutSmallRequest,
) -> Result<v1::UploadResponse, Fault> {
    let header = request
        .header
        .ok_or_else(|| Fault::invalid("field header is missing"))?;
    let (session, mut upload) = sessions.begin(header)?;
    session.progress();
    let store = async {
        check_body(
            request.body.len() as u64,
            request.body.len() as u64,
            crc32c(&request.body),
            request.crc32c,
        )?;
        upload.push(request.body).await?;
        upload.finish().await
    };
    match store.await {
        Ok(stored) => session.commit(stored).await,
        Err(fault) => {
            session.abort().await;
            Err(fault)
        }
    }
}

fn crc32c(bytes: &[u8]) -> u32 {
    ::crc32c::crc32c(bytes)
}

fn check_body(length: u64, announced: u64, crc: u32, announced_crc: u32) -> Result<(), Fault> {
    if length != announced {
        return Err(Fault::invalid(format!(
            "body has {length} bytes, {announced} were announced"
        )));
    }
    if crc != announced_crc {
        return Err(Fault::invalid(
            "body does not have the checksum that was announced",
        ));
    }
    Ok(())
}

async fn upload(
    sessions: &Sessions,
    mut messages: Streaming<v1::UploadRequest>,
) -> Result<v1::UploadResponse, Fault> {
    let header = match next(&mut messages).await? {
        Message::Header(header) => header,
        _ => return Err(Fault::invalid("an upload begins with its header")),
    };
    let (session, upload) = sessions.begin(header)?;
    match receive(&session, upload, &mut messages).await {
        Ok(stored) => session.commit(stored).await,
        Err(fault) => {
            session.abort().await;
            Err(fault)
        }
    }
}

async fn receive(
    session: &Session,
    mut upload: Upload,
    messages: &mut Streaming<v1::UploadRequest>,
) -> Result<crate::upload::Stored, Fault> {
    let (mut length, mut crc) = (0u64, 0u32);
    loop {
        session.progress();
        match next(messages).await? {
            Message::Header(_) => return Err(Fault::invalid("an upload has one header")),
            Message::Chunk(chunk) if chunk.len() > MAX_UPLOAD_CHUNK => {
                return Err(Fault::invalid(format!(
                    "a chunk has at most {MAX_UPLOAD_CHUNK} bytes, found {}",
                    chunk.len()
                )));
            }
            Message::Chunk(chunk) => {
                length += chunk.len() as u64;
                crc = ::crc32c::crc32c_append(crc, &chunk);
                upload.push(chunk).await?;
            }
            Message::Finish(finish) => {
                check_body(length, finish.length, crc, finish.crc32c)?;
                return upload.finish().await;
            }
        }
    }
}

/// The next message. A stream that ends or breaks before Finish is an upload that never happened.
async fn next(messages: &mut Streaming<v1::UploadRequest>) -> Result<Message, Fault> {
    let late = |_| {
        Fault::new(
            ErrorCode::Deadline,
            format!("nothing came for {CLIENT_DEADLINE:?}"),
        )
    };
    let message = timeout(CLIENT_DEADLINE, messages.message())
        .await
        .map_err(late)?;
    let message = message
        .map_err(from_status)?
        .ok_or_else(|| Fault::invalid("upload ended without Finish"))?;
    message
        .message
        .ok_or_else(|| Fault::invalid("empty message"))
}
