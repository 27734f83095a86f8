//! The disk itself: who may open it, what may be missing, what fits.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;

use bytes::Bytes;
use cstore_log::{Disk, FaultyDisk, RealDisk};
use cstore_storage::engine::{DiskOptions, Engine, Identity, PutOutcome, SealOutcome};
use cstore_storage::{EngineError, OpenError};
use cstore_testkit::engine::{CAPACITY, block, identity, open, options};
use cstore_types::limits::MAX_IDS;
use cstore_types::{Block, BlockId, ClusterUuid, DedupKey, NodeId, PartNo, SessionId, StoreUuid};

fn memory() -> Arc<dyn Disk> {
    Arc::new(FaultyDisk::new())
}

const S: SessionId = SessionId::from_bytes([9; 16]);

async fn store(engine: &Engine, part: u32, blocks: &[Block]) -> Result<SealOutcome, EngineError> {
    let ids = blocks.iter().map(|block| block.id).collect();
    engine.put_seal(S, PartNo(part), ids, blocks.to_vec()).await
}

#[tokio::test]
async fn fresh_start_erases_only_what_was_named() {
    let disk = memory();
    let engine = open(disk.clone(), CAPACITY).unwrap();
    store(&engine, 0, &[block(vec![1; 100])]).await.unwrap();
    engine.close().unwrap();
    drop(engine);
    let fresh = DiskOptions {
        fresh_start: true,
        ..options(CAPACITY)
    };
    let refused = Engine::open(disk.clone(), "memory", &identity(), &fresh)
        .unwrap_err()
        .to_string();
    assert!(
        refused.contains("CSTORE_FRESH_START_ERASE=01010101"),
        "{refused}"
    );
    let other = DiskOptions {
        erase: Some(StoreUuid::from_bytes([8; 16])),
        ..fresh.clone()
    };
    assert!(Engine::open(disk.clone(), "memory", &identity(), &other).is_err());
    let engine = open(disk.clone(), CAPACITY).unwrap();
    assert_eq!(
        engine.read_block(&block(vec![1; 100]).id).unwrap(),
        vec![1; 100]
    );
    drop(engine);
    let meant = DiskOptions {
        erase: Some(identity().store),
        ..fresh
    };
    let engine = Engine::open(disk.clone(), "memory", &identity(), &meant).unwrap();
    assert!(
        engine.holdings().sessions().is_empty()
            && engine.read_block(&block(vec![1; 100]).id).is_err()
    );

    // A process that is started again after a crash has the same permission.
    store(&engine, 0, &[block(vec![2; 100])]).await.unwrap();
    drop(engine);
    let engine = Engine::open(disk, "memory", &identity(), &meant).unwrap();
    let kept = engine.read_block(&block(vec![2; 100]).id).unwrap();
    assert_eq!(kept, vec![2; 100]);
}

#[test]
fn a_folder_with_other_files_and_a_disk_of_others_are_refused_and_left_alone() {
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    let error = open(disk, CAPACITY).unwrap_err();
    assert!(error.to_string().contains("thesis.txt"), "{error}");

    let disk = memory();
    drop(open(disk.clone(), CAPACITY).unwrap());
    let others = [
        Identity {
            cluster: ClusterUuid::from_bytes([8; 16]),
            ..identity()
        },
        Identity {
            node: NodeId::new("storage-2").unwrap(),
            ..identity()
        },
        Identity {
            key: DedupKey::from_bytes([8; 32]),
            ..identity()
        },
    ];
    for other in others {
        let error = Engine::open(disk.clone(), "memory", &other, &options(CAPACITY)).unwrap_err();
        assert!(matches!(error, OpenError::Mismatch { .. }), "{error}");
    }
    let held = open(disk.clone(), CAPACITY).unwrap();
    assert!(matches!(
        open(disk.clone(), CAPACITY),
        Err(OpenError::InUse(_))
    ));
    drop(held);
}

#[tokio::test]
async fn the_bitmap_is_a_cache_that_may_be_missing_or_wrong() {
    let faulty = FaultyDisk::new();
    let disk: Arc<dyn Disk> = Arc::new(faulty.clone());
    let engine = open(disk.clone(), CAPACITY).unwrap();
    let blocks: Vec<Block> = (0..20u8).map(|n| block(vec![n; 1_000])).collect();
    store(&engine, 0, &blocks).await.unwrap();
    store(&engine, 1, &blocks[..5]).await.unwrap();
    let totals = engine.holdings().totals();
    drop(engine);
    for damage in 0..3 {
        open(disk.clone(), CAPACITY).unwrap().close().unwrap();
        match damage {
            0 => {}
            1 => disk.remove("bitmap.bin").unwrap(),
            _ => faulty.rot("bitmap.bin", 30, 1).unwrap(),
        }
        assert_eq!(
            open(disk.clone(), CAPACITY).unwrap().holdings().totals(),
            totals,
            "damage {damage}"
        );
    }
}

