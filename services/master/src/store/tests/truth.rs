//! Snapshot, log and index of one folder: if one of them is missing, damaged, older or from another
//! copy, the open repairs or refuses, and never serves wrong metadata.

use std::path::PathBuf;

use cstore_log::{Log, Options, RealDisk, Record, Urgency};
use cstore_types::history::{Place, place};

use super::super::index::{FoundIndex, stored};
use super::super::record;
use super::*;
use crate::limits::INDEX_CACHE_BYTES;

pub(super) type Content = BTreeMap<Vec<u8>, Vec<u8>>;

/// Damages a folder.
type Spoil<'a> = &'a dyn Fn(&Folder);

/// A metadata folder on the real file system.
pub(super) struct Folder(tempfile::TempDir);

impl Folder {
    pub(super) fn new() -> Self {
        Self(tempfile::tempdir().unwrap())
    }

    pub(super) fn path(&self) -> &Path {
        self.0.path()
    }

    /// Returns a copy of all files. The folder must not be open.
    pub(super) fn copy(&self) -> Self {
        let copy = Self::new();
        copy_folder(self.path(), copy.path());
        copy
    }

    pub(super) fn try_open(&self, snapshot_bytes: u64) -> Result<SledMeta, MetaError> {
        let disk = RealDisk::open(self.path().join("log")).unwrap();
        let options = options(snapshot_bytes);
        SledMeta::open(self.path(), disk, &options, Arc::new(Mirror::default()))
    }

    pub(super) fn open(&self) -> SledMeta {
        self.try_open(1 << 30).unwrap()
    }

    /// Returns the error of an open that must not succeed.
    pub(super) fn refusal(&self) -> MetaError {
        match self.try_open(1 << 30) {
            Ok(_) => panic!("it opens"),
            Err(error) => error,
        }
    }

    /// Returns what the folder holds, and closes it.
    pub(super) async fn content(&self) -> Content {
        let meta = self.open();
        let content = content(&meta).await;
        meta.close().await.unwrap();
        content
    }

    /// Writes `count` values of 3 KB from `first` on, and closes.
    pub(super) async fn write(&self, first: u32, count: u32, byte: u8) {
        let meta = self.open();
        for n in first..first + count {
            let key = format!("n{n:04}");
            meta.commit(put(key.as_bytes(), vec![byte; 3_000]))
                .await
                .unwrap();
        }
        meta.close().await.unwrap();
    }

    pub(super) fn log_files(&self) -> Vec<PathBuf> {
        let found = std::fs::read_dir(self.path().join("log")).unwrap();
        let mut files: Vec<PathBuf> = found.map(|entry| entry.unwrap().path()).collect();
        files.sort();
        files
    }

    pub(super) fn without_index(self) -> Self {
        std::fs::remove_dir_all(self.path().join("index")).unwrap();
        self
    }

    /// Takes the marks by which the index is trusted, as if the machine had lost its power.
    pub(super) fn with_index_of_another_boot(self) -> Self {
        let FoundIndex { index, .. } = Index::find(self.path(), INDEX_CACHE_BYTES).unwrap();
        index.mark_in_use().unwrap();
        index.distrust(&DamageKind::LogOwner);
        drop(index);
        assert!(
            !Index::find(self.path(), INDEX_CACHE_BYTES)
                .unwrap()
                .is_trusted
        );
        self
    }

    pub(super) fn snapshot(&self) -> PathBuf {
        self.path().join("snapshot.bin")
    }
}

pub(super) fn flip(path: &Path, at: usize) {
    let mut bytes = std::fs::read(path).unwrap();
    bytes[at] ^= 1;
    std::fs::write(path, bytes).unwrap();
}

/// Returns where `needle` begins in a file.
pub(super) fn find(path: &Path, needle: &[u8]) -> usize {
    let bytes = std::fs::read(path).unwrap();
    let found = bytes.windows(needle.len()).position(|at| at == needle);
    found.unwrap()
}

