//! How a file is cut into blocks. Written as `fixed:65536`; `fastcdc` will join it.

use std::fmt::{self, Write as _};
use std::str::FromStr;

use arrayvec::ArrayString;

use crate::limits::MAX_BLOCK_BYTES;

/// Text that names no chunking.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ChunkingError {
    /// Another word than `fixed`.
    #[error("unknown chunking {0:?}, allowed is fixed:N")]
    Unknown(String),
    /// A size that is no block size.
    #[error("block size must be 1 to 4194304 bytes, found {0}")]
    Size(String),
}

/// A chunking: stored with each recipe, so that the default may change between runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Chunking {
    /// Blocks of this many bytes, the last one shorter.
    Fixed(u32),
}

impl Chunking {
    /// # Errors
    /// [`ChunkingError::Size`] unless `bytes` is 1 to 4 MiB.
    pub fn fixed(bytes: u64) -> Result<Self, ChunkingError> {
        match u32::try_from(bytes) {
            Ok(size) if size > 0 && bytes <= MAX_BLOCK_BYTES as u64 => Ok(Self::Fixed(size)),
            _ => Err(ChunkingError::Size(bytes.to_string())),
        }
    }

    /// Largest block that this chunking makes, in bytes.
    pub const fn max_block_bytes(self) -> usize {
        match self {
            Self::Fixed(size) => size as usize,
        }
    }
}

/// Bytes of the longest text of a chunking: its name and a number of 32 bits.
const TEXT_BYTES: usize = 6 + 10;

impl fmt::Display for Chunking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Fixed(size) => {
                // One write lets `to_string` allocate once.
                let mut text = ArrayString::<TEXT_BYTES>::new();
                write!(text, "fixed:{size}")?;
                f.write_str(&text)
            }
        }
    }
}

impl FromStr for Chunking {
    type Err = ChunkingError;
    fn from_str(text: &str) -> Result<Self, ChunkingError> {
        let size = text
            .strip_prefix("fixed:")
            .ok_or_else(|| ChunkingError::Unknown(text.to_owned()))?;
        Self::fixed(
            size.parse()
                .map_err(|_| ChunkingError::Size(size.to_owned()))?,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_round_trips_and_bounds_hold() {
        for size in [1, 64, 65_536, 4 << 20] {
            let chunking = Chunking::fixed(size).unwrap();
            assert_eq!(chunking.to_string().parse(), Ok(chunking));
        }
        assert!(Chunking::fixed(0).is_err() && Chunking::fixed((4 << 20) + 1).is_err());
        assert!("cdc:1".parse::<Chunking>().is_err() && "fixed:x".parse::<Chunking>().is_err());
    }
}
