//! The failure that crosses crates and connections, and the one way to print an error with its
//! causes.
//!
//! Terms: a crate's own error enum says what its direct caller can do. A [`Fault`] is what is left
//! when a request ends: a code, a sentence, and the cause for our own log. `cstore-proto` turns it
//! into a gRPC status and back, `cstore-wire` into an ERROR frame and back.

use std::error::Error;
use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use crate::error_code::ErrorCode;
use crate::recipe::RecipeError;

/// A failed request: what the caller can do, a sentence for people, and the cause if there is one.
///
/// Displays as its message alone. Print the causes, too, with [`error_chain`].
#[derive(Debug, Clone)]
pub struct Fault {
    /// The class of the failure: tells the caller what it can do.
    pub code: ErrorCode,
    /// Sentence for people: the event, its subject, and what is allowed. Lower case, without a full
    /// stop.
    pub message: String,
    /// Time after which the caller should try again. `None` if the server does not say.
    pub retry_after: Option<Duration>,
    /// The error that led to it. Stays in this process; a peer receives its text only.
    pub source: Option<Arc<dyn Error + Send + Sync>>,
}

impl Fault {
    /// Makes a fault without a cause and without a time to try again.
    pub fn new(code: ErrorCode, message: impl Into<String>) -> Self {
        Self {
            code,
            message: message.into(),
            retry_after: None,
            source: None,
        }
    }

    /// Makes a fault that says what `error` says and keeps it as the cause.
    pub fn from_error(code: ErrorCode, error: impl Error + Send + Sync + 'static) -> Self {
        Self::new(code, error.to_string()).with_source(error)
    }

    /// Makes a fault of a request that is wrong itself.
    pub fn invalid(message: impl Into<String>) -> Self {
        Self::new(ErrorCode::InvalidArgument, message)
    }

    /// Adds the cause.
    #[must_use]
    pub fn with_source(mut self, error: impl Error + Send + Sync + 'static) -> Self {
        self.source = Some(Arc::new(error));
        self
    }

    /// Adds the time after which the caller should try again.
    #[must_use]
    pub const fn retry_after(mut self, delay: Duration) -> Self {
        self.retry_after = Some(delay);
        self
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl From<RecipeError> for Fault {
    fn from(error: RecipeError) -> Self {
        Self::from_error(ErrorCode::InvalidArgument, error)
    }
}

impl Error for Fault {
    fn source(&self) -> Option<&(dyn Error + 'static)> {
        self.source.as_deref().map(|error| error as _)
    }
}

/// Compares what a peer can see. Causes are left out: they do not travel.
impl PartialEq for Fault {
    fn eq(&self, other: &Self) -> bool {
        self.code == other.code
            && self.message == other.message
            && self.retry_after == other.retry_after
    }
}

impl Eq for Fault {}

/// Displays an error with all its causes, joined by `: `.
///
/// Our messages do not repeat their causes, so `%error` alone loses them: log with
/// `error_chain(&error)` instead. A cause that the text before it already ends with is left out,
/// because some foreign errors do repeat theirs.
pub fn error_chain(error: &(dyn Error + 'static)) -> impl fmt::Display + use<> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let next = error.to_string();
        if !text.ends_with(&next) {
            text.push_str(": ");
            text.push_str(&next);
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("write segment")]
    struct WriteFailed(#[source] std::io::Error);

    #[test]
    fn a_fault_keeps_its_cause_and_shows_its_message() {
        let cause = WriteFailed(std::io::Error::other("no space left"));
        let fault = Fault::new(ErrorCode::Full, "disk is full").with_source(cause);
        let fault = fault.clone().retry_after(Duration::from_millis(5));
        assert_eq!(fault.to_string(), "disk is full");
        assert_eq!(fault.retry_after, Some(Duration::from_millis(5)));
        assert!(
            fault
                .source()
                .is_some_and(|cause| cause.is::<WriteFailed>())
        );
        assert_eq!(
            error_chain(&fault).to_string(),
            "disk is full: write segment: no space left"
        );
    }

    #[test]
    fn a_cause_that_was_said_is_not_said_again() {
        let fault = Fault::from_error(
            ErrorCode::Internal,
            WriteFailed(std::io::Error::other("broken")),
        );
        assert_eq!(fault.to_string(), "write segment");
        assert_eq!(error_chain(&fault).to_string(), "write segment: broken");
        let repeated = Fault::new(ErrorCode::Internal, "open disk: broken");
        let repeated = repeated.with_source(std::io::Error::other("broken"));
        assert_eq!(error_chain(&repeated).to_string(), "open disk: broken");
    }

    #[test]
    fn faults_are_equal_if_a_peer_cannot_tell_them_apart() {
        let plain = Fault::invalid("wrong");
        assert_eq!(plain, plain.clone().with_source(std::io::Error::other("x")));
        assert_ne!(plain, Fault::new(ErrorCode::Internal, "wrong"));
        assert_ne!(plain, plain.clone().retry_after(Duration::ZERO));
    }
}
