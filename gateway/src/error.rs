//! The one rendering of failures: problem details (RFC 9457) as `application/problem+json`, with
//! the code and the trace id as members of our own. `error` says the same once more, for clients of
//! before.
//!
//! A handler returns [`ApiError`]; it travels in the response's extensions to the outermost layer,
//! which knows the trace id and calls [`ApiError::render`]. What is not the caller's business
//! (addresses, internal failures) is logged with the trace id and never sent.

use std::time::Duration;

use axum::body::Body;
use axum::response::{IntoResponse, Response};
use cstore_types::{ErrorCode, NameError};
use http::header::{
    ALLOW, CACHE_CONTROL, CONNECTION, CONTENT_RANGE, CONTENT_TYPE, RETRY_AFTER, WWW_AUTHENTICATE,
};
use http::{HeaderName, HeaderValue, StatusCode};
use tonic::Status;
use tonic_types::StatusExt;

use crate::limits::{DEFAULT_RETRY_AFTER, DOUBT_RETRY_AFTER};
use crate::problem::{Earlier, Problem};

/// A failure as the client will see it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct ApiError {
    code: ErrorCode,
    message: String,
    status: StatusCode,
    retry_after: Option<Duration>,
    header: Option<(HeaderName, HeaderValue)>,
}

impl ApiError {
    pub(crate) fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        let status =
            StatusCode::from_u16(code.http_status()).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let retry_after = match code {
            ErrorCode::Overloaded | ErrorCode::RateLimited | ErrorCode::Unavailable => {
                Some(DEFAULT_RETRY_AFTER)
            }
            ErrorCode::StorageHold | ErrorCode::MetadataOlder => Some(DOUBT_RETRY_AFTER),
            _ => None,
        };
        Self {
            code,
            message: message.into(),
            status,
            retry_after,
            header: None,
        }
    }

    pub(crate) fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::Unavailable, message)
    }

    /// A path that has no route.
    pub(crate) fn no_route() -> Self {
        Self::new(
            ErrorCode::NotFound,
            "no such path; GET / lists what there is",
        )
    }

    /// A route that does not take this method: 405, which has no code of its own.
    pub(crate) fn wrong_method() -> Self {
        let error = Self::invalid("this path does not take this method");
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            ..error
        }
    }

    /// A POST to a file without a verb behind its name.
    pub(crate) fn no_verb() -> Self {
        let error = Self::invalid("a POST to a file needs :copy or :rename behind its name");
        let allow = (ALLOW, HeaderValue::from_static("GET, HEAD, PUT, DELETE"));
        Self {
            status: StatusCode::METHOD_NOT_ALLOWED,
            header: Some(allow),
            ..error
        }
    }

    /// A range outside of a file of `size` bytes.
    pub(crate) fn unsatisfiable(size: u64) -> Self {
        let error = Self::new(
            ErrorCode::RangeNotSatisfiable,
            format!("the file has {size} bytes"),
        );
        let header = HeaderValue::from_str(&format!("bytes */{size}"))
            .ok()
            .map(|value| (CONTENT_RANGE, value));
        Self { header, ..error }
    }

    /// The same failure under another code, as when a condition was stated in a header.
    pub(crate) fn with_code(self, code: ErrorCode) -> Self {
        Self::new(code, self.message)
    }

    /// Asks the client to give up this connection, because it still sends what nobody will read.
    pub(crate) fn closing(mut self) -> Self {
        self.header = Some((CONNECTION, HeaderValue::from_static("close")));
        self
    }

    pub(crate) fn code(&self) -> ErrorCode {
        self.code
    }

    /// Returns the message for the client. Causes inside of the cluster stay in the log.
    fn public_message(&self) -> &str {
        match self.code {
            ErrorCode::Internal => {
                "internal error; the log of the gateway tells more under this trace id"
            }
            ErrorCode::DataLoss => "stored bytes of this file are damaged or gone",
            _ => &self.message,
        }
    }

    fn problem(&self, trace_id: &str) -> Problem {
        let (code, detail) = (
            self.code.as_str().to_owned(),
            self.public_message().to_owned(),
        );
        let title = self.status.canonical_reason().unwrap_or("Error").to_owned();
        Problem {
            r#type: format!("urn:cstore:error:{code}"),
            title,
            status: self.status.as_u16(),
            detail: detail.clone(),
            code: code.clone(),
            trace_id: trace_id.to_owned(),
            error: Earlier {
                code,
                message: detail,
                trace_id: trace_id.to_owned(),
            },
        }
    }

    /// The answer for this failure.
    pub(crate) fn render(&self, trace_id: &str) -> Response {
        if matches!(self.code, ErrorCode::Internal | ErrorCode::DataLoss) {
            tracing::error!(code = %self.code, message = %self.message, "request failed");
        }
        let mut body = serde_json::to_vec(&self.problem(trace_id)).unwrap_or_default();
        // So that the prompt of a shell does not stand behind the answer.
        body.push(b'\n');
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(
            CONTENT_TYPE,
            HeaderValue::from_static("application/problem+json"),
        );
        headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
        if self.code == ErrorCode::Unauthenticated {
            headers.insert(
                WWW_AUTHENTICATE,
                HeaderValue::from_static("Bearer realm=\"cstore\""),
            );
        }
        if let Some(after) = self.retry_after {
            headers.insert(
                RETRY_AFTER,
                HeaderValue::from(after.as_millis().div_ceil(1_000).clamp(1, 3_600) as u64),
            );
        }
        if let Some((name, value)) = &self.header {
            headers.insert(name, value.clone());
        }
        response
    }
}

