//! One upload: a ticket from the master, the bytes to its worker, and the worker's word that it is
//! durable.
//!
//! ```text
//! known body ≤ 1 MiB    read whole ──> ticket from the stock ──> PutSmall
//! all others            BeginUpload (refuses a taken name before the body is read) ──> Upload: header, chunks, Finish
//!                       A small one is refused when it commits, after its body.
//! ```
//! Invariants: Finish is sent only behind the proper end of the body. A body that breaks off drops
//! the call, which resets the stream; the request stream itself never ends without Finish. A failed
//! try is repeated only when no byte is lost, and only after the master has said what became of it:
//! an abort is answered `committed` when it was too late, and then the upload has succeeded,
//! whatever others did to the name since.

use bytes::Bytes;
use cstore_node::clock::{Clock, SystemClock};
use cstore_proto::v1::upload_request::Message;
use cstore_proto::{TicketClaims, v1};
use cstore_types::{
    BlockId, ETagBuilder, ErrorCode, FileMeta, FileName, NamedFile, Tenant, UserMetadata, limits,
    md5_many,
};
use futures_util::{Stream, stream};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tonic::Status;

use crate::app::App;
use crate::error::ApiError;
use crate::http::body::{self, Source};
use crate::http::condition::StatedCondition;
use crate::limits::{
    CHUNK_TIMEOUT, FINISH_TIMEOUT, MAX_UPLOAD_TICKETS, SMALL_UPLOAD_TIMEOUT, UPLOAD_CHUNK,
};

/// Name and attributes of the file to be written, without the bytes.
#[derive(Debug, Clone)]
pub(crate) struct Write {
    pub(crate) tenant: Tenant,
    pub(crate) name: FileName,
    pub(crate) condition: StatedCondition,
    pub(crate) content_type: String,
    /// MD5 of the body. `None` if the client did not state it.
    pub(crate) md5: Option<[u8; 16]>,
    /// SHA-256 of the body. `None` if the client did not state it.
    pub(crate) sha256: Option<[u8; 32]>,
    pub(crate) metadata: UserMetadata,
    /// Upper bound of the body in bytes, if it is known.
    pub(crate) at_most: Option<u64>,
}

impl Write {
    fn header(&self, ticket: v1::Ticket) -> v1::UploadHeader {
        v1::UploadHeader {
            ticket: Some(ticket),
            tenant: self.tenant.as_str().to_owned(),
            name: self.name.to_string(),
            condition: Some(self.condition.condition.clone().into()),
            content_type: self.content_type.clone(),
            expect_md5: bytes_of(self.md5),
            expect_sha256: bytes_of(self.sha256),
            metadata: self.metadata.clone().into(),
        }
    }

    /// Returns the bound of the body if it is known and at most `max`.
    fn small_bound(&self, max: u64) -> Option<usize> {
        let bytes = self.at_most.filter(|bytes| *bytes <= max)?;
        usize::try_from(bytes).ok()
    }
}

/// Encodes a digest for a message, where an empty field means that it is missing.
fn bytes_of<const N: usize>(digest: Option<[u8; N]>) -> Bytes {
    digest
        .map(|digest| Bytes::copy_from_slice(&digest))
        .unwrap_or_default()
}

/// A try that failed, and the ticket that it used.
struct Failed {
    error: ApiError,
    ticket: v1::Ticket,
}

impl Failed {
    fn is_worth_another(&self) -> bool {
        // A ticket that is refused was made by an earlier life of the master, or is too old.
        self.error.code().is_retryable() || self.error.code() == ErrorCode::PermissionDenied
    }
}

/// Stores the file.
///
/// # Errors
/// An error that the client can act on. Nothing is visible then, unless the code is `deadline` or
/// `unavailable`.
pub(crate) async fn store(
    app: &App,
    write: &Write,
    source: &mut impl Source,
) -> Result<v1::UploadResponse, ApiError> {
    let answer = match collected(app, write, source).await? {
        Some(whole) => store_small(app, write, whole.bytes).await,
        None => store_stream(app, write, source).await,
    };
    answer.map_err(|error| write.condition.refusal(error))
}

