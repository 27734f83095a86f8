//! The bytes of the metadata, compared with `fixtures/metadata-format-2.txt`; and those of version
//! 1, which are still read.

use cstore_log::golden::GoldenFile;
use cstore_types::epoch::{SealPoint, SeenSeals};
use cstore_types::history::{Life, Point};
use cstore_types::{
    ClusterUuid, DedupKey, FileMeta, FileName, Incarnation, MapVersion, NodeId, Placement,
    PlacementNode, SealSeq, SessionEra, SessionId, StoreUuid, Tenant, UserMetadata,
};

use super::index::{StoredPair, stored};
use super::keys::{
    CLUSTER, ClusterRecord, CommittedSession, Ending, FileRecord, NAMES, PLACEMENT, Publication,
    RELEASES, ReleaseRecord, STORES, SessionRecord, StoreRecord, StoreState, decode_era,
    decode_placement, encode_era, encode_placement, name_key, names_prefix, release_key, root_key,
    session_key, store_key, tenant_of, uuid_of,
};
use super::record::{self, KIND_BATCH, KIND_UNCHECKED, ResolvedChange};
use super::snapshot::{self, SnapshotWriter};

const SESSION: SessionId = SessionId::from_bytes(*b"session of tests");
const STORE: StoreUuid = StoreUuid::from_bytes(*b"uuid of a store.");

fn file() -> FileRecord {
    FileRecord {
        session: SESSION,
        meta: FileMeta {
            version: 0x0102_0304_0506_0708,
            size: 0x1122_3344_5566,
            modified_ms: -4,
            blocks: 5,
            etag: "9e107d9d372bb6826bd81d3542a419d6-1".parse().unwrap(),
            content_type: "text/plain; charset=utf-8".to_owned(),
            chunking: "fixed:65536".parse().unwrap(),
            sha256: Some(std::array::from_fn(|i| i as u8)),
            metadata: UserMetadata::default(),
        },
    }
}

fn file_with_metadata() -> FileRecord {
    let metadata = UserMetadata::new([("author", "J. Doe"), ("empty", "")]).unwrap();
    FileRecord {
        meta: FileMeta {
            metadata,
            ..file().meta
        },
        ..file()
    }
}

fn committed(stores: Vec<StoreUuid>, file: FileRecord) -> SessionRecord {
    let name = FileName::new("a/b").unwrap();
    SessionRecord::Committed(Box::new(CommittedSession {
        names: 2,
        root_crc: 0x0102_0304,
        stores,
        name,
        file,
    }))
}

fn check_keys(golden: &mut GoldenFile) {
    let name = FileName::new("folder/ä file").unwrap();
    for (title, tenant) in [
        ("of the default tenant", Tenant::default()),
        ("of tenant acme", Tenant::new("acme").unwrap()),
    ] {
        let bytes = golden.check(&format!("key of a name {title}"), &name_key(&tenant, &name));
        assert_eq!(tenant_of(&bytes), Ok(tenant.clone()));
        golden.check(
            &format!("prefix of all names {title}"),
            &names_prefix(&tenant),
        );
    }

    for (title, key, uuid) in [
        ("session", session_key(SESSION), SESSION.as_bytes()),
        ("recipe root", root_key(SESSION), SESSION.as_bytes()),
        ("release", release_key(SESSION), SESSION.as_bytes()),
        ("store", store_key(STORE), STORE.as_bytes()),
    ] {
        let bytes = golden.check(&format!("key of a {title}"), &key);
        assert_eq!(uuid_of(&bytes).as_ref(), Ok(uuid), "{title}");
    }
    golden.check("key of the cluster", CLUSTER);
    golden.check("key of the placement", PLACEMENT);
    golden.check(
        "first bytes of names, releases, stores",
        &[NAMES, RELEASES, STORES],
    );
}

