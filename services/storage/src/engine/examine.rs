//! Examination of a disk: the very open of a start, over an overlay that keeps its changes in
//! memory, and a read of what an open does not read.
//!
//! The outcome of a start is not predicted by rules of its own, which could differ from those of
//! the start: the disk is opened, judged by what the master knows, and audited, by the same code.

use std::collections::{BTreeSet, HashSet};
use std::io;
use std::sync::Arc;

use cstore_log::{Disk, FileInfo, FileState, Hole, Location, LogError, RecoveryReport};
use cstore_types::inspection::{KnownDisk, MasterFacts, PayloadScope};
use cstore_types::{BlockId, ClusterUuid, DedupKey, NodeId, SessionId, StoreUuid, error_chain};

use super::doubts::LostSets;
use super::error::OpenError;
use super::format::Doubt;
use super::judge::{Answer, MasterHistory};
use super::open::open_to_look;
use super::parts::Parts;
use super::sets::SetReader;
use super::volume::inventory::{self, FoundInventory};
use super::volume::mount::{self, DiskOptions, Identity, Look, look};
use super::volume::superblock::count_slots;
use crate::limits::{INSPECTED_SEGMENTS, MAX_OPEN_SEGMENTS, MIN_CAPACITY};

/// A disk to be examined.
#[derive(Debug)]
pub(crate) struct Subject<'a> {
    /// An overlay of the disk.
    pub(crate) disk: Arc<dyn Disk>,
    pub(crate) path: &'a str,
    /// Name of the node if the superblock does not say it.
    pub(crate) node: NodeId,
    /// Bytes of all files of the folder.
    pub(crate) bytes: u64,
    pub(crate) payloads: PayloadScope,
    pub(crate) master: Option<&'a MasterFacts>,
}

/// Facts about a disk.
#[derive(Debug)]
pub(crate) struct Examination {
    /// Slots of the superblock that are valid, and that are damaged; the error if none can be read.
    pub(crate) slots: io::Result<(usize, usize)>,
    pub(crate) look: Result<Look, OpenError>,
    /// Words about the inventory.
    pub(crate) inventory: String,
    /// Size of the disk for which it was opened.
    pub(crate) capacity: u64,
    pub(crate) opened: Result<Opened, OpenError>,
}

/// Facts about a disk that opens.
#[derive(Debug, Default)]
pub(crate) struct Opened {
    pub(crate) node: Option<NodeId>,
    pub(crate) report: RecoveryReport,
    pub(crate) files: Vec<FileInfo>,
    pub(crate) doubts: Vec<Doubt>,
    /// Doubts of the superblock that the open has disproved.
    pub(crate) closed: Vec<Doubt>,
    /// Reason of the hold.
    pub(crate) reason: Option<String>,
    /// The disk takes no writes.
    pub(crate) read_only: Option<String>,
    /// Master's metadata was at hand.
    pub(crate) is_judged: bool,
    /// The key of block ids was at hand.
    pub(crate) has_key: bool,
    pub(crate) payloads: Payloads,
    pub(crate) sets: Sets,
    /// Committed sessions without a reference set here.
    pub(crate) lost: Vec<SessionId>,
    /// Sessions whose files need something that is damaged or missing.
    pub(crate) hit: BTreeSet<SessionId>,
}

