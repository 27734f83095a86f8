//! Turns errors of the layers below into gRPC statuses, exactly once.

use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use cstore_proto::{ErrorCode, status_with_retry};
use http::Response;
use tonic::Status;
use tonic::body::Body;
use tower::load_shed::error::Overloaded;
use tower::{BoxError, Layer, Service};

use crate::limits::SHED_PAUSE;

#[derive(Debug, Clone, Copy)]
pub(crate) struct RescueLayer;

impl<S> Layer<S> for RescueLayer {
    type Service = Rescue<S>;
    fn layer(&self, inner: S) -> Self::Service {
        Rescue(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Rescue<S>(S);

fn status_of(error: BoxError) -> Status {
    if error.is::<Overloaded>() {
        return status_with_retry(ErrorCode::Overloaded, "too many calls at once", SHED_PAUSE);
    }
    Status::from_error(error)
}

impl<S, R> Service<R> for Rescue<S>
where
    S: Service<R, Response = Response<Body>, Error = BoxError>,
    S::Future: Send + 'static,
{
    type Response = Response<Body>;
    type Error = BoxError;
    type Future = Pin<Box<dyn Future<Output = Result<Self::Response, BoxError>> + Send>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), BoxError>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: R) -> Self::Future {
        let answer = self.0.call(request);
        Box::pin(async move {
            Ok(answer
                .await
                .unwrap_or_else(|error| status_of(error).into_http()))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shed_call_is_unavailable_and_says_when_to_try_again() {
        let status = status_of(Box::new(Overloaded::new()));
        assert_eq!(status.code(), tonic::Code::Unavailable);
        assert_eq!(cstore_proto::retry_after(&status), Some(SHED_PAUSE));
    }
}
