//! Mounting a disk: identity checks and formatting. Decides whether a folder may be used, before
//! anything is changed.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use cstore_log::Disk;
use cstore_types::history::Point;
use cstore_types::{ClusterUuid, DedupKey, NodeId, SealSeq, StoreUuid};

use super::super::error::OpenError;
use super::super::format::{
    BITMAP_FILE, DiskEpoch, FormatError, INVENTORY_FILE, KeptFields, LOCK_FILE, SEGMENTS_DIR,
    SUPERBLOCK_FILE, Superblock, VERSION,
};
use super::inventory::UNFINISHED;
use super::rebuild::{self, Remains};
use super::superblock::{self, SlotContents, SuperblockFile};
use crate::limits::{MAX_SEGMENT_BYTES, MIN_SEGMENT_BYTES};

/// Options for opening a disk.
#[derive(Debug, Clone)]
pub struct DiskOptions {
    /// FS_SIZE in bytes.
    pub capacity: u64,
    /// FS_SIZE is not set, and `capacity` is its default. A disk that was larger keeps its size. A
    /// disk whose superblock is lost is opened with a larger size if what lies there needs it.
    pub is_capacity_default: bool,
    /// BLOCK_SIZE in bytes, recorded at format.
    pub block_size: u64,
    /// FRESH_START.
    pub fresh_start: bool,
    /// CSTORE_FRESH_START_ERASE.
    pub erase: Option<StoreUuid>,
    /// Random number of this open: it tells what is written now from what another copy of the disk
    /// writes.
    pub nonce: u64,
    /// Nothing is freed and nothing sealed before an answer of the master was judged.
    pub waits_for_master: bool,
    /// Segments that are kept open at a time.
    pub open_files: usize,
}

/// The identity that a disk must have.
#[derive(Debug, Clone)]
pub struct Identity {
    /// Given to the disk if it is formatted.
    pub store: StoreUuid,
    /// The cluster of the master.
    pub cluster: ClusterUuid,
    /// This node.
    pub node: NodeId,
    /// The cluster's key.
    pub key: DedupKey,
}

/// Contents of a folder.
#[derive(Debug, Clone)]
pub enum Look {
    /// Nothing of a disk lies there.
    Unformatted,
    /// A disk with its superblock.
    Disk(Box<Superblock>),
    /// A disk whose superblock is lost or damaged in every slot.
    WithoutSuperblock(Remains),
}

impl Look {
    /// Returns the identity of the disk, if it is one.
    pub fn store(&self) -> Option<StoreUuid> {
        match self {
            Self::Unformatted => None,
            Self::Disk(superblock) => Some(superblock.store),
            Self::WithoutSuperblock(remains) => Some(remains.store),
        }
    }

    /// Returns the superblock, if it is there.
    pub fn superblock(&self) -> Option<&Superblock> {
        match self {
            Self::Disk(superblock) => Some(superblock),
            Self::Unformatted | Self::WithoutSuperblock(_) => None,
        }
    }
}

/// Looks at a folder without opening the disk, nor changing anything.
///
/// # Errors
/// [`OpenError`] if the superblock is of a later program, or damaged, and nothing else says what the
/// disk is; or if it cannot be read for a passing reason.
pub fn look(disk: &Arc<dyn Disk>, path: &str) -> Result<Look, OpenError> {
    let remains = || rebuild::look(disk).map_err(OpenError::io("read headers of segments"));
    match superblock::read(disk).map_err(OpenError::io("read superblock.bin"))? {
        SlotContents::Valid(superblock) => Ok(Look::Disk(superblock)),
        SlotContents::Unformatted => {
            Ok(remains()?.map_or(Look::Unformatted, Look::WithoutSuperblock))
        }
        SlotContents::Unusable(problem) => {
            let is_damage = matches!(
                problem,
                FormatError::Foreign | FormatError::Damaged | FormatError::Fields(_)
            );
            let remains = if is_damage { remains()? } else { None };
            remains
                .map(Look::WithoutSuperblock)
                .ok_or_else(|| OpenError::Superblock {
                    path: path.to_owned(),
                    problem,
                })
        }
    }
}

/// Returns the superblock of a disk without opening the disk; `None` if there is none.
///
/// # Errors
/// Those of [`look`].
pub fn peek(disk: &Arc<dyn Disk>, path: &str) -> Result<Option<Superblock>, OpenError> {
    Ok(look(disk, path)?.superblock().cloned())
}

/// Checks that the disk is of this cluster, node and key.
///
/// # Errors
/// [`OpenError::Mismatch`].
pub(in crate::engine) fn check_identity(
    path: &str,
    found: &Superblock,
    identity: &Identity,
) -> Result<(), OpenError> {
    let mismatch = |what, found: String, expected: String| {
        Err(OpenError::Mismatch {
            path: path.to_owned(),
            what,
            found,
            expected,
        })
    };
    if found.cluster != identity.cluster {
        return mismatch(
            "cluster",
            found.cluster.to_string(),
            identity.cluster.to_string(),
        );
    }
    if found.node != identity.node {
        return mismatch("node", found.node.to_string(), identity.node.to_string());
    }
    if found.key_check != identity.key.check_value() {
        return Err(other_key(path));
    }
    Ok(())
}

/// Makes the refusal of a disk whose blocks have ids by another key.
pub(in crate::engine) fn other_key(path: &str) -> OpenError {
    OpenError::Mismatch {
        path: path.to_owned(),
        what: "another dedup key,",
        found: "check value differs".to_owned(),
        expected: "the cluster's".to_owned(),
    }
}

