//! Files and names of a faulty disk: what is durable, and what only the page cache has.

use std::collections::BTreeMap;
use std::ops::Range;

use rand::RngExt;
use rand::rngs::StdRng;

const SECTOR: usize = 512;

#[derive(Debug, Clone)]
pub(super) enum Change {
    Write(u64, Vec<u8>),
    SetLen(u64),
}

#[derive(Debug, Clone, Default)]
pub(super) struct Inode {
    pub(super) durable: Vec<u8>,
    pub(super) cache: Vec<u8>,
    pub(super) pending: Vec<Change>,
    /// Bytes that cannot be read.
    pub(super) bad: Vec<Range<u64>>,
}

pub(super) fn apply(content: &mut Vec<u8>, change: &Change) {
    match change {
        Change::Write(offset, data) => {
            let (start, end) = (*offset as usize, *offset as usize + data.len());
            if content.len() < end {
                content.resize(end, 0);
            }
            content[start..end].copy_from_slice(data);
        }
        Change::SetLen(len) => content.resize(*len as usize, 0),
    }
}

#[derive(Debug, Clone)]
pub(super) enum DirChange {
    Link(String, u64),
    Unlink(String),
    Rename(String, String),
}

pub(super) fn apply_dir(names: &mut BTreeMap<String, u64>, change: &DirChange) {
    match change {
        DirChange::Link(name, inode) => {
            names.insert(name.clone(), *inode);
        }
        DirChange::Unlink(name) => {
            names.remove(name);
        }
        DirChange::Rename(from, to) => {
            if let Some(inode) = names.remove(from) {
                names.insert(to.clone(), inode);
            }
        }
    }
}

/// All, some sectors, or nothing of an unsynced change reaches the medium.
pub(super) fn lose(durable: &mut Vec<u8>, change: &Change, rng: &mut StdRng) {
    match (rng.random_range(0..3), change) {
        (0, _) => {}
        (1, _) => apply(durable, change),
        (_, Change::SetLen(_)) => apply(durable, change),
        (_, Change::Write(offset, data)) => {
            for (n, sector) in data.chunks(SECTOR).enumerate() {
                if rng.random_bool(0.5) {
                    apply(
                        durable,
                        &Change::Write(offset + (n * SECTOR) as u64, sector.to_vec()),
                    );
                }
            }
        }
    }
}