fn check_values(golden: &mut GoldenFile) {
    let cluster = ClusterRecord {
        cluster: ClusterUuid::from_bytes(*b"uuid of cluster."),
        dedup_key: DedupKey::from_bytes(*b"dedup key of the golden records."),
        incarnation: Incarnation(0x0102_0304_0506_0708),
    };
    let bytes = golden.check("cluster", &cluster.encode());
    assert_eq!(ClusterRecord::decode(&bytes), Ok(cluster));

    let node = |id, domain: &str| PlacementNode {
        id: NodeId::new(id).unwrap(),
        failure_domain: domain.to_owned(),
    };
    let nodes = vec![node("storage-1", "rack-1"), node("storage-2", "")];
    let placement = Placement::new(MapVersion(1), nodes).unwrap();
    let bytes = golden.check("placement of two nodes", &encode_placement(&placement));
    assert_eq!(decode_placement(&bytes), Ok(placement));

    for (title, record) in [
        ("file", file()),
        ("file with metadata", file_with_metadata()),
    ] {
        let bytes = golden.check(title, &record.encode());
        assert_eq!(FileRecord::size_of(&bytes), Ok(record.meta.size), "{title}");
        assert_eq!(FileRecord::decode(&bytes), Ok(record), "{title}");
    }

    let other = StoreUuid::from_bytes(*b"another of them.");
    for (title, record) in [
        ("committed session", committed(vec![STORE], file())),
        (
            "committed session of a file with metadata",
            committed(vec![STORE, other], file_with_metadata()),
        ),
        ("tombstoned session", SessionRecord::Ended(Ending::Unknown)),
        (
            "tombstone of a session that was aborted",
            SessionRecord::Ended(Ending::Aborted),
        ),
        (
            "tombstone of a session whose file was removed",
            SessionRecord::Ended(Ending::Removed {
                version: 0x0102_0304_0506_0708,
                publication: Publication::new(&FileName::new("a/b").unwrap(), 0x1122_3344),
            }),
        ),
    ] {
        let bytes = golden.check(title, &record.encode());
        let committed = matches!(record, SessionRecord::Committed(_));
        assert_eq!(
            SessionRecord::has_committed(&bytes),
            Ok(committed),
            "{title}"
        );
        assert_eq!(SessionRecord::is_kept(&bytes), Ok(false), "{title}");
        assert_eq!(SessionRecord::decode(&bytes), Ok(record), "{title}");
    }
    check_kept();

    // Tombstones of value version 2 do not record what the session had published, so a commit of
    // one is unknown.
    for (had_committed, ending) in [(0, Ending::Aborted), (1, Ending::Unknown)] {
        let bytes = [2, 2, had_committed, 0, 0, 0, 0, 0, 0, 0, had_committed];
        assert_eq!(
            SessionRecord::decode(&bytes),
            Ok(SessionRecord::Ended(ending))
        );
    }

    let release = ReleaseRecord {
        not_before_ms: 1_700_000_000_123,
        stores: vec![STORE, other],
    };
    let bytes = golden.check("release", &release.encode());
    assert_eq!(ReleaseRecord::decode(&bytes), Ok(release));
    check_store(golden);
    check_life();
}

fn check_life() {
    let life = Life {
        incarnation: Incarnation(1),
        term: 2,
        life: 3,
        first: 4,
        chain_before: 0,
    };
    let (key, value) = (
        super::keys::life_key(&life),
        super::keys::encode_life(&life),
    );
    assert_eq!(hex::encode(&key), "790000000000000002");
    let expected = concat!(
        "01",
        "0100000000000000",
        "0300000000000000",
        "0400000000000000",
        "0000000000000000",
    );
    assert_eq!(hex::encode(&value), expected);
    assert_eq!(super::keys::decode_life(&key, &value), Ok(life));
}

/// A person has accepted this master although nodes had obeyed another history.
fn check_kept() {
    let era = SessionEra::from_bytes([1, 2, 3, 4, 5, 6]);
    let bytes = [1, 1, 2, 3, 4, 5, 6];
    assert_eq!(encode_era(era), bytes);
    assert_eq!(decode_era(&bytes), Ok(era));

    let bytes = SessionRecord::Kept.encode();
    assert_eq!(bytes, [4, 3]);
    assert_eq!(SessionRecord::decode(&bytes), Ok(SessionRecord::Kept));
    assert_eq!(SessionRecord::is_kept(&bytes), Ok(true));
    assert_eq!(SessionRecord::has_committed(&bytes), Ok(false));
    for wrong in [[4, 1], [4, 2], [3, 3], [5, 3]] {
        assert!(SessionRecord::decode(&wrong).is_err(), "{wrong:?}");
    }
}

fn check_store(golden: &mut GoldenFile) {
    let store = StoreRecord {
        seen: SeenSeals::from(SealPoint {
            seq: SealSeq(77),
            nonce: 0,
        }),
        accepted: Point::default(),
        state: StoreState::Up,
        node: NodeId::new("storage-1").unwrap(),
    };
    let bytes = golden.check("store", &store.encode());
    assert_eq!(StoreRecord::decode(&bytes), Ok(store.clone()));

    // Its newest seal lies in an epoch.
    let store = StoreRecord {
        seen: SeenSeals::from(SealPoint {
            seq: SealSeq(0x0100_0000_0002),
            nonce: 0x0807_0605_0403_0201,
        }),
        ..store
    };
    let bytes = hex::decode("020200000000010000010203040506070809000000").unwrap();
    let bytes = [&bytes[..], b"storage-1"].concat();
    assert_eq!(store.encode(), bytes);
    assert_eq!(StoreRecord::decode(&bytes), Ok(store.clone()));

    // Its node has obeyed another history, which a person has accepted.
    let accepted = Point {
        incarnation: Incarnation(1),
        term: 2,
        life: 3,
        position: 4,
        chain: 5,
    };
    let store = StoreRecord { accepted, ..store };
    let encoded = store.encode();
    assert_eq!(encoded[..17], [&[3][..], &bytes[1..17]].concat());
    assert_eq!(encoded[17..57], accepted.to_bytes());
    assert_eq!(StoreRecord::decode(&encoded), Ok(store.clone()));

    // A person has said that it stays away.
    let away = StoreRecord {
        state: StoreState::Away,
        ..store
    };
    let bytes = [&[4, 1][..], &encoded[1..57], &[0; 32], &encoded[57..]].concat();
    assert_eq!(away.encode(), bytes);
    assert_eq!(StoreRecord::decode(&bytes), Ok(away.clone()));
    for at in [1, 58, 89] {
        let mut later = bytes.clone();
        later[at] = 7;
        assert!(StoreRecord::decode(&later).is_err(), "byte {at}");
    }

    // A file rests on a seal that was made in doubt.
    let doubted = StoreRecord {
        seen: SeenSeals {
            in_doubt: SealPoint {
                seq: SealSeq(5),
                nonce: 6,
            },
            ..away.seen
        },
        ..away
    };
    let mut bytes = bytes;
    (bytes[0], bytes[58], bytes[66]) = (5, 5, 6);
    assert_eq!(doubted.encode(), bytes);
    assert_eq!(StoreRecord::decode(&bytes), Ok(doubted));
    for at in [1, 74, 89] {
        let mut later = bytes.clone();
        later[at] = 7;
        assert!(StoreRecord::decode(&later).is_err(), "byte {at}");
    }
}

