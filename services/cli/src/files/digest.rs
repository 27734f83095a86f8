//! Comparison of a file of this machine with the bytes that the gateway knows.
//!
//! The best evidence is the SHA-256 that came with the upload. Without one there is the ETag: the
//! MD5 of the MD5s of all blocks, and their number. The gateway does not tell the size of the
//! blocks, but it follows from the number well enough.

use std::fs::File;
use std::io::{self, Read};
use std::path::Path;

use md5::Md5;
use sha2::{Digest, Sha256};

use super::known::Known;
use crate::limits::DIGEST_PIECE;

const DEFAULT_BLOCK: u64 = 64 << 10;

/// Result of a comparison.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Same {
    Yes,
    No,
    /// There is nothing to compare with.
    Unknown,
}

/// Compares; reads the whole file when the sizes are equal.
pub(super) async fn compare(path: &Path, known: &Known) -> io::Result<Same> {
    let (path, known) = (path.to_path_buf(), known.clone());
    tokio::task::spawn_blocking(move || judge(&path, &known))
        .await
        .map_err(io::Error::other)?
}

/// Returns the SHA-256 of a file, hexadecimal.
pub(super) async fn sha256(path: &Path) -> io::Result<String> {
    let path = path.to_path_buf();
    tokio::task::spawn_blocking(move || sum(&path))
        .await
        .map_err(io::Error::other)?
}

fn judge(path: &Path, known: &Known) -> io::Result<Same> {
    if std::fs::metadata(path)?.len() != known.size {
        return Ok(Same::No);
    }
    if let Some(sha256) = &known.sha256 {
        return Ok(if sum(path)? == *sha256 {
            Same::Yes
        } else {
            Same::No
        });
    }
    let Some((digest, blocks)) = known.etag.rsplit_once('-') else {
        return Ok(Same::Unknown);
    };
    let Some((block, sure)) = blocks
        .parse()
        .ok()
        .and_then(|blocks| block_size(known.size, blocks))
    else {
        return Ok(Same::Unknown);
    };
    match (tag(path, block)? == digest, sure) {
        (true, _) => Ok(Same::Yes),
        (false, true) => Ok(Same::No),
        (false, false) => Ok(Same::Unknown),
    }
}

/// Returns the size of the blocks of a file of `size` bytes in `n` blocks, and whether it is
/// certain.
fn block_size(size: u64, n: u64) -> Option<(u64, bool)> {
    match n {
        0 => (size == 0).then_some((1, true)),
        // However large a block may be, it is the file.
        1 => (size > 0).then_some((size, true)),
        _ => {
            let low = size.div_ceil(n);
            let high = size.div_ceil(n - 1).checked_sub(1)?;
            if low == 0 || low > high {
                return None;
            }
            let power = low
                .checked_next_power_of_two()
                .filter(|power| *power <= high);
            let likely = if (low..=high).contains(&DEFAULT_BLOCK) {
                DEFAULT_BLOCK
            } else {
                power.unwrap_or(low)
            };
            Some((likely, low == high))
        }
    }
}

fn sum(path: &Path) -> io::Result<String> {
    let (mut file, mut buffer, mut sha) = (File::open(path)?, vec![0; DIGEST_PIECE], Sha256::new());
    loop {
        let n = file.read(&mut buffer)?;
        match buffer.get(..n) {
            Some(piece) if n > 0 => sha.update(piece),
            _ => return Ok(hex::encode(sha.finalize())),
        }
    }
}

fn tag(path: &Path, block: u64) -> io::Result<String> {
    let (mut file, mut buffer, mut all) = (File::open(path)?, vec![0; DIGEST_PIECE], Md5::new());
    let (mut one, mut left) = (Md5::new(), block);
    loop {
        let room = usize::try_from(left)
            .unwrap_or(DIGEST_PIECE)
            .min(DIGEST_PIECE);
        let n = file.read(buffer.get_mut(..room).unwrap_or_default())?;
        one.update(buffer.get(..n).unwrap_or_default());
        left = left.saturating_sub(n as u64);
        if left == 0 || (n == 0 && left < block) {
            all.update(std::mem::take(&mut one).finalize());
            left = block;
        }
        if n == 0 {
            return Ok(hex::encode(all.finalize()));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The definition, with nothing clever.
    fn etag(bytes: &[u8], block: usize) -> String {
        let sums: Vec<u8> = bytes
            .chunks(block)
            .flat_map(|block| Md5::digest(block).to_vec())
            .collect();
        format!(
            "{}-{}",
            hex::encode(Md5::digest(&sums)),
            bytes.len().div_ceil(block)
        )
    }

    #[test]
    fn a_file_is_known_by_its_etag_whatever_the_blocks_are() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        for size in [0, 1, 63, 64, 65, 65_535, 65_536, 65_537, 200_000, 3_000_000] {
            let bytes: Vec<u8> = (0..size)
                .map(|n: u32| (n.wrapping_mul(n) >> 7) as u8)
                .collect();
            std::fs::write(&path, &bytes).unwrap();
            for block in [64, 4_096, 65_536, 1 << 20, 1_000] {
                let mut known = Known {
                    size: u64::from(size),
                    etag: etag(&bytes, block),
                    sha256: None,
                };
                // Blocks of 1,000 bytes are only found where no power of two would explain the
                // number.
                let allowed: &[Same] = if block == 1_000 {
                    &[Same::Yes, Same::Unknown]
                } else {
                    &[Same::Yes]
                };
                let found = judge(&path, &known).unwrap();
                assert!(
                    allowed.contains(&found),
                    "{size} bytes, blocks of {block}: {found:?}"
                );
                known.etag = etag(&[&bytes[..], b"x"].concat(), block);
                assert_ne!(
                    judge(&path, &known).unwrap(),
                    Same::Yes,
                    "{size} bytes, blocks of {block}"
                );
            }
        }
    }

    #[test]
    fn a_sha_256_counts_more_and_odd_tags_prove_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "x").unwrap();
        let sha256 = "2d711642b726b04401627ca9fbac32f5c8530fb1903cc4db02258717921a4881".to_owned();
        let known = |etag: &str, sha256| Known {
            size: 1,
            etag: etag.to_owned(),
            sha256,
        };
        assert_eq!(
            judge(&path, &known("other-1", Some(sha256))).unwrap(),
            Same::Yes
        );
        assert_eq!(
            judge(&path, &known("other-1", Some("00".to_owned()))).unwrap(),
            Same::No
        );
        for etag in [
            "other",
            "other-x",
            "other-0",
            "other-7",
            "other-18446744073709551615",
            "",
        ] {
            assert_eq!(
                judge(&path, &known(etag, None)).unwrap(),
                Same::Unknown,
                "{etag}"
            );
        }
        let none = Known {
            size: u64::MAX,
            ..known("x-2", None)
        };
        assert_eq!(judge(&path, &none).unwrap(), Same::No);
    }
}