/// Returns the damage that an open found, wherever it lies.
pub(super) fn damage(error: &MetaError) -> &DamageKind {
    match error {
        MetaError::Damaged(DamageKind::InLog { damage, .. }) => damage,
        MetaError::Damaged(kind) => kind,
        other => panic!("{other:?}"),
    }
}

/// Scenario 24 of the design of doubt: a byte flips in a sealed record of the master.
#[tokio::test]
async fn i8_s24_any_flipped_byte_of_the_log_is_refused_or_harmless_and_never_another_name() {
    let whole = Folder::new();
    whole.write(0, 6, 7).await;
    let expected = whole.content().await;
    let file = &whole.log_files()[0];
    let bytes = std::fs::read(file).unwrap();
    let name = find(file, b"n0003");
    let mut rng = StdRng::seed_from_u64(1);
    let mut places: Vec<usize> = (name - 20..name + 20).collect();
    places.extend((0..60).map(|_| rng.random_range(0..bytes.len())));

    let mut refused = 0;
    for at in places {
        let folder = whole.copy().without_index();
        flip(&folder.log_files()[0], at);
        match folder.try_open(1 << 30) {
            Ok(meta) => assert_eq!(content(&meta).await, expected, "byte {at}"),
            Err(_) => refused += 1,
        }
        if (name - 20..name + 20).contains(&at) {
            let error = folder.refusal();
            let is_named = matches!(damage(&error), DamageKind::Record { position: 4 });
            assert!(is_named, "byte {at}: {error:?}");
        }
    }
    assert!(refused >= 40);
}

#[tokio::test]
async fn i1_a_damaged_record_that_the_index_has_is_made_good_by_a_snapshot() {
    let folder = Folder::new();
    folder.write(0, 60, 7).await;
    let expected = folder.content().await;
    flip(
        &folder.log_files()[0],
        find(&folder.log_files()[0], b"n0003"),
    );

    let copy = folder.copy().with_index_of_another_boot();
    let error = copy.refusal();
    assert!(matches!(damage(&error), DamageKind::Record { position: 4 }));
    assert!(
        Index::find(copy.path(), INDEX_CACHE_BYTES)
            .unwrap()
            .applied
            .position
            > 0,
        "a refused open leaves the index as it is"
    );

    assert_eq!(folder.content().await, expected);
    assert_eq!(folder.without_index().content().await, expected);
}

#[tokio::test]
async fn i1_a_file_of_the_log_that_is_missing_is_refused_before_anything_is_written() {
    let whole = Folder::new();
    whole.write(0, 100, 7).await;
    let expected = whole.content().await;
    let files = whole.log_files().len();
    assert!(files >= 4, "{files}");
    for n in 0..files {
        let is_newest = n + 1 == files;
        let without = |folder: &Folder| {
            let path = folder.log_files()[n].clone();
            let bytes = std::fs::read(&path).unwrap();
            std::fs::remove_file(&path).unwrap();
            (path, bytes)
        };

        // The index has everything: it makes up for an old file, but nothing proves a new one.
        let folder = whole.copy();
        let (path, bytes) = without(&folder);
        if is_newest {
            let other = whole.copy().with_index_of_another_boot();
            let _ = without(&other);
            for folder in [folder, other] {
                let error = folder.refusal();
                assert!(
                    matches!(damage(&error), DamageKind::Behind { .. }),
                    "{error:?}"
                );
                let text = cstore_types::error_chain(&error).to_string();
                assert!(text.contains("file of the folder log is missing"), "{text}");
            }
        } else {
            assert_eq!(folder.content().await, expected, "file {n}");
            folder.write(200, 1, 8).await;
            let more = folder.content().await;
            assert_eq!(folder.without_index().content().await, more, "file {n}");
        }

        // Without an index to trust only the file itself helps, and it helps wholly.
        for folder in [
            whole.copy().without_index(),
            whole.copy().with_index_of_another_boot(),
        ] {
            if is_newest {
                continue;
            }
            let _ = without(&folder);
            let error = folder.refusal();
            assert!(
                matches!(damage(&error), DamageKind::Gap { .. }),
                "{error:?}"
            );
            let name = path.file_name().unwrap();
            std::fs::write(folder.path().join("log").join(name), &bytes).unwrap();
            assert_eq!(folder.content().await, expected, "file {n}");
        }
    }
}

