//! One line of the token file.

use std::fmt;
use std::time::SystemTime;

use cstore_types::{Tenant, TenantError};

use super::{Rights, RightsError, Token};

/// What the file knows of a token.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    id: String,
    tenant: Tenant,
    rights: Rights,
    expires: Option<SystemTime>,
    hash: [u8; 32],
}

/// What is wrong with a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not key=value.
    #[error("{0} is not key=value")]
    Word(String),
    /// No such key, or one for the second time.
    #[error("{0} is not a key, or stands there twice; keys are id, tenant, rights, expires and sha256")]
    Key(String),
    /// Missing or of another form.
    #[error("id must be there, as 2 to 32 of 0-9 and a-f")]
    Id,
    /// Two lines of one id.
    #[error("id {0} stands on an earlier line too")]
    Twice(String),
    /// Missing or not a tenant.
    #[error("tenant: {0}")]
    Tenant(#[from] TenantError),
    /// Missing or not rights.
    #[error("rights {0}")]
    Rights(#[from] RightsError),
    /// Not a time.
    #[error("expires must be a time in UTC such as 2027-01-31T00:00:00Z")]
    Expires,
    /// Missing or not a hash.
    #[error("sha256 must be there, as 64 hexadecimal digits")]
    Hash,
}

pub(super) fn is_id(text: &str) -> bool {
    (2..=32).contains(&text.len()) && text.bytes().all(|byte| matches!(byte, b'0'..=b'9' | b'a'..=b'f'))
}

impl Entry {
    /// What the file is to know of `token`.
    pub fn new(token: &Token, tenant: Tenant, rights: Rights, expires: Option<SystemTime>) -> Self {
        Self { id: token.id.clone(), tenant, rights, expires, hash: token.hash() }
    }

    /// By which the token is found.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Whose names its bearer sees.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// What its bearer may do.
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// When it ends, as text; `None` when it does not.
    pub fn expires(&self) -> Option<String> {
        self.expires.map(|when| humantime::format_rfc3339_seconds(when).to_string())
    }

    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// When it ended, if it has.
    pub(super) fn expired(&self, now: SystemTime) -> Option<String> {
        self.expires.filter(|when| now >= *when).and_then(|_| self.expires())
    }

    /// Reads a line; `None` when it says nothing.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn of_line(line: &str) -> Result<Option<Self>, EntryError> {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            return Ok(None);
        }
        let [mut id, mut tenant, mut rights, mut expires, mut hash] = [None; 5];
        for word in line.split_whitespace() {
            let (key, value) = word.split_once('=').ok_or_else(|| EntryError::Word(word.to_owned()))?;
            let field = match key {
                "id" => &mut id,
                "tenant" => &mut tenant,
                "rights" => &mut rights,
                "expires" => &mut expires,
                "sha256" => &mut hash,
                _ => return Err(EntryError::Key(key.to_owned())),
            };
            if field.replace(value).is_some() {
                return Err(EntryError::Key(key.to_owned()));
            }
        }
        let hash = hash.and_then(|text| hex::decode(text).ok()).and_then(|bytes| bytes.try_into().ok());
        let expires = expires.map(humantime::parse_rfc3339).transpose().map_err(|_| EntryError::Expires)?;
        Ok(Some(Self {
            id: id.filter(|id| is_id(id)).ok_or(EntryError::Id)?.to_owned(),
            tenant: tenant.filter(|name| !name.is_empty()).ok_or(TenantError).and_then(Tenant::new)?,
            rights: rights.ok_or(RightsError)?.parse()?,
            expires,
            hash: hash.ok_or(EntryError::Hash)?,
        }))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "id={} tenant={} rights={}", self.id, self.tenant, self.rights)?;
        if let Some(expires) = self.expires() {
            write!(f, " expires={expires}")?;
        }
        write!(f, " sha256={}", hex::encode(self.hash))
    }
}