fn changes() -> Vec<ResolvedChange> {
    vec![
        (b"key".to_vec(), Some(b"value".to_vec())),
        (b"empty".to_vec(), Some(Vec::new())),
        (b"deleted".to_vec(), None),
    ]
}

const POSITION: u64 = 0x0102_0304_0506_0708;
const LINK: u64 = 0x1112_1314_1516_1718;

fn check_containers(golden: &mut GoldenFile) {
    let changes = changes();
    let borrowed = changes
        .iter()
        .map(|(key, value)| (key.as_slice(), value.as_deref()));
    let (encoded, link) = record::encode(POSITION, LINK, borrowed);
    let bytes = golden.check("record of a put, an empty put and a delete", &encoded);
    let decoded = record::decode(KIND_BATCH, POSITION, &bytes).unwrap();
    assert_eq!((decoded.before, decoded.link), (Some(LINK), link));
    assert_eq!(decoded.changes, changes);
    golden.check("link of that record", &link.to_le_bytes());
    let (empty, _) = record::encode(POSITION, LINK, std::iter::empty());
    golden.check("record without a change", &empty);
    golden.check("value of the index", &stored(b"key", POSITION, b"value"));

    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("snapshot.bin");
    let items = snapshot_items();
    let mut writer = SnapshotWriter::create(dir.path(), (POSITION, LINK), 0).unwrap();
    items
        .iter()
        .for_each(|(key, value)| writer.put(key, value).unwrap());
    writer.finish().unwrap();
    let bytes = golden.check("snapshot of two items", &std::fs::read(&path).unwrap());
    std::fs::write(&path, bytes).unwrap();
    assert_eq!(read_snapshot(dir.path()), (POSITION, LINK, items));
}

fn snapshot_items() -> Vec<StoredPair> {
    let item = |key: &[u8], value: &[u8]| (key.to_vec(), stored(key, 7, value));
    vec![item(b"key", b"value"), item(b"longer key", b"")]
}

fn read_snapshot(dir: &std::path::Path) -> (u64, u64, Vec<StoredPair>) {
    let mut read = Vec::new();
    let found = snapshot::read(dir, &mut |pairs| {
        read.extend(pairs);
        Ok(())
    });
    let found = found.unwrap().unwrap();
    (found.position, found.link, read)
}

#[test]
fn keys_values_records_and_snapshots_have_the_bytes_of_version_2() {
    let mut golden = open("2");
    check_keys(&mut golden);
    check_values(&mut golden);
    check_containers(&mut golden);
    golden.finish();
}

/// Records and snapshots of format 1 can be read. Keys and values have the same bytes.
#[test]
fn i1_records_and_snapshots_of_version_1_are_read() {
    if std::env::var_os(cstore_log::golden::WRITE_FIXTURES).is_some() {
        return;
    }
    let mut golden = open("1");
    check_keys(&mut golden);
    check_values(&mut golden);
    let bytes = golden.take("batch of a put, an empty put and a delete");
    let decoded = record::decode(KIND_UNCHECKED, 1, &bytes).unwrap();
    assert_eq!(decoded.changes, changes());
    let bytes = golden.take("batch without a change");
    let decoded = record::decode(KIND_UNCHECKED, 1, &bytes).unwrap();
    assert_eq!(decoded.changes, []);

    // The values in it have no position, which a later program takes the first bytes for.
    let bytes = golden.take("snapshot of two items");
    let dir = tempfile::tempdir().unwrap();
    std::fs::write(dir.path().join("snapshot.bin"), bytes).unwrap();
    let error = snapshot::verify(dir.path()).unwrap_err();
    assert!(error.to_string().contains("damaged"), "{error}");
    golden.finish();
}

fn open(version: &str) -> GoldenFile {
    let path = format!(
        "{}/fixtures/metadata-format-{version}.txt",
        env!("CARGO_MANIFEST_DIR")
    );
    let head = format!("Metadata format, version {version}: values of src/store/golden.rs.");
    GoldenFile::open(path, &head)
}
