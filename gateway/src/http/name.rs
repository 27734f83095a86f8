//! Names out of raw paths: percent-decoded exactly once, then judged by [`FileName`] like at every
//! other door.

use cstore_types::FileName;
use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// Operation that a POST to a file asks for, written behind the name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Verb {
    Copy,
    Rename,
}

/// Returns the name in `path` behind `prefix`. `path` is the raw path of the request, not decoded.
pub(crate) fn from_path(path: &str, prefix: &str) -> Result<FileName, ApiError> {
    let raw = path.strip_prefix(prefix).ok_or_else(ApiError::no_route)?;
    decode(raw)
}

/// Like [`from_path`], with the verb behind the name. An encoded colon belongs to the name.
pub(crate) fn with_verb(path: &str, prefix: &str) -> Result<(FileName, Verb), ApiError> {
    let raw = path.strip_prefix(prefix).ok_or_else(ApiError::no_route)?;
    let (name, verb) = match raw.rsplit_once(':') {
        Some((name, "copy")) => (name, Verb::Copy),
        Some((name, "rename")) => (name, Verb::Rename),
        _ => return Err(ApiError::no_verb()),
    };
    Ok((decode(name)?, verb))
}

/// Returns true if every `%` is followed by two hexadecimal digits. Others would be kept unchanged,
/// and two readers could differ.
pub(crate) fn has_whole_escapes(raw: &[u8]) -> bool {
    let mut rest = raw.iter();
    let is_digit = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_hexdigit);
    while let Some(byte) = rest.next() {
        if *byte == b'%' && !(is_digit(rest.next()) && is_digit(rest.next())) {
            return false;
        }
    }
    true
}

fn decode(raw: &str) -> Result<FileName, ApiError> {
    if !has_whole_escapes(raw.as_bytes()) {
        return Err(ApiError::invalid(
            "a '%' in the path must be followed by two hexadecimal digits",
        ));
    }
    let bytes: Vec<u8> = percent_decode_str(raw).collect();
    Ok(FileName::from_bytes(&bytes)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(raw: &str) -> Option<String> {
        from_path(&format!("/f/{raw}"), "/f/")
            .ok()
            .map(|name| name.to_string())
    }

    #[test]
    fn names_are_decoded_exactly_once() {
        let cases = [
            ("a.txt", Some("a.txt")),
            ("a/b", Some("a/b")),
            ("a%2Fb", Some("a/b")),
            ("a%20b", Some("a b")),
            ("a+b", Some("a+b")),
            ("a%252Fb", Some("a%2Fb")),
            ("%C3%BC", Some("ü")),
            ("100%25", Some("100%")),
            ("a:copy", Some("a:copy")),
            ("", None),
            ("%FF", None),
            ("%", None),
            ("%2", None),
            ("%zz", None),
            ("a%00b", None),
            ("a%0Ab", None),
            ("..", None),
            ("%2E%2E/x", None),
            ("a//b", None),
            ("a%2F%2Fb", None),
            ("%2Fa", None),
            ("a/", None),
        ];
        for (raw, expected) in cases {
            assert_eq!(name(raw).as_deref(), expected, "{raw}");
        }
    }

    #[test]
    fn a_bad_name_is_answered_with_the_rule_that_it_breaks() {
        let error = from_path("/f/a//b", "/f/").unwrap_err();
        assert!(format!("{error:?}").contains("empty segment"), "{error:?}");
    }

    #[test]
    fn the_verb_is_what_stands_behind_the_last_plain_colon() {
        let split = |raw: &str| {
            with_verb(raw, "/f/")
                .ok()
                .map(|(name, verb)| (name.to_string(), verb))
        };
        assert_eq!(split("/f/a/b:copy"), Some(("a/b".to_owned(), Verb::Copy)));
        assert_eq!(
            split("/f/a:copy:rename"),
            Some(("a:copy".to_owned(), Verb::Rename))
        );
        assert_eq!(split("/f/a%3Acopy"), None);
        assert_eq!(split("/f/a"), None);
        assert_eq!(split("/f/:copy"), None);
    }
}
