//! ETag of a file: `hex(MD5 of the concatenated block MD5s)-N`, the well-known multipart form.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use arrayvec::ArrayString;
use md5::{Digest, Md5};

use crate::block_id::BlockId;
use crate::limits::MAX_ETAG_SHOWN;

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
        ETag {
            md5: self.md5.finalize().into(),
            blocks: self.blocks,
        }
    }
}

/// Bytes of the longest ETag: 32 digits, a dash, a number of 64 bits.
const TEXT_BYTES: usize = 32 + 1 + 20;

/// A text that is not an ETag of C-Store.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("an etag is 32 lower-case hexadecimal digits, '-' and a number of blocks, found {0:?}")]
pub struct ETagError(String);

/// An ETag without quotes; its text is what `GET` sends between quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ETag {
    md5: [u8; 16],
    blocks: u64,
}

impl ETag {
    fn text(&self) -> ArrayString<TEXT_BYTES> {
        let mut text = ArrayString::new();
        let digits = u128::from_be_bytes(self.md5);
        // Every ETag fits.
        let _ = write!(text, "{digits:032x}-{}", self.blocks);
        text
    }
}

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text())
    }
}

impl FromStr for ETag {
    type Err = ETagError;

    /// Reads the one text that an ETag displays as. Other spellings of the same numbers are
    /// refused: an ETag is compared as text by clients, so two spellings would be two tags.
    fn from_str(text: &str) -> Result<Self, ETagError> {
        let parsed = text.split_once('-').and_then(|(digits, blocks)| {
            let mut md5 = [0; 16];
            hex::decode_to_slice(digits, &mut md5).ok()?;
            Some(Self {
                md5,
                blocks: blocks.parse().ok()?,
            })
        });
        parsed
            .filter(|etag| *etag.text() == *text)
            .ok_or_else(|| ETagError(text.chars().take(MAX_ETAG_SHOWN).collect()))
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
        assert_eq!(
            builder.finish().to_string(),
            format!("{}-2", hex::encode(Md5::digest(joined)))
        );
        assert_eq!(
            ETagBuilder::default().finish().to_string(),
            "d41d8cd98f00b204e9800998ecf8427e-0"
        );
    }

    #[test]
    fn an_etag_has_one_spelling() {
        let text = "d41d8cd98f00b204e9800998ecf8427e-18446744073709551615";
        assert_eq!(
            text.parse::<ETag>().map(|etag| etag.to_string()).as_deref(),
            Ok(text)
        );
        let digits = "d41d8cd98f00b204e9800998ecf8427e";
        for blocks in [
            "",
            "-",
            "-x",
            "-01",
            "-+1",
            "--1",
            "-18446744073709551616",
            "-1-1",
            "-1 ",
        ] {
            assert!(
                format!("{digits}{blocks}").parse::<ETag>().is_err(),
                "{blocks:?}"
            );
        }
        for wrong in [
            &digits[1..],
            &digits.to_uppercase(),
            &format!("{digits}00"),
            "",
            "ü",
            &"x".repeat(9_999),
        ] {
            let error = format!("{wrong}-1").parse::<ETag>().unwrap_err();
            assert!(error.to_string().len() < 200, "{error}");
        }
    }
}
