//! Checks of the head of a request that hyper does not make, because a proxy in front may read the
//! same head otherwise (RFC 9112 §3.2, §6.1, RFC 9113 §8.3.1). hyper itself refuses two lengths,
//! malformed lengths, white space before a colon, folded lines and codings that do not end in
//! chunked; a length beside chunked ends the connection.

use cstore_types::ErrorCode;
use http::header::{CONTENT_LENGTH, HOST, TRANSFER_ENCODING};
use http::uri::Authority;
use http::{HeaderMap, Method, Uri, Version};

use crate::error::ApiError;
use crate::http::host;

/// Checks host, transfer coding and length of a request.
///
/// # Errors
/// `invalid_argument`; `length_required` for a body over HTTP/1.0 without a length. There the end of
/// the connection would be the end of the body, so hyper takes it for empty (RFC 9112 §6.3) and a
/// client's data would be dropped.
pub(crate) fn check(
    method: &Method,
    version: Version,
    uri: &Uri,
    headers: &HeaderMap,
) -> Result<(), ApiError> {
    check_host(version, uri, headers)?;
    if version > Version::HTTP_11 {
        return Ok(());
    }
    let has_body = [Method::PUT, Method::POST, Method::PATCH].contains(method);
    if has_body && version < Version::HTTP_11 && !headers.contains_key(CONTENT_LENGTH) {
        return Err(ApiError::new(
            ErrorCode::LengthRequired,
            "a body over HTTP/1.0 needs a Content-Length; HTTP/1.1 may send it chunked",
        ));
    }
    let mut codings = headers.get_all(TRANSFER_ENCODING).iter();
    let only_chunked = match (codings.next(), codings.next()) {
        (None, _) => true,
        (Some(coding), None) => coding.as_bytes().eq_ignore_ascii_case(b"chunked"),
        (Some(_), Some(_)) => false,
    };
    if !only_chunked {
        return Err(ApiError::invalid(
            "transfer-encoding must be chunked and nothing else",
        ));
    }
    Ok(())
}

/// Checks that there is exactly one host, that it is well-formed, and that URI and header agree on
/// it.
fn check_host(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<(), ApiError> {
    let mut hosts = headers.get_all(HOST).iter();
    let (first, again) = (hosts.next(), hosts.next().is_some());
    if again || (first.is_none() && version == Version::HTTP_11) {
        let found = if again { "more" } else { "0" };
        return Err(ApiError::invalid(format!(
            "a request must have one header host, found {found}"
        )));
    }
    let named = first.map(|host| host.to_str().unwrap_or("?").trim());
    if named.is_some_and(|host| !host.is_empty() && !is_host(host)) {
        return Err(ApiError::invalid(
            "header host must be a host name or address, with or without a port",
        ));
    }
    if let Some(authority) = uri.authority() {
        let scheme = uri.scheme_str().unwrap_or("http");
        let is_named = |named: &str| {
            let named = named.parse::<Authority>();
            named.is_ok_and(|named| host::is_same(scheme, &named, authority))
        };
        let differs = version > Version::HTTP_11 && named.is_some_and(|named| !is_named(named));
        if differs || !is_host(authority.as_str()) {
            return Err(ApiError::invalid(
                "the authority of a request must be a host, and that of header host",
            ));
        }
    }
    Ok(())
}

/// Returns true if `text` is a host. A comma is refused although names may have one: two hosts that
/// somebody has joined look like that.
fn is_host(text: &str) -> bool {
    let parsed = text.parse::<Authority>();
    parsed.is_ok_and(|host| {
        !text.contains(['@', ',']) && !host.host().is_empty() && has_fine_port(&host)
    })
}

/// Returns true if the port is a number or missing: `http` takes malformed ports for part of the
/// authority.
fn has_fine_port(authority: &Authority) -> bool {
    let rest = authority
        .as_str()
        .strip_prefix(authority.host())
        .unwrap_or_default();
    rest.is_empty() || rest == ":" || authority.port_u16().is_some()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_host_is_one_or_none_at_all() {
        for fine in [
            "x",
            "x.example:80",
            "127.0.0.1:8000",
            "[::1]",
            "[::1]:8000",
            "localhost:",
            "a-b_c",
            "",
        ] {
            let headers = [(HOST, fine.parse().unwrap())].into_iter().collect();
            assert!(
                check(
                    &Method::GET,
                    Version::HTTP_11,
                    &Uri::from_static("/"),
                    &headers
                )
                .is_ok(),
                "{fine}"
            );
        }
        for wrong in [
            "a b", "a/b", "u@x", "[::1", "x:99999", "x:y", "x,y", "a?b", "a#b",
        ] {
            let headers = [(HOST, wrong.parse().unwrap())].into_iter().collect();
            assert!(
                check(
                    &Method::GET,
                    Version::HTTP_11,
                    &Uri::from_static("/"),
                    &headers
                )
                .is_err(),
                "{wrong}"
            );
        }
        let of = |uri: &'static str, hosts: &[&str]| {
            let headers = hosts
                .iter()
                .map(|host| (HOST, host.parse().unwrap()))
                .collect();
            check(
                &Method::GET,
                Version::HTTP_2,
                &Uri::from_static(uri),
                &headers,
            )
            .is_ok()
        };
        assert!(of("http://x/", &[]) && of("http://x/", &["x"]));
        assert!(of("http://x/", &["x:80"]) && of("http://x:80/", &["X"]));
        assert!(!of("http://x/", &["x:8000"]));
        assert!(
            !of("http://x/", &["y"]) && !of("http://x/", &["x", "x"]) && !of("http://u@x/", &[])
        );
    }

    #[test]
    fn a_body_over_http_1_0_needs_a_length() {
        let judge = |method: Method, version, pairs: &[(http::HeaderName, &str)]| {
            let headers = pairs
                .iter()
                .map(|(name, value)| (name.clone(), value.parse().unwrap()))
                .collect();
            check(&method, version, &Uri::from_static("/"), &headers)
                .err()
                .map(|error| error.code())
        };
        let missing = Some(ErrorCode::LengthRequired);
        assert_eq!(judge(Method::PUT, Version::HTTP_10, &[]), missing);
        assert_eq!(judge(Method::POST, Version::HTTP_10, &[]), missing);
        assert_eq!(judge(Method::GET, Version::HTTP_10, &[]), None);
        let length = [(CONTENT_LENGTH, "0")];
        assert_eq!(judge(Method::PUT, Version::HTTP_10, &length), None);
        let host = [(HOST, "x")];
        assert_eq!(judge(Method::PUT, Version::HTTP_11, &host), None);
    }
}
