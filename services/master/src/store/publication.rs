//! Publication: the checksum of the name and content that a commit has published.

use cstore_types::FileName;

/// Checksum of the name and content that a commit published: CRC-32C over the name, a zero byte and
/// the CRC-32C of the recipe root. Kept after the record of the file is gone: a repeated commit
/// MUST match it, otherwise it would succeed for a file that is not stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Publication(pub(crate) u32);

impl Publication {
    pub(crate) fn new(name: &FileName, root_crc: u32) -> Self {
        let crc = crc32c::crc32c(name.as_str().as_bytes());
        Self(crc32c::crc32c_append(
            crc,
            &[&[0][..], &root_crc.to_le_bytes()].concat(),
        ))
    }
}