/// Result of reading blocks.
#[derive(Debug, Default)]
pub(crate) struct Payloads {
    pub(crate) blocks: u64,
    /// Blocks whose bytes were compared with their ids, or whose frames were.
    pub(crate) checked: u64,
    pub(crate) checked_segments: u64,
    /// Blocks that are not what their id says; without the key, all blocks of damaged frames.
    pub(crate) damaged: Vec<DamagedBlock>,
    /// Parts of segments that do not validate.
    pub(crate) holes: Vec<Hole>,
    /// Segments that could not be read.
    pub(crate) failed: Vec<(u32, String)>,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct DamagedBlock {
    pub(crate) id: BlockId,
    pub(crate) location: Location,
    /// A file needs the block.
    pub(crate) is_needed: bool,
}

/// Result of reading reference sets.
#[derive(Debug, Default)]
pub(crate) struct Sets {
    pub(crate) whole: u64,
    /// Session, place and error of each set that is damaged.
    pub(crate) damaged: Vec<(SessionId, Location, String)>,
    /// Ids that sets name and that are not here.
    pub(crate) absent: u64,
}

/// Examines a disk. Blocks the thread, for as long as the payloads take to be read.
pub(crate) fn examine(subject: &Subject<'_>) -> Examination {
    let found = look(&subject.disk, subject.path);
    let capacity = match found.as_ref().ok().and_then(Look::superblock) {
        Some(superblock) => superblock.capacity,
        // Nothing says how large the disk may be: twice as large as it is.
        None => (2 * subject.bytes).max(MIN_CAPACITY),
    };
    let store = found.as_ref().ok().and_then(Look::store);
    Examination {
        slots: count_slots(&subject.disk),
        inventory: say_inventory(&subject.disk, store),
        capacity,
        opened: open(subject, &found, capacity),
        look: found,
    }
}

fn say_inventory(disk: &Arc<dyn Disk>, store: Option<StoreUuid>) -> String {
    let Some(store) = store else {
        return "not read".to_owned();
    };
    match inventory::read(disk, store) {
        Ok(FoundInventory::Valid(image, _)) => {
            let (listed, generation) = (image.files.len(), image.generation);
            format!("valid, generation {generation}, {listed} segments listed")
        }
        Ok(FoundInventory::Unusable(None)) => "missing".to_owned(),
        Ok(FoundInventory::Unusable(Some(problem))) => format!("unusable: {problem}"),
        Err(error) => format!("cannot be read: {error}"),
    }
}

fn open(
    subject: &Subject<'_>,
    found: &Result<Look, OpenError>,
    capacity: u64,
) -> Result<Opened, OpenError> {
    let look = match found {
        Ok(look) => look,
        // The caller has the error.
        Err(_) => {
            return Err(OpenError::io("read superblock.bin")(
                io::ErrorKind::InvalidData.into(),
            ));
        }
    };
    let Some(store) = look.store() else {
        return Err(unformatted(subject));
    };
    let cluster = subject.master.and_then(|master| master.cluster.as_ref());
    let key = cluster.map(|(_, key)| key.clone());
    let cluster = cluster.map(|(cluster, _)| *cluster);
    let options = DiskOptions {
        capacity,
        is_capacity_default: false,
        block_size: 1,
        fresh_start: false,
        erase: None,
        nonce: 0,
        waits_for_master: false,
        open_files: MAX_OPEN_SEGMENTS,
    };
    let mut identity = Identity {
        store,
        cluster: cluster.unwrap_or(ClusterUuid::from_bytes([0; 16])),
        node: subject.node.clone(),
        key: key.clone().unwrap_or(DedupKey::from_bytes([0; 32])),
    };
    let (superblock, is_rebuilt) = match look {
        Look::Disk(superblock) => {
            identity.node = superblock.node.clone();
            identity.cluster = cluster.unwrap_or(superblock.cluster);
            ((**superblock).clone(), false)
        }
        Look::WithoutSuperblock(remains) => (remains.superblock(&identity, &options), true),
        Look::Unformatted => return Err(unformatted(subject)),
    };
    let before = superblock.doubts.clone();
    let (parts, report) = open_to_look(
        subject.disk.clone(),
        subject.path,
        (superblock, is_rebuilt),
        (&identity, key.is_some()),
        &options,
    )?;
    let mut opened = Opened {
        node: Some(identity.node),
        report,
        files: parts.log.files(),
        has_key: key.is_some(),
        ..Opened::default()
    };
    if let Some(master) = subject.master {
        judge(&parts, (store, master), &mut opened);
    }
    opened.doubts = parts.hold.doubts();
    let is_listed = |doubt: &Doubt| opened.doubts.iter().any(|now| now.number == doubt.number);
    opened.closed = before
        .into_iter()
        .filter(|doubt| !is_listed(doubt))
        .collect();
    opened.reason = parts.hold.reason();
    opened.read_only = parts.read_only();
    read_payloads(&parts, key.as_ref(), subject.payloads, &mut opened);
    read_sets(&parts, &mut opened);
    Ok(opened)
}

/// Returns the error of a folder in which no disk is.
fn unformatted(subject: &Subject<'_>) -> OpenError {
    match mount::refuse_foreign(&subject.disk, subject.path) {
        Err(error) => error,
        Ok(()) => OpenError::io("find a disk (a start would format a new one here)")(
            io::ErrorKind::NotFound.into(),
        ),
    }
}

/// Judges the disk by what the master knows of it, as its first response would, and compares the
/// committed sessions with the sets, as the first audit would.
fn judge(parts: &Parts, (store, master): (StoreUuid, &MasterFacts), opened: &mut Opened) {
    let known = master.disks.get(&store);
    let accepted = known.map(|known| known.accepted).unwrap_or_default();
    let noted = parts.judge.noted();
    let answer = Answer {
        seen: Some(known.map(|known| known.seen).unwrap_or_default()),
        history: Some(MasterHistory {
            head: master.head,
            lives: master.lives.clone(),
            accepted: (!accepted.is_origin() && accepted == noted).then_some(accepted),
        }),
    };
    parts.judge.judge(&answer);
    opened.is_judged = true;
    if master.is_read_only {
        return;
    }

    let index = parts.index.lock();
    let needed = known
        .into_iter()
        .flat_map(|KnownDisk { sessions, .. }| sessions);
    opened.lost = needed
        .filter(|session| !index.holds_sets(**session))
        .copied()
        .collect();
    drop(index);
    parts.hold.note_lost(&LostSets {
        count: u32::try_from(opened.lost.len()).unwrap_or(u32::MAX),
        first: opened.lost.first().copied(),
        is_whole: true,
    });
    opened.hit.extend(&opened.lost);
}

/// Reads the segments in `scope`: every frame against its checksum and, with the key, every block
/// against its id. Blocks that the open takes for damaged count in any case.
fn read_payloads(parts: &Parts, key: Option<&DedupKey>, scope: PayloadScope, opened: &mut Opened) {
    let blocks = parts.index.lock().blocks_in_place_order();
    let complete = opened.files.iter().filter(|file| file.records > 0);
    let complete: Vec<u32> = complete.map(|file| file.id).collect();
    let step = match scope {
        PayloadScope::All => 1,
        PayloadScope::Sample => complete.len().div_ceil(INSPECTED_SEGMENTS).max(1),
        PayloadScope::None => usize::MAX,
    };
    let chosen = complete.iter().step_by(step).copied();
    let chosen: BTreeSet<u32> = chosen.filter(|_| scope != PayloadScope::None).collect();

    let payloads = &mut opened.payloads;
    payloads.blocks = blocks.len() as u64;
    for file in &opened.files {
        if !chosen.contains(&file.id) || file.state == FileState::Active {
            continue;
        }
        payloads.checked_segments += 1;
        match parts.log.damage(file.id) {
            Ok(holes) => payloads.holes.extend(holes),
            Err(LogError::NoFile(_)) => {}
            Err(error) => payloads
                .failed
                .push((file.id, error_chain(&error).to_string())),
        }
    }

    let (holes, failed) = (&payloads.holes, &payloads.failed);
    let is_in_hole = |location: &Location| {
        let (first, end) = (
            u64::from(location.offset),
            u64::from(location.offset) + u64::from(location.len),
        );
        let hits = |hole: &Hole| {
            hole.file == location.file
                && first < hole.offset.saturating_add(hole.len)
                && hole.offset < end.max(first + 1)
        };
        holes.iter().any(hits) || failed.iter().any(|(file, _)| *file == location.file)
    };
    for (id, location, is_bad, is_needed) in blocks {
        let mut is_damaged = is_bad;
        if chosen.contains(&location.file) {
            payloads.checked += 1;
            is_damaged |= match key {
                Some(key) => !reads_well(parts, key, &id, location),
                None => is_in_hole(&location),
            };
        }
        if is_damaged {
            payloads.damaged.push(DamagedBlock {
                id,
                location,
                is_needed,
            });
        }
    }
}

fn reads_well(parts: &Parts, key: &DedupKey, id: &BlockId, location: Location) -> bool {
    let is_block =
        |read: Result<bytes::Bytes, LogError>| read.is_ok_and(|bytes| id.matches(key, &bytes));
    is_block(parts.log.read(location)) || is_block(parts.log.read_anew(location))
}

/// Reads every reference set against its checksum, and finds the sessions that need a block which
/// is damaged or not here.
fn read_sets(parts: &Parts, opened: &mut Opened) {
    let damaged = opened.payloads.damaged.iter();
    let damaged: HashSet<BlockId> = damaged.map(|block| block.id).collect();
    let mut absent = HashSet::new();
    let reader = SetReader::new(parts.log.clone(), parts.index.clone());
    let all = parts.index.lock().all_sets();
    let (sets, hit) = (&mut opened.sets, &mut opened.hit);
    reader.read_in_place_order(all, &mut |session, _, set, read| match read {
        Ok(ids) => {
            sets.whole += 1;
            for id in ids {
                let is_absent = parts.index.lock().block(&id).is_none();
                if is_absent {
                    absent.insert(id);
                }
                if is_absent || damaged.contains(&id) {
                    hit.insert(session);
                }
            }
        }
        Err(error) => {
            let error = error_chain(&error).to_string();
            sets.damaged.push((session, set.location, error));
            hit.insert(session);
        }
    });
    opened.sets.absent = absent.len() as u64;
}
