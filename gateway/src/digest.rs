//! Digests that a client states of the whole file. The worker checks them before anything becomes visible.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use bytes::Bytes;
use http::{HeaderMap, HeaderName};

use crate::error::ApiError;

/// SHA-256 of the whole file, 64 hexadecimal digits: stated with an upload, given back with the file.
pub(crate) const SHA256: HeaderName = HeaderName::from_static("x-cstore-sha256");

/// `Content-MD5`: base64 of 16 bytes (RFC 1864). Empty when it is not there.
pub(crate) fn md5(headers: &HeaderMap) -> Result<Bytes, ApiError> {
    read(headers, "content-md5", 16, "base64 of 16 bytes", |text| STANDARD.decode(text).ok())
}

/// `x-cstore-sha256`: 64 hexadecimal digits. Empty when it is not there.
pub(crate) fn sha256(headers: &HeaderMap) -> Result<Bytes, ApiError> {
    read(headers, SHA256.as_str(), 32, "64 hexadecimal digits", |text| hex::decode(text).ok())
}

fn read(
    headers: &HeaderMap,
    name: &str,
    len: usize,
    allowed: &str,
    decode: impl FnOnce(&str) -> Option<Vec<u8>>,
) -> Result<Bytes, ApiError> {
    let mut values = headers.get_all(name).iter();
    let Some(value) = values.next() else { return Ok(Bytes::new()) };
    if values.next().is_some() {
        return Err(ApiError::invalid(format!("header {name} must be sent once")));
    }
    let digest =
        value.to_str().ok().and_then(|text| decode(text.trim())).filter(|digest| digest.len() == len);
    digest.map(Bytes::from).ok_or_else(|| ApiError::invalid(format!("header {name} must be {allowed}")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    #[test]
    fn digests_are_read_or_refused_but_never_ignored() {
        let with = |name: &'static str, value: &'static str| {
            HeaderMap::from_iter([(http::HeaderName::from_static(name), HeaderValue::from_static(value))])
        };
        assert_eq!(md5(&HeaderMap::new()).unwrap(), "");
        assert_eq!(md5(&with("content-md5", "1B2M2Y8AsgTpgAmY7PhCfg==")).unwrap().len(), 16);
        assert!(md5(&with("content-md5", "1B2M")).is_err());
        assert!(md5(&with("content-md5", "d41d8cd98f00b204e9800998ecf8427e")).is_err());
        let sha = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(sha256(&with("x-cstore-sha256", sha)).unwrap().len(), 32);
        assert!(sha256(&with("x-cstore-sha256", "e3b0")).is_err());
    }
}
