//! Credentials that a client adds to its requests; `server::auth` demands them.

use std::task::{Context, Poll};

use cstore_proto::Signer;
use http::header::AUTHORIZATION;
use http::{HeaderValue, Request};
use tower::{Layer, Service};

/// Layer that adds a fresh bearer to every request, valid for its method only.
#[derive(Debug, Clone)]
pub(crate) struct AddCredentialsLayer(Signer);

impl AddCredentialsLayer {
    pub(crate) fn new(signer: Signer) -> Self {
        Self(signer)
    }
}

impl<S> Layer<S> for AddCredentialsLayer {
    type Service = AddCredentials<S>;
    fn layer(&self, inner: S) -> Self::Service {
        AddCredentials {
            inner,
            signer: self.0.clone(),
        }
    }
}

#[derive(Debug, Clone)]
pub(crate) struct AddCredentials<S> {
    inner: S,
    signer: Signer,
}

impl<S: Service<Request<B>>, B> Service<Request<B>> for AddCredentials<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> S::Future {
        let bearer = format!("Bearer {}", self.signer.bearer(request.uri().path()));
        let mut value = HeaderValue::try_from(bearer).expect("a bearer is printable ASCII");
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
        self.inner.call(request)
    }
}