#[tokio::test]
async fn i1_a_snapshot_that_is_missing_or_damaged_is_written_anew_or_refused() {
    let whole = Folder::new();
    let meta = whole.try_open(32 << 10).unwrap();
    for n in 0..200u32 {
        meta.commit(put(format!("n{n:04}").as_bytes(), vec![7; 3_000]))
            .await
            .unwrap();
    }
    meta.close().await.unwrap();
    drop(meta);
    assert!(covered(whole.path()) > 0);
    let expected = whole.content().await;
    let right = std::fs::read(whole.snapshot()).unwrap();

    let spoil: [(&str, Spoil<'_>); 3] = [
        ("missing", &|folder| {
            std::fs::remove_file(folder.snapshot()).unwrap();
        }),
        ("cut", &|folder| {
            std::fs::write(folder.snapshot(), &right[..right.len() - 1]).unwrap();
        }),
        ("head", &|folder| flip(&folder.snapshot(), 9)),
    ];
    for (what, spoil) in spoil {
        let folder = whole.copy();
        spoil(&folder);
        assert_eq!(folder.content().await, expected, "{what}");
        let folder = folder.without_index();
        assert_eq!(folder.content().await, expected, "{what}");

        for folder in [
            whole.copy().without_index(),
            whole.copy().with_index_of_another_boot(),
        ] {
            spoil(&folder);
            let _ = damage(&folder.refusal());
            std::fs::write(folder.snapshot(), &right).unwrap();
            assert_eq!(folder.content().await, expected, "{what}");
        }
    }

    // A block in its middle is read when it is needed, and BEFORE the index is removed for it.
    let folder = whole.copy().with_index_of_another_boot();
    flip(&folder.snapshot(), right.len() / 2);
    let error = folder.refusal();
    assert_eq!(*damage(&error), DamageKind::SnapshotChecksum);
    let left = Index::find(folder.path(), INDEX_CACHE_BYTES).unwrap();
    assert!(left.applied.position > 0, "the index is still there");
    drop(left);

    let folder = whole.copy().without_index();
    flip(&folder.snapshot(), right.len() / 2);
    let error = folder.refusal();
    assert_eq!(*damage(&error), DamageKind::SnapshotChecksum);
    std::fs::write(folder.snapshot(), &right).unwrap();
    assert_eq!(folder.content().await, expected);
}

#[tokio::test]
async fn i1_files_of_the_log_without_their_owner_are_refused_and_left_as_they_are() {
    let folder = Folder::new();
    folder.write(0, 5, 7).await;
    let expected = folder.content().await;
    let path = folder.path().join("log-owner");
    let owner = std::fs::read(&path).unwrap();
    std::fs::remove_file(&path).unwrap();
    assert_eq!(*damage(&folder.refusal()), DamageKind::LogOwnerMissing);
    assert!(!path.try_exists().unwrap(), "none was made up");
    std::fs::write(&path, owner).unwrap();
    assert_eq!(folder.content().await, expected);
}

/// Scenario 23 of the design of doubt.
#[tokio::test]
async fn i1_s23_an_index_of_another_copy_is_never_served() {
    let ours = Folder::new();
    ours.write(0, 20, 7).await;
    let theirs = ours.copy();
    // As many batches on both sides, so that the positions are the same.
    ours.write(20, 10, 1).await;
    theirs.write(25, 10, 2).await;
    let expected = ours.content().await;
    let mixed = |folder: &Folder| {
        std::fs::remove_dir_all(folder.path().join("index")).unwrap();
        let index = theirs.path().join("index");
        copy_folder(&index, &folder.path().join("index"));
    };
    let folder = ours.copy();
    mixed(&folder);
    assert_eq!(folder.content().await, expected);

    // It does not make up for what the log lacks either.
    let folder = ours.copy();
    mixed(&folder);
    let first = folder.log_files()[0].clone();
    std::fs::remove_file(&first).unwrap();
    let error = folder.refusal();
    assert!(
        matches!(damage(&error), DamageKind::Gap { .. }),
        "{error:?}"
    );
}

#[tokio::test]
async fn i1_a_file_of_the_log_of_another_copy_is_noticed() {
    let ours = Folder::new();
    ours.write(0, 5, 7).await;
    let theirs = ours.copy();
    ours.write(10, 5, 1).await;
    theirs.write(20, 5, 2).await;
    ours.write(30, 5, 3).await;
    let files = ours.log_files();
    let second = files[1].file_name().unwrap();
    std::fs::copy(theirs.path().join("log").join(second), &files[1]).unwrap();
    let error = ours.without_index().refusal();
    assert!(
        matches!(damage(&error), DamageKind::Chain { .. }),
        "{error:?}"
    );
}

/// A part of scenario 22 of the design of doubt: a process that was resumed twice with its memory
/// writes on in one life.
#[tokio::test]
async fn i4_s22_two_copies_of_one_process_are_told_apart_by_their_links() {
    let ours = Folder::new();
    ours.write(0, 5, 7).await;
    let theirs = ours.copy();
    let before = ours.open().head();
    assert_ne!(before.chain, 0);

    // Both go on in the life of the process, with other values.
    for (folder, byte) in [(&ours, 1), (&theirs, 2)] {
        let owner = std::fs::read(folder.path().join("log-owner")).unwrap();
        let log = log_of(folder, owner.try_into().unwrap());
        let mut link = before.chain;
        for n in 1..=3 {
            let position = before.position + n;
            let value = [byte; 3];
            let change = [(&b"nkey"[..], Some(&value[..]))];
            let (payload, next) = record::encode(position, link, change.into_iter());
            link = next;
            append(&log, record::KIND_BATCH, position, payload);
        }
        log.close().unwrap();
    }
    let (ours, theirs) = (ours.open(), theirs.open());
    let judge = |meta: &SledMeta, point| {
        let history = meta.history();
        let link_at = |position| meta.link_at(position);
        place(&history.lives, history.position, link_at, &point)
    };
    assert_eq!(ours.head().life, theirs.head().life);
    assert_eq!(ours.head().position, theirs.head().position);
    assert_eq!(judge(&ours, ours.head()), Place::Contains);
    assert_eq!(judge(&ours, before), Place::Contains);
    assert_eq!(judge(&ours, theirs.head()), Place::Fork);
    assert_eq!(judge(&theirs, ours.head()), Place::Fork);

    // Still known after another life has begun.
    let at = ours.head();
    ours.commit(put(b"nmore", vec![1])).await.unwrap();
    assert_eq!(judge(&ours, at), Place::Contains);
    assert_eq!(judge(&ours, theirs.head()), Place::Fork);
}

#[tokio::test]
async fn i8_a_damaged_value_of_the_index_is_made_anew_at_the_next_open() {
    let folder = Folder::new();
    folder.write(0, 20, 7).await;
    let expected = folder.content().await;
    let FoundIndex { index, .. } = Index::find(folder.path(), INDEX_CACHE_BYTES).unwrap();
    let mut damaged = stored(b"n0003", 4, &[7; 3_000]);
    damaged[100] ^= 1;
    index
        .insert_stored(vec![(b"n0003".to_vec(), damaged)])
        .unwrap();
    index.close().unwrap();
    drop(index);
    // The observer is fed again from the first key on.
    let disk = RealDisk::open(folder.path().join("log")).unwrap();
    let mirror = Arc::new(Mirror::default());
    let meta = SledMeta::open(folder.path(), disk, &options(1 << 30), mirror.clone()).unwrap();
    assert_eq!(content(&meta).await, expected);
    assert_eq!(mirror.copy(), pairs(&meta).await);
}

pub(super) fn log_of(folder: &Folder, owner: [u8; 16]) -> Log {
    let disk = RealDisk::open(folder.path().join("log")).unwrap();
    let options = Options {
        owner,
        file_bytes: 64 << 10,
        max_bytes: 1 << 30,
        reserve_bytes: 1 << 20,
        compaction_bytes: 0,
        floor_bytes: 0,
        ready_files: 0,
        open_files: 8,
        max_frame_bytes: 1 << 20,
        max_queue_bytes: 1 << 20,
        least_seq: 0,
        proven_seq: 0,
        epoch: None,
        inventory: None,
        absent_seqs: Vec::new(),
        callers_write: true,
        is_held: false,
    };
    Log::open(disk, options, &mut |_| ()).unwrap().0
}

pub(super) fn append(log: &Log, kind: u8, position: Position, payload: Vec<u8>) {
    let record = Record {
        kind,
        key: position.to_be_bytes().to_vec().into(),
        payload: payload.into(),
    };
    let (sender, landed) = std::sync::mpsc::sync_channel(1);
    let done = Box::new(move |result: Result<cstore_log::Committed<'_>, _>| {
        sender.send(result.map(|_| ())).unwrap();
    });
    log.append(vec![record], Urgency::Normal, done);
    landed.recv().unwrap().unwrap();
}

