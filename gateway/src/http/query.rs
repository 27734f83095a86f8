//! Query strings: `+` is a space, percent-decoded once, UTF-8 or refused.

use percent_encoding::percent_decode;

use crate::error::ApiError;

/// The decoded pairs of a query string, in order. A key stands once.
#[derive(Debug, Default)]
pub(crate) struct Query(Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(raw: Option<&str>) -> Result<Self, ApiError> {
        let pairs = raw
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        let decoded = pairs.map(|pair| {
            let (key, value) = pair.split_once('=').unwrap_or((pair, ""));
            Ok((decode(key)?, decode(value)?))
        });
        let pairs = decoded.collect::<Result<Vec<(String, String)>, ApiError>>()?;
        let twice = pairs
            .iter()
            .enumerate()
            .find(|(at, (key, _))| pairs.iter().take(*at).any(|(k, _)| k == key));
        match twice {
            Some((_, (key, _))) => Err(ApiError::invalid(format!(
                "parameter {key:?} is given twice"
            ))),
            None => Ok(Self(pairs)),
        }
    }

    /// Like [`Self::parse`], but refuses keys that are not in `known`: a misspelt one would
    /// otherwise change what is done.
    pub(crate) fn only(raw: Option<&str>, known: &[&str]) -> Result<Self, ApiError> {
        let query = Self::parse(raw)?;
        let mut keys = query.0.iter().map(|(key, _)| key.as_str());
        match keys.find(|key| !known.contains(key)) {
            Some(key) if known.is_empty() => Err(ApiError::invalid(format!(
                "parameter {key:?} is not known; this request takes none"
            ))),
            Some(key) => Err(ApiError::invalid(format!(
                "parameter {key:?} is not known; this request takes {}",
                known.join(", ")
            ))),
            None => Ok(query),
        }
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
        let query = Query::parse(Some("name=a+b%2Bc%252F&overwrite=true&&flag")).unwrap();
        assert_eq!(query.get("name"), Some("a b+c%2F"));
        assert_eq!(query.flag("overwrite"), Ok(true));
        assert_eq!(query.get("flag"), Some(""));
        assert_eq!(query.flag("absent"), Ok(false));
        assert!(query.flag("flag").is_err());
        for wrong in ["a=%FF", "a=%zz", "a=%", "a=1&a=1", "a&%61=1"] {
            assert!(Query::parse(Some(wrong)).is_err(), "{wrong}");
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
        assert!(Query::only(Some("name=a"), &["name"]).is_ok());
        assert!(Query::only(None, &[]).is_ok());
    }
}
