//! All tokens of a file, and the search for the one that a client shows.

use std::collections::BTreeMap;
use std::time::SystemTime;

use subtle::ConstantTimeEq;

use crate::auth::tokens::entry::{Entry, EntryError};
use crate::auth::tokens::error::TokenFileError;
use crate::auth::tokens::token::Token;
use crate::limits::MAX_TOKENS;

/// Why a token is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum Refused {
    /// Not in the file, or with another secret: which of both is not told.
    #[error("the token is not known here: it is wrong, or was revoked")]
    Unknown,
    #[error("the token expired at {0}")]
    Expired(String),
}

/// All tokens of a file.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct TokenSet(BTreeMap<String, Entry>);

impl TokenSet {
    /// Reads the text of a file.
    ///
    /// # Errors
    /// [`TokenFileError`] with the number of the first line that is none.
    pub fn parse(text: &str) -> Result<Self, TokenFileError> {
        let mut tokens = BTreeMap::new();
        for (at, line) in text.lines().enumerate() {
            let wrong = |error| TokenFileError::Line {
                line: at + 1,
                error,
            };
            let Some(entry) = Entry::of_line(line).map_err(wrong)? else {
                continue;
            };
            if let Some(twice) = tokens.insert(entry.id().to_owned(), entry) {
                return Err(wrong(EntryError::Twice(twice.id().to_owned())));
            }
            if tokens.len() > MAX_TOKENS {
                return Err(TokenFileError::TooLarge);
            }
        }
        Ok(Self(tokens))
    }

    /// In the order of their ids.
    pub fn entries(&self) -> impl Iterator<Item = &Entry> {
        self.0.values()
    }

    /// Returns the number of tokens.
    pub(super) fn len(&self) -> usize {
        self.0.len()
    }

    /// The entry of a token that is good now. The hashes are compared in constant time.
    pub(crate) fn find(&self, token: &Token, now: SystemTime) -> Result<&Entry, Refused> {
        let entry = self.0.get(token.id()).ok_or(Refused::Unknown)?;
        if !bool::from(entry.hash().ct_eq(&token.hash())) {
            return Err(Refused::Unknown);
        }
        match entry.expired(now) {
            Some(when) => Err(Refused::Expired(when)),
            None => Ok(entry),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::auth::tokens::rights::Rights;
    use cstore_types::Tenant;
    use std::time::Duration;

    fn made(expires: Option<SystemTime>) -> (Token, String) {
        let token = Token::generate().unwrap();
        let entry = Entry::new(&token, Tenant::new("acme").unwrap(), Rights::ALL, expires).unwrap();
        (token, entry.to_string())
    }

    #[test]
    fn i13_a_token_is_found_by_its_secret_and_by_nothing_else() {
        let (token, line) = made(None);
        let (other, other_line) = made(None);
        let set = TokenSet::parse(&format!("# two\n\n{line}\n  {other_line}\n")).unwrap();
        let now = SystemTime::now();
        assert_eq!(set.find(&token, now).unwrap().tenant().as_str(), "acme");
        let shown = Token::parse(&token.expose()).unwrap();
        assert_eq!(set.find(&shown, now).unwrap().id(), token.id());
        let crossed = Token::parse(&format!(
            "{}{}",
            &token.expose()[..17],
            &other.expose()[17..]
        ))
        .unwrap();
        assert_eq!(set.find(&crossed, now), Err(Refused::Unknown));
        let unknown = Token::generate().unwrap();
        assert_eq!(set.find(&unknown, now), Err(Refused::Unknown));
        assert!(
            !line.contains(&token.expose()[17..])
                && !format!("{token:?}{set:?}").contains(&token.expose()[17..])
        );
    }

    #[test]
    fn i13_a_token_ends_at_its_expiry() {
        let end = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let (token, line) = made(Some(end));
        assert!(line.contains("expires=2027-01-15T08:00:00Z"), "{line}");
        let set = TokenSet::parse(&line).unwrap();
        assert!(set.find(&token, end - Duration::from_secs(1)).is_ok());
        let refused = set.find(&token, end).unwrap_err().to_string();
        assert_eq!(refused, "the token expired at 2027-01-15T08:00:00Z");
    }

    #[test]
    fn a_line_that_is_wrong_is_named_with_its_number() {
        let (_, line) = made(None);
        for (bad, why) in [
            ("id=x", "line 3: id"),
            ("nonsense", "line 3: nonsense is not key=value"),
            ("id=00 colour=red", "line 3: colour"),
            (&line.replace("rights=read", "rights=fly"), "line 3: rights"),
            (
                &line.replace("tenant=acme", "tenant=ACME"),
                "line 3: tenant",
            ),
            (&line.replace("sha256=", "sha256=0"), "line 3: sha256"),
            (&format!("{line} expires=tomorrow"), "line 3: expires"),
            (&line.replace("sha256=", "was="), "line 3: was"),
            (&line, "line 3: id"),
        ] {
            let error = TokenSet::parse(&format!("# first\n{line}\n{bad}\n"))
                .unwrap_err()
                .to_string();
            assert!(error.starts_with(why), "{bad}: {error}");
        }
    }
}
