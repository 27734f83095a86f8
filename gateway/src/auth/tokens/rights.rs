//! Rights of a token.

use std::fmt;
use std::str::FromStr;

/// One thing that may be allowed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Right {
    /// Get, list, look at numbers.
    Read,
    /// Upload, copy to, rename to.
    Write,
    /// Delete, rename from.
    Delete,
}

impl Right {
    /// All of them.
    pub const ALL: [Self; 3] = [Self::Read, Self::Write, Self::Delete];

    const fn bit(self) -> u8 {
        1 << self as u8
    }

    /// Returns the word for the right in the token file.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Write => "write",
            Self::Delete => "delete",
        }
    }
}

/// A set of rights.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Rights(u8);

/// The text names something else than rights.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("must be one or more of read, write and delete, with commas between them")]
pub struct RightsError;

impl Rights {
    /// The set of all rights.
    pub const ALL: Self = Self::of(&Right::ALL);

    /// Returns the set of `rights`.
    pub const fn of(rights: &[Right]) -> Self {
        let (mut bits, mut at) = (0, 0);
        while at < rights.len() {
            bits |= rights[at].bit();
            at += 1;
        }
        Self(bits)
    }

    /// Returns true if `right` is in the set.
    pub const fn has(self, right: Right) -> bool {
        self.0 & right.bit() != 0
    }
}

impl FromStr for Rights {
    type Err = RightsError;

    fn from_str(text: &str) -> Result<Self, RightsError> {
        let mut bits = 0;
        for word in text.split(',') {
            let right = Right::ALL
                .into_iter()
                .find(|right| right.as_str() == word.trim());
            bits |= right.ok_or(RightsError)?.bit();
        }
        Ok(Self(bits))
    }
}

impl fmt::Display for Rights {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<_> = Right::ALL
            .into_iter()
            .filter(|right| self.has(*right))
            .map(Right::as_str)
            .collect();
        f.write_str(&words.join(","))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rights_survive_their_text() {
        for bits in 1..8 {
            assert_eq!(Rights(bits).to_string().parse(), Ok(Rights(bits)));
        }
        assert_eq!(
            "delete, read".parse::<Rights>().unwrap().to_string(),
            "read,delete"
        );
        for wrong in ["", "all", "read,", "read write"] {
            assert_eq!(wrong.parse::<Rights>(), Err(RightsError), "{wrong:?}");
        }
    }
}
