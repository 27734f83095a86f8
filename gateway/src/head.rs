//! What hyper lets pass in the head of a request and this gateway does not, because a proxy before it may read it
//! otherwise (RFC 9112 §3.2, §6.1). Two lengths, a length that is none, white space before a colon, folded lines and codings
//! that do not end in chunked are refused by hyper; a length beside chunked ends the connection.

use http::header::{HOST, TRANSFER_ENCODING};
use http::{HeaderMap, Version};

use crate::error::ApiError;

/// # Errors
/// `invalid_argument`.
pub(crate) fn check(version: Version, headers: &HeaderMap) -> Result<(), ApiError> {
    if version > Version::HTTP_11 {
        return Ok(());
    }
    let hosts = headers.get_all(HOST).iter().count();
    if hosts > 1 || (hosts == 0 && version == Version::HTTP_11) {
        return Err(ApiError::invalid(format!("a request must have one header host, found {hosts}")));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let only_chunked = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if !only_chunked {
        return Err(ApiError::invalid("transfer-encoding must be chunked and nothing else"));
    }
    Ok(())
}
