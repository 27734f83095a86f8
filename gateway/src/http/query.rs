//! Query strings: `+` is a space, percent-decoded once, UTF-8 or refused.

use percent_encoding::percent_decode;

use crate::error::ApiError;
use crate::limits::SHOWN_KEY;

/// The decoded pairs of a query string, in order. A key stands once.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    /// Reads a query string whose keys are all in `known`. Any other key is refused, because a
    /// misspelt one would otherwise change what is done. The first pair that is wrong ends the
    /// reading, so the cost is that of at most `known.len()` + 1 pairs, whatever a client sends.
    ///
    /// # Errors
    /// `invalid_argument` for an unknown or repeated key, a malformed escape, and text that is not
    /// UTF-8.
    pub(crate) fn only(raw: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let mut pairs: Vec<(String, String)> = Vec::new();
        let given = raw.unwrap_or_default().split('&');
        for pair in given.filter(|pair| !pair.is_empty()) {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            let key = decode(key)?;
            if !known.contains(&key.as_str()) {
                return Err(unknown(&key, known));
            }
            if pairs.iter().any(|(found, _)| *found == key) {
                return Err(ApiError::invalid(format!(
                    "parameter {key:?} is given twice"
                )));
            }
            pairs.push((key, decode(value)?));
        }
        Ok(Self(pairs))
    }

    pub(crate) fn get(&self, key: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, _)| found == key)
            .map(|(_, value)| value.as_str())
    }

    /// Returns true for `true` and 1, false for `false`, 0 and a missing key. Refuses other values.
    pub(crate) fn flag(&self, key: &str) -> Result<bool, ApiError> {
        match self.get(key) {
            None | Some("false" | "0") => Ok(false),
            Some("true" | "1") => Ok(true),
            Some(_) => Err(ApiError::invalid(format!(
                "parameter {key} must be true or false"
            ))),
        }
    }
}

fn unknown(key: &str, known: &[&str]) -> ApiError {
    let mut shown: String = key.chars().take(SHOWN_KEY).collect();
    if shown.len() < key.len() {
        shown.push('…');
    }
    let takes = if known.is_empty() {
        "none".to_owned()
    } else {
        known.join(", ")
    };
    ApiError::invalid(format!(
        "parameter {shown:?} is not known; this request takes {takes}"
    ))
}

fn decode(raw: &str) -> Result<String, ApiError> {
    if !crate::http::name::has_whole_escapes(raw.as_bytes()) {
        return Err(ApiError::invalid(
            "a % in the query must be followed by two hexadecimal digits",
        ));
    }
    let spaced = raw.replace('+', " ");
    let text = percent_decode(spaced.as_bytes()).decode_utf8();
    text.map(|text| text.into_owned())
        .map_err(|_| ApiError::invalid("the query must be UTF-8"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pairs_are_decoded_once_and_a_key_stands_once() {
        let known = ["name", "overwrite", "flag", "absent", "a"];
        let raw = Some("name=a+b%2Bc%252F&overwrite=true&&flag");
        let query = Query::only(raw, &known).unwrap();
        assert_eq!(query.get("name"), Some("a b+c%2F"));
        assert_eq!(query.flag("overwrite"), Ok(true));
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.flag("absent"), Ok(false));
        assert!(query.flag("flag").is_err());
        for wrong in ["a=%FF", "a=%zz", "a=%", "a=1&a=1", "a&%61=1"] {
            assert!(Query::only(Some(wrong), &known).is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_misspelt_key_is_refused_with_those_that_are_known() {
        let refused =
            |raw, known: &[&str]| format!("{:?}", Query::only(Some(raw), known).unwrap_err());
        assert!(
            refused("overwirte=true", &["name", "overwrite"]).contains("takes name, overwrite")
        );
        assert!(refused("x", &[]).contains("takes none"));
        let long = refused(&"x".repeat(60_000), &["name"]);
        assert!(long.len() < 300, "a long key is cut: {} bytes", long.len());
        assert!(Query::only(Some("name=a"), &["name"]).is_ok());
        assert!(Query::only(None, &[]).is_ok());
    }
}