/// A body in memory. The memory counts until it is dropped.
struct CollectedBody {
    bytes: Bytes,
    _held: Option<OwnedSemaphorePermit>,
}

/// Reads the whole body into memory if it fits one call. Returns `None` if the body must be streamed:
/// it exceeds the limit of the workers, or [`COLLECTED_BYTES`](crate::limits::COLLECTED_BYTES) are in
/// use.
async fn collected(
    app: &App,
    write: &Write,
    source: &mut impl Source,
) -> Result<Option<CollectedBody>, ApiError> {
    let Some(bound) = write.small_bound(app.cluster.max_small_bytes()) else {
        return Ok(None);
    };
    // The smallest bodies are what the buffers of their connections hold anyway.
    let held = if bound > limits::UNADVERTISED_SMALL_BYTES {
        let Some(held) = app.bodies.try_hold(bound) else {
            return Ok(None);
        };
        Some(held)
    } else {
        None
    };
    Ok(Some(CollectedBody {
        bytes: body::whole(source, bound).await?,
        _held: held,
    }))
}

async fn store_small(
    app: &App,
    write: &Write,
    whole: Bytes,
) -> Result<v1::UploadResponse, ApiError> {
    let ticket = app
        .tickets
        .take(&app.master, &write.tenant, |worker| {
            app.is_usable_in_stock(worker)
        })
        .await?;
    let failed = match put_small(app, write, whole.clone(), ticket).await {
        Ok(answer) => return Ok(answer),
        Err(failed) => failed,
    };
    if failed.is_worth_another() {
        app.tickets.clear();
    }
    if let Some(answer) = settle(app, write, failed, &whole).await? {
        return Ok(answer);
    }
    let ticket = app
        .tickets
        .take(&app.master, &write.tenant, |worker| {
            app.is_usable_in_stock(worker)
        })
        .await?;
    put_small(app, write, whole, ticket)
        .await
        .map_err(|failed| failed.error)
}

async fn put_small(
    app: &App,
    write: &Write,
    body: Bytes,
    ticket: v1::Ticket,
) -> Result<v1::UploadResponse, Failed> {
    let failed = |error: ApiError| Failed {
        error,
        ticket: ticket.clone(),
    };
    let crc32c = crc32c::crc32c(&body);
    let request = v1::PutSmallRequest {
        header: Some(write.header(ticket.clone())),
        body,
        crc32c,
    };
    let mut worker = app.workers.to(&ticket.worker_addr);
    match tokio::time::timeout(SMALL_UPLOAD_TIMEOUT, worker.put_small(request)).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failed(status.into())),
        Err(_) => Err(failed(too_slow())),
    }
}

async fn store_stream(
    app: &App,
    write: &Write,
    source: &mut impl Source,
) -> Result<v1::UploadResponse, ApiError> {
    let ticket = begin(app, write).await?;
    let failed = match put_stream(app, write, source, ticket).await {
        Ok(answer) => return Ok(answer),
        Err(failed) => failed,
    };
    if source.started() {
        return Err(failed.error);
    }
    // No byte was taken from the body, so what may have been published is an empty file.
    if let Some(answer) = settle(app, write, failed, &[]).await? {
        return Ok(answer);
    }
    let ticket = begin(app, write).await?;
    put_stream(app, write, source, ticket)
        .await
        .map_err(|failed| failed.error)
}

