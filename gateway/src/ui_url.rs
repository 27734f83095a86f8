//! Where people look at traces, as the web page links it.

use std::fmt;
use std::str::FromStr;

use http::Uri;

/// An absolute `http` or `https` URL without credentials, query, fragment or slash at its end. It
/// becomes the begin of links in the page of everybody, so nothing else is taken: a URL of another
/// scheme could run as a script.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UiUrl(String);

/// The text is no such URL.
#[derive(Debug, thiserror::Error)]
#[error("this is not an absolute http or https URL")]
pub struct InvalidUiUrl;

impl UiUrl {
    pub(crate) fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for UiUrl {
    type Err = InvalidUiUrl;

    fn from_str(text: &str) -> Result<Self, InvalidUiUrl> {
        let uri: Uri = text.parse().map_err(|_| InvalidUiUrl)?;
        let scheme = uri
            .scheme_str()
            .is_some_and(|scheme| scheme == "http" || scheme == "https");
        let host = uri
            .authority()
            .is_some_and(|at| !at.as_str().contains('@') && !at.host().is_empty());
        if !scheme || !host || uri.query().is_some() || text.contains('#') {
            return Err(InvalidUiUrl);
        }
        Ok(Self(text.trim_end_matches('/').to_owned()))
    }
}

impl fmt::Display for UiUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_plain_web_addresses_are_taken() {
        let parse = |text: &str| text.parse::<UiUrl>().ok().map(|url| url.to_string());
        assert_eq!(
            parse("http://127.0.0.1:16686/").as_deref(),
            Some("http://127.0.0.1:16686")
        );
        assert_eq!(
            parse("https://traces.example/ui").as_deref(),
            Some("https://traces.example/ui")
        );
        for wrong in [
            "",
            "traces.example",
            "/ui",
            "javascript:alert(1)",
            "ftp://traces.example",
            "http://user:secret@traces.example",
            "http://traces.example/?a=b",
            "http://traces.example/#a",
            "http://traces.example/a b",
        ] {
            assert_eq!(parse(wrong), None, "{wrong}");
        }
    }
}
