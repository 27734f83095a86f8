//! Attributes of a file in the headers of an answer.

use reqwest::header::HeaderMap;

use super::Session;
use crate::client::header;
use crate::exit::Failure;

/// A file of the gateway in one state.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Known {
    pub(super) size: u64,
    /// ETag without quotes.
    pub(super) etag: String,
    pub(super) sha256: Option<String>,
}

impl Known {
    /// Reads an answer to HEAD, or to GET of a whole file. Refuses one without a size or an ETag.
    pub(super) fn from_headers(headers: &HeaderMap, size: Option<u64>) -> Result<Self, Failure> {
        let length = header(headers, "content-length").and_then(|text| text.parse().ok());
        let etag = header(headers, "etag").and_then(|tag| tag.strip_prefix('"')?.strip_suffix('"'));
        match (size.or(length), etag) {
            (Some(size), Some(etag)) if !etag.is_empty() => Ok(Self {
                size,
                etag: etag.to_owned(),
                sha256: header(headers, "x-cstore-sha256").map(str::to_ascii_lowercase),
            }),
            _ => Err(Failure::Failed(
                "the answer has no length or no ETag: that is no gateway".to_owned(),
            )),
        }
    }

    pub(super) async fn ask(session: &Session, name: &str) -> Result<Self, Failure> {
        let answer = session.head(name).await?;
        Self::from_headers(&answer.headers, None)
    }
}
