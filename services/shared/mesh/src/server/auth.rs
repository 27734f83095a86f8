//! Credentials that a server demands of its callers. Deny is the default; `transport::credentials`
//! adds them.

use std::task::{Context, Poll};

use cstore_proto::{Caller, Verifier, may_call};
use futures_util::future::{Either, Ready, ready};
use http::header::AUTHORIZATION;
use http::{Request, Response};
use tonic::Status;
use tonic::body::Body;
use tower::{Layer, Service};

/// Refuses every request without a bearer of somebody who may call its method, but for health and
/// reflection. What is let in carries its [`Caller`] as an extension, for rules that go by what the
/// request says.
#[derive(Debug, Clone)]
pub(crate) struct RequireCredentialsLayer {
    verifier: Verifier,
    reflection: bool,
}

impl RequireCredentialsLayer {
    pub(crate) fn new(verifier: Verifier, reflection: bool) -> Self {
        Self {
            verifier,
            reflection,
        }
    }
}

impl<S> Layer<S> for RequireCredentialsLayer {
    type Service = RequireCredentials<S>;
    fn layer(&self, inner: S) -> Self::Service {
        RequireCredentials {
            inner,
            rule: self.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct RequireCredentials<S> {
    inner: S,
    rule: RequireCredentialsLayer,
}

impl RequireCredentialsLayer {
    /// Returns the caller, `None` if the method is open to everybody, or the status of the refusal.
    fn check<B>(&self, request: &Request<B>) -> Result<Option<Caller>, Status> {
        let path = request.uri().path();
        let open = path.starts_with("/grpc.health.v1.Health/")
            || (self.reflection && path.starts_with("/grpc.reflection.v1"));
        if open {
            return Ok(None);
        }
        let found = request
            .headers()
            .get(AUTHORIZATION)
            .and_then(|value| value.to_str().ok());
        let Some(bearer) = found.and_then(|value| value.strip_prefix("Bearer ")) else {
            return Err(Status::unauthenticated(
                "header authorization: Bearer … is missing",
            ));
        };
        let caller = self
            .verifier
            .check(path, bearer)
            .map_err(|error| Status::unauthenticated(error.to_string()))?;
        if may_call(caller, path) {
            Ok(Some(caller))
        } else {
            Err(Status::permission_denied(format!(
                "this method is not open to the role {caller}"
            )))
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

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match self.rule.check(&request) {
            Ok(caller) => {
                // Nobody behind this needs the bearer, and what is not there is not logged.
                request.headers_mut().remove(AUTHORIZATION);
                if let Some(caller) = caller {
                    request.extensions_mut().insert(caller);
                }
                Either::Right(self.inner.call(request))
            }
            Err(status) => Either::Left(ready(Ok(status.into_http()))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cstore_proto::Signer;
    use cstore_testkit::secret;
    use tonic::Code;

    fn check(path: &str, bearer: Option<&str>, reflection: bool) -> Result<Option<Caller>, Code> {
        let mut request = Request::builder().uri(path);
        if let Some(bearer) = bearer {
            request = request.header(AUTHORIZATION, format!("Bearer {bearer}"));
        }
        let rule = RequireCredentialsLayer::new(Verifier::new(&secret()), reflection);
        rule.check(&request.body(()).unwrap())
            .map_err(|status| status.code())
    }

    #[test]
    fn i13_everything_but_health_and_reflection_needs_the_bearer_of_one_who_may() {
        let bearer = |caller, path: &str| Signer::new(&secret(), caller).bearer(path);
        for (path, allowed) in cstore_proto::ACCESS {
            let path = format!("/{path}");
            assert_eq!(
                check(&path, None, true),
                Err(Code::Unauthenticated),
                "{path}"
            );
            assert_eq!(
                check(&path, Some("wrong"), true),
                Err(Code::Unauthenticated),
                "{path}"
            );
            for caller in Caller::ALL {
                let expected = if allowed.contains(&caller) {
                    Ok(Some(caller))
                } else {
                    Err(Code::PermissionDenied)
                };
                assert_eq!(
                    check(&path, Some(&bearer(caller, &path)), true),
                    expected,
                    "{path} by {caller}"
                );
            }
        }
        let unknown = "/anything/else";
        let operator = bearer(Caller::Operator, unknown);
        assert_eq!(
            check(unknown, Some(&operator), true),
            Err(Code::PermissionDenied)
        );
        assert_eq!(check("/grpc.health.v1.Health/Check", None, true), Ok(None));
        assert_eq!(
            check("/grpc.reflection.v1.ServerReflection/X", None, true),
            Ok(None)
        );
        let closed = check("/grpc.reflection.v1.ServerReflection/X", None, false);
        assert_eq!(closed, Err(Code::Unauthenticated));
    }
}