impl From<Status> for ApiError {
    /// Messages of our own services are written for callers; those of transports name addresses.
    fn from(status: Status) -> Self {
        let code = cstore_proto::code_of(&status);
        let ours = status.get_details_error_info().is_some();
        if !ours
            && matches!(
                code,
                ErrorCode::Unauthenticated | ErrorCode::PermissionDenied
            )
        {
            // An inner door does not let this gateway in: nothing that its client has done, or
            // could do.
            return Self::new(ErrorCode::Internal, status.message().to_owned());
        }
        let message = if ours || code == ErrorCode::Internal {
            status.message().to_owned()
        } else {
            tracing::warn!(%code, message = status.message(), "a call inside of the cluster failed");
            match code {
                ErrorCode::Deadline => {
                    "the cluster did not answer in time; whether it happened is unknown"
                }
                ErrorCode::Unavailable => "a part of the cluster cannot be reached; try again",
                _ => "a part of the cluster refused the call",
            }
            .to_owned()
        };
        let error = Self::new(code, message);
        let retry_after = cstore_proto::retry_after(&status).or(error.retry_after);
        Self {
            retry_after,
            ..error
        }
    }
}

impl From<NameError> for ApiError {
    fn from(error: NameError) -> Self {
        Self::invalid(error.to_string())
    }
}

impl IntoResponse for ApiError {
    /// Leaves the failure in the extensions, for the outermost layer to render.
    fn into_response(self) -> Response {
        let mut response = Response::new(Body::empty());
        *response.status_mut() = self.status;
        response.extensions_mut().insert(self);
        response
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http_body_util::BodyExt;

    async fn body(response: Response) -> serde_json::Value {
        serde_json::from_slice(&response.into_body().collect().await.unwrap().to_bytes()).unwrap()
    }

    #[tokio::test]
    async fn all_codes_render_with_their_status_name_and_trace_id() {
        for code in ErrorCode::ALL {
            let response = ApiError::new(code, "what happened").render("abc");
            assert_eq!(response.status().as_u16(), code.http_status(), "{code}");
            assert_eq!(response.headers()[CONTENT_TYPE], "application/problem+json");
            let challenged = response.headers().contains_key(WWW_AUTHENTICATE);
            assert_eq!(challenged, code == ErrorCode::Unauthenticated, "{code}");
            let retried = matches!(code.http_status(), 429 | 503);
            assert_eq!(
                response.headers().contains_key(RETRY_AFTER),
                retried,
                "{code}"
            );
            let json = body(response).await;
            assert_eq!(json["type"], format!("urn:cstore:error:{code}"));
            assert_eq!(
                (&json["status"], &json["trace_id"]),
                (&code.http_status().into(), &"abc".into())
            );
            assert_eq!(
                (&json["error"]["code"], &json["code"]),
                (&code.as_str().into(), &code.as_str().into())
            );
            assert_eq!(
                (&json["error"]["trace_id"], &json["error"]["message"]),
                (&json["trace_id"], &json["detail"])
            );
            let hidden = matches!(code, ErrorCode::Internal | ErrorCode::DataLoss);
            assert_eq!(json["detail"] != "what happened", hidden, "{code}");
        }
    }

    #[tokio::test]
    async fn all_codes_come_through_from_the_services_with_their_message() {
        for code in ErrorCode::ALL {
            let error = ApiError::from(cstore_proto::status(code, "said the master"));
            assert_eq!(
                (error.code(), error.message.as_str()),
                (code, "said the master")
            );
        }
    }

    #[test]
    fn i13_a_gateway_that_is_not_let_in_does_not_blame_its_client() {
        for status in [
            Status::unauthenticated("the bearer expired"),
            Status::permission_denied("not open"),
        ] {
            let error = ApiError::from(status);
            assert_eq!(error.code(), ErrorCode::Internal);
            assert!(!error.public_message().contains("bearer"), "{error:?}");
        }
    }

    #[test]
    fn an_address_in_a_transport_error_is_not_sent() {
        let error = ApiError::from(Status::unavailable("tcp connect error 10.0.0.7:4100"));
        assert_eq!(error.code(), ErrorCode::Unavailable);
        assert!(!error.public_message().contains("10.0.0.7"), "{error:?}");
    }

    #[test]
    fn the_delay_that_a_service_asks_for_is_passed_on_in_whole_seconds() {
        let status = cstore_proto::status_with_retry(
            ErrorCode::Overloaded,
            "busy",
            Duration::from_millis(1_200),
        );
        assert_eq!(
            ApiError::from(status).render("").headers()[RETRY_AFTER],
            "2"
        );
    }

    #[test]
    fn a_range_outside_says_how_long_the_file_is() {
        let response = ApiError::unsatisfiable(7).render("");
        assert_eq!(
            (
                response.status().as_u16(),
                &response.headers()[CONTENT_RANGE]
            ),
            (416, &HeaderValue::from_static("bytes */7"))
        );
    }
}
