//! Credentials: added by clients, demanded by servers. Deny is the default.

use std::task::{Context, Poll};

use futures_util::future::{Either, Ready, ready};
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request, Response};
use subtle::ConstantTimeEq;
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

use crate::channel::MeshError;

fn header(bearer: &str) -> Result<HeaderValue, MeshError> {
    let mut value = HeaderValue::from_str(&format!("Bearer {bearer}")).map_err(|_| MeshError::Bearer)?;
    value.set_sensitive(true);
    Ok(value)
}

/// Adds the bearer to every request.
#[derive(Debug, Clone)]
pub(crate) struct AddCredentialsLayer(HeaderValue);

impl AddCredentialsLayer {
    pub(crate) fn new(bearer: &str) -> Result<Self, MeshError> {
        header(bearer).map(Self)
    }
}

impl<S> Layer<S> for AddCredentialsLayer {
    type Service = AddCredentials<S>;
    fn layer(&self, inner: S) -> Self::Service {
        AddCredentials { inner, value: self.0.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct AddCredentials<S> {
    inner: S,
    value: HeaderValue,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for AddCredentials<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        request.headers_mut().insert(AUTHORIZATION, self.value.clone());
        self.inner.call(request)
    }
}

/// Refuses every request without the bearer, but for health and reflection.
#[derive(Debug, Clone)]
pub(crate) struct RequireCredentialsLayer {
    value: HeaderValue,
    reflection: bool,
}

impl RequireCredentialsLayer {
    pub(crate) fn new(bearer: &str, reflection: bool) -> Result<Self, MeshError> {
        Ok(Self { value: header(bearer)?, reflection })
    }
}

impl<S> Layer<S> for RequireCredentialsLayer {
    type Service = RequireCredentials<S>;
    fn layer(&self, inner: S) -> Self::Service {
        RequireCredentials { inner, rule: self.clone() }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct RequireCredentials<S> {
    inner: S,
    rule: RequireCredentialsLayer,
}

impl RequireCredentialsLayer {
    /// Says why a request is refused.
    fn check<B>(&self, request: &Request<B>) -> Result<(), Status> {
        let path = request.uri().path();
        let open = path.starts_with("/grpc.health.v1.Health/")
            || (self.reflection && path.starts_with("/grpc.reflection.v1"));
        if open {
            return Ok(());
        }
        match request.headers().get(AUTHORIZATION) {
            Some(found) if bool::from(found.as_bytes().ct_eq(self.value.as_bytes())) => Ok(()),
            Some(_) => {
                Err(Status::unauthenticated("the bearer in header authorization is not that of this cluster"))
            }
            None => Err(Status::unauthenticated("header authorization: Bearer … is missing")),
        }
    }
}

impl<S, B> Service<Request<B>> for RequireCredentials<S>
where
    S: Service<Request<B>, Response = Response<Body>>,
{
    type Response = S::Response;
    type Error = S::Error;
    type Future = Either<Ready<Result<S::Response, S::Error>>, S::Future>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, request: Request<B>) -> Self::Future {
        match self.rule.check(&request) {
            Ok(()) => Either::Right(self.inner.call(request)),
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(path: &str, bearer: Option<&str>) -> bool {
        let mut request = Request::builder().uri(path);
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
        }
        let rule = RequireCredentialsLayer::new("right", true).unwrap();
        rule.check(&request.body(()).unwrap()).is_ok()
    }

    #[test]
    fn i13_everything_but_health_and_reflection_needs_the_bearer() {
        for path in ["/cstore.v1.Namespace/GetFile", "/cstore.v1.Uploads/CommitUpload", "/anything/else"] {
            assert!(
                !check(path, None) && !check(path, Some("wrong")) && check(path, Some("right")),
                "{path}"
            );
        }
        assert!(check("/grpc.health.v1.Health/Check", None));
        assert!(check("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", None));
        let closed = RequireCredentialsLayer::new("right", false).unwrap();
        let request = Request::builder().uri("/grpc.reflection.v1.ServerReflection/X").body(()).unwrap();
        assert!(closed.check(&request).is_err());
    }
}
