//! Digests over the whole body, only where the client gave one to compare with.

use bytes::Bytes;
use cstore_types::Fault;
use md5::{Digest, Md5};
use sha2::Sha256;

use crate::error::lost_task;
use crate::limits::INLINE_HASH_BYTES;

/// Digests that the client expects, and those of the bytes so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digests {
    md5: Option<([u8; 16], Md5)>,
    sha256: Option<([u8; 32], Sha256)>,
}

impl Digests {
    /// Makes the digests of a body that must have these; `None` is not computed.
    pub(crate) fn expect(md5: Option<[u8; 16]>, sha256: Option<[u8; 32]>) -> Self {
        Self {
            md5: md5.map(|expected| (expected, Md5::new())),
            sha256: sha256.map(|expected| (expected, Sha256::new())),
        }
    }

    pub(crate) async fn update(&mut self, chunk: &Bytes) -> Result<(), Fault> {
        if self.md5.is_none() && self.sha256.is_none() {
            return Ok(());
        }
        if chunk.len() <= INLINE_HASH_BYTES {
            self.add(chunk);
            return Ok(());
        }
        let (mut digests, chunk) = (std::mem::take(self), chunk.clone());
        let add = move || {
            digests.add(&chunk);
            digests
        };
        *self = cstore_node::blocking(add).await.map_err(lost_task)?;
        Ok(())
    }

    fn add(&mut self, chunk: &[u8]) {
        if let Some((_, md5)) = &mut self.md5 {
            md5.update(chunk);
        }
        if let Some((_, sha256)) = &mut self.sha256 {
            sha256.update(chunk);
        }
    }

    /// Compares the digests. Returns the SHA-256 if it was verified.
    pub(crate) fn verify(self) -> Result<Option<[u8; 32]>, Fault> {
        if let Some((expected, md5)) = self.md5
            && md5.finalize()[..] != expected[..]
        {
            return Err(Fault::invalid(
                "body does not have the MD5 that Content-MD5 says",
            ));
        }
        let Some((expected, sha256)) = self.sha256 else {
            return Ok(None);
        };
        if sha256.finalize()[..] == expected[..] {
            Ok(Some(expected))
        } else {
            Err(Fault::invalid(
                "body does not have the SHA-256 that x-cstore-sha256 says",
            ))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn given_digests_are_compared_over_the_whole_body() {
        let body = Bytes::from(vec![7u8; 100_000]);
        let md5: [u8; 16] = Md5::digest(&body).into();
        let sha256: [u8; 32] = Sha256::digest(&body).into();
        let mut right = Digests::expect(Some(md5), Some(sha256));
        right.update(&body.slice(..50_000)).await.unwrap();
        right.update(&body.slice(50_000..)).await.unwrap();
        assert_eq!(right.verify(), Ok(Some(sha256)));
        let mut short = Digests::expect(Some(md5), None);
        short.update(&body.slice(1..)).await.unwrap();
        assert!(short.verify().is_err());
        assert_eq!(Digests::default().verify(), Ok(None));
    }
}
