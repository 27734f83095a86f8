//! Tenants: each has names of its own, which no other sees. Blocks are shared by all.

use std::fmt;

use crate::limits::MAX_TENANT_BYTES;

const DEFAULT: &str = "default";

/// Error of a text that is not the name of a tenant.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("a tenant must have 1 to 64 characters of a-z, 0-9 and -")]
pub struct TenantError;

/// Owner of names. The default tenant is written `default` or left empty; its text is empty, so
/// that everything that was stored before there were tenants belongs to it, and so do requests
/// without a token.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tenant(String);

impl Tenant {
    /// # Errors
    /// [`TenantError`] for anything but 1 to 64 of `[a-z0-9-]` and the empty text.
    pub fn new(text: &str) -> Result<Self, TenantError> {
        if text == DEFAULT {
            return Ok(Self::default());
        }
        let fine = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
        if text.len() > MAX_TENANT_BYTES || !text.bytes().all(fine) {
            return Err(TenantError);
        }
        Ok(Self(text.to_owned()))
    }

    /// Returns the text in keys and messages: empty for the default tenant.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Returns true for the tenant of requests without a token.
    pub fn is_default(&self) -> bool {
        self.0.is_empty()
    }
}

impl fmt::Display for Tenant {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if self.is_default() { DEFAULT } else { &self.0 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_tenant_has_two_spellings_and_others_one_rule() {
        assert_eq!(Tenant::new("default"), Tenant::new(""));
        assert!(Tenant::new("").unwrap().is_default());
        assert_eq!(Tenant::new("").unwrap().to_string(), "default");
        for fine in ["a", "team-7", "0", &"x".repeat(64)] {
            assert_eq!(Tenant::new(fine).unwrap().to_string(), fine);
        }
        for wrong in ["A", "a b", "a/b", "a\0b", "ä", "a_b", &"x".repeat(65)] {
            assert_eq!(Tenant::new(wrong), Err(TenantError), "{wrong:?}");
        }
    }
}
