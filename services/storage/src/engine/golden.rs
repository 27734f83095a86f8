//! The bytes of the disk format, compared with `fixtures/disk-format-3.txt`; and those of version
//! 2, which still open.

use std::sync::Arc;

use cstore_log::golden::GoldenFile;
use cstore_log::{Disk, FaultyDisk};
use cstore_types::history::Point;
use cstore_types::{
    BlockId, ClusterUuid, Incarnation, NodeId, PartNo, SealSeq, SessionId, StoreUuid,
};

use super::format::{
    BITMAP_FILE, Bitmap, DiskEpoch, Doubt, DoubtKind, EpochEntry, FileEntry, FileStanding,
    INVENTORY_FILE, Image, KIND_BAD, KIND_DATA, KIND_MANIFEST, KIND_REFSET, KIND_RELEASE,
    KeptFields, LOCK_FILE, SEGMENTS_DIR, SUPERBLOCK_FILE, Superblock, VERSION, bad_key,
    decode_refset, encode_refset, parse_bad_key, parse_block_key, parse_refset_key,
    parse_release_key, refset_key,
};
use super::volume::superblock::SuperblockFile;

const SESSION: SessionId = SessionId::from_bytes(*b"session of tests");
const STORE: StoreUuid = StoreUuid::from_bytes(*b"uuid of a store.");

fn superblocks() -> [(&'static str, Superblock); 3] {
    let running = Superblock {
        version: VERSION,
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
    // The longest name of a node.
    let node = NodeId::new(&"n".repeat(64)).unwrap();
    let stopped = Superblock {
        clean: true,
        seq: 7,
        node,
        ..running.clone()
    };
    let full = Superblock {
        seq: 8,
        noted: Point {
            incarnation: Incarnation(0x11),
            term: 0x22,
            life: 0x3333_3333_3333_3333,
            position: 0x44,
            chain: 0x5555_5555_5555_5555,
        },
        inventory: (0x0102_0304_0506_0708, 0x0a0b_0c0d),
        verify_below: 0x66,
        epoch: DiskEpoch {
            number: 0x73,
            opens: 0x74,
            nonce: 0x75,
        },
        kept: KeptFields {
            maps: (0x71, 0x72),
            checkpoint: 0x76,
            seen: (0x77, 0x78),
            scrub: (0x79, 0x7a, 0x7b),
            release_cursor: 0x7c,
            session_floor: 0x7d,
            failure_domain: 0x7e,
        },
        next_doubt: 33,
        doubts: (1..=10)
            .map(doubt)
            .chain((11..=32).map(|_| doubt(1)))
            .collect(),
        ..running.clone()
    };
    [
        ("superblock of a running node", running),
        ("superblock after a clean stop, longest node id", stopped),
        ("superblock with all fields, most doubts", full),
    ]
}

/// A doubt of the kind of this number; every second one is accepted.
fn doubt(kind: u8) -> Doubt {
    let kinds = [
        DoubtKind::Missing,
        DoubtKind::Short,
        DoubtKind::Damaged,
        DoubtKind::Foreign,
        DoubtKind::Inventory,
        DoubtKind::Superblock,
        DoubtKind::Absent,
        DoubtKind::Set,
        DoubtKind::StoreOlder,
        DoubtKind::Master,
        DoubtKind::LostSets,
    ];
    Doubt {
        kind: kinds[usize::from(kind) - 1],
        accepted: kind.is_multiple_of(2),
        number: kind.into(),
        file: 0x0102_0304,
        count: 0x0506_0708,
        seqs: (0x11, 0x22),
        aux: *b"aux bytes of it.",
    }
}

fn image() -> Image {
    let sealed = FileEntry {
        id: 1,
        standing: FileStanding::Sealed,
        unproven: true,
        epoch: 2,
        records: 3,
        size: 4,
        seqs: (5, 6),
        footer_crc: 7,
        header_crc: 8,
        checkpoint: 9,
        holes_crc: 10,
    };
    let with = |id, standing| FileEntry {
        id,
        standing,
        unproven: false,
        ..sealed
    };
    Image {
        store: STORE,
        generation: 0x0102_0304_0506_0708,
        highest: 0x090a_0b0c,
        superblock_seq: 0x0d0e_0f10,
        files: vec![
            sealed,
            with(2, FileStanding::Live),
            with(3, FileStanding::Leaving),
            with(4, FileStanding::Lost),
        ],
        epochs: vec![EpochEntry {
            epoch: 1,
            crc_before: 2,
            nonce: 3,
            first_seq: 4,
            end_before: 5,
        }],
    }
}

#[test]
fn superblocks_of_version_2_are_read() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/disk-format-2.txt");
    let mut golden = GoldenFile::open(path, "");
    let [running, stopped, _] = superblocks();
    for (name, value) in [running, stopped] {
        let expected = Superblock {
            version: 2,
            ..value
        };
        assert_eq!(
            Superblock::decode(&golden.take(name)),
            Ok(expected),
            "{name}"
        );
    }
}

#[test]
fn the_verdict_on_a_block_names_its_place() {
    let block = BlockId::from_bytes([0xaa; 32]);
    let bytes = bad_key(&block, (0x0102_0304, 0x0506_0708));
    let expected = [&block.as_bytes()[..], &[4, 3, 2, 1, 8, 7, 6, 5]].concat();
    assert_eq!((KIND_BAD, &bytes[..]), (5, &expected[..]));
    assert_eq!(
        parse_bad_key(&bytes),
        Ok((block, (0x0102_0304, 0x0506_0708)))
    );
    assert!(parse_bad_key(&bytes[..39]).is_err());
}

#[test]
fn superblocks_records_and_the_bitmap_have_the_bytes_of_version_3() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/fixtures/disk-format-3.txt");
    let mut golden = GoldenFile::open(
        path,
        "Disk format, version 3: values of src/engine/golden.rs.",
    );

    for (name, value) in superblocks() {
        let bytes = golden.check(name, &value.encode());
        assert_eq!(Superblock::decode(&bytes), Ok(value), "{name}");
    }

    // The file of superblocks: the slot is the remainder of the sequence number.
    let disk = FaultyDisk::new();
    let shared: Arc<dyn Disk> = Arc::new(disk);
    for (_, value) in superblocks() {
        SuperblockFile::of(shared.clone()).write(&value).unwrap();
    }
    let file = shared.open(SUPERBLOCK_FILE).unwrap();
    let mut bytes = vec![0; file.size().unwrap() as usize];
    file.read_exact_at(&mut bytes, 0).unwrap();
    golden.check("superblock file with sequence numbers 6 to 8", &bytes);

    let bytes = golden.check("image of the inventory", &image().encode());
    assert_eq!(
        Image::decode(STORE, &bytes).map(|(image, _)| image),
        Ok(image())
    );

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
    let names = [
        SUPERBLOCK_FILE,
        INVENTORY_FILE,
        BITMAP_FILE,
        SEGMENTS_DIR,
        LOCK_FILE,
    ]
    .join(" ");
    golden.check("names of the files of a disk", names.as_bytes());
    golden.finish();
}