#[tokio::test]
async fn every_size_of_disk_takes_blocks_of_1_byte_to_4_mib() {
    for capacity in [CAPACITY, 7_654_321, 100 << 20] {
        let disk = memory();
        let engine = open(disk.clone(), capacity).unwrap();
        let blocks = [
            block(vec![1]),
            block(vec![2; 4 << 20]),
            block(vec![3; 65_536]),
        ];
        let outcome = store(&engine, 0, &blocks).await.unwrap();
        assert!(
            matches!(outcome, SealOutcome::Sealed { .. }),
            "{capacity}: {outcome:?}"
        );
        for block in &blocks {
            assert_eq!(engine.read_block(&block.id).unwrap(), block.bytes);
        }
        assert!(
            engine.compactor().space().allocated <= capacity,
            "FS_SIZE bounds everything"
        );
    }
}

#[tokio::test]
async fn i7_a_full_disk_refuses_reads_releases_and_takes_again() {
    let disk = memory();
    let engine = open(disk.clone(), CAPACITY).unwrap();
    let mut sessions = 0u8;
    loop {
        let session = SessionId::from_bytes([100 + sessions; 16]);
        let block = block([vec![sessions], vec![7; 200_000]].concat());
        match engine
            .put_seal(session, PartNo(0), vec![block.id], vec![block])
            .await
        {
            Ok(_) => sessions += 1,
            Err(EngineError::Full { .. }) => break,
            Err(other) => panic!("{other}"),
        }
    }
    assert!(sessions > 15, "6 MiB took {sessions} blocks of 200 kB");
    for n in 0..sessions {
        engine
            .releaser()
            .release(SessionId::from_bytes([100 + n; 16]))
            .await
            .unwrap();
    }
    engine.recycler().reclaim();
    assert_eq!(engine.holdings().totals().physical_bytes, 0);
    store(&engine, 0, &[block(vec![5; 200_000])]).await.unwrap();
}

#[tokio::test]
async fn i7_the_physical_size_counts_reference_sets_until_they_are_released() {
    let engine = open(memory(), CAPACITY).unwrap();
    let block = block(vec![1; 100]);
    store(&engine, 0, std::slice::from_ref(&block))
        .await
        .unwrap();
    let before = engine.holdings().totals();
    let ids = vec![block.id; 1_000];
    engine.put_seal(S, PartNo(1), ids, vec![]).await.unwrap();
    let after = engine.holdings().totals();
    assert_eq!(after.unique_bytes, before.unique_bytes);
    let grown = after.physical_bytes - before.physical_bytes;
    assert!(grown >= 1_000 * BlockId::LEN as u64, "{grown}");
    engine.releaser().release(S).await.unwrap();
    assert_eq!(engine.holdings().totals().physical_bytes, 0);
}

#[tokio::test]
async fn i10_a_seal_of_no_block_or_of_too_many_is_refused_with_the_bound() {
    let engine = open(memory(), CAPACITY).unwrap();
    let block = block(vec![1; 100]);
    for count in [0, MAX_IDS + 1] {
        let ids = vec![block.id; count];
        let refused = engine.put_seal(S, PartNo(0), ids, vec![]).await;
        let Err(EngineError::Invalid(text)) = refused else {
            panic!("{count} ids: {refused:?}")
        };
        let bounds = format!("a seal must name 1 to {MAX_IDS} blocks, found {count}");
        assert_eq!(text, bounds);
    }
    let ids = vec![block.id; MAX_IDS];
    let sealed = engine.put_seal(S, PartNo(0), ids, vec![block]).await;
    assert!(
        matches!(sealed, Ok(SealOutcome::Sealed { .. })),
        "{sealed:?}"
    );
}

#[tokio::test]
async fn i5_i8_bytes_that_are_not_their_id_are_refused_and_damage_is_healed_by_the_next_put() {
    let dir = tempfile::tempdir().unwrap();
    let disk = RealDisk::open(dir.path()).unwrap();
    let engine = open(disk, CAPACITY).unwrap();
    let good = block(vec![42; 5_000]);
    let forged = Block {
        bytes: Bytes::from(vec![43; 5_000]),
        ..good.clone()
    };
    let outcomes = engine.put_blocks(S, vec![forged]).await;
    assert!(
        matches!(outcomes[..], [PutOutcome::Refused(EngineError::Invalid(_))]),
        "{outcomes:?}"
    );
    store(&engine, 0, std::slice::from_ref(&good))
        .await
        .unwrap();

    for entry in std::fs::read_dir(dir.path().join("segments")).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = std::fs::read(&path).unwrap();
        if let Some(at) = bytes
            .windows(5_000)
            .position(|window| window.iter().all(|byte| *byte == 42))
        {
            bytes[at + 4_000] ^= 1;
            // Written in place: the engine has the file open.
            use std::os::unix::fs::FileExt;
            let file = std::fs::OpenOptions::new().write(true).open(&path).unwrap();
            file.write_all_at(&bytes[at + 4_000..at + 4_001], (at + 4_000) as u64)
                .unwrap();
        }
    }
    assert!(matches!(
        engine.read_block(&good.id),
        Err(EngineError::DataLoss)
    ));
    assert_eq!(
        engine.missing_blocks(S, &[good.id]),
        [true],
        "a damaged block counts as missing"
    );
    assert!(matches!(
        engine.put_blocks(S, vec![good.clone()]).await[..],
        [PutOutcome::Stored]
    ));
    assert_eq!(engine.read_block(&good.id).unwrap(), good.bytes);
    assert_eq!(engine.holdings().totals().blocks, 1);
}
