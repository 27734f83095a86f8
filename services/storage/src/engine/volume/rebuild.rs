//! A disk without superblock: what segments and inventory say of it, and the superblock that is made
//! of that.
//!
//! Which store it is stands in the header of every segment and in the inventory. Cluster, node and
//! key are those of the caller; whether the key is right is checked against stored blocks
//! ([`super::super::recovery`]), and the master knows which store a node has. What only the
//! superblock said is gone: the doubts of the disk, what it had noted of the master, and which writes
//! were durable. That is a doubt ([`DoubtKind::Superblock`]).
//!
//! [`DoubtKind::Superblock`]: super::super::format::DoubtKind::Superblock

use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;

use cstore_log::{Disk, header_facts, parse_file_name, read_again};
use cstore_types::history::Point;
use cstore_types::{SealSeq, StoreUuid};

use super::super::error::is_passing;
use super::super::format::{DiskEpoch, KeptFields, SEGMENTS_DIR, Superblock, VERSION};
use super::inventory::{self, FoundInventory};
use super::mount::{DiskOptions, Identity, segment_bytes_of};

/// Bytes of a segment's header.
const HEADER_BYTES: usize = 4_096;

/// A disk as its segments and its inventory show it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Remains {
    /// Identity of the disk.
    pub store: StoreUuid,
    /// Highest sequence of a superblock that is named.
    superblock_seq: u64,
    /// Generation and checksum of the inventory; that of no image if none can be used.
    inventory: (u64, u32),
}

/// Looks for what a disk without superblock is. Returns `None` if nothing says it, or if segments
/// of several disks say different things as often.
///
/// # Errors
/// Of the folder, and passing ones of files.
pub(in crate::engine) fn look(disk: &Arc<dyn Disk>) -> io::Result<Option<Remains>> {
    let mut votes: BTreeMap<[u8; 16], usize> = BTreeMap::new();
    let mut superblock_seqs: BTreeMap<[u8; 16], u64> = BTreeMap::new();
    if disk.list()?.iter().any(|name| name == SEGMENTS_DIR) {
        let segments = disk.subdir(SEGMENTS_DIR)?;
        let names = segments.list()?;
        for name in names.iter().filter(|name| parse_file_name(name).is_some()) {
            let mut block = vec![0; HEADER_BYTES];
            match read_again(|| segments.open(name)?.read_exact_at(&mut block, 0)) {
                Err(error) if is_passing(&error) => return Err(error),
                _ => {}
            }
            let Some(facts) = header_facts(&block) else {
                continue;
            };
            *votes.entry(facts.owner).or_default() += 1;
            let seq = superblock_seqs.entry(facts.owner).or_default();
            *seq = facts.superblock_seq.max(*seq);
        }
    }
    // The inventory is one more word for its store.
    if let Some(store) = inventory::store_of(disk)? {
        *votes.entry(*store.as_bytes()).or_default() += 1;
    }

    let most = votes.values().copied().max().unwrap_or(0);
    let mut named = votes.iter().filter(|(_, count)| **count == most);
    let (Some((owner, _)), None) = (named.next(), named.next()) else {
        return Ok(None);
    };
    let store = StoreUuid::from_bytes(*owner);
    let named_seq = superblock_seqs.get(owner).copied().unwrap_or(0);
    let (inventory, superblock_seq) = match inventory::read(disk, store)? {
        FoundInventory::Valid(image, crc) => {
            ((image.generation, crc), named_seq.max(image.superblock_seq))
        }
        FoundInventory::Unusable(_) => (NO_IMAGE, named_seq),
    };
    Ok(Some(Remains {
        store,
        superblock_seq,
        inventory,
    }))
}

/// Mark of an inventory that counts and cannot be used: its loss is a doubt of its own.
const NO_IMAGE: (u64, u32) = (1, 0);

impl Remains {
    /// Makes the superblock of the disk. Its numbers are above those that the lost one can have
    /// named.
    pub(in crate::engine) fn superblock(
        &self,
        identity: &Identity,
        options: &DiskOptions,
    ) -> Superblock {
        let seq = self.superblock_seq.saturating_add(LOST_SEQS);
        Superblock {
            store: self.store,
            cluster: identity.cluster,
            node: identity.node.clone(),
            key_check: identity.key.check_value(),
            capacity: options.capacity,
            segment_bytes: segment_bytes_of(options.capacity),
            block_size: options.block_size,
            seal_seq: SealSeq(0),
            seq,
            clean: false,
            version: VERSION,
            noted: Point::default(),
            inventory: self.inventory,
            verify_below: 0,
            owes_verification: false,
            audits: true,
            epoch: DiskEpoch::default(),
            kept: KeptFields::default(),
            // Doubts have numbers that were not used before: each was written with a superblock.
            next_doubt: u32::try_from(seq).unwrap_or(u32::MAX),
            doubts: Vec::new(),
        }
    }
}

/// Superblocks that may have been written since the newest one that a segment or the inventory
/// names: one a second, for a month.
const LOST_SEQS: u64 = 1 << 22;
