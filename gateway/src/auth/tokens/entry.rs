//! One line of the token file.

use std::fmt;
use std::time::SystemTime;

use cstore_types::{Tenant, TenantError};

use crate::auth::tokens::rights::{Rights, RightsError};
use crate::auth::tokens::token::{Token, is_id};

/// 10000-01-01T00:00:00Z, in seconds since 1970.
const YEAR_10000: u64 = 253_402_300_800;

/// Line of the token file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    id: String,
    tenant: Tenant,
    rights: Rights,
    expires: Option<SystemTime>,
    hash: [u8; 32],
}

/// Mistake in a line.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum EntryError {
    /// Not key=value.
    #[error("{0} is not key=value")]
    Word(String),
    /// No such key, or one for the second time.
    #[error(
        "{0} is not a key, or stands there twice; keys are id, tenant, rights, expires and sha256"
    )]
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
    /// Not a time, or one that has no such text.
    #[error("expires must be a time in UTC such as 2027-01-31T00:00:00Z, from 1970 to 9999")]
    Expires,
    /// Missing or not a hash.
    #[error("sha256 must be there, as 64 hexadecimal digits")]
    Hash,
}

/// Returns true if RFC 3339 can express the time: its years have four digits. The formatter panics
/// at other times.
fn can_be_written(when: SystemTime) -> bool {
    when.duration_since(SystemTime::UNIX_EPOCH)
        .is_ok_and(|since| since.as_secs() < YEAR_10000)
}

impl Entry {
    /// Makes the line of `token`.
    ///
    /// # Errors
    /// [`EntryError::Expires`]: a time before 1970 or after 9999 cannot be written into a line.
    pub fn new(
        token: &Token,
        tenant: Tenant,
        rights: Rights,
        expires: Option<SystemTime>,
    ) -> Result<Self, EntryError> {
        if !expires.is_none_or(can_be_written) {
            return Err(EntryError::Expires);
        }
        Ok(Self {
            id: token.id().to_owned(),
            tenant,
            rights,
            expires,
            hash: token.hash(),
        })
    }

    /// Returns the id by which the token is found.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Returns the tenant whose names the token gives access to.
    pub fn tenant(&self) -> &Tenant {
        &self.tenant
    }

    /// Returns the rights of the token.
    pub fn rights(&self) -> Rights {
        self.rights
    }

    /// Returns the time at which the token expires, as text. `None` if it does not expire.
    pub fn expires(&self) -> Option<String> {
        self.expires
            .map(|when| humantime::format_rfc3339_seconds(when).to_string())
    }

    pub(super) fn hash(&self) -> &[u8; 32] {
        &self.hash
    }

    /// Returns the time at which the token expired, as text. `None` if it is still valid at `now`.
    pub(super) fn expired(&self, now: SystemTime) -> Option<String> {
        self.expires
            .filter(|when| now >= *when)
            .and_then(|_| self.expires())
    }

    /// Reads a line. Returns `None` if it is blank or a comment.
    ///
    /// # Errors
    /// [`EntryError`].
    pub fn of_line(line: &str) -> Result<Option<Self>, EntryError> {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            return Ok(None);
        }
        let [mut id, mut tenant, mut rights, mut expires, mut hash] = [None; 5];
        for word in line.split_whitespace() {
            let (key, value) = word
                .split_once('=')
                .ok_or_else(|| EntryError::Word(word.to_owned()))?;
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
        let hash = hash
            .and_then(|text| hex::decode(text).ok())
            .and_then(|bytes| bytes.try_into().ok());
        let expires = expires
            .map(humantime::parse_rfc3339)
            .transpose()
            .map_err(|_| EntryError::Expires)?;
        if !expires.is_none_or(can_be_written) {
            return Err(EntryError::Expires);
        }
        Ok(Some(Self {
            id: id.filter(|id| is_id(id)).ok_or(EntryError::Id)?.to_owned(),
            tenant: tenant
                .filter(|name| !name.is_empty())
                .ok_or(TenantError)
                .and_then(Tenant::new)?,
            rights: rights.ok_or(RightsError)?.parse()?,
            expires,
            hash: hash.ok_or(EntryError::Hash)?,
        }))
    }
}

impl fmt::Display for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "id={} tenant={} rights={}",
            self.id, self.tenant, self.rights
        )?;
        if let Some(expires) = self.expires() {
            write!(f, " expires={expires}")?;
        }
        write!(f, " sha256={}", hex::encode(self.hash))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_time_that_has_no_text_is_refused_before_it_is_written() {
        let entry = |seconds: u64| {
            let expires = SystemTime::UNIX_EPOCH + Duration::from_secs(seconds);
            Entry::new(
                &Token::generate().unwrap(),
                Tenant::default(),
                Rights::ALL,
                Some(expires),
            )
        };
        let last = entry(YEAR_10000 - 1).unwrap();
        assert_eq!(last.expires().as_deref(), Some("9999-12-31T23:59:59Z"));
        let read = Entry::of_line(&last.to_string()).unwrap();
        assert_eq!(read.and_then(|entry| entry.expires()), last.expires());
        assert_eq!(entry(YEAR_10000), Err(EntryError::Expires));
        let early = SystemTime::UNIX_EPOCH - Duration::from_secs(1);
        let early = Entry::new(
            &Token::generate().unwrap(),
            Tenant::default(),
            Rights::ALL,
            Some(early),
        );
        assert_eq!(early, Err(EntryError::Expires));
    }
}
