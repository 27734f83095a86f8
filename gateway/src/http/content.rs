//! Headers that say what the body of an upload is.

use cstore_types::limits::MAX_CONTENT_TYPE_BYTES;
use http::HeaderMap;
use http::header::{CONTENT_ENCODING, CONTENT_RANGE, CONTENT_TYPE};

use crate::error::ApiError;

/// Content type of a file whose upload states none.
pub(crate) const DEFAULT_TYPE: &str = "application/octet-stream";

/// Checks that a content type can be sent back in a header, and returns it.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn content_type(text: &str) -> Result<String, ApiError> {
    let fine = !text.is_empty()
        && text.len() <= MAX_CONTENT_TYPE_BYTES
        && text.bytes().all(|byte| (b' '..=b'~').contains(&byte));
    if !fine {
        return Err(ApiError::invalid(format!(
            "a content type must be 1 to {MAX_CONTENT_TYPE_BYTES} printable ASCII characters"
        )));
    }
    Ok(text.to_owned())
}

/// Refuses a body that is only a part of a file or an encoded form of it: it MUST NOT be stored as
/// the file.
///
/// # Errors
/// `invalid_argument`.
pub(crate) fn refuse_parts(headers: &HeaderMap) -> Result<(), ApiError> {
    if headers.contains_key(CONTENT_RANGE) {
        return Err(ApiError::invalid(
            "header content-range: a file cannot be written in part",
        ));
    }
    let mut codings = headers.get_all(CONTENT_ENCODING).iter();
    if codings.any(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(ApiError::invalid(
            "header content-encoding: files are kept as they come; send the body without it and say what it is in content-type",
        ));
    }
    if headers.get_all(CONTENT_TYPE).iter().nth(1).is_some() {
        return Err(ApiError::invalid("header content-type must be sent once"));
    }
    Ok(())
}
