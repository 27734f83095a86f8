//! Requests that are not answered.

use std::error::Error;
use std::io::ErrorKind;

use super::again::Wait;
use crate::exit::{End, Failure};
use crate::limits::CONNECT_TIMEOUT;
use crate::probe::Speaker;

/// Hint at the port that a command needs, to follow what was found.
pub(super) const WANTED: &str = "; CSTORE_URL or --url wants the gateway's port, 8000 by default";

/// Why there is no answer. A request that met this may have been carried out, unless it never left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, thiserror::Error)]
pub(crate) enum Lost {
    #[error("connection refused")]
    Refused,
    #[error("its name is not known: it cannot be looked up")]
    Lookup,
    #[error("not connected")]
    Connect,
    #[error("the port does not speak TLS")]
    NoTls,
    #[error("the connection ended during the TLS handshake")]
    Handshake,
    #[error(
        "its certificate is not accepted: no known authority has signed it for this name, or it is out of date"
    )]
    Certificate,
    #[error("the port does not speak HTTP/1.1, so it is no gateway's")]
    NoHttp,
    /// Like [`Self::NoHttp`], after a look at the port.
    #[error("{}", .0.what())]
    Speaks(Speaker),
    #[error("no connection within {} s: nothing responds at this address", CONNECT_TIMEOUT.as_secs())]
    Silent,
    #[error("the request cannot be put together")]
    Impossible,
    #[error("no answer in time")]
    Timeout,
    #[error("answer cut short")]
    CutShort,
    #[error("connection lost")]
    Connection,
    #[error("the answer is longer than any that a gateway gives")]
    TooLong,
}

impl Lost {
    /// No byte of the request was sent.
    pub(crate) fn never_left(self) -> bool {
        matches!(
            self,
            Self::Refused
                | Self::Lookup
                | Self::Connect
                | Self::Silent
                | Self::NoTls
                | Self::Handshake
                | Self::Certificate
                | Self::Impossible
                | Self::NoHttp
                | Self::Speaks(_)
        )
    }

    /// When the same may be asked again.
    pub(crate) fn wait(self) -> Wait {
        match self {
            Self::Refused | Self::Lookup | Self::Connect | Self::Silent | Self::Handshake => {
                Wait::Away
            }
            Self::Timeout | Self::CutShort | Self::Connection => Wait::Usual,
            Self::NoTls
            | Self::Certificate
            | Self::NoHttp
            | Self::Speaks(_)
            | Self::Impossible
            | Self::TooLong => Wait::Never,
        }
    }

    /// Returns a hint for the user, to follow the message.
    fn hint(self) -> &'static str {
        match self {
            Self::Refused | Self::Connect => {
                "; is it running? CSTORE_URL or --url says where the gateway is"
            }
            Self::Lookup => "; CSTORE_URL or --url says where the gateway is",
            Self::Silent => {
                "; is a firewall in between? CSTORE_URL or --url says where the gateway is"
            }
            Self::Speaks(_) => WANTED,
            Self::NoTls | Self::Handshake => {
                "; is its URL http:// and not https://? CSTORE_URL or --url says where the gateway is"
            }
            Self::NoHttp => {
                "; workers, masters and storage nodes speak gRPC or frames. CSTORE_URL or --url says where the gateway is"
            }
            Self::Connection => {
                "; if it stays so, it is no gateway's port: workers, masters and storage nodes speak gRPC or frames"
            }
            Self::Certificate
            | Self::Impossible
            | Self::Timeout
            | Self::CutShort
            | Self::TooLong => "",
        }
    }

    pub(crate) fn failure(self, url: &str) -> Failure {
        let end = if matches!(self.wait(), Wait::Never) {
            End::Failed
        } else {
            End::Unavailable
        };
        let url = url.trim_end_matches('/');
        Failure::client(end, format!("{url}: {self}{}", self.hint()))
    }
}

/// Returns the cause of an error. An I/O error that wraps another error does not return it as its
/// source.
fn cause_of<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a (dyn Error + 'static)> {
    let io = error.downcast_ref::<std::io::Error>();
    match io.and_then(std::io::Error::get_ref) {
        Some(inner) => Some(inner),
        None => error.source(),
    }
}

impl From<&reqwest::Error> for Lost {
    fn from(error: &reqwest::Error) -> Self {
        let mut cause: Option<&(dyn Error + 'static)> = Some(error);
        let mut refused = false;
        let mut lookup = false;
        let mut is_broken = false;
        let mut is_http = true;
        let mut tls = None;
        while let Some(found) = cause {
            let io = found.downcast_ref::<std::io::Error>();
            refused |= io.is_some_and(|io| io.kind() == ErrorKind::ConnectionRefused);
            is_broken |= io.is_some_and(|io| {
                matches!(
                    io.kind(),
                    ErrorKind::UnexpectedEof
                        | ErrorKind::ConnectionReset
                        | ErrorKind::ConnectionAborted
                        | ErrorKind::BrokenPipe
                )
            });
            // The connector has no type for it that others could see.
            lookup |= found.to_string().contains("dns error");
            // The parser of responses has no public type either. A gRPC port sends frames of HTTP/2 instead of a status,
            // before or after it has seen the request.
            let parser = ["invalid HTTP version", "unexpected message from connection"];
            is_http &= !parser.iter().any(|text| found.to_string().contains(text));
            tls = tls.or_else(|| found.downcast_ref::<rustls::Error>());
            cause = cause_of(found);
        }
        if error.is_builder() {
            Self::Impossible
        } else if matches!(tls, Some(rustls::Error::InvalidMessage(_))) {
            Self::NoTls
        } else if matches!(tls, Some(rustls::Error::InvalidCertificate(_))) {
            Self::Certificate
        } else if !is_http {
            Self::NoHttp
        } else if error.is_timeout() && !error.is_connect() {
            Self::Timeout
        } else if refused {
            Self::Refused
        } else if lookup {
            Self::Lookup
        } else if error.is_connect() && error.is_timeout() {
            Self::Silent
        } else if error.is_connect() && is_broken {
            // The TCP connection was established and then broke, so the TLS handshake failed.
            Self::Handshake
        } else if error.is_connect() {
            Self::Connect
        } else if error.is_body() || error.is_decode() {
            Self::CutShort
        } else {
            Self::Connection
        }
    }
}
