//! Storage disks of many small blocks.

use std::path::Path;
use std::sync::Arc;

use cstore_log::Disk;
use cstore_storage::engine::{DiskOptions, Engine, Identity, SealOutcome};
use cstore_testkit::{CLUSTER, DEDUP_KEY, session};
use cstore_types::{Block, BlockId, BlockKind, NodeId, PartNo, StoreUuid};

use crate::counted_disk::CountedDisk;
use crate::usage::{Meter, Usage};

/// Bytes of a block.
const BLOCK_BYTES: usize = 64;
/// Blocks of a file, which all are in its one reference set.
const SET: u64 = 4_096;
/// FS_SIZE.
const CAPACITY: u64 = 8 << 30;

/// Returns the engine of a disk.
pub(crate) fn engine(disk: Arc<dyn Disk>, capacity: u64) -> Engine {
    let identity = Identity {
        store: StoreUuid::from_bytes([1; 16]),
        cluster: CLUSTER,
        node: NodeId::new("storage-1").unwrap(),
        key: DEDUP_KEY,
    };
    let options = DiskOptions {
        capacity,
        is_capacity_default: false,
        block_size: 65_536,
        fresh_start: false,
        erase: None,
        nonce: cstore_types::nonce().unwrap(),
        waits_for_master: false,
        open_files: 256,
    };
    Engine::open(disk, "disk", &identity, &options).unwrap()
}

/// Returns blocks that no other numbers give.
pub(crate) fn blocks(numbers: std::ops::Range<u64>, len: usize) -> Vec<Block> {
    let bodies: Vec<Vec<u8>> = numbers
        .map(|n| {
            let mut body = vec![7; len];
            body[..8].copy_from_slice(&n.to_le_bytes());
            body
        })
        .collect();
    let views: Vec<&[u8]> = bodies.iter().map(Vec::as_slice).collect();
    let ids = BlockId::of_many(&DEDUP_KEY, &views);
    ids.into_iter()
        .zip(bodies)
        .map(|(id, body)| Block {
            id,
            kind: BlockKind::Data,
            bytes: body.into(),
        })
        .collect()
}

/// Stores blocks in files of [`SET`] blocks. The process ends without a stop.
pub(crate) fn build(root: &Path, count: u64) {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let engine = engine(CountedDisk::unsynced(root), CAPACITY);
    for set in 0..count.div_ceil(SET) {
        let blocks = blocks(set * SET..((set + 1) * SET).min(count), BLOCK_BYTES);
        let ids = blocks.iter().map(|block| block.id).collect();
        let sealed = runtime.block_on(engine.put_seal(session(set), PartNo(0), ids, blocks));
        let sealed = sealed.unwrap();
        assert!(
            matches!(sealed, SealOutcome::Sealed { .. }),
            "set {set}: {sealed:?}"
        );
        engine.unpin(session(set));
    }
    std::mem::forget(engine);
}

/// Opens the disk, and stops it if `is_clean`. Otherwise the process ends as if it was killed.
pub(crate) fn open(root: &Path, is_clean: bool) -> Usage {
    let (disk, reads) = CountedDisk::open(root);
    let meter = Meter::start();
    let engine = engine(disk, CAPACITY);
    let usage = meter.finish(&reads, engine.holdings().totals().blocks);
    if is_clean {
        engine.close().unwrap();
    }
    std::mem::forget(engine);
    usage
}
