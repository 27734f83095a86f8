//! The bytes of the disk format, compared with `fixtures/disk-format-2.txt`.

use std::sync::Arc;

use cstore_log::golden::GoldenFile;
use cstore_log::{Disk, FaultyDisk};
use cstore_types::{BlockId, ClusterUuid, NodeId, PartNo, SealSeq, SessionId, StoreUuid};

use super::format::{
    BITMAP_FILE, Bitmap, KIND_DATA, KIND_MANIFEST, KIND_REFSET, KIND_RELEASE, LOCK_FILE,
    SEGMENTS_DIR, SUPERBLOCK_FILE, Superblock, decode_refset, encode_refset, parse_block_key,
    parse_refset_key, parse_release_key, refset_key,
};
use super::volume::superblock;

const SESSION: SessionId = SessionId::from_bytes(*b"session of tests");
const STORE: StoreUuid = StoreUuid::from_bytes(*b"uuid of a store.");

fn superblocks() -> [(&'static str, Superblock); 2] {
    let running = Superblock {
        store: STORE,
        cluster: ClusterUuid::from_bytes(*b"uuid of cluster."),
        node: NodeId::new("storage-1").unwrap(),
        key_check: *b"check of the key",
        capacity: 0x0011_2233_4455,
        segment_bytes: 4 << 20,
        block_size: 65_536,
        seal_seq: SealSeq(0x0102_0304_0506_0708),
        seq: 6,
        clean: false,
    };
    // The longest name of a node.
    let node = NodeId::new(&"n".repeat(64)).unwrap();
    let stopped = Superblock {
        clean: true,
        seq: 7,
        node,
        ..running.clone()
    };
    [
        ("superblock of a running node", running),
        ("superblock after a clean stop, longest node id", stopped),
    ]
}

#[test]
fn superblocks_records_and_the_bitmap_have_the_bytes_of_version_2() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/disk-format-2.txt");
    let mut golden = GoldenFile::open(
        path,
        "Disk format, version 2: values of src/engine/golden.rs.",
    );

    for (name, value) in superblocks() {
        let bytes = golden.check(name, &value.encode());
        assert_eq!(Superblock::decode(&bytes), Ok(value), "{name}");
    }

    // The file of superblocks: the slot is the remainder of the sequence number.
    let disk = FaultyDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk);
    for (_, value) in superblocks() {
        superblock::write(&shared, &value).unwrap();
    }
    let file = shared.open(SUPERBLOCK_FILE).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    golden.check("superblock file with sequence numbers 6 and 7", &bytes);

    let block = BlockId::from_bytes([0xaa; 32]);
    let bytes = golden.check("key of a data or manifest record", block.as_bytes());
    assert_eq!(parse_block_key(&bytes), Ok(block));
    let part = PartNo(0x0102_0304);
    let bytes = golden.check("key of a refset record", &refset_key(SESSION, part));
    assert_eq!(parse_refset_key(&bytes), Ok((SESSION, part)));
    let bytes = golden.check("key of a release record", SESSION.as_bytes());
    assert_eq!(parse_release_key(&bytes), Ok(SESSION));

    let empty: &[BlockId] = &[];
    let two = [block, BlockId::from_bytes([0xbb; 32])];
    for (name, ids) in [
        ("refset of no block", empty),
        ("refset of two blocks", &two),
    ] {
        let bytes = golden.check(name, &encode_refset(SESSION, part, ids));
        assert_eq!(
            decode_refset(SESSION, part, &bytes),
            Ok(ids.to_vec()),
            "{name}"
        );
    }

    // Distances and counts of one to five LEB128 bytes, a file without blocks, the largest file id.
    let counts = vec![
        (4_169, 1),
        (4_170, 127),
        (20_000, 128),
        (3_000_000, 70_000),
        (u32::MAX, u32::MAX),
    ];
    let files = vec![(1, counts), (2, Vec::new()), (u32::MAX, vec![(0, 1)])];
    for (name, bitmap) in [
        ("bitmap of an empty store", Bitmap::default()),
        (
            "bitmap of three files",
            Bitmap {
                last_seq: 0x0102_0304_0506_0708,
                files,
            },
        ),
    ] {
        let bytes = golden.check(name, &bitmap.encode(STORE));
        assert_eq!(Bitmap::decode(STORE, &bytes), Ok(bitmap), "{name}");
    }

    golden.check(
        "record kinds: data, manifest, refset, release",
        &[KIND_DATA, KIND_MANIFEST, KIND_REFSET, KIND_RELEASE],
    );
    let names = [SUPERBLOCK_FILE, BITMAP_FILE, SEGMENTS_DIR, LOCK_FILE].join(" ");
    golden.check("names of the files of a disk", names.as_bytes());
    golden.finish();
}
