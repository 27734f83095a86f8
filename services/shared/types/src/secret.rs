//! The cluster secret and the keys that are derived from it by HKDF-SHA256 (RFC 5869).
//!
//! One secret, one key per use: what leaks from one door opens no other.

use std::fmt;

use hkdf::Hkdf;
use sha2::Sha256;
use zeroize::{Zeroize, ZeroizeOnDrop};

use crate::Caller;
use crate::limits::{MAX_SECRET_BYTES, MIN_SECRET_BYTES};

const SALT: &[u8] = b"cstore cluster secret v1";

/// Why a secret is refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SecretError {
    /// Too short, or far too long.
    #[error("cluster secret must have 32 to 1024 printable ASCII characters, found {0}")]
    Length(usize),
    /// Something that cannot travel in a header, or a line break in the middle.
    #[error("cluster secret must consist of printable ASCII characters without spaces")]
    Characters,
    /// A secret that everybody could guess.
    #[error(
        "cluster secret repeats few characters; generate one, for instance with `openssl rand -hex 32`"
    )]
    Weak,
}

/// The secret that all parts of one cluster share, generated or given, never built in.
#[derive(Clone, ZeroizeOnDrop)]
pub struct ClusterSecret(String);

impl ClusterSecret {
    /// Takes the text of a secret file; spaces and line breaks at the ends are not part of it.
    ///
    /// # Errors
    /// [`SecretError`] when it is too short, unprintable or guessable.
    pub fn parse(text: &str) -> Result<Self, SecretError> {
        let text = text.trim();
        if !(MIN_SECRET_BYTES..=MAX_SECRET_BYTES).contains(&text.len()) {
            return Err(SecretError::Length(text.len()));
        }
        if !text.bytes().all(|byte| byte.is_ascii_graphic()) {
            return Err(SecretError::Characters);
        }
        let distinct: std::collections::HashSet<u8> = text.bytes().collect();
        if distinct.len() < 8 {
            return Err(SecretError::Weak);
        }
        Ok(Self(text.to_owned()))
    }

    /// 256 bits from the operating system's generator, as hexadecimal text.
    ///
    /// # Errors
    /// The generator's own, which does not happen on a running system.
    pub fn generate() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        getrandom::fill(&mut bytes)?;
        let text = hex::encode(bytes);
        bytes.zeroize();
        Ok(Self(text))
    }

    /// The text, to be written into the secret file.
    pub fn expose(&self) -> &str {
        &self.0
    }

    /// Key of the frame handshake between worker and storage.
    pub fn frame_key(&self) -> FrameKey {
        FrameKey(self.derive(b"frame handshake"))
    }

    /// Key that signs the bearers of one kind of caller on the gRPC plane.
    pub fn rpc_key(&self, caller: Caller) -> RpcKey {
        RpcKey(self.derive(format!("rpc bearer {caller}").as_bytes()))
    }

    /// Key that authenticates upload tickets.
    pub fn ticket_key(&self) -> TicketKey {
        TicketKey(self.derive(b"upload ticket"))
    }

    fn derive(&self, purpose: &[u8]) -> [u8; 32] {
        let mut key = [0; 32];
        Hkdf::<Sha256>::new(Some(SALT), self.0.as_bytes())
            .expand(purpose, &mut key)
            .expect("32 bytes are within HKDF's bound of 255 hashes");
        key
    }
}

/// 32 bytes that prove membership on the frame protocol.
#[derive(Clone, ZeroizeOnDrop)]
pub struct FrameKey([u8; 32]);

/// 32 bytes that authenticate tickets.
#[derive(Clone, ZeroizeOnDrop)]
pub struct TicketKey([u8; 32]);

/// 32 bytes that sign what is sent as `authorization: Bearer …` on inner gRPC calls.
#[derive(Clone, ZeroizeOnDrop)]
pub struct RpcKey([u8; 32]);

impl FrameKey {
    /// For tests and for a key that was derived elsewhere.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl TicketKey {
    /// The key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl RpcKey {
    /// The key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

macro_rules! hidden {
    ($($name:ident),*) => {$(
        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(concat!(stringify!($name), "(…)"))
            }
        }
    )*};
}
hidden!(ClusterSecret, FrameKey, TicketKey, RpcKey);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_purpose_has_its_own_key_and_none_is_printed() {
        let secret = ClusterSecret::parse("0123456789abcdef0123456789abcdef\n").unwrap();
        let mut keys = vec![
            *secret.frame_key().as_bytes(),
            *secret.ticket_key().as_bytes(),
        ];
        keys.extend(Caller::ALL.map(|caller| *secret.rpc_key(caller).as_bytes()));
        let distinct: std::collections::HashSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), 2 + Caller::ALL.len());
        let shown = format!(
            "{secret:?} {:?} {:?}",
            secret.frame_key(),
            secret.rpc_key(Caller::Worker)
        );
        assert_eq!(shown, "ClusterSecret(…) FrameKey(…) RpcKey(…)");
    }

    #[test]
    fn short_weak_and_unprintable_secrets_are_refused() {
        assert_eq!(
            ClusterSecret::parse("changeme").err(),
            Some(SecretError::Length(8))
        );
        assert_eq!(
            ClusterSecret::parse(&"a".repeat(40)).err(),
            Some(SecretError::Weak)
        );
        let broken = "0123456789abcdef 0123456789abcdef";
        assert_eq!(
            ClusterSecret::parse(broken).err(),
            Some(SecretError::Characters)
        );
    }

    #[test]
    fn generated_secrets_pass_and_differ() {
        let (a, b) = (
            ClusterSecret::generate().unwrap(),
            ClusterSecret::generate().unwrap(),
        );
        assert!(ClusterSecret::parse(a.expose()).is_ok());
        assert_ne!(a.expose(), b.expose());
    }
}
