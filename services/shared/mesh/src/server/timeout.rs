//! The caller's `grpc-timeout` at the server: a call that exceeds it is dropped and ends as
//! DeadlineExceeded.

use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::future::BoxFuture;
use http::{HeaderMap, Request, Response};
use tokio::time::timeout;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::limits::SERVER_TIME_SHARE;

#[derive(Debug, Clone, Copy)]
pub(crate) struct GrpcTimeoutLayer;

impl<S> Layer<S> for GrpcTimeoutLayer {
    type Service = GrpcTimeout<S>;
    fn layer(&self, inner: S) -> Self::Service {
        GrpcTimeout(inner)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct GrpcTimeout<S>(S);

impl<S, A> Service<Request<A>> for GrpcTimeout<S>
where
    S: Service<Request<A>, Response = Response<Body>>,
    S::Future: Send + 'static,
    S::Error: 'static,
{
    type Response = Response<Body>;
    type Error = S::Error;
    type Future = BoxFuture<'static, Result<Response<Body>, S::Error>>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.0.poll_ready(cx)
    }

    fn call(&mut self, request: Request<A>) -> Self::Future {
        let given = grpc_timeout(request.headers());
        let answering = self.0.call(request);
        Box::pin(async move {
            let Some(given) = given else {
                return answering.await;
            };
            timeout(given.mul_f64(SERVER_TIME_SHARE), answering)
                .await
                .unwrap_or_else(|_| {
                    let text = format!(
                        "not done within the {} ms that the caller gave",
                        given.as_millis()
                    );
                    Ok(Status::deadline_exceeded(text).into_http())
                })
        })
    }
}

/// Reads the header grpc-timeout: up to eight digits and a unit (gRPC over HTTP/2, "Timeout").
fn grpc_timeout(headers: &HeaderMap) -> Option<Duration> {
    let text = headers.get("grpc-timeout")?.to_str().ok()?;
    let (digits, unit) = text.split_at_checked(text.len().checked_sub(1)?)?;
    if digits.is_empty() || digits.len() > 8 || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let value: u64 = digits.parse().ok()?;
    Some(match unit {
        "H" => Duration::from_secs(value * 3_600),
        "M" => Duration::from_secs(value * 60),
        "S" => Duration::from_secs(value),
        "m" => Duration::from_millis(value),
        "u" => Duration::from_micros(value),
        "n" => Duration::from_nanos(value),
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::convert::Infallible;
    use tower::ServiceExt;

    fn given(text: &str) -> Option<Duration> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", text.parse().unwrap());
        grpc_timeout(&headers)
    }

    #[test]
    fn the_header_is_read_as_grpc_writes_it() {
        assert_eq!(given("1H"), Some(Duration::from_secs(3_600)));
        assert_eq!(given("250m"), Some(Duration::from_millis(250)));
        assert_eq!(given("99999999n"), Some(Duration::from_nanos(99_999_999)));
        for bad in ["", "S", "1", "1x", "-1S", "123456789S", "1.5S", "ü"] {
            let mut headers = HeaderMap::new();
            headers.insert(
                "grpc-timeout",
                http::HeaderValue::from_bytes(bad.as_bytes()).unwrap(),
            );
            assert_eq!(grpc_timeout(&headers), None, "{bad:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_takes_longer_than_the_caller_waits_is_given_up() {
        let slow =
            tower::service_fn(|_: Request<()>| std::future::pending::<Result<_, Infallible>>());
        let request = Request::builder()
            .header("grpc-timeout", "100m")
            .body(())
            .unwrap();
        let answer: Response<Body> = GrpcTimeoutLayer.layer(slow).oneshot(request).await.unwrap();
        let status = Status::from_header_map(answer.headers()).unwrap();
        assert_eq!(status.code(), tonic::Code::DeadlineExceeded);
    }
}
