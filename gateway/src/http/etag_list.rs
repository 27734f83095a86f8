//! Lists of ETags in `If-Match` and `If-None-Match` (RFC 9110 §8.8.3, §13.1.1, §13.1.2).
//!
//! The typed headers of the crate `headers` are not used here: they drop a whole list that has one
//! byte beyond ASCII (obs-text), which an ETag may have.

use http::{HeaderMap, HeaderName};

/// The members of a list header, which may stand on several lines (RFC 9110 §5.3).
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct EtagList {
    tags: Vec<EntityTag>,
    /// Number of members that are `*`.
    n_stars: usize,
    /// Number of members that are neither an ETag nor `*`.
    n_malformed: usize,
}

#[derive(Debug, PartialEq, Eq)]
struct EntityTag {
    is_weak: bool,
    /// Bytes between the quotes.
    opaque: Vec<u8>,
}

impl EtagList {
    /// Reads all lines of header `name`. `None` if the request does not have it.
    pub(crate) fn from_headers(headers: &HeaderMap, name: &HeaderName) -> Option<Self> {
        headers.get(name)?;
        let mut list = Self::default();
        for line in headers.get_all(name) {
            list.read_line(line.as_bytes());
        }
        Some(list)
    }

    /// Returns true for `*`, which stands for any state of the file.
    pub(crate) fn is_any(&self) -> bool {
        self.n_stars > 0 && self.n_malformed == 0 && self.tags.is_empty()
    }

    /// Returns true if a member is this ETag by the strong comparison, or the list is `*`.
    pub(crate) fn matches_strongly(&self, etag: &str) -> bool {
        self.is_any()
            || self
                .tags
                .iter()
                .any(|tag| !tag.is_weak && tag.opaque == etag.as_bytes())
    }

    /// Returns true if a member is this ETag by the weak comparison, or the list is `*`.
    pub(crate) fn matches_weakly(&self, etag: &str) -> bool {
        self.is_any() || self.tags.iter().any(|tag| tag.opaque == etag.as_bytes())
    }

    /// Returns the bytes of the ETag if the list has exactly one member, which is strong and not
    /// empty.
    pub(crate) fn only_strong(&self) -> Option<&[u8]> {
        match self.tags.as_slice() {
            [tag] if self.n_stars == 0 && self.n_malformed == 0 => {
                (!tag.is_weak && !tag.opaque.is_empty()).then_some(&tag.opaque)
            }
            _ => None,
        }
    }

    /// Adds the members of one line. A comma inside of quotes belongs to the ETag.
    fn read_line(&mut self, mut rest: &[u8]) {
        loop {
            rest = trim_start(rest);
            let Some(first) = rest.first() else { return };
            if *first == b',' {
                // Empty members are ignored (RFC 9110 §5.6.1.2).
                rest = rest.get(1..).unwrap_or_default();
                continue;
            }
            let (member, after) = match read_tag(rest) {
                Some((tag, after)) if ends_member(after) => (Some(tag), after),
                _ => (None, rest),
            };
            let end = after.iter().position(|byte| *byte == b',');
            let skipped = after.get(..end.unwrap_or(after.len())).unwrap_or_default();
            match member {
                Some(tag) => self.tags.push(tag),
                None if skipped.trim_ascii() == b"*" => self.n_stars += 1,
                None => self.n_malformed += 1,
            }
            rest = end.and_then(|end| after.get(end..)).unwrap_or_default();
        }
    }
}

fn trim_start(bytes: &[u8]) -> &[u8] {
    let start = bytes.iter().position(|byte| !matches!(byte, b' ' | b'\t'));
    start
        .and_then(|start| bytes.get(start..))
        .unwrap_or_default()
}

/// Returns true if nothing but white space stands before the next comma or the end.
fn ends_member(bytes: &[u8]) -> bool {
    trim_start(bytes).first().is_none_or(|byte| *byte == b',')
}

/// Reads `["W/"] DQUOTE *etagc DQUOTE` and returns it with the bytes after it.
fn read_tag(bytes: &[u8]) -> Option<(EntityTag, &[u8])> {
    let (is_weak, quoted) = match bytes.strip_prefix(b"W/") {
        Some(quoted) => (true, quoted),
        None => (false, bytes),
    };
    let text = quoted.strip_prefix(b"\"")?;
    let end = text.iter().position(|byte| *byte == b'"')?;
    let opaque = text.get(..end)?;
    let is_fine = opaque
        .iter()
        .all(|byte| matches!(byte, 0x21 | 0x23..=0x7e | 0x80..=0xff));
    let tag = EntityTag {
        is_weak,
        opaque: opaque.to_vec(),
    };
    is_fine.then_some((tag, text.get(end + 1..)?))
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;
    use http::header::IF_MATCH;

    fn list(lines: &[&[u8]]) -> EtagList {
        let headers = lines
            .iter()
            .map(|line| (IF_MATCH, HeaderValue::from_bytes(line).unwrap()))
            .collect();
        EtagList::from_headers(&headers, &IF_MATCH).unwrap()
    }

    #[test]
    fn the_members_of_a_list_are_found_however_it_is_written() {
        for (lines, strong, weak) in [
            (&[&b"\"a\""[..]][..], true, true),
            (&[b"\"x\",\"a\""], true, true),
            (&[b"\"x\" ,\t \"a\" "], true, true),
            (&[b"\"x\"", b"\"a\""], true, true),
            (&[b",, \"a\" ,"], true, true),
            (&[b"W/\"a\""], false, true),
            (&[b"\"\xe9\", \"a\""], true, true),
            (&[b"\"x,y\", \"a\""], true, true),
            (&[b"broken, \"a\""], true, true),
            (&[b"*"], true, true),
            (&[b"*, *"], true, true),
            (&[b"*", b"\"x\""], false, false),
            (&[b"a"], false, false),
            (&[b"\"a"], false, false),
            (&[b"\"a\"x"], false, false),
            (&[b"w/\"a\""], false, false),
            (&[b"\"x,a\""], false, false),
            (&[b"\"x\" \"a\""], false, false),
            (&[b"\"A\""], false, false),
            (&[b""], false, false),
        ] {
            let found = list(lines);
            assert_eq!(
                (found.matches_strongly("a"), found.matches_weakly("a")),
                (strong, weak),
                "{lines:?}: {found:?}"
            );
        }
    }

    #[test]
    fn one_strong_tag_is_one_and_nothing_beside_it() {
        assert_eq!(list(&[b"\"a\""]).only_strong(), Some(&b"a"[..]));
        assert_eq!(list(&[b"", b" \"a\","]).only_strong(), Some(&b"a"[..]));
        for wrong in [
            &b"W/\"a\""[..],
            b"\"\"",
            b"\"a\", \"a\"",
            b"\"a\", *",
            b"\"a\", x",
            b"a",
            b"*",
            b"",
        ] {
            assert_eq!(list(&[wrong]).only_strong(), None, "{wrong:?}");
        }
    }

    #[test]
    fn a_request_without_the_header_has_no_list() {
        assert_eq!(EtagList::from_headers(&HeaderMap::new(), &IF_MATCH), None);
    }
}
