//! Engines over disks in memory, and blocks and sessions for them.

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, FaultyDisk};
use cstore_storage::engine::{DiskOptions, Engine, Identity, SealOutcome};
use cstore_storage::{EngineError, OpenError};
use cstore_types::{Block, BlockId, BlockKind, NodeId, PartNo, StoreUuid};

use crate::{CLUSTER, DEDUP_KEY, session};

/// Size of a small disk: some segments.
pub const CAPACITY: u64 = 6 << 20;
/// Bytes at the begin of a block that tell which one it is.
const MARK: usize = 16;

/// Returns the identity of the disk.
pub fn identity() -> Identity {
    Identity {
        store: StoreUuid::from_bytes([1; 16]),
        cluster: CLUSTER,
        node: NodeId::new("storage-1").unwrap(),
        key: DEDUP_KEY,
    }
}

/// Returns the options of a disk that keeps what it has.
pub fn options(capacity: u64) -> DiskOptions {
    DiskOptions {
        capacity,
        is_capacity_default: false,
        block_size: 65_536,
        fresh_start: false,
        erase: None,
        nonce: cstore_types::nonce().unwrap(),
        waits_for_master: false,
        open_files: 4,
    }
}

/// Opens the engine of a disk.
///
/// # Errors
/// [`OpenError`], as [`Engine::open`] returns it.
pub fn open(disk: Arc<dyn Disk>, capacity: u64) -> Result<Engine, OpenError> {
    Engine::open(disk, "memory", &identity(), &options(capacity))
}

/// Opens the engine of a disk in memory. The disk stays the caller's, who may let it fail.
///
/// # Errors
/// [`OpenError`], as [`Engine::open`] returns it.
pub fn open_memory(disk: &FaultyDisk, capacity: u64) -> Result<Engine, OpenError> {
    open(Arc::new(disk.clone()), capacity)
}

/// Returns the block of these bytes.
pub fn block(bytes: impl Into<Bytes>) -> Block {
    let bytes = bytes.into();
    Block {
        id: BlockId::of_many(&DEDUP_KEY, &[&bytes])[0],
        kind: BlockKind::Data,
        bytes,
    }
}

/// Returns the block of a number: `len` bytes, which begin with its [`mark`].
pub fn numbered(n: u64, len: usize) -> Block {
    let mut bytes = vec![7; len];
    bytes[..MARK].copy_from_slice(&mark(n));
    block(bytes)
}

/// Returns the bytes by which the block of a number is found on a disk.
pub fn mark(n: u64) -> [u8; MARK] {
    let mark = [n.to_le_bytes(), *b"numbered"].concat();
    mark.try_into().unwrap()
}

/// Stores the block of a number as the only one of the session of that number.
///
/// # Errors
/// [`EngineError`], as the engine returns it.
pub async fn store(engine: &Engine, n: u64, len: usize) -> Result<(), EngineError> {
    let block = numbered(n, len);
    let sealed = engine
        .put_seal(session(n), PartNo(0), vec![block.id], vec![block])
        .await?;
    assert!(
        matches!(sealed, SealOutcome::Sealed { .. }),
        "session {n}: {sealed:?}"
    );
    Ok(())
}