async fn begin(app: &App, write: &Write) -> Result<v1::Ticket, ApiError> {
    let request = v1::BeginUploadRequest {
        tenant: write.tenant.as_str().to_owned(),
        name: write.name.to_string(),
        condition: Some(write.condition.condition.clone().into()),
        count: 1,
    };
    let mut tries = 0;
    loop {
        let tickets = app.master.begin_upload(request.clone()).await?.tickets;
        let ticket = tickets.into_iter().next();
        let ticket = ticket
            .ok_or_else(|| ApiError::new(ErrorCode::Internal, "the master answered no ticket"))?;
        tries += 1;
        // A worker that has just died is named until its lease runs out; the next in turn is
        // another one. The ticket that is left unused holds nothing and expires.
        if app.is_usable(&ticket.worker_addr) || tries == MAX_UPLOAD_TICKETS {
            return Ok(ticket);
        }
    }
}

/// Finds out what became of a failed try of `body`. Returns its answer if it was published after
/// all, also if the file was removed or overwritten since; `None` if it never happened and never
/// will, so that another try may follow.
///
/// # Errors
/// The error of the try if the master does not say.
async fn settle(
    app: &App,
    write: &Write,
    failed: Failed,
    body: &[u8],
) -> Result<Option<v1::UploadResponse>, ApiError> {
    if !failed.is_worth_another() {
        return Err(failed.error);
    }
    tracing::info!(code = %failed.error.code(), worker = failed.ticket.worker_addr, "an upload failed, trying another worker");
    let request = v1::AbortUploadRequest {
        ticket: Some(failed.ticket.clone()),
    };
    let answer = match app.master.abort_upload(request).await {
        Ok(answer) => answer,
        // A ticket that the master does not take can never commit.
        Err(status) if cstore_proto::code_of(&status) == ErrorCode::PermissionDenied => {
            return Ok(None);
        }
        Err(_) => return Err(failed.error),
    };
    if !answer.committed {
        return Ok(None);
    }

    let replaced = answer.version > 1;
    let file = match (answer.file, answer.version) {
        (Some(file), _) => file,
        // An older master says only that it was published.
        (None, 0) => {
            let (name, tenant) = (write.name.to_string(), write.tenant.as_str().to_owned());
            let request = v1::GetFileRequest { name, tenant };
            let file = app.master.get_file(request).await?.file;
            file.ok_or_else(|| ApiError::new(ErrorCode::Internal, "the master answered no file"))?
        }
        (None, version) => published(write, &failed.ticket, body, version)?,
    };
    Ok(Some(v1::UploadResponse {
        file: Some(file),
        replaced,
        ..v1::UploadResponse::default()
    }))
}

/// Returns the file that a try of `body` published with `version`, and that somebody has removed
/// since.
fn published(
    write: &Write,
    ticket: &v1::Ticket,
    body: &[u8],
    version: u64,
) -> Result<v1::FileInfo, ApiError> {
    let chunking = TicketClaims::chunking_of(ticket).map_err(|error| {
        ApiError::new(
            ErrorCode::Internal,
            format!("ticket of the master: {error}"),
        )
    })?;
    let mut etag = ETagBuilder::default();
    let blocks: Vec<&[u8]> = body.chunks(chunking.max_block_bytes()).collect();
    for md5 in md5_many(&blocks) {
        etag.push(&BlockId::from_halves(md5, [0; 16]));
    }

    let meta = FileMeta {
        size: body.len() as u64,
        version,
        modified_ms: SystemClock.now_ms(),
        etag: etag.finish(),
        content_type: write.content_type.clone(),
        chunking,
        blocks: blocks.len() as u64,
        sha256: write.sha256,
        metadata: write.metadata.clone(),
    };
    Ok(NamedFile {
        name: write.name.clone(),
        meta,
    }
    .into())
}

