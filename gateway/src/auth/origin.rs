//! Pages of other sites that act through the browser of somebody whom this gateway lets in without
//! a token.
//!
//! A browser sends uploads of forms and plain texts anywhere without asking first, and says in
//! `Sec-Fetch-Site` and `Origin` who made it do so. A name of a foreign site may also be turned to
//! an address of this machine (DNS rebinding); then `Host` has that name. Requests with a token
//! need none of this: no page can send a token that it does not have.

use std::net::IpAddr;

use cstore_types::ErrorCode;
use http::header::{HOST, ORIGIN};
use http::uri::Authority;
use http::{HeaderMap, Method, Uri};

use crate::error::ApiError;
use crate::http::host;

/// Judges a request that came without a token. `is_local`: the gateway is for this machine only.
///
/// # Errors
/// `permission_denied`.
pub(crate) fn check(
    method: &Method,
    uri: &Uri,
    headers: &HeaderMap,
    is_local: bool,
) -> Result<(), ApiError> {
    let host = uri
        .authority()
        .cloned()
        .or_else(|| text(headers, HOST.as_str())?.parse::<Authority>().ok());
    if is_local
        && host
            .as_ref()
            .is_some_and(|host| may_be_foreign(host.host()))
    {
        return refuse(
            "a gateway for this machine only is asked for by localhost or an address, not by another name",
        );
    }
    if method.is_safe() {
        return Ok(());
    }
    if text(headers, "sec-fetch-site").is_some_and(|site| !matches!(site, "same-origin" | "none")) {
        return refuse("a page of another site may not change anything without a token");
    }
    let mut origins = headers.get_all(ORIGIN).iter();
    let Some(origin) = origins.next() else {
        return Ok(());
    };
    let is_same = origins.next().is_none()
        && origin
            .to_str()
            .ok()
            .and_then(|origin| origin.split_once("://"))
            .and_then(|(scheme, by)| Some((scheme, by.parse::<Authority>().ok()?)))
            .zip(host)
            .is_some_and(|((scheme, by), host)| host::is_same(scheme, &by, &host));
    if is_same {
        return Ok(());
    }
    refuse("a page of another origin may not change anything without a token")
}

fn refuse(text: &str) -> Result<(), ApiError> {
    Err(ApiError::new(ErrorCode::PermissionDenied, text))
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers
        .get(name)
        .map(|value| value.to_str().unwrap_or_default())
}

/// Returns true if the host may belong to somebody else: its name has a dot, and is neither an
/// address nor below localhost.
fn may_be_foreign(host: &str) -> bool {
    let bare = host.trim_start_matches('[').trim_end_matches(']');
    let name = bare.trim_end_matches('.').to_ascii_lowercase();
    bare.parse::<IpAddr>().is_err()
        && bare.contains('.')
        && name != "localhost"
        && !name.ends_with(".localhost")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn comes_in(method: Method, is_local: bool, pairs: &[(&'static str, &str)]) -> bool {
        let headers = pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), value.parse().unwrap()))
            .collect();
        check(&method, &Uri::from_static("/api/files"), &headers, is_local).is_ok()
    }

    #[test]
    fn a_page_of_another_site_changes_nothing_and_a_program_does_as_before() {
        let host = ("host", "127.0.0.1:8000");
        for (pairs, fine) in [
            (&[host][..], true),
            (
                &[
                    host,
                    ("origin", "http://127.0.0.1:8000"),
                    ("sec-fetch-site", "same-origin"),
                ],
                true,
            ),
            (&[host, ("origin", "http://127.0.0.1:8000")], true),
            (&[host, ("origin", "http://127.0.0.1:9000")], false),
            (
                &[("host", "localhost:80"), ("origin", "http://localhost")],
                true,
            ),
            (
                &[("host", "localhost"), ("origin", "http://localhost:80")],
                true,
            ),
            (&[("host", "[::1]"), ("origin", "http://[::1]:80")], true),
            (
                &[("host", "localhost:443"), ("origin", "https://localhost")],
                true,
            ),
            (
                &[("host", "localhost:443"), ("origin", "http://localhost")],
                false,
            ),
            (&[("host", "localhost"), ("origin", "localhost")], false),
            (
                &[
                    host,
                    ("origin", "http://127.0.0.1:8000"),
                    ("origin", "http://evil.example"),
                ],
                false,
            ),
            (&[host, ("origin", "http://evil.example")], false),
            (&[host, ("origin", "null")], false),
            (&[host, ("sec-fetch-site", "cross-site")], false),
            (&[host, ("sec-fetch-site", "same-site")], false),
            (&[host, ("sec-fetch-site", "none")], true),
        ] {
            assert_eq!(comes_in(Method::POST, true, pairs), fine, "{pairs:?}");
            assert!(
                comes_in(Method::GET, true, pairs),
                "what a page may not read, the browser keeps from it"
            );
        }
    }

    #[test]
    fn a_name_that_somebody_else_can_own_does_not_lead_to_a_gateway_of_this_machine() {
        for host in [
            "localhost",
            "localhost:8000",
            "a.localhost",
            "127.0.0.1:8000",
            "[::1]:8000",
            "10.0.0.1",
            "gateway",
        ] {
            assert!(comes_in(Method::GET, true, &[("host", host)]), "{host}");
        }
        for host in [
            "evil.example",
            "127.0.0.1.evil.example:8000",
            "localhost.evil.example",
            "x.",
        ] {
            assert!(!comes_in(Method::GET, true, &[("host", host)]), "{host}");
            assert!(
                comes_in(Method::GET, false, &[("host", host)]),
                "{host}: others may have names"
            );
        }
    }
}
