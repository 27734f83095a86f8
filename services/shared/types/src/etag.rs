//! ETag of a file: `hex(MD5 of the concatenated block MD5s)-N`, the well-known multipart form.

use std::fmt;

use md5::{Digest, Md5};

use crate::block_id::BlockId;

/// Collects block ids in file order.
#[derive(Debug, Clone, Default)]
pub struct ETagBuilder {
    md5: Md5,
    blocks: u64,
}

impl ETagBuilder {
    /// Adds the next block of the file.
    pub fn push(&mut self, id: &BlockId) {
        self.md5.update(id.md5_half());
        self.blocks += 1;
    }

    /// The tag over all blocks so far.
    pub fn finish(self) -> ETag {
        ETag { md5: self.md5.finalize().into(), blocks: self.blocks }
    }
}

/// An ETag without quotes; its text is what `GET` answers between quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ETag {
    md5: [u8; 16],
    blocks: u64,
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", hex::encode(self.md5), self.blocks)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::block_id::DedupKey;

    #[test]
    fn the_tag_is_the_md5_of_the_block_md5s() {
        let ids = BlockId::of_many(&DedupKey::from_bytes([1; 32]), &[b"a", b"b"]);
        let mut builder = ETagBuilder::default();
        ids.iter().for_each(|id| builder.push(id));
        let joined = [ids[0].md5_half(), ids[1].md5_half()].concat();
        assert_eq!(builder.finish().to_string(), format!("{}-2", hex::encode(Md5::digest(joined))));
        assert_eq!(ETagBuilder::default().finish().to_string(), "d41d8cd98f00b204e9800998ecf8427e-0");
    }
}
