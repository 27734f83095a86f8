//! Content of the files that are put: random bytes that no two files share, made without cost.
//!
//! A client has one random part in memory. Before it is sent, each page of it gets a stamp: the file
//! and the number of the page. So no block is known to a server, a file of any size needs no memory,
//! and each byte that comes back can be compared with what was put.

use std::io::{self, Write};

use cstore_testkit::random;

/// Bytes that are sent at once of a large file.
const PART: usize = 1 << 20;
/// Distance of stamps: at most the smallest block size of any contestant.
const PAGE: usize = 4 << 10;
const SEED: u64 = 20_261_127;

/// A file by name and content.
#[derive(Debug, Clone, Copy)]
pub(crate) struct File {
    /// Name of the group of files.
    pub(crate) group: &'static str,
    /// Name of the group with the same content, mostly this one.
    pub(crate) content: &'static str,
    pub(crate) round: usize,
    pub(crate) number: usize,
    /// Size in bytes.
    pub(crate) size: u64,
}

impl File {
    /// Writes the name, without a folder.
    pub(crate) fn write_name(&self, out: &mut Vec<u8>) -> io::Result<()> {
        write!(out, "{}-{}-{:06}", self.group, self.round, self.number)
    }

    /// Returns a number that only files of the same content have.
    fn stamp(&self) -> u64 {
        let group = self.content.bytes().fold(0u64, |hash, byte| {
            hash.wrapping_mul(0x0100_0000_01b3) ^ u64::from(byte)
        });
        (group << 40) ^ ((self.round as u64) << 32) ^ self.number as u64
    }
}

/// The random part of one client.
#[derive(Debug, Clone)]
pub(crate) struct Content {
    bytes: Vec<u8>,
    /// Stamp and offset of the part that `bytes` holds.
    holds: Option<(u64, u64)>,
}

impl Content {
    /// Makes the part for files of `size` bytes.
    pub(crate) fn new(size: u64) -> Self {
        let length = usize::try_from(size).map_or(PART, |size| size.min(PART));
        Self {
            bytes: random(length, SEED),
            holds: None,
        }
    }

    /// Returns the bytes of a file from `offset` to the end of the part that has it.
    pub(crate) fn part(&mut self, file: &File, offset: u64) -> &[u8] {
        let length = self.bytes.len() as u64;
        let inside = offset % length;
        let start = offset - inside;
        let stamp = file.stamp();
        if self.holds != Some((stamp, start)) {
            for (page, bytes) in self.bytes.chunks_exact_mut(PAGE).enumerate() {
                bytes[..8].copy_from_slice(&stamp.to_le_bytes());
                bytes[8..16].copy_from_slice(&(start + page as u64).to_le_bytes());
            }
            self.holds = Some((stamp, start));
        }
        let end = length.min(file.size - start);
        &self.bytes[usize::try_from(inside).unwrap()..usize::try_from(end).unwrap()]
    }

    /// Returns true if `bytes` are those of a file from `offset`.
    pub(crate) fn is(&mut self, file: &File, mut offset: u64, mut bytes: &[u8]) -> bool {
        while !bytes.is_empty() {
            if offset >= file.size {
                return false;
            }
            let part = self.part(file, offset);
            let length = part.len().min(bytes.len());
            if part[..length] != bytes[..length] {
                return false;
            }
            bytes = &bytes[length..];
            offset += length as u64;
        }
        true
    }
}
