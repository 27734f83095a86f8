//! Bodies of requests as they come in: paced (a client that stops sending is given up) and counted.

use std::future::Future;
use std::time::Duration;

use axum::body::{Body, BodyDataStream, HttpBody};
use bytes::{Bytes, BytesMut};
use cstore_types::ErrorCode;
use cstore_types::limits::MAX_SMALL_BYTES;
use futures_util::StreamExt;
use http::Version;
use tokio::time::Instant;

use crate::error::ApiError;
use crate::http::pace::Pace;

/// Bytes of a file on their way in.
pub(crate) trait Source: Send {
    /// The next bytes, never empty; `None` at the proper end. A body that breaks off is an error,
    /// not an end.
    fn chunk(&mut self) -> impl Future<Output = Result<Option<Bytes>, ApiError>> + Send;

    /// Returns true if bytes of the file were handed out, which cannot be sent again.
    fn started(&self) -> bool;
}

/// The body of a request.
#[derive(Debug)]
pub(crate) struct Incoming {
    data: BodyDataStream,
    idle: Duration,
    pace: Pace,
    /// Bytes that are still to come, when the head of the request said so.
    left: Option<u64>,
    /// HTTP/2 says with a flag that a body is whole, and hyper takes some resets for its end.
    needs_flag: bool,
    started: bool,
    ended: bool,
}

impl Incoming {
    /// A body that may pause for `idle` while somebody waits for it, and must bring `min_rate`
    /// bytes a second. Time in which nobody asks does not count.
    pub(crate) fn new(version: Version, body: Body, idle: Duration, min_rate: u64) -> Self {
        let (left, needs_flag) = (body.size_hint().exact(), version == Version::HTTP_2);
        let (data, pace) = (body.into_data_stream(), Pace::new(min_rate));
        Self {
            data,
            idle,
            pace,
            left,
            needs_flag,
            started: false,
            ended: false,
        }
    }

    /// Returns true if the bytes that came are all that were announced.
    fn is_whole(&self) -> bool {
        self.left.is_none_or(|left| left == 0) && (!self.needs_flag || self.data.is_end_stream())
    }

    /// The whole body when it has at most `limit` bytes.
    pub(crate) async fn whole(&mut self, limit: usize) -> Result<Bytes, ApiError> {
        whole(self, limit).await
    }

    /// Returns true if the body was read to its end, or broke off.
    pub(crate) fn is_ended(&self) -> bool {
        self.ended
    }
}

impl Source for Incoming {
    async fn chunk(&mut self) -> Result<Option<Bytes>, ApiError> {
        while !self.ended {
            let asked = Instant::now();
            let next = tokio::time::timeout(self.idle, self.data.next())
                .await
                .map_err(|_| {
                    ApiError::new(
                        ErrorCode::InvalidArgument,
                        "the body made no progress and was given up",
                    )
                })?;
            match next {
                None => {
                    self.ended = true;
                    if !self.is_whole() {
                        return Err(broken_off().closing());
                    }
                }
                Some(Err(error)) => {
                    self.ended = true;
                    tracing::debug!(%error, "the body of a request broke off");
                    return Err(broken_off().closing());
                }
                Some(Ok(chunk)) if chunk.is_empty() => {}
                Some(Ok(chunk)) => {
                    if !self.pace.keeps_up(asked.elapsed(), chunk.len() as u64) {
                        return Err(ApiError::invalid(
                            "the body came too slowly and was given up",
                        ));
                    }
                    self.started = true;
                    self.left = self
                        .left
                        .map(|left| left.saturating_sub(chunk.len() as u64));
                    return Ok(Some(chunk));
                }
            }
        }
        Ok(None)
    }

    fn started(&self) -> bool {
        self.started
    }
}

/// Returns the error of a refused upload. If the client may still be sending, the connection closes
/// after the answer; the listener reads the rest (see [`crate::listener::linger`]), so that a reset
/// does not take the answer from the client.
pub(crate) fn refuse(error: ApiError, body: Incoming) -> ApiError {
    if body.is_ended() {
        return error;
    }
    error.closing()
}

fn broken_off() -> ApiError {
    ApiError::invalid("the body broke off before its end")
}

