//! Bodies that are not kept in memory: they flow, and whoever stops flowing for too long is given
//! up.

use std::convert::Infallible;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use futures_util::FutureExt;
use reqwest::header::HeaderMap;
use reqwest::{Body, Method, Response};
use tokio::time::{Instant, sleep, timeout};

use super::answer::Answer;
use super::lost::Lost;
use super::{Gateway, file};
use crate::limits::STALL_TIMEOUT;

/// Counts what has flowed. Clones share it.
#[derive(Debug, Clone, Default)]
pub(crate) struct Meter(Arc<AtomicU64>);

impl Meter {
    pub(crate) fn add(&self, bytes: usize) {
        self.0.fetch_add(bytes as u64, Ordering::Relaxed);
    }

    pub(crate) fn total(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }

    /// Ends when nothing was added for [`STALL_TIMEOUT`].
    async fn stalled(&self) {
        let mut seen = None;
        while seen != Some(self.total()) {
            seen = Some(self.total());
            sleep(STALL_TIMEOUT).await;
        }
    }
}

/// How a download begins.
#[derive(Debug)]
pub(crate) enum Opened {
    /// 200 or 206: a body follows.
    Body(Download),
    /// Anything else, whole.
    Answer(Answer),
}

/// A body on its way.
#[derive(Debug)]
pub(crate) struct Download {
    pub(crate) partial: bool,
    pub(crate) headers: HeaderMap,
    pub(crate) length: Option<u64>,
    response: Response,
}

impl Download {
    /// The next piece; none at the proper end.
    pub(crate) async fn next(&mut self) -> Result<Option<Bytes>, Lost> {
        match timeout(STALL_TIMEOUT, self.response.chunk()).await {
            Err(_) => Err(Lost::Timeout),
            Ok(Err(_)) => Err(Lost::CutShort),
            Ok(Ok(chunk)) => Ok(chunk),
        }
    }
}

impl Gateway {
    /// Begins to read a file.
    pub(crate) async fn open(&self, name: &str, headers: HeaderMap) -> Result<Opened, Lost> {
        let begun = Instant::now();
        let request = self.request(Method::GET, &file(name))?.headers(headers);
        let sent = timeout(STALL_TIMEOUT, request.send());
        let response = self
            .watched(sent, || true)
            .await
            .map_err(|_| Lost::Timeout)?;
        let response = match response {
            Ok(response) => response,
            Err(error) => return Err(self.looked_at(Lost::from(&error)).await),
        };
        let partial = response.status().as_u16() == 206;
        if !partial && response.status().as_u16() != 200 {
            let answer = timeout(STALL_TIMEOUT, self.read(Ok(response), begun)).await;
            return Ok(Opened::Answer(answer.map_err(|_| Lost::Timeout)??));
        }
        let (headers, length) = (response.headers().clone(), response.content_length());
        Ok(Opened::Body(Download {
            partial,
            headers,
            length,
            response,
        }))
    }

    /// Sends a file; `meter` counts what the body gives away.
    pub(crate) async fn send(
        &self,
        name: &str,
        overwrite: bool,
        headers: HeaderMap,
        body: Body,
        meter: &Meter,
    ) -> Result<Answer, Lost> {
        let begun = Instant::now();
        let query = if overwrite { "?overwrite=true" } else { "" };
        let request = self.request(Method::PUT, &format!("{}{query}", file(name)))?;
        let sent = async {
            let response = request.headers(headers).body(body).send();
            let response = response.map(Ok::<_, Infallible>);
            // While a body is sent the gateway is there: it responds after the last byte.
            let Ok(response) = self.watched(response, || meter.total() == 0).await;
            self.read(response, begun).await
        };
        tokio::select! {
            answer = sent => answer,
            () = meter.stalled() => Err(Lost::Timeout),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn only_a_transfer_without_progress_is_given_up() {
        let (meter, begun) = (Meter::default(), Instant::now());
        let flowing = async {
            for _ in 0..10 {
                sleep(STALL_TIMEOUT / 2).await;
                meter.add(1);
            }
            sleep(STALL_TIMEOUT * 10).await;
        };
        tokio::select! {
            () = flowing => panic!("nobody noticed that it stands still"),
            () = meter.stalled() => {}
        }
        assert!(
            begun.elapsed() > STALL_TIMEOUT * 5 && begun.elapsed() <= STALL_TIMEOUT * 7,
            "{:?}",
            begun.elapsed()
        );
    }
}
