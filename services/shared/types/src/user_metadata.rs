//! Metadata that a user stores with a file: short texts by key, given back with the file.

use std::collections::BTreeMap;

use crate::limits::{
    MAX_METADATA_BYTES, MAX_METADATA_ENTRIES, MAX_METADATA_KEY, MAX_METADATA_VALUE,
};

/// The bound or rule that metadata breaks.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum UserMetadataError {
    /// Not 1 to [`MAX_METADATA_KEY`] characters of `a-z 0-9 - _ .`.
    #[error(
        "a metadata key must have 1 to 64 characters of a-z, 0-9, '-', '_' and '.', found {0:?}"
    )]
    Key(String),
    /// Not 0 to [`MAX_METADATA_VALUE`] printable ASCII characters, or a space at an end, which HTTP
    /// would drop.
    #[error(
        "the value of metadata {0:?} must have 0 to 1024 printable ASCII characters, no space at an end"
    )]
    Value(String),
    /// The same key twice.
    #[error("metadata {0:?} is given twice")]
    Twice(String),
    /// More than [`MAX_METADATA_ENTRIES`].
    #[error("a file may have at most 32 metadata entries")]
    TooMany,
    /// More than [`MAX_METADATA_BYTES`].
    #[error("keys and values of a file's metadata may have at most 4096 bytes together")]
    TooLarge,
}

/// Valid metadata, in the order of its keys.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct UserMetadata(BTreeMap<String, String>);

impl UserMetadata {
    /// # Errors
    /// The first bound or rule that an entry breaks.
    pub fn new<K: Into<String>, V: Into<String>>(
        entries: impl IntoIterator<Item = (K, V)>,
    ) -> Result<Self, UserMetadataError> {
        let mut found = BTreeMap::new();
        let mut bytes = 0;
        for (key, value) in entries {
            let (key, value) = (key.into(), value.into());
            if !is_key(&key) {
                return Err(UserMetadataError::Key(shortened(&key)));
            }
            if !is_value(&value) {
                return Err(UserMetadataError::Value(key));
            }
            bytes += key.len() + value.len();
            if bytes > MAX_METADATA_BYTES {
                return Err(UserMetadataError::TooLarge);
            }
            if found.contains_key(&key) {
                return Err(UserMetadataError::Twice(key));
            }
            found.insert(key, value);
            if found.len() > MAX_METADATA_ENTRIES {
                return Err(UserMetadataError::TooMany);
            }
        }
        Ok(Self(found))
    }

    /// Returns the keys with their values, in the order of the keys.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0
            .iter()
            .map(|(key, value)| (key.as_str(), value.as_str()))
    }

    /// Returns the number of entries.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Returns true if there are no entries.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

impl From<UserMetadata> for BTreeMap<String, String> {
    fn from(metadata: UserMetadata) -> Self {
        metadata.0
    }
}

fn is_key(key: &str) -> bool {
    let fine =
        |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"-_.".contains(&byte);
    (1..=MAX_METADATA_KEY).contains(&key.len()) && key.bytes().all(fine)
}

fn is_value(value: &str) -> bool {
    value.len() <= MAX_METADATA_VALUE
        && value.bytes().all(|byte| (b' '..=b'~').contains(&byte))
        && value.trim_matches(' ') == value
}

/// A key as an error may show it.
fn shortened(key: &str) -> String {
    key.chars().take(MAX_METADATA_KEY + 1).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_come_back_in_the_order_of_their_keys() {
        let metadata = UserMetadata::new([("b.2", ""), ("a-1_x", "two words")]).unwrap();
        let entries: Vec<_> = metadata.iter().collect();
        assert_eq!(entries, [("a-1_x", "two words"), ("b.2", "")]);
    }

    #[test]
    fn each_rule_has_its_own_error() {
        let of = |key: &str, value: &str| UserMetadata::new([(key, value)]);
        for key in ["", "A", "a b", "ü", "a:b", &"k".repeat(65)] {
            assert!(
                matches!(of(key, "v"), Err(UserMetadataError::Key(_))),
                "{key:?}"
            );
        }
        for value in ["\n", "ü", " a", "a ", "\u{7f}", &"v".repeat(1_025)] {
            assert_eq!(
                of("k", value),
                Err(UserMetadataError::Value("k".to_owned())),
                "{value:?}"
            );
        }
        assert!(of(&"k".repeat(64), &"v".repeat(1_024)).is_ok());
        let twice = UserMetadata::new([("a", "1"), ("a", "1")]);
        assert_eq!(twice, Err(UserMetadataError::Twice("a".to_owned())));
        let many = |count: usize| UserMetadata::new((0..count).map(|n| (format!("k{n}"), "v")));
        assert_eq!(many(32).unwrap().len(), 32);
        assert_eq!(many(33), Err(UserMetadataError::TooMany));
        let large = |count: usize| {
            UserMetadata::new((0..count).map(|n| (format!("{n:024}"), "v".repeat(1_000))))
        };
        assert_eq!(large(4).unwrap().len(), 4);
        assert_eq!(large(5), Err(UserMetadataError::TooLarge));
    }
}
