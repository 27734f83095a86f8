//! Names of files: one rule for every door.

use std::fmt;

use crate::limits::MAX_NAME_BYTES;

/// The rule that a name breaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// The name is empty.
    #[error("a file name must have 1 to 1024 bytes, found none")]
    Empty,
    /// More than [`MAX_NAME_BYTES`].
    #[error("a file name must have 1 to 1024 bytes, found {0}")]
    TooLong(usize),
    /// Not UTF-8.
    #[error("a file name must be UTF-8")]
    NotUtf8,
    /// C0, DEL or C1 control character.
    #[error("a file name must not contain control characters, found U+{0:04X}")]
    Control(u32),
    /// `//`, or a slash at either end.
    #[error("a file name must not have an empty segment (no '//', no '/' at either end)")]
    EmptySegment,
    /// `.` or `..` between slashes.
    #[error("a file name must not have the segment '.' or '..'")]
    DotSegment,
}

/// A valid name: UTF-8, 1 to 1,024 bytes, `/` makes folders, no empty or dot segments, no control
/// characters.
///
/// A name is a key, never a path on a disk. It is decoded exactly once, where it enters.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FileName(String);

impl FileName {
    /// # Errors
    /// The first rule that `text` breaks.
    pub fn new(text: impl Into<String>) -> Result<Self, NameError> {
        let text = text.into();
        if text.is_empty() {
            return Err(NameError::Empty);
        }
        if text.len() > MAX_NAME_BYTES {
            return Err(NameError::TooLong(text.len()));
        }
        if let Some(control) = text.chars().find(|c| c.is_control()) {
            return Err(NameError::Control(control.into()));
        }
        for segment in text.split('/') {
            match segment {
                "" => return Err(NameError::EmptySegment),
                "." | ".." => return Err(NameError::DotSegment),
                _ => {}
            }
        }
        Ok(Self(text))
    }

    /// # Errors
    /// Those of [`Self::new`], and [`NameError::NotUtf8`].
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, NameError> {
        std::str::from_utf8(bytes)
            .map_err(|_| NameError::NotUtf8)
            .and_then(Self::new)
    }

    /// Returns the text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl From<FileName> for String {
    fn from(name: FileName) -> Self {
        name.0
    }
}

impl fmt::Display for FileName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_rule_has_its_own_error() {
        let long = "x".repeat(1025);
        let cases = [
            ("", NameError::Empty),
            (&long, NameError::TooLong(1025)),
            ("a\nb", NameError::Control(10)),
            ("a\u{85}b", NameError::Control(0x85)),
            ("a//b", NameError::EmptySegment),
            ("/a", NameError::EmptySegment),
            ("a/", NameError::EmptySegment),
            ("a/../b", NameError::DotSegment),
            (".", NameError::DotSegment),
        ];
        for (text, expected) in cases {
            assert_eq!(FileName::new(text), Err(expected), "{text:?}");
        }
        assert_eq!(FileName::from_bytes(b"a\xff"), Err(NameError::NotUtf8));
    }

    #[test]
    fn ordinary_and_odd_but_legal_names_pass() {
        for text in [
            "a",
            "a/b/c.txt",
            "…/ü",
            "a=b",
            ".hidden",
            "a..b",
            " ",
            &"y".repeat(1024),
        ] {
            assert_eq!(
                FileName::new(text).map(|n| n.to_string()).as_deref(),
                Ok(text)
            );
        }
    }
}
