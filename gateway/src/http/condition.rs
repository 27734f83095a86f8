//! Conditions in headers: what must hold of a name before it is written, read or removed (RFC 9110
//! §13).

use cstore_types::{ErrorCode, WriteCondition};
use http::HeaderMap;
use http::header::{HeaderName, IF_MATCH, IF_MODIFIED_SINCE, IF_NONE_MATCH, IF_UNMODIFIED_SINCE};

use crate::error::ApiError;
use crate::http::date;

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
        let (explicit_absent, condition) =
            match (text(headers, IF_NONE_MATCH)?, text(headers, IF_MATCH)?) {
                (Some(_), Some(_)) => {
                    return Err(ApiError::invalid(
                        "send If-Match or If-None-Match, not both",
                    ));
                }
                (Some("*"), None) => (true, WriteCondition::Absent),
                (Some(_), None) => {
                    return Err(ApiError::invalid("If-None-Match of a write must be *"));
                }
                (None, Some("*")) => (false, WriteCondition::Exists),
                (None, Some(tag)) => (false, WriteCondition::EtagEquals(one_tag(tag)?.to_owned())),
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
    match text(headers, IF_MATCH)? {
        None | Some("*") => Ok(String::new()),
        Some(tag) => Ok(one_tag(tag)?.to_owned()),
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
/// ignored.
pub(crate) fn read(headers: &HeaderMap, etag: &str, modified_ms: i64) -> Result<Read, ApiError> {
    let modified = date::moment(modified_ms);
    let since = |name| {
        headers
            .get(name)
            .and_then(|value| value.to_str().ok())
            .and_then(date::parse)
    };
    let holds = match text(headers, IF_MATCH)? {
        Some(list) => matches(list, etag, false),
        None => since(IF_UNMODIFIED_SINCE).is_none_or(|date| modified <= date),
    };
    if !holds {
        return Ok(Read::Failed);
    }
    let known = match text(headers, IF_NONE_MATCH)? {
        Some(list) => matches(list, etag, true),
        None => since(IF_MODIFIED_SINCE).is_some_and(|date| modified <= date),
    };
    Ok(if known { Read::NotModified } else { Read::Send })
}

/// Returns true if a list of ETags, or `*`, has this one. Weak tags count only where the standard
/// compares weakly.
pub(crate) fn matches(list: &str, etag: &str, weak: bool) -> bool {
    list.trim() == "*"
        || list.split(',').map(str::trim).any(|tag| {
            let strong = if weak {
                tag.strip_prefix("W/").unwrap_or(tag)
            } else {
                tag
            };
            strong
                .strip_prefix('"')
                .and_then(|tag| tag.strip_suffix('"'))
                == Some(etag)
        })
}

/// Returns true if the text is the file's ETag and nothing else, by the strong comparison.
pub(crate) fn is_tag(text: &str, etag: &str) -> bool {
    text.trim()
        .strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        == Some(etag)
}

fn one_tag(text: &str) -> Result<&str, ApiError> {
    text.strip_prefix('"')
        .and_then(|tag| tag.strip_suffix('"'))
        .filter(|tag| !tag.is_empty() && !tag.contains('"'))
        .ok_or_else(|| ApiError::invalid("If-Match must be * or one strong ETag in quotes"))
}

fn text(headers: &HeaderMap, name: HeaderName) -> Result<Option<&str>, ApiError> {
    let mut values = headers.get_all(&name).iter();
    let first = values.next().map(|value| value.to_str().map(str::trim));
    match (first, values.next()) {
        (None, _) => Ok(None),
        (Some(Ok(text)), None) => Ok(Some(text)),
        _ => Err(ApiError::invalid(format!(
            "header {name} must be sent once, in ASCII"
        ))),
    }
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
        let cases: [(Pairs, bool, Option<WriteCondition>); 14] = [
            (&[], false, Some(WriteCondition::Absent)),
            (&[], true, Some(WriteCondition::Any)),
            (&[(IF_NONE_MATCH, "*")], false, Some(WriteCondition::Absent)),
            (&[(IF_NONE_MATCH, "*")], true, Some(WriteCondition::Absent)),
            (&[(IF_MATCH, "*")], false, Some(WriteCondition::Exists)),
            (&[(IF_MATCH, "\"a-1\"")], false, tag("a-1")),
            (&[(IF_MATCH, "\"a-1\"")], true, tag("a-1")),
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
        let cases: [(Pairs, Read); 17] = [
            (&[], Read::Send),
            (&[(IF_NONE_MATCH, "\"e-1\"")], Read::NotModified),
            (&[(IF_NONE_MATCH, "W/\"e-1\"")], Read::NotModified),
            (&[(IF_NONE_MATCH, "\"x\", \"e-1\"")], Read::NotModified),
            (&[(IF_NONE_MATCH, "*")], Read::NotModified),
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
                Ok(expected),
                "{pairs:?}"
            );
        }
    }
}
