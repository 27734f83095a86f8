//! Bounds a call with all its attempts: it ends as DeadlineExceeded, never as Unknown or Cancelled.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use tokio::time::{Instant, timeout_at};
use tonic::Status;
use tower::{Layer, Service};

use crate::client::call::Call;

#[derive(Debug, Clone, Copy)]
pub(crate) struct DeadlineLayer(Duration);

impl DeadlineLayer {
    pub(crate) const fn new(whole: Duration) -> Self {
        Self(whole)
    }
}

impl<S> Layer<S> for DeadlineLayer {
    type Service = Deadline<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Deadline {
            inner,
            whole: self.0,
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Deadline<S> {
    inner: S,
    whole: Duration,
}

impl<S, Req, Res> Service<Req> for Deadline<S>
where
    S: Service<Call<Req>, Response = Res, Error = Status>,
    S::Future: Send + 'static,
{
    type Response = Res;
    type Error = Status;
    type Future = BoxFuture<'static, Result<Res, Status>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Status>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, message: Req) -> Self::Future {
        let whole = self.whole;
        let deadline = Instant::now() + whole;
        let calling = self.inner.call(Call::new(message, deadline));
        Box::pin(async move {
            timeout_at(deadline, calling)
                .await
                .unwrap_or_else(|_| Err(late(whole)))
        })
    }
}

/// Returns the status of a call that took longer than `bound`.
pub(crate) fn late(bound: Duration) -> Status {
    Status::deadline_exceeded(format!("no answer within {} ms", bound.as_millis()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Code;
    use tower::ServiceExt;

    #[tokio::test(start_paused = true)]
    async fn a_call_that_never_answers_ends_as_deadline_exceeded() {
        let (mut mock, mut handle) = tower_test::mock::spawn_with(|mock| {
            let mock = tower::ServiceExt::<Call<&str>>::map_err(mock, |error| {
                Status::unknown(error.to_string())
            });
            DeadlineLayer::new(Duration::from_secs(5)).layer(mock)
        });
        handle.allow(1);
        assert!(mock.poll_ready().is_ready());
        let start = Instant::now();
        let service = mock.into_inner();
        let answer: Result<&str, Status> = service.oneshot("ask").await;
        assert_eq!(answer.unwrap_err().code(), Code::DeadlineExceeded);
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        drop(handle);
    }
}