/// Checks that a folder without a superblock is empty: files of others are never touched.
///
/// # Errors
/// [`OpenError::Foreign`].
pub(in crate::engine) fn refuse_foreign(disk: &Arc<dyn Disk>, path: &str) -> Result<(), OpenError> {
    let ours = [LOCK_FILE, SUPERBLOCK_FILE, ERASED_FILE, "lost+found"];
    let names = disk.list().map_err(OpenError::io("list disk"))?;
    match names
        .into_iter()
        .find(|name| !ours.contains(&name.as_str()))
    {
        // An interrupted format may have made the folder of segments, but no file in it.
        Some(name) if name == SEGMENTS_DIR && segments_empty(disk) => Ok(()),
        Some(found) => Err(OpenError::Foreign {
            path: path.to_owned(),
            found,
        }),
        None => Ok(()),
    }
}

fn segments_empty(disk: &Arc<dyn Disk>) -> bool {
    // The superblock comes last: without it the folder counts as unformatted, and formatting begins
    // again.
    disk.subdir(SEGMENTS_DIR)
        .and_then(|segments| segments.list())
        .is_ok_and(|names| names.is_empty())
}

/// Formats an empty folder.
///
/// # Errors
/// [`OpenError::Io`]. The folder can be formatted again.
pub(in crate::engine) fn format(
    disk: &Arc<dyn Disk>,
    identity: &Identity,
    options: &DiskOptions,
) -> Result<Superblock, OpenError> {
    let segment_bytes = segment_bytes_of(options.capacity);
    let superblock = Superblock {
        store: identity.store,
        cluster: identity.cluster,
        node: identity.node.clone(),
        key_check: identity.key.check_value(),
        capacity: options.capacity,
        segment_bytes,
        block_size: options.block_size,
        seal_seq: SealSeq(0),
        seq: 1,
        clean: false,
        version: VERSION,
        noted: Point::default(),
        inventory: (0, 0),
        verify_below: 0,
        owes_verification: false,
        audits: false,
        epoch: DiskEpoch::default(),
        kept: KeptFields::default(),
        next_doubt: 1,
        doubts: Vec::new(),
    };
    disk.subdir(SEGMENTS_DIR)
        .map_err(OpenError::io("make segments folder"))?;
    disk.sync_dir().map_err(OpenError::io("sync disk folder"))?;
    SuperblockFile::of(disk.clone())
        .write(&superblock)
        .map_err(OpenError::io("write superblock"))?;
    tracing::info!(store = %superblock.store, capacity = superblock.capacity, segment_bytes, "disk formatted");
    Ok(superblock)
}

/// Returns the size of the segments of a disk that is formatted with this capacity.
pub(in crate::engine) fn segment_bytes_of(capacity: u64) -> u64 {
    (capacity / 32).clamp(MIN_SEGMENT_BYTES, MAX_SEGMENT_BYTES) / 4_096 * 4_096
}

/// Erases all segments and files of a disk.
///
/// The superblock is removed last, so that a crash in between leaves a disk that is still ours and
/// can be erased again.
///
/// # Errors
/// The error of the disk. A part may be erased then, and the erase can be repeated.
pub(in crate::engine) fn erase(disk: &Arc<dyn Disk>) -> io::Result<()> {
    let segments = disk.subdir(SEGMENTS_DIR)?;
    for name in segments.list()? {
        segments.remove(&name)?;
    }
    segments.sync_dir()?;
    for name in [BITMAP_FILE, UNFINISHED, INVENTORY_FILE, SUPERBLOCK_FILE] {
        match disk.remove(name) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
    }
    disk.sync_dir()
}

/// File with the uuid of the store that an erase has erased: the permission counts once.
const ERASED_FILE: &str = "erased";

/// Returns true if a store was erased here before.
///
/// # Errors
/// The error of the disk.
pub(in crate::engine) fn was_erased(disk: &Arc<dyn Disk>, store: StoreUuid) -> io::Result<bool> {
    let file = match disk.open(ERASED_FILE) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(false),
        opened => opened?,
    };
    let mut erased = [0; 16];
    match file.read_exact_at(&mut erased, 0) {
        // A crash may have left it empty.
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        read => read.map(|()| &erased == store.as_bytes()),
    }
}

/// Notes that a store was erased.
///
/// # Errors
/// The error of the disk. The erase can be repeated then: nothing was stored since.
pub(in crate::engine) fn note_erase(disk: &Arc<dyn Disk>, store: StoreUuid) -> io::Result<()> {
    match disk.remove(ERASED_FILE) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = disk.create(ERASED_FILE, store.as_bytes().len() as u64)?;
    let bytes = Bytes::copy_from_slice(store.as_bytes());
    file.write_all_vectored_at(&[bytes], 0)?;
    file.sync_data()?;
    disk.sync_dir()
}

/// Returns identity and options of a small disk.
#[cfg(test)]
pub(crate) fn small_disk() -> (Identity, DiskOptions) {
    let identity = Identity {
        store: StoreUuid::from_bytes([1; 16]),
        cluster: ClusterUuid::from_bytes([2; 16]),
        node: NodeId::new("storage-1").unwrap(),
        key: DedupKey::from_bytes([3; 32]),
    };
    let options = DiskOptions {
        capacity: 6 << 20,
        is_capacity_default: false,
        block_size: 1,
        fresh_start: false,
        erase: None,
        nonce: 1,
        waits_for_master: false,
        open_files: 4,
    };
    (identity, options)
}
