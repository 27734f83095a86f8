//! One download: verified bytes from any worker that can read them, with an exact length.
//!
//! Invariant: the last bytes are handed on only when the worker has said End. A stream that is cut,
//! fails or has another length becomes a body error, which breaks the client's connection: it can
//! never look whole.

use std::time::Duration;

use axum::body::Body;
use bytes::Bytes;
use cstore_mesh::Attempts;
use cstore_proto::v1;
use cstore_proto::v1::download_response::Message;
use cstore_types::ErrorCode;
use futures_util::stream;
use tonic::{Request, Status, Streaming};
use tracing::Span;

use crate::app::App;
use crate::error::ApiError;
use crate::limits::{FIRST_BYTES_TIMEOUT, MAX_DOWNLOAD_TRIES};

/// The body for `length` bytes from `offset` of a file. `length` is not 0.
///
/// # Errors
/// Before the first byte only.
pub(crate) async fn open(
    app: &App,
    root: Bytes,
    offset: u64,
    length: u64,
) -> Result<Body, ApiError> {
    let mut last = ApiError::unavailable("no worker is ready");
    let attempts = Attempts::default();
    for _ in 0..MAX_DOWNLOAD_TRIES {
        let request = v1::DownloadRequest {
            recipe_root: root.clone(),
            offset,
            length,
        };
        match tokio::time::timeout(FIRST_BYTES_TIMEOUT, first(app, attempts.request(request))).await
        {
            Ok(Ok((messages, chunk))) => {
                let reader = Reader {
                    messages,
                    left: length,
                    idle: app.config.idle_timeout,
                    span: Span::current(),
                };
                return Ok(body(reader, chunk));
            }
            Ok(Err(status)) => last = status.into(),
            Err(_) => last = Status::deadline_exceeded("no first byte").into(),
        }
        if !last.code().is_retryable() {
            break;
        }
        tracing::info!(code = %last.code(), "a download did not start, trying another worker");
    }
    Err(last)
}

/// Opens the stream and waits for its first message, so that an early failure is still an error
/// answer.
async fn first(
    app: &App,
    request: Request<v1::DownloadRequest>,
) -> Result<(Streaming<v1::DownloadResponse>, Bytes), Status> {
    let mut messages = app.workers.any().download(request).await?.into_inner();
    match messages
        .message()
        .await?
        .and_then(|response| response.message)
    {
        Some(Message::Chunk(chunk)) => Ok((messages, chunk)),
        _ => Err(cstore_proto::status(
            ErrorCode::DataLoss,
            "a download ended before its first byte",
        )),
    }
}

struct Reader {
    messages: Streaming<v1::DownloadResponse>,
    /// Bytes that have not come yet.
    left: u64,
    idle: Duration,
    span: Span,
}

#[derive(Debug, thiserror::Error)]
enum Broken {
    #[error("the worker's stream failed: {0}")]
    Failed(#[from] Status),
    #[error("the worker's stream made no progress")]
    Idle,
    #[error("the worker's stream ended without saying so")]
    Cut,
    #[error("the worker sent another number of bytes than the file has")]
    Length,
}

fn body(reader: Reader, first: Bytes) -> Body {
    let start = (Some(reader), Some(first));
    Body::from_stream(stream::try_unfold(start, |(reader, first)| async move {
        let Some(mut reader) = reader else {
            return Ok(None);
        };
        let chunk = match first {
            Some(chunk) => reader.take(chunk).await,
            None => reader.next().await,
        };
        match chunk {
            Ok(chunk) => Ok(Some((chunk, ((reader.left > 0).then_some(reader), None)))),
            Err(broken) => {
                reader.span.in_scope(
                    || tracing::warn!(error = %broken, left = reader.left, "a download broke off"),
                );
                Err(broken)
            }
        }
    }))
}

impl Reader {
    async fn next(&mut self) -> Result<Bytes, Broken> {
        match self.message().await? {
            Message::Chunk(chunk) => self.take(chunk).await,
            Message::End(_) => Err(Broken::Length),
        }
    }

    /// Counts a chunk; behind the last one the End must follow.
    async fn take(&mut self, chunk: Bytes) -> Result<Bytes, Broken> {
        self.left = self
            .left
            .checked_sub(chunk.len() as u64)
            .ok_or(Broken::Length)?;
        if self.left == 0 {
            match self.message().await? {
                Message::End(_) => self.close().await,
                Message::Chunk(_) => return Err(Broken::Length),
            }
        }
        Ok(chunk)
    }

    /// Reads the status that follows End. A stream that is dropped before it counts as reset, and a
    /// worker that sees many resets takes them for an attack and closes the connection of all of
    /// them.
    async fn close(&mut self) {
        let _ = tokio::time::timeout(self.idle, self.messages.message()).await;
    }

    async fn message(&mut self) -> Result<Message, Broken> {
        let next = tokio::time::timeout(self.idle, self.messages.message())
            .await
            .map_err(|_| Broken::Idle)??;
        next.and_then(|response| response.message)
            .ok_or(Broken::Cut)
    }
}