/// Two restores of one backup are two histories: what one has told is not a place of the other.
#[tokio::test]
async fn i4_s05_two_restores_of_one_snapshot_are_two_histories() {
    let folder = Folder::new();
    folder.write(0, 20, 7).await;
    let FoundIndex { index, applied, .. } = Index::find(folder.path(), INDEX_CACHE_BYTES).unwrap();
    let at = (applied.position, applied.link);
    snapshot::write_all(folder.path(), &index, at).unwrap();
    drop(index);
    let mut told = Vec::new();
    for byte in [1, 2] {
        let restored = Folder::new();
        std::fs::copy(folder.snapshot(), restored.snapshot()).unwrap();
        let meta = restored.open();
        let before = meta.head();
        meta.commit(put(b"nmore", vec![byte])).await.unwrap();
        let judge = |point| {
            let history = meta.history();
            place(
                &history.lives,
                history.position,
                |at| meta.link_at(at),
                point,
            )
        };
        assert_eq!(judge(&before), Place::Contains, "all of the backup");
        for other in &told {
            assert_eq!(judge(other), Place::Fork);
        }
        told.push(meta.head());
    }
    assert_eq!(told[0].position, told[1].position);
}

/// The next life begins at the position that a lying disk has lost.
#[tokio::test]
async fn i4_s20_a_last_batch_that_a_lying_disk_has_lost_is_missed() {
    let ours = Folder::new();
    ours.write(0, 5, 7).await;
    let lost = ours.copy();
    let meta = ours.open();
    meta.commit(put(b"nlast", vec![1])).await.unwrap();
    let noted = meta.head();
    drop(meta);
    let judge = |meta: &SledMeta| {
        let history = meta.history();
        place(
            &history.lives,
            history.position,
            |at| meta.link_at(at),
            &noted,
        )
    };
    let meta = lost.open();
    assert_ne!(judge(&meta), Place::Contains);
    for n in 0..3 {
        meta.commit(put(&[b'n', n], vec![n])).await.unwrap();
        assert!(meta.position() >= noted.position);
        assert_ne!(judge(&meta), Place::Contains);
    }
}