/// All bytes of a source that has at most `limit` of them; one chunk is not copied.
pub(crate) async fn whole(source: &mut impl Source, limit: usize) -> Result<Bytes, ApiError> {
    let Some(first) = source.chunk().await? else {
        return Ok(Bytes::new());
    };
    let mut all = BytesMut::new();
    let mut last = first;
    loop {
        if all.len() + last.len() > limit {
            return Err(ApiError::new(
                ErrorCode::TooLarge,
                format!("this body may have at most {limit} bytes"),
            ));
        }
        match source.chunk().await? {
            None if all.is_empty() => return Ok(last),
            None => {
                all.extend_from_slice(&last);
                return Ok(all.freeze());
            }
            Some(next) => {
                if all.is_empty() {
                    all.reserve(limit.min(MAX_SMALL_BYTES));
                }
                all.extend_from_slice(&last);
                last = next;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use futures_util::stream;

    fn body(parts: Vec<Result<&'static str, std::io::Error>>) -> Body {
        Body::from_stream(stream::iter(
            parts.into_iter().map(|part| part.map(Bytes::from)),
        ))
    }

    #[tokio::test]
    async fn a_body_is_collected_up_to_its_limit() {
        let parts = || body(vec![Ok("ab"), Ok(""), Ok("cd")]);
        let idle = Duration::from_secs(1);
        assert_eq!(
            Incoming::new(Version::HTTP_11, parts(), idle, 0)
                .whole(4)
                .await
                .unwrap(),
            "abcd"
        );
        assert_eq!(
            Incoming::new(Version::HTTP_11, parts(), idle, 0)
                .whole(3)
                .await
                .unwrap_err()
                .code(),
            ErrorCode::TooLarge
        );
        assert_eq!(
            Incoming::new(Version::HTTP_11, Body::empty(), idle, 0)
                .whole(0)
                .await
                .unwrap(),
            ""
        );
    }

    #[tokio::test]
    async fn a_body_that_breaks_off_is_never_an_end() {
        let cut = body(vec![Ok("ab"), Err(std::io::Error::other("reset"))]);
        let mut incoming = Incoming::new(Version::HTTP_11, cut, Duration::from_secs(1), 0);
        assert_eq!(incoming.chunk().await.unwrap().unwrap(), "ab");
        assert_eq!(
            incoming.chunk().await.unwrap_err().code(),
            ErrorCode::InvalidArgument
        );
    }

    #[tokio::test]
    async fn i2_a_body_that_is_shorter_than_announced_or_lacks_the_flag_of_its_end_is_no_body() {
        struct Announced(Body, u64);
        impl HttpBody for Announced {
            type Data = Bytes;
            type Error = axum::Error;
            fn poll_frame(
                mut self: std::pin::Pin<&mut Self>,
                context: &mut std::task::Context<'_>,
            ) -> std::task::Poll<Option<Result<http_body::Frame<Bytes>, axum::Error>>> {
                std::pin::Pin::new(&mut self.0).poll_frame(context)
            }
            fn size_hint(&self) -> http_body::SizeHint {
                http_body::SizeHint::with_exact(self.1)
            }
        }
        let idle = Duration::from_secs(1);
        for (version, announced, fine) in [
            (Version::HTTP_11, 4, true),
            (Version::HTTP_11, 5, false),
            // A stream does not say that it has ended before it is asked once more, as a reset
            // would not.
            (Version::HTTP_2, 4, false),
        ] {
            let parts = body(vec![Ok("ab"), Ok("cd")]);
            let whole = Incoming::new(version, Body::new(Announced(parts, announced)), idle, 0)
                .whole(10)
                .await;
            assert_eq!(whole.is_ok(), fine, "{version:?} {announced}: {whole:?}");
        }
        assert_eq!(
            Incoming::new(Version::HTTP_2, Body::from("abcd"), idle, 0)
                .whole(4)
                .await
                .unwrap(),
            "abcd"
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_without_progress_is_given_up() {
        let silent = Body::from_stream(stream::pending::<Result<Bytes, std::io::Error>>());
        let started = tokio::time::Instant::now();
        let error = Incoming::new(Version::HTTP_11, silent, Duration::from_secs(60), 0)
            .chunk()
            .await
            .unwrap_err();
        assert_eq!(error.code(), ErrorCode::InvalidArgument);
        assert_eq!(started.elapsed(), Duration::from_secs(60));
    }

    #[tokio::test(start_paused = true)]
    async fn a_body_that_drips_is_given_up() {
        let drip = stream::unfold((), |()| async {
            tokio::time::sleep(Duration::from_secs(5)).await;
            Some((Ok::<_, std::io::Error>(Bytes::from_static(b"x")), ()))
        });
        let mut incoming = Incoming::new(
            Version::HTTP_11,
            Body::from_stream(drip),
            Duration::from_secs(60),
            1_024,
        );
        let started = tokio::time::Instant::now();
        let error = loop {
            match incoming.chunk().await {
                Ok(chunk) => assert!(chunk.is_some()),
                Err(error) => break error,
            }
        };
        assert!(format!("{error:?}").contains("too slowly"), "{error:?}");
        assert_eq!(started.elapsed(), Duration::from_secs(30));
    }
}
