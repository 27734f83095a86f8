//! Conditions in headers: what must hold of a name before it is written, read or removed (RFC 9110
//! §13).

use cstore_types::{ErrorCode, WriteCondition};
use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};

use crate::error::ApiError;
use crate::http::date;
use crate::http::etag_list::EtagList;

/// A condition of a write, with the header that stated it.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct StatedCondition {
    pub(crate) condition: WriteCondition,
    /// `If-None-Match: *` was sent: a taken name is then 412 and not 409.
    explicit_absent: bool,
}

impl StatedCondition {
    /// Without a header a name must be free, unless `overwrite` was asked for. A header is stricter
    /// and wins.
    pub(crate) fn from_headers(headers: &HeaderMap, overwrite: bool) -> Result<Self, ApiError> {
        refuse_dates(headers)?;
        let none_match = EtagList::from_headers(headers, &IF_NONE_MATCH);
        let must_match = EtagList::from_headers(headers, &IF_MATCH);
        let (explicit_absent, condition) = match (none_match, must_match) {
            (Some(_), Some(_)) => {
                return Err(ApiError::invalid(
                    "send If-Match or If-None-Match, not both",
                ));
            }
            (Some(list), None) if list.is_any() => (true, WriteCondition::Absent),
            (Some(_), None) => {
                return Err(ApiError::invalid("If-None-Match of a write must be *"));
            }
            (None, Some(list)) if list.is_any() => (false, WriteCondition::Exists),
            (None, Some(list)) => (false, WriteCondition::EtagEquals(one_tag(&list)?)),
            (None, None) if overwrite => (false, WriteCondition::Any),
            (None, None) => (false, WriteCondition::Absent),
        };
        Ok(Self {
            condition,
            explicit_absent,
        })
    }

    /// A refusal in the words of the header that asked for the condition.
    pub(crate) fn refusal(&self, error: ApiError) -> ApiError {
        if self.explicit_absent && error.code() == ErrorCode::AlreadyExists {
            return error.with_code(ErrorCode::PreconditionFailed);
        }
        error
    }
}

/// The one ETag of `If-Match` that a file must have to be removed, copied or renamed; empty when
/// any will do.
pub(crate) fn etag_of_source(headers: &HeaderMap) -> Result<String, ApiError> {
    refuse_dates(headers)?;
    if headers.contains_key(IF_NONE_MATCH) {
        return Err(ApiError::invalid(
            "header if-none-match is for reads and uploads; here send If-Match, and say overwrite in the body",
        ));
    }
    match EtagList::from_headers(headers, &IF_MATCH) {
        Some(list) if !list.is_any() => one_tag(&list),
        _ => Ok(String::new()),
    }
}

/// A condition that is not understood must not be taken for fulfilled. Dates have whole seconds, in
/// which several writes find room, so no write may depend on them.
fn refuse_dates(headers: &HeaderMap) -> Result<(), ApiError> {
    match [IF_MODIFIED_SINCE, IF_UNMODIFIED_SINCE]
        .iter()
        .find(|name| headers.contains_key(*name))
    {
        Some(name) => Err(ApiError::invalid(format!(
            "header {name} is for reads; for a change send If-Match"
        ))),
        None => Ok(()),
    }
}

/// Outcome of the conditions of a read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Read {
    Send,
    NotModified,
    Failed,
}

/// Judges the conditions of a read of a file with this ETag, in the order of RFC 9110 §13.2.2: a
/// date counts only if the request has no condition by ETag, and a date that cannot be parsed is
/// ignored. Malformed members of a list match nothing.
pub(crate) fn read(headers: &HeaderMap, etag: &str, modified_ms: i64) -> Read {
    let modified = date::shown_moment(modified_ms);
    let since = |name| single_date(headers, &name);
    let holds = match EtagList::from_headers(headers, &IF_MATCH) {
        Some(list) => list.matches_strongly(etag),
        None => since(IF_UNMODIFIED_SINCE).is_none_or(|date| modified <= date),
    };
    if !holds {
        return Read::Failed;
    }
    let known = match EtagList::from_headers(headers, &IF_NONE_MATCH) {
        Some(list) => list.matches_weakly(etag),
        None => since(IF_MODIFIED_SINCE).is_some_and(|date| modified <= date),
    };
    if known { Read::NotModified } else { Read::Send }
}

/// Returns the date of a header that is sent once. RFC 9110 §13.1.3: a field value with two dates is
/// no valid date, and is ignored.
fn single_date(headers: &HeaderMap, name: &HeaderName) -> Option<std::time::SystemTime> {
    let mut values = headers.get_all(name).iter();
    let value = values.next()?;
    if values.next().is_some() {
        return None;
    }
    date::parse(value.to_str().ok()?)
}

/// Returns true if the text is the file's ETag and nothing else, by the strong comparison.
pub(crate) fn is_tag(text: &str, etag: &str) -> bool {
    text.trim()
        .strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        == Some(etag)
}

/// Returns the only ETag of an `If-Match`. Bytes that are not UTF-8 are replaced: no file has such an
/// ETag, so the condition fails in any case.
fn one_tag(list: &EtagList) -> Result<String, ApiError> {
    list.only_strong()
        .map(|tag| String::from_utf8_lossy(tag).into_owned())
        .ok_or_else(|| {
            ApiError::invalid("If-Match of a change must be * or one strong ETag in quotes")
        })
}

#[cfg(test)]
mod tests {
    use super::*;
    use http::HeaderValue;

