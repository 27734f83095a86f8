//! Digests that a client states of the whole file. The worker checks them before anything becomes
//! visible.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::{HeaderMap, HeaderName};

use crate::error::ApiError;

/// SHA-256 of the whole file, 64 hexadecimal digits: stated with an upload, given back with the
/// file.
pub(crate) const SHA256: HeaderName = HeaderName::from_static("x-cstore-sha256");

/// Reads `Content-MD5`: base64 of 16 bytes (RFC 1864). `None` if the header is missing.
pub(crate) fn md5(headers: &HeaderMap) -> Result<Option<[u8; 16]>, ApiError> {
    read(headers, "content-md5", "base64 of 16 bytes", |text| {
        STANDARD.decode(text).ok()
    })
}

/// Reads `x-cstore-sha256`: 64 hexadecimal digits. `None` if the header is missing.
pub(crate) fn sha256(headers: &HeaderMap) -> Result<Option<[u8; 32]>, ApiError> {
    read(headers, SHA256.as_str(), "64 hexadecimal digits", |text| {
        hex::decode(text).ok()
    })
}

fn read<const N: usize>(
    headers: &HeaderMap,
    name: &str,
    allowed: &str,
    decode: impl FnOnce(&str) -> Option<Vec<u8>>,
) -> Result<Option<[u8; N]>, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(ApiError::invalid(format!(
            "header {name} must be sent once"
        )));
    }
    let bytes = value.to_str().ok().and_then(|text| decode(text.trim()));
    match bytes.and_then(|bytes| bytes.try_into().ok()) {
        Some(digest) => Ok(Some(digest)),
        None => Err(ApiError::invalid(format!(
            "header {name} must be {allowed}"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn digests_are_read_or_refused_but_never_ignored() {
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(
                http::HeaderName::from_static(name),
                HeaderValue::from_static(value),
            )])
        };
        assert_eq!(md5(&HeaderMap::new()), Ok(None));
        let empty = "d41d8cd98f00b204e9800998ecf8427e";
        let read = md5(&with("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg=="));
        assert_eq!(
            read.map(|md5| md5.map(hex::encode)),
            Ok(Some(empty.to_owned()))
        );
        assert!(md5(&with("content-md5", "1B2M")).is_err());
        assert!(md5(&with("content-md5", empty)).is_err());
        let sha = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(
            sha256(&with("x-cstore-sha256", sha)).map(|sha| sha.map(hex::encode)),
            Ok(Some(sha.to_owned()))
        );
        assert!(sha256(&with("x-cstore-sha256", "e3b0")).is_err());
    }
}
