//! A token as a client shows it.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use sha2::{Digest, Sha256};

const PREFIX: &str = "cst_";

/// A token as a client shows it. There is no way to print it but [`Self::expose`].
pub struct Token {
    id: String,
    secret: [u8; 32],
}

impl Token {
    /// A new token with 256 random bits.
    ///
    /// # Errors
    /// The random number generator's.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let (mut id, mut secret) = ([0; 6], [0; 32]);
        getrandom::fill(&mut id)?;
        getrandom::fill(&mut secret)?;
        Ok(Self {
            id: hex::encode(id),
            secret,
        })
    }

    /// Reads what a client shows; `None` when it has not the form of a token.
    pub fn parse(text: &str) -> Option<Self> {
        let (id, secret) = text.strip_prefix(PREFIX)?.split_once('_')?;
        let secret = URL_SAFE_NO_PAD.decode(secret).ok()?.try_into().ok()?;
        is_id(id).then(|| Self {
            id: id.to_owned(),
            secret,
        })
    }

    /// The text that its owner keeps.
    pub fn expose(&self) -> String {
        format!(
            "{PREFIX}{}_{}",
            self.id,
            URL_SAFE_NO_PAD.encode(self.secret)
        )
    }

    /// By which it is found.
    pub fn id(&self) -> &str {
        &self.id
    }

    pub(super) fn hash(&self) -> [u8; 32] {
        Sha256::digest(self.secret).into()
    }
}

impl std::fmt::Debug for Token {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Token")
            .field("id", &self.id)
            .finish_non_exhaustive()
    }
}

/// Returns whether `text` has the form of a token id: 2 to 32 hexadecimal digits in lower case.
pub(super) fn is_id(text: &str) -> bool {
    (2..=32).contains(&text.len())
        && text
            .bytes()
            .all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_has_not_the_form_of_a_token_is_none() {
        let good = Token::generate().unwrap().expose();
        assert_eq!(good.len(), 4 + 12 + 1 + 43);
        for bad in [
            "",
            "cst_",
            "cst_a_b",
            "cst_zz_",
            &good[1..],
            &good[..good.len() - 1],
            &format!("{good}A"),
            &good.to_uppercase(),
        ] {
            assert!(Token::parse(bad).is_none(), "{bad}");
        }
    }
}
