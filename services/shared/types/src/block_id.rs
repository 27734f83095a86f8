//! Identity of a block: `MD5(block) ‖ first 16 bytes of BLAKE3 keyed with the cluster's dedup key`.
//!
//! The first half is what `md5sum` prints. The second binds bytes to the id: without the key nobody
//! can make two blocks of one id, nor guess an id from a hash. Equality is over all 32 bytes, so
//! blocks whose MD5 collide are simply two blocks (invariant I5).

use std::fmt;

use subtle::ConstantTimeEq;

use crate::hash::{keyed_half, md5_many};

/// Identity of a block, 32 bytes.
#[derive(Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BlockId([u8; 32]);

impl BlockId {
    /// Bytes of an encoded id.
    pub const LEN: usize = 32;

    /// Joins both halves.
    pub fn from_halves(md5: [u8; 16], keyed: [u8; 16]) -> Self {
        let mut bytes = [0; 32];
        bytes[..16].copy_from_slice(&md5);
        bytes[16..].copy_from_slice(&keyed);
        Self(bytes)
    }

    /// Wraps 32 bytes that came from the disk or the network.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// Reads an id from the front of `bytes`, or `None` when fewer than 32 are there.
    pub fn read(bytes: &[u8]) -> Option<Self> {
        bytes.first_chunk::<32>().copied().map(Self)
    }

    /// Returns the id of each block, in order. Blocks are hashed together, so give several at a
    /// time.
    pub fn of_many(key: &DedupKey, blocks: &[&[u8]]) -> Vec<Self> {
        let md5 = md5_many(blocks);
        blocks
            .iter()
            .zip(md5)
            .map(|(block, md5)| Self::from_halves(md5, keyed_half(key, block)))
            .collect()
    }

    /// The 32 bytes.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// MD5 of the block.
    pub fn md5_half(&self) -> [u8; 16] {
        self.0.first_chunk().copied().unwrap_or_default()
    }

    /// First 16 bytes of the keyed BLAKE3 of the block.
    pub fn keyed_half(&self) -> [u8; 16] {
        self.0.last_chunk().copied().unwrap_or_default()
    }

    /// Returns true if the keyed half is that of `block`: the check on every write and read.
    pub fn matches(&self, key: &DedupKey, block: &[u8]) -> bool {
        keyed_half(key, block).ct_eq(&self.keyed_half()).into()
    }
}

impl fmt::Display for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(self.0))
    }
}

/// Eight bytes are enough to tell blocks apart in a log.
impl fmt::Debug for BlockId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&hex::encode(&self.0[..8]))
    }
}

/// The cluster's dedup key: made at first format, kept by the master, handed out over authenticated
/// channels.
#[derive(Clone, PartialEq, Eq, zeroize::ZeroizeOnDrop)]
pub struct DedupKey([u8; 32]);

impl DedupKey {
    /// Wraps a key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// A new key from the operating system's generator.
    ///
    /// # Errors
    /// The generator's own, which does not happen on a running system.
    pub fn random() -> Result<Self, getrandom::Error> {
        let mut bytes = [0; 32];
        crate::random::fill(&mut bytes)?;
        Ok(Self(bytes))
    }

    /// The key, for the authenticated channel and the hash function only.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }

    /// Returns the value by which a disk recognises its key without revealing it.
    pub fn check_value(&self) -> [u8; 16] {
        keyed_half(self, b"cstore dedup key check v1")
    }
}

impl fmt::Debug for DedupKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("DedupKey(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The pair of 64-byte blocks by M. Stevens whose MD5 is 008ee33a9d58b51cfeb425b0959121c9.
    const LEFT: &str = "4dc968ff0ee35c209572d4777b721587d36fa7b21bdc56b74a3dc0783e7b9518afbfa200a8284bf36e8e4b55b35f427593d849676da0d1555d8360fb5f07fea2";
    const RIGHT: &str = "4dc968ff0ee35c209572d4777b721587d36fa7b21bdc56b74a3dc0783e7b9518afbfa202a8284bf36e8e4b55b35f427593d849676da0d1d55d8360fb5f07fea2";

    #[test]
    fn i5_blocks_of_equal_md5_have_two_ids() {
        let key = DedupKey::from_bytes([7; 32]);
        let (left, right) = (hex::decode(LEFT).unwrap(), hex::decode(RIGHT).unwrap());
        let ids = BlockId::of_many(&key, &[&left, &right]);
        assert_eq!(
            hex::encode(ids[0].md5_half()),
            "008ee33a9d58b51cfeb425b0959121c9"
        );
        assert_eq!(ids[0].md5_half(), ids[1].md5_half());
        assert_ne!(ids[0], ids[1]);
        assert!(ids[0].matches(&key, &left) && !ids[0].matches(&key, &right));
    }

    #[test]
    fn the_id_of_a_known_block_is_pinned() {
        let id = BlockId::of_many(&DedupKey::from_bytes([7; 32]), &[b"abc"])[0];
        assert_eq!(
            hex::encode(id.md5_half()),
            "900150983cd24fb0d6963f7d28e17f72"
        );
        assert_eq!(id.to_string().len(), 64);
        assert_eq!(BlockId::read(id.as_bytes()), Some(id));
        assert_eq!(BlockId::read(&[0; 31]), None);
    }

    #[test]
    fn another_key_gives_another_id_and_another_check_value() {
        let (a, b) = (DedupKey::from_bytes([1; 32]), DedupKey::from_bytes([2; 32]));
        assert_ne!(
            BlockId::of_many(&a, &[b"abc"]),
            BlockId::of_many(&b, &[b"abc"])
        );
        assert_ne!(a.check_value(), b.check_value());
        assert_eq!(format!("{a:?}"), "DedupKey(…)");
    }
}
