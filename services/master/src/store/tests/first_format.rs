//! Folders of programs before format 2, and the way to this format.

use cstore_log::RealDisk;

use super::super::index::stored;
use super::super::record;
use super::super::room::{SharedGauge, Space};
use super::truth::{Content, Folder, append, damage, find, flip, log_of};
use super::*;
use crate::limits::INDEX_CACHE_BYTES;

/// Makes a folder as a program before format 2 left it: a snapshot up to position 3, a log from
/// there on, and an index if it is to have one. Returns what it holds.
fn first_format(folder: &Folder, has_index: bool) -> Content {
    let pair = |n: u64| {
        (
            format!("n{n}").into_bytes(),
            format!("value {n}").into_bytes(),
        )
    };
    let first = |n: u64| [&n.to_be_bytes()[..], &pair(n).1].concat();
    std::fs::write(folder.path().join("log-owner"), [5; 16]).unwrap();
    let mut snapshot = b"CSTORMS2".to_vec();
    snapshot.extend(3u64.to_le_bytes());
    snapshot.extend(3u64.to_le_bytes());
    for n in 1..=3 {
        let (key, value) = (pair(n).0, first(n));
        snapshot.extend((key.len() as u32).to_le_bytes());
        snapshot.extend((value.len() as u32).to_le_bytes());
        snapshot.extend([key, value].concat());
    }
    let crc = crc32c::crc32c(&snapshot);
    snapshot.extend(crc.to_le_bytes());
    std::fs::write(folder.snapshot(), snapshot).unwrap();

    let log = log_of(folder, [5; 16]);
    for n in 2..=6u64 {
        let (key, value) = pair(n);
        let mut payload = 1u32.to_le_bytes().to_vec();
        payload.extend((key.len() as u32).to_le_bytes());
        payload.extend((value.len() as u32).to_le_bytes());
        payload.extend([key, value].concat());
        append(&log, record::KIND_UNCHECKED, n, payload);
    }
    log.close().unwrap();

    if has_index {
        let db = sled::open(folder.path().join("index")).unwrap();
        for n in 1..=6 {
            db.insert(pair(n).0, first(n)).unwrap();
        }
        db.insert(b"\0applied", &6u64.to_be_bytes()).unwrap();
        db.insert(b"\0clean", b"1").unwrap();
        db.flush().unwrap();
    }
    (1..=6).map(pair).collect()
}

#[tokio::test]
async fn i1_a_folder_of_format_1_is_brought_to_this_format_from_any_step_of_the_way() {
    for has_index in [true, false] {
        let folder = Folder::new();
        let expected = first_format(&folder, has_index);
        let first = std::fs::read(folder.snapshot()).unwrap();
        assert_eq!(folder.content().await, expected);
        assert_eq!(std::fs::read(folder.snapshot()).unwrap()[..8], *b"CSTORMS3");
        assert_eq!(folder.content().await, expected, "again");

        // Killed before the snapshot took its place, with all of the index, half of it, or none.
        let all = folder.copy();
        std::fs::write(all.snapshot(), &first).unwrap();
        std::fs::write(all.path().join("snapshot.new"), b"half").unwrap();
        let none = all.copy().without_index();
        let half = all.copy().without_index();
        let index = Index::rebuilt(half.path(), INDEX_CACHE_BYTES).unwrap();
        let value = stored(b"n1", 1, b"value 1");
        index.insert_stored(vec![(b"n1".to_vec(), value)]).unwrap();
        index.flush().unwrap();
        drop(index);
        for folder in [all, none, half] {
            assert_eq!(folder.content().await, expected);
            folder.write(100, 3, 9).await;
            let more = folder.content().await;
            assert_eq!(more.len(), 9);
            assert_eq!(folder.without_index().content().await, more);
        }
    }
}

#[tokio::test]
async fn i1_a_folder_of_format_1_that_lacks_something_is_refused_and_left_as_it_is() {
    // A payload of a file with a footer: nothing but its frame has a checksum.
    let folder = Folder::new();
    let expected = first_format(&folder, true);
    let file = folder.log_files()[0].clone();
    let at = find(&file, b"value 5");
    flip(&file, at);
    let error = folder.refusal();
    assert!(matches!(error, MetaError::Log(_)), "{error:?}");
    flip(&file, at);
    assert_eq!(folder.copy().content().await, expected);

    let bytes = std::fs::read(&file).unwrap();
    std::fs::remove_file(&file).unwrap();
    let error = folder.refusal();
    assert!(
        matches!(damage(&error), DamageKind::Behind { .. }),
        "{error:?}"
    );
    std::fs::write(&file, bytes).unwrap();

    // No room for a second snapshot and index.
    let first = std::fs::read(folder.snapshot()).unwrap();
    let disk = RealDisk::open(folder.path().join("log")).unwrap();
    let gauge = SharedGauge(Arc::new(|_: &Path| {
        Ok(Space {
            free: 9 << 20,
            total: 1 << 30,
        })
    }));
    let opened = SledMeta::open_with(
        folder.path(),
        disk,
        &options(1 << 30),
        Arc::new(Mirror::default()),
        gauge,
    );
    assert!(matches!(opened, Err(MetaError::Full)));
    assert_eq!(std::fs::read(folder.snapshot()).unwrap(), first);
    assert_eq!(folder.content().await, expected);
}
