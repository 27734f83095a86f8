//! ETag of a file: `hex(MD5 of the concatenated block MD5s)-N`, the well-known multipart form.

use std::fmt;
use std::io::Write as _;
use std::str::FromStr;

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

/// Length of the longest ETag: 32 digits, a dash, the number of blocks.
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

impl fmt::Display for ETag {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        // Written in one piece, so that a string is allocated once.
        let mut text = [0; TEXT_BYTES];
        let (digits, rest) = text.split_at_mut(2 * self.md5.len());
        hex::encode_to_slice(self.md5, digits).map_err(|_| fmt::Error)?;
        let mut unused = &mut *rest;
        write!(unused, "-{}", self.blocks).map_err(|_| fmt::Error)?;
        let len = TEXT_BYTES - unused.len();
        f.write_str(std::str::from_utf8(&text[..len]).map_err(|_| fmt::Error)?)
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
            .filter(|_| is_canonical(text))
            .ok_or_else(|| ETagError(text.chars().take(MAX_ETAG_SHOWN).collect()))
    }
}

/// Returns true if a text of hexadecimal digits, '-' and a number spells them as an ETag displays:
/// in lower case, without a sign and without zeros in front.
fn is_canonical(text: &str) -> bool {
    let is_lower = |byte: u8| !byte.is_ascii_uppercase();
    let is_plain = |number: &str| {
        number == "0" || number.starts_with(|first: char| matches!(first, '1'..='9'))
    };
    text.bytes().all(is_lower)
        && text
            .split_once('-')
            .is_some_and(|(_, blocks)| is_plain(blocks))
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