    const AT: &str = "Sun, 06 Nov 1994 08:49:37 GMT";
    const BEFORE: &str = "Sun, 06 Nov 1994 08:49:36 GMT";

    type Pairs = &'static [(HeaderName, &'static str)];

    fn headers(pairs: &[(HeaderName, &str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.clone(), HeaderValue::from_str(value).unwrap()))
            .collect()
    }

    #[test]
    fn the_conditions_of_a_write() {
        let tag = |text: &str| Some(WriteCondition::EtagEquals(text.to_owned()));
        let cases: [(Pairs, bool, Option<WriteCondition>); 16] = [
            (&[], false, Some(WriteCondition::Absent)),
            (&[], true, Some(WriteCondition::Any)),
            (&[(IF_NONE_MATCH, "*")], false, Some(WriteCondition::Absent)),
            (&[(IF_NONE_MATCH, "*")], true, Some(WriteCondition::Absent)),
            (&[(IF_MATCH, "*")], false, Some(WriteCondition::Exists)),
            (&[(IF_MATCH, "\"a-1\"")], false, tag("a-1")),
            (&[(IF_MATCH, "\"a-1\"")], true, tag("a-1")),
            // Empty members of a list are ignored (RFC 9110 §5.6.1.2).
            (&[(IF_MATCH, "\"a-1\",")], false, tag("a-1")),
            (&[(IF_MATCH, "\"a\""), (IF_MATCH, "\"b\"")], false, None),
            (&[(IF_MATCH, "a-1")], false, None),
            (&[(IF_MATCH, "W/\"a-1\"")], false, None),
            (&[(IF_MATCH, "\"a\", \"b\"")], false, None),
            (&[(IF_NONE_MATCH, "\"a-1\"")], false, None),
            (&[(IF_MATCH, "*"), (IF_NONE_MATCH, "*")], false, None),
            (&[(IF_UNMODIFIED_SINCE, AT)], true, None),
            (&[(IF_MODIFIED_SINCE, AT)], true, None),
        ];
        for (pairs, overwrite, expected) in cases {
            let stated = StatedCondition::from_headers(&headers(pairs), overwrite);
            let found = stated.ok().map(|stated| stated.condition);
            assert_eq!(found, expected, "{pairs:?} overwrite {overwrite}");
        }
    }

    #[test]
    fn a_taken_name_is_412_only_when_the_header_asked() {
        let taken = || ApiError::new(ErrorCode::AlreadyExists, "taken");
        let plain = StatedCondition::from_headers(&headers(&[]), false).unwrap();
        assert_eq!(plain.refusal(taken()).code(), ErrorCode::AlreadyExists);
        let asked =
            StatedCondition::from_headers(&headers(&[(IF_NONE_MATCH, "*")]), false).unwrap();
        assert_eq!(asked.refusal(taken()).code(), ErrorCode::PreconditionFailed);
    }

    #[test]
    fn the_conditions_of_a_read() {
        let cases: [(Pairs, Read); 23] = [
            (&[], Read::Send),
            (&[(IF_NONE_MATCH, "\"e-1\"")], Read::NotModified),
            (&[(IF_NONE_MATCH, "W/\"e-1\"")], Read::NotModified),
            (&[(IF_NONE_MATCH, "\"x\", \"e-1\"")], Read::NotModified),
            (&[(IF_NONE_MATCH, "*")], Read::NotModified),
            // Several lines of a list are one list (RFC 9110 §5.3).
            (
                &[(IF_NONE_MATCH, "\"x\""), (IF_NONE_MATCH, "\"e-1\"")],
                Read::NotModified,
            ),
            (&[(IF_MATCH, "\"x\""), (IF_MATCH, "\"e-1\"")], Read::Send),
            (&[(IF_MATCH, "\"x\""), (IF_MATCH, "\"y\"")], Read::Failed),
            // An ETag may have bytes beyond ASCII (obs-text, RFC 9110 §8.8.3).
            (&[(IF_NONE_MATCH, "\"é\"")], Read::Send),
            (&[(IF_MATCH, "\"é\", \"e-1\"")], Read::Send),
            (
                &[(IF_MODIFIED_SINCE, AT), (IF_MODIFIED_SINCE, AT)],
                Read::Send,
            ),
            (&[(IF_NONE_MATCH, "\"x\"")], Read::Send),
            (&[(IF_MATCH, "\"x\"")], Read::Failed),
            (&[(IF_MATCH, "W/\"e-1\"")], Read::Failed),
            (&[(IF_MATCH, "\"x\", \"e-1\"")], Read::Send),
            (&[(IF_MODIFIED_SINCE, AT)], Read::NotModified),
            (&[(IF_MODIFIED_SINCE, BEFORE)], Read::Send),
            (&[(IF_MODIFIED_SINCE, "soon")], Read::Send),
            (
                &[(IF_MODIFIED_SINCE, AT), (IF_NONE_MATCH, "\"x\"")],
                Read::Send,
            ),
            (&[(IF_UNMODIFIED_SINCE, AT)], Read::Send),
            (&[(IF_UNMODIFIED_SINCE, BEFORE)], Read::Failed),
            (
                &[(IF_UNMODIFIED_SINCE, BEFORE), (IF_MATCH, "\"e-1\"")],
                Read::Send,
            ),
            (
                &[(IF_UNMODIFIED_SINCE, BEFORE), (IF_MODIFIED_SINCE, AT)],
                Read::Failed,
            ),
        ];
        for (pairs, expected) in cases {
            assert_eq!(
                read(&headers(pairs), "e-1", 784_111_777_500),
                expected,
                "{pairs:?}"
            );
        }
    }
}
