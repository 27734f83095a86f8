//! Hosts with their ports, as requests and origins name them.

use http::uri::Authority;

/// Returns true if two authorities name the same host and port. A port that is missing or empty is
/// the default one of `scheme` (RFC 9110 §4.2.3, RFC 6454 §4). Names compare without case.
pub(crate) fn is_same(scheme: &str, one: &Authority, other: &Authority) -> bool {
    one.host().eq_ignore_ascii_case(other.host()) && port(scheme, one) == port(scheme, other)
}

fn port(scheme: &str, authority: &Authority) -> Option<u16> {
    authority.port_u16().or(match scheme {
        "http" => Some(80),
        "https" => Some(443),
        _ => None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_port_is_the_port() {
        for (scheme, one, other, same) in [
            ("http", "localhost", "localhost:80", true),
            ("http", "localhost:", "localhost:80", true),
            ("http", "LocalHost", "localhost", true),
            ("http", "[::1]", "[::1]:80", true),
            ("https", "x.example:443", "x.example", true),
            ("http", "x.example:443", "x.example", false),
            ("https", "x.example:80", "x.example", false),
            ("http", "x.example:8000", "x.example:8001", false),
            ("http", "x.example", "y.example", false),
            ("ftp", "x.example", "x.example:80", false),
        ] {
            let of = |text: &str| text.parse::<Authority>().unwrap();
            assert_eq!(
                (
                    is_same(scheme, &of(one), &of(other)),
                    is_same(scheme, &of(other), &of(one))
                ),
                (same, same),
                "{scheme} {one} {other}"
            );
        }
    }
}