async fn put_stream(
    app: &App,
    write: &Write,
    source: &mut impl Source,
    ticket: v1::Ticket,
) -> Result<v1::UploadResponse, Failed> {
    let failed = |error: ApiError| Failed {
        error,
        ticket: ticket.clone(),
    };
    let mut worker = app.workers.to(&ticket.worker_addr);
    // One place: the feeder goes on when the stream below has taken what it sent, so it touches the
    // body only behind a connection that works.
    let (sender, receiver) = mpsc::channel(1);
    let call = worker.upload(until_finish(receiver));
    tokio::pin!(call);
    let fed = tokio::select! {
        answer = &mut call => match answer {
            // An answer before Finish is a refusal.
            Ok(_) => return Err(failed(ApiError::new(ErrorCode::Internal, "the worker answered before the end"))),
            Err(status) => return Err(failed(status.into())),
        },
        fed = feed(source, write.header(ticket.clone()), sender) => fed,
    };
    fed.map_err(&failed)?;
    match tokio::time::timeout(FINISH_TIMEOUT, call).await {
        Ok(Ok(answer)) => Ok(answer.into_inner()),
        Ok(Err(status)) => Err(failed(status.into())),
        Err(_) => Err(failed(too_slow())),
    }
}

/// Header, chunks, Finish. Returns when Finish was handed over; fails only with what is wrong with
/// the body.
async fn feed(
    source: &mut impl Source,
    header: v1::UploadHeader,
    sender: mpsc::Sender<v1::UploadRequest>,
) -> Result<(), ApiError> {
    send(&sender, Message::Header(header)).await?;
    let (mut length, mut crc32c) = (0_u64, 0);
    loop {
        let permit = tokio::time::timeout(CHUNK_TIMEOUT, sender.reserve())
            .await
            .map_err(|_| too_slow())?;
        if permit.is_err() {
            // The call has ended, and its answer says why.
            return std::future::pending().await;
        }
        drop(permit);
        let Some(mut bytes) = source.chunk().await? else {
            break;
        };
        length += bytes.len() as u64;
        crc32c = crc32c::crc32c_append(crc32c, &bytes);
        while !bytes.is_empty() {
            let chunk = bytes.split_to(bytes.len().min(UPLOAD_CHUNK));
            send(&sender, Message::Chunk(chunk)).await?;
        }
    }
    send(
        &sender,
        Message::Finish(v1::UploadFinish { length, crc32c }),
    )
    .await
}

async fn send(sender: &mpsc::Sender<v1::UploadRequest>, message: Message) -> Result<(), ApiError> {
    let request = v1::UploadRequest {
        message: Some(message),
    };
    match tokio::time::timeout(CHUNK_TIMEOUT, sender.send(request)).await {
        Ok(Ok(())) => Ok(()),
        Ok(Err(_)) => std::future::pending().await,
        Err(_) => Err(too_slow()),
    }
}

/// The messages up to Finish. When they stop before it, this stream stays silent instead of ending:
/// an end would look like the end of the file. The call is being dropped then, which resets it.
fn until_finish(
    receiver: mpsc::Receiver<v1::UploadRequest>,
) -> impl Stream<Item = v1::UploadRequest> {
    stream::unfold(Some(receiver), |receiver| async move {
        let mut receiver = receiver?;
        match receiver.recv().await {
            Some(request) => {
                let last = matches!(request.message, Some(Message::Finish(_)));
                Some((request, (!last).then_some(receiver)))
            }
            None => std::future::pending().await,
        }
    })
}

fn too_slow() -> ApiError {
    Status::deadline_exceeded("the worker made no progress").into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::{FutureExt, StreamExt};

    #[tokio::test]
    async fn a_stream_ends_behind_finish_and_is_silent_without_it() {
        let request = |message| v1::UploadRequest {
            message: Some(message),
        };
        let (sender, receiver) = mpsc::channel(2);
        let mut cut = Box::pin(until_finish(receiver));
        sender
            .send(request(Message::Chunk(Bytes::from_static(b"x"))))
            .await
            .unwrap();
        drop(sender);
        assert!(cut.next().await.is_some());
        assert!(
            cut.next().now_or_never().is_none(),
            "neither a message nor an end"
        );

        let (sender, receiver) = mpsc::channel(2);
        let mut whole = Box::pin(until_finish(receiver));
        sender
            .send(request(Message::Finish(v1::UploadFinish::default())))
            .await
            .unwrap();
        assert!(whole.next().await.is_some());
        assert_eq!(whole.next().await, None);
    }
}
