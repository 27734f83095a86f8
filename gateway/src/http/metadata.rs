//! User metadata of a file as headers: `x-cstore-meta-<key>: <value>`, with an upload and with the
//! file.

use std::collections::BTreeMap;

use cstore_types::{ErrorCode, UserMetadata};
use http::{HeaderMap, HeaderName, HeaderValue};

use crate::error::ApiError;

const PREFIX: &str = "x-cstore-meta-";

/// Reads the metadata from the headers of an upload. Header names are not case-sensitive; keys are
/// kept in lower case.
pub(crate) fn from_headers(headers: &HeaderMap) -> Result<UserMetadata, ApiError> {
    let mut entries = Vec::new();
    for (name, value) in headers {
        let Some(key) = name.as_str().strip_prefix(PREFIX) else {
            continue;
        };
        let value = value.to_str().map_err(|_| {
            ApiError::invalid(format!(
                "header {name} must have printable ASCII characters only"
            ))
        })?;
        entries.push((key, value));
    }
    UserMetadata::new(entries).map_err(|error| ApiError::invalid(error.to_string()))
}

/// Returns the headers that give the metadata back.
pub(crate) fn into_headers(
    metadata: &BTreeMap<String, String>,
    headers: &mut HeaderMap,
) -> Result<(), ApiError> {
    let broken =
        |error: &dyn std::fmt::Display| ApiError::new(ErrorCode::Internal, error.to_string());
    for (key, value) in metadata {
        let name =
            HeaderName::try_from(format!("{PREFIX}{key}")).map_err(|error| broken(&error))?;
        headers.insert(
            name,
            HeaderValue::try_from(value).map_err(|error| broken(&error))?,
        );
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        let pair = |(key, value): &(&'static str, &'static str)| {
            (
                HeaderName::from_static(key),
                HeaderValue::from_static(value),
            )
        };
        pairs.iter().map(pair).collect()
    }

    #[test]
    fn what_came_in_headers_goes_out_in_headers() {
        let sent = headers(&[
            ("x-cstore-meta-owner", "a b"),
            ("x-cstore-meta-a.b_c-1", ""),
            ("accept", "*/*"),
        ]);
        let metadata = from_headers(&sent).unwrap();
        let mut back = HeaderMap::new();
        into_headers(&metadata.into(), &mut back).unwrap();
        assert_eq!(back.len(), 2);
        assert_eq!(back["x-cstore-meta-owner"], "a b");
        assert_eq!(back["x-cstore-meta-a.b_c-1"], "");
    }

    #[test]
    fn what_cannot_be_kept_is_refused_with_the_rule() {
        let mut twice = headers(&[("x-cstore-meta-a", "1")]);
        twice.append("x-cstore-meta-a", HeaderValue::from_static("2"));
        let mut foreign = HeaderMap::new();
        foreign.insert("x-cstore-meta-a", HeaderValue::from_bytes(b"\xfc").unwrap());
        for (wrong, said) in [
            (twice, "twice"),
            (foreign, "printable ASCII"),
            (headers(&[("x-cstore-meta-", "v")]), "1 to 64 characters"),
            (headers(&[("x-cstore-meta-a!", "v")]), "a-z"),
        ] {
            let error = from_headers(&wrong).unwrap_err();
            assert_eq!(error.code(), ErrorCode::InvalidArgument);
            assert!(
                format!("{error:?}").contains(said),
                "{error:?} should say {said}"
            );
        }
    }
}
