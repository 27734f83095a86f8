//! [`ErrorCode`] and [`Fault`] in a `tonic::Status` and back, with google.rpc details (ErrorInfo,
//! RetryInfo).
//!
//! `Fault` and `Status` belong to other crates, so the conversions are functions:
//! `.map_err(to_status)` where a service returns, `.map_err(from_status)` where a client receives.

use std::time::Duration;

use cstore_types::{ErrorCode, Fault};
use tonic::{Code, Status};
use tonic_types::{ErrorDetails, StatusExt};

const DOMAIN: &str = "cstore";

/// Makes a status whose ErrorInfo carries the code's name, so that the receiver gets back every
/// code.
pub fn status(code: ErrorCode, message: impl Into<String>) -> Status {
    let details = ErrorDetails::with_error_info(code.as_str(), DOMAIN, []);
    Status::with_error_details(Code::from_i32(code.grpc_code()), message, details)
}

/// Like [`status`], with the time after which to try again.
pub fn status_with_retry(code: ErrorCode, message: impl Into<String>, after: Duration) -> Status {
    let mut details = ErrorDetails::with_error_info(code.as_str(), DOMAIN, []);
    details.set_retry_info(Some(after));
    Status::with_error_details(Code::from_i32(code.grpc_code()), message, details)
}

/// Returns the code of a status, from its ErrorInfo when that is ours, else from the gRPC code.
pub fn code_of(status: &Status) -> ErrorCode {
    status
        .get_details_error_info()
        .filter(|info| info.domain == DOMAIN)
        .and_then(|info| ErrorCode::from_name(&info.reason))
        .unwrap_or_else(|| match status.code() {
            // Only our own statuses speak of a full disk. Below them it is HTTP/2 that asks for
            // calm.
            Code::ResourceExhausted => ErrorCode::Overloaded,
            code => ErrorCode::from_grpc_code(code as i32),
        })
}

/// Returns how long the server asked to wait.
pub fn retry_after(status: &Status) -> Option<Duration> {
    status
        .get_details_retry_info()
        .and_then(|info| info.retry_delay)
}

/// Makes the status that tells a peer about `fault`: its code, its message with the texts of all
/// causes, its delay.
pub fn to_status(fault: Fault) -> Status {
    let text = text_for_peer(&fault);
    match fault.retry_after {
        Some(delay) => status_with_retry(fault.code, text, delay),
        None => status(fault.code, text),
    }
}

/// Returns the message of `fault` with the texts of its causes. A [`Status`] among them adds only its
/// message, which the fault that was made of it repeats: its `Display` is a dump of code, message and
/// metadata.
fn text_for_peer(fault: &Fault) -> String {
    let mut text = fault.to_string();
    let mut cause = std::error::Error::source(fault);
    while let Some(error) = cause {
        let next = match error.downcast_ref::<Status>() {
            Some(status) => status.message().to_owned(),
            None => error.to_string(),
        };
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

/// Reads the fault that a peer reported. The status stays as its source.
pub fn from_status(status: Status) -> Fault {
    let fault = Fault {
        code: code_of(&status),
        message: status.message().to_owned(),
        retry_after: retry_after(&status),
        source: None,
    };
    fault.with_source(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_codes_survive_a_status() {
        for code in ErrorCode::ALL {
            assert_eq!(code_of(&status(code, "x")), code);
        }
    }

    #[test]
    fn a_status_of_somebody_else_maps_by_its_grpc_code() {
        assert_eq!(
            code_of(&Status::unavailable("gone")),
            ErrorCode::Unavailable
        );
        assert_eq!(
            code_of(&Status::unknown("transport error")),
            ErrorCode::Unavailable
        );
        assert_eq!(code_of(&Status::internal("?")), ErrorCode::Internal);
        assert_eq!(
            code_of(&Status::resource_exhausted("ENHANCE_YOUR_CALM")),
            ErrorCode::Overloaded
        );
    }

    #[test]
    fn the_retry_delay_travels() {
        let status = status_with_retry(ErrorCode::Overloaded, "busy", Duration::from_millis(250));
        assert_eq!(retry_after(&status), Some(Duration::from_millis(250)));
    }

    #[test]
    fn a_fault_survives_its_status() {
        for code in ErrorCode::ALL {
            let fault = Fault::new(code, "no");
            assert_eq!(from_status(to_status(fault.clone())), fault);
        }
        let busy =
            Fault::new(ErrorCode::Overloaded, "busy").retry_after(Duration::from_millis(100));
        assert_eq!(from_status(to_status(busy.clone())), busy);
    }

    #[test]
    fn a_fault_that_is_passed_on_says_once_what_it_says() {
        let taken = Fault::new(ErrorCode::AlreadyExists, "there is already a file \"a\"");
        let received = from_status(to_status(taken.clone()));
        let passed_on = from_status(to_status(received.clone()));
        assert_eq!(passed_on, taken);
        let with_context =
            Fault::new(ErrorCode::AlreadyExists, "commit upload").with_source(received);
        assert_eq!(
            to_status(with_context).message(),
            "commit upload: there is already a file \"a\""
        );
    }

    #[test]
    fn a_peer_reads_the_causes_in_the_message() {
        let fault = Fault::new(ErrorCode::Unavailable, "disk is read-only");
        let status = to_status(fault.with_source(std::io::Error::other("no space left")));
        assert_eq!(status.message(), "disk is read-only: no space left");
    }
}
