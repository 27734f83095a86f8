//! Digests over the whole body, only where the client gave one to compare with.

use bytes::Bytes;
use cstore_types::Fault;
use md5::{Digest, Md5};
use sha2::Sha256;

use crate::error::lost_task;

/// Chunks up to this size are hashed where they arrive.
const INLINE_BYTES: usize = 16 << 10;

/// What the client expects, and what came so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Digests {
    md5: Option<(Vec<u8>, Md5)>,
    sha256: Option<(Vec<u8>, Sha256)>,
}

impl Digests {
    /// Empty slices mean that the client gave none.
    pub(crate) fn expect(md5: &[u8], sha256: &[u8]) -> Result<Self, Fault> {
        if ![0, 16].contains(&md5.len()) {
            return Err(Fault::invalid(format!("an MD5 digest has 16 bytes, found {}", md5.len())));
        }
        if ![0, 32].contains(&sha256.len()) {
            return Err(Fault::invalid(format!("a SHA-256 digest has 32 bytes, found {}", sha256.len())));
        }
        Ok(Self {
            md5: (!md5.is_empty()).then(|| (md5.to_vec(), Md5::new())),
            sha256: (!sha256.is_empty()).then(|| (sha256.to_vec(), Sha256::new())),
        })
    }

    pub(crate) async fn update(&mut self, chunk: &Bytes) -> Result<(), Fault> {
        if self.md5.is_none() && self.sha256.is_none() {
            return Ok(());
        }
        if chunk.len() <= INLINE_BYTES {
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

    /// Compares, and answers the SHA-256 that was verified.
    pub(crate) fn verify(self) -> Result<Bytes, Fault> {
        if let Some((expected, md5)) = self.md5
            && md5.finalize()[..] != expected[..]
        {
            return Err(Fault::invalid("body does not have the MD5 that Content-MD5 says"));
        }
        let Some((expected, sha256)) = self.sha256 else { return Ok(Bytes::new()) };
        if sha256.finalize()[..] == expected[..] {
            Ok(expected.into())
        } else {
            Err(Fault::invalid("body does not have the SHA-256 that x-cstore-sha256 says"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn given_digests_are_compared_over_the_whole_body() {
        let body = Bytes::from(vec![7u8; 100_000]);
        let (md5, sha256) = (Md5::digest(&body).to_vec(), Sha256::digest(&body).to_vec());
        let mut right = Digests::expect(&md5, &sha256).unwrap();
        right.update(&body.slice(..50_000)).await.unwrap();
        right.update(&body.slice(50_000..)).await.unwrap();
        assert_eq!(right.verify().unwrap(), sha256);
        let mut short = Digests::expect(&md5, &[]).unwrap();
        short.update(&body.slice(1..)).await.unwrap();
        assert!(short.verify().is_err());
        assert!(Digests::expect(&[1], &[]).is_err() && Digests::expect(&[], &[1]).is_err());
        assert!(Digests::default().verify().unwrap().is_empty());
    }
}
