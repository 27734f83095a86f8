//! Parameters of `Content-Disposition` and of the multipart content type (RFC 7578, RFC 8187 and
//! what browsers send).

use percent_encoding::percent_decode_str;

use crate::error::ApiError;

/// Name and file name of a part, as given: nothing is stripped or replaced.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Disposition {
    pub(crate) name: Option<String>,
    pub(crate) filename: Option<String>,
}

/// Reads the value of a part's `Content-Disposition`. `filename*` wins over `filename`.
pub(crate) fn parse(value: &str) -> Result<Disposition, ApiError> {
    let wrong = || {
        ApiError::invalid(
            "Content-Disposition of a part must be form-data with well-formed parameters",
        )
    };
    let (kind, parameters) = split(value).ok_or_else(wrong)?;
    if !kind.eq_ignore_ascii_case("form-data") {
        return Err(wrong());
    }
    let mut found = Disposition::default();
    let mut extended = None;
    for (key, value) in parameters {
        let before = match key.as_str() {
            "name" => found.name.replace(decode_form(&value)),
            "filename" => found.filename.replace(decode_form(&value)),
            "filename*" => extended.replace(decode_extended(&value).ok_or_else(wrong)?),
            _ => None,
        };
        if before.is_some() {
            return Err(ApiError::invalid(format!(
                "Content-Disposition of a part has {key} twice"
            )));
        }
    }
    found.filename = extended.or(found.filename);
    Ok(found)
}

/// The boundary of a multipart/form-data content type.
pub(crate) fn boundary(content_type: &str) -> Option<String> {
    let (kind, parameters) = split(content_type)?;
    if !kind.eq_ignore_ascii_case("multipart/form-data") {
        return None;
    }
    parameters
        .into_iter()
        .find(|(key, _)| key == "boundary")
        .map(|(_, value)| value)
}

type Parameters = Vec<(String, String)>;

/// The value before the first semicolon and its parameters, keys in lower case.
fn split(text: &str) -> Option<(&str, Parameters)> {
    let (kind, mut rest) = text.split_once(';').unwrap_or((text, ""));
    let mut parameters = Vec::new();
    loop {
        rest = rest.trim_start_matches([' ', '\t', ';']);
        if rest.is_empty() {
            return Some((kind.trim(), parameters));
        }
        let (key, after) = rest.split_once('=')?;
        let (value, after) = match after.trim_start().strip_prefix('"') {
            Some(quoted) => unquote(quoted)?,
            None => {
                let end = after.find(';').unwrap_or(after.len());
                (after.get(..end)?.trim().to_owned(), after.get(end..)?)
            }
        };
        parameters.push((key.trim().to_ascii_lowercase(), value));
        rest = after;
    }
}

/// A quoted string and what follows it. A backslash quotes only a quote or itself: elsewhere it is
/// part of a file name, because some clients do not escape it.
fn unquote(text: &str) -> Option<(String, &str)> {
    let mut value = String::new();
    let mut rest = text.char_indices();
    while let Some((at, char)) = rest.next() {
        match char {
            '"' => return Some((value, text.get(at + 1..)?)),
            '\\' if text[at + 1..].starts_with(['"', '\\']) => {
                value.extend(rest.next().map(|(_, quoted)| quoted))
            }
            _ => value.push(char),
        }
    }
    None
}

/// Decodes `%22`, `%0D` and `%0A`, which stand for a quote and line ends in names of forms (HTML
/// Standard, multipart/form-data encoding algorithm). Every other `%` is part of the name.
fn decode_form(value: &str) -> String {
    let mut decoded = String::with_capacity(value.len());
    let mut rest = value;
    while let Some(at) = rest.find('%') {
        let (before, escape) = rest.split_at(at);
        decoded.push_str(before);
        let char = match escape.get(1..3) {
            Some("22") => Some('"'),
            Some("0D" | "0d") => Some('\r'),
            Some("0A" | "0a") => Some('\n'),
            _ => None,
        };
        decoded.push(char.unwrap_or('%'));
        rest = escape
            .get(if char.is_some() { 3 } else { 1 }..)
            .unwrap_or_default();
    }
    decoded.push_str(rest);
    decoded
}

/// `UTF-8'language'percent-encoded`.
fn decode_extended(value: &str) -> Option<String> {
    let mut pieces = value.splitn(3, '\'');
    let (charset, _language, encoded) = (pieces.next()?, pieces.next()?, pieces.next()?);
    if !charset.eq_ignore_ascii_case("utf-8") {
        return None;
    }
    if !crate::http::name::has_whole_escapes(encoded.as_bytes()) {
        return None;
    }
    percent_decode_str(encoded)
        .decode_utf8()
        .ok()
        .map(|text| text.into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_clients_send_is_read_as_they_mean_it() {
        let cases = [
            (
                r#"form-data; name="file"; filename="a.txt""#,
                Some("file"),
                Some("a.txt"),
            ),
            (
                r#"form-data; name=file; filename=a.txt"#,
                Some("file"),
                Some("a.txt"),
            ),
            (
                r#"Form-Data;NAME="file";FileName="ü b.txt""#,
                Some("file"),
                Some("ü b.txt"),
            ),
            (
                r#"form-data; name="file"; filename="a;b=\"c\\d\e""#,
                Some("file"),
                Some(r#"a;b="c\d\e"#),
            ),
            (
                r#"form-data; name="file"; filename="x"; filename*=UTF-8''%C3%BC"#,
                Some("file"),
                Some("ü"),
            ),
            (
                r#"form-data; name="file"; filename="100%25""#,
                Some("file"),
                Some("100%25"),
            ),
            (
                r#"form-data; name="file"; filename="a%22b%0D%0a%25%2%ü%.txt""#,
                Some("file"),
                Some("a\"b\r\n%25%2%ü%.txt"),
            ),
            (
                r#"form-data; name="file"; filename*=UTF-8''a%2522b"#,
                Some("file"),
                Some("a%22b"),
            ),
            (r#"form-data; name="file""#, Some("file"), None),
            ("form-data", None, None),
        ];
        for (text, name, filename) in cases {
            let found = parse(text).unwrap();
            assert_eq!(
                (found.name.as_deref(), found.filename.as_deref()),
                (name, filename),
                "{text}"
            );
        }
    }

    #[test]
    fn what_is_malformed_is_refused() {
        for text in [
            "",
            "attachment; name=file",
            "form-data; name",
            r#"form-data; name="file"#,
            "form-data; filename*=x",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_boundary_may_be_quoted() {
        assert_eq!(
            boundary("multipart/form-data; boundary=a-b").as_deref(),
            Some("a-b")
        );
        assert_eq!(
            boundary("Multipart/Form-Data; charset=utf-8; boundary=\"a b\"").as_deref(),
            Some("a b")
        );
        assert_eq!(boundary("multipart/mixed; boundary=a"), None);
    }
}
