//! Small identities: who, which life, which upload.

use std::fmt;
use std::str::FromStr;

/// First bytes of the ids of all sessions that a master begins, from the day on which a person
/// accepted it although storage nodes had obeyed another history. Sessions with other bytes may
/// have committed there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SessionEra([u8; 6]);

impl SessionEra {
    /// Wraps 6 bytes as they are.
    pub const fn from_bytes(bytes: [u8; 6]) -> Self {
        Self(bytes)
    }

    /// Returns 48 bits from the operating system's generator.
    ///
    /// # Errors
    /// The generator's own, which does not happen on a running system.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 6];
        crate::random::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// Returns the 6 bytes.
    pub const fn as_bytes(&self) -> &[u8; 6] {
        &self.0
    }

    /// Returns true if the id of a session begins with these bytes.
    pub fn is_of(&self, session: SessionId) -> bool {
        session.0.starts_with(&self.0)
    }
}

/// Text or bytes that are not the identity they should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdError {
    /// Not 32 hexadecimal digits.
    #[error("expected 32 hexadecimal digits, found {0:?}")]
    Hex(String),
    /// Not 16 bytes.
    #[error("expected 16 bytes, found {0}")]
    Length(usize),
    /// A node id must be 1 to 64 characters of `a-z 0-9 . - _`.
    #[error("node id must have 1 to 64 characters of a-z, 0-9, '.', '-' or '_', found {0:?}")]
    Node(String),
}

macro_rules! uuid {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub struct $name([u8; 16]);

        impl $name {
            /// Wraps 16 bytes as they are.
            pub const fn from_bytes(bytes: [u8; 16]) -> Self {
                Self(bytes)
            }

            /// 128 bits from the operating system's generator.
            ///
            /// # Errors
            /// The generator's own, which does not happen on a running system.
            pub fn random() -> Result<Self, getrandom::Error> {
                let mut bytes = [0; 16];
                crate::random::fill(&mut bytes)?;
                Ok(Self(bytes))
            }

            /// The 16 bytes.
            pub const fn as_bytes(&self) -> &[u8; 16] {
                &self.0
            }
        }

        impl TryFrom<&[u8]> for $name {
            type Error = IdError;
            fn try_from(bytes: &[u8]) -> Result<Self, IdError> {
                bytes.try_into().map(Self).map_err(|_| IdError::Length(bytes.len()))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&hex::encode(self.0))
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({self})", stringify!($name))
            }
        }

        impl FromStr for $name {
            type Err = IdError;
            fn from_str(text: &str) -> Result<Self, IdError> {
                let mut bytes = [0; 16];
                hex::decode_to_slice(text, &mut bytes).map_err(|_| IdError::Hex(text.to_owned()))?;
                Ok(Self(bytes))
            }
        }
    };
}

uuid!(
    /// One upload from ticket to commit, abort or abandonment.
    SessionId
);

impl SessionId {
    /// Returns a random id of an era.
    ///
    /// # Errors
    /// The generator's own, which does not happen on a running system.
    pub fn random_in(era: Option<SessionEra>) -> Result<Self, getrandom::Error> {
        let mut session = Self::random()?;
        if let (Some(era), Some(first)) = (era, session.0.first_chunk_mut()) {
            *first = era.0;
        }
        Ok(session)
    }
}
uuid!(
    /// One formatted storage disk; a re-format gives a new one.
    StoreUuid
);
uuid!(
    /// One cluster; made when the master formats its metadata.
    ClusterUuid
);

macro_rules! number {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord, Default)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

number!(
    /// One life of the metadata: a restore from an older copy starts a new one, a restart does not.
    Incarnation(u64)
);
number!(
    /// Version of the placement map.
    MapVersion(u64)
);
number!(
    /// Part of an upload: the unit that is sealed at once.
    PartNo(u32)
);
number!(
    /// Sequence of the log frame that made a seal durable, on one store. Grows with every group
    /// commit of the store and never goes back while the disk is what it was.
    SealSeq(u64)
);

/// Name of a process in the cluster, chosen by its operator: stable over restarts.
#[derive(Debug, Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(String);

impl NodeId {
    /// # Errors
    /// [`IdError::Node`] unless it has 1 to 64 characters of `a-z 0-9 . - _`.
    pub fn new(text: &str) -> Result<Self, IdError> {
        let allowed =
            |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, b'.' | b'-' | b'_');
        if text.is_empty() || text.len() > 64 || !text.bytes().all(allowed) {
            return Err(IdError::Node(text.chars().take(80).collect()));
        }
        Ok(Self(text.to_owned()))
    }

    /// Makes a name that no other node has: `role`, which follows the rule of node ids, and eight
    /// random digits.
    ///
    /// # Errors
    /// Those of the operating system's random numbers.
    pub fn random(role: &str) -> Result<Self, getrandom::Error> {
        let mut digits = [0; 4];
        getrandom::fill(&mut digits)?;
        Ok(Self(format!("{role}-{}", hex::encode(digits))))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for NodeId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl FromStr for NodeId {
    type Err = IdError;
    fn from_str(text: &str) -> Result<Self, IdError> {
        Self::new(text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uuids_survive_text_and_refuse_what_is_not_hex() {
        let session = SessionId::from_bytes(*b"0123456789abcdef");
        assert_eq!(session.to_string().parse(), Ok(session));
        assert!("xyz".parse::<SessionId>().is_err());
        assert_eq!(
            SessionId::try_from(&[1u8; 15][..]),
            Err(IdError::Length(15))
        );
    }

    #[test]
    fn node_ids_are_lower_case_names() {
        assert!(NodeId::new("storage-1").is_ok());
        for bad in ["", "Storage", "a/b", "a b", &"x".repeat(65)] {
            assert!(NodeId::new(bad).is_err(), "{bad:?}");
        }
    }
}
