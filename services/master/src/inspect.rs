//! Report on the folder of a master for people: the part of `cstore admin inspect` that looks at
//! metadata.
//!
//! Nothing in the folder is changed: the log is opened over an overlay in memory, the index is copied
//! to a folder for temporary files. The lock of the folder is held, shared, as long as the report
//! lives; a master that starts in that time is refused as if another one ran.

use std::collections::{BTreeSet, HashMap};
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use cstore_log::{Disk, FolderReader, LockGuard, OverlayDisk, parse_file_name};
use cstore_types::inspection::{
    Findings, Inspection, KnownDisk, MasterFacts, PayloadScope, StartOutcome,
};
use cstore_types::{SessionId, StoreUuid, error_chain};

use crate::domain::Derived;
use crate::limits::INSPECTED_PAGE;
use crate::store::keys::{self, ClusterRecord, FileRecord, SessionRecord, StoreRecord};
use crate::store::{
    Examination, MetaError, MetaStore, Versioned, examine, path_of_inspection, remove_leftovers,
};

/// Report on metadata, open as long as it lives.
#[derive(Debug)]
pub struct MetadataInspection {
    /// The report.
    pub inspection: Inspection,
    /// Facts by which disks are judged, if the metadata can be read.
    pub facts: Option<MasterFacts>,
    examination: Option<Examination>,
    _lock: Option<LockGuard>,
}

/// Why nothing could be shown.
#[derive(Debug, thiserror::Error)]
pub enum InspectError {
    /// A file or folder cannot be read by this user.
    #[error("read {}", path.display())]
    Unreadable {
        /// The file or folder.
        path: PathBuf,
        /// The system's error.
        source: io::Error,
    },
    /// The folder for temporary files has no room for the index, or cannot be written.
    #[error("copy the index of {} to {} (TMPDIR)", folder.display(), scratch.display())]
    Scratch {
        /// The folder of the master.
        folder: PathBuf,
        /// The folder for the copy.
        scratch: PathBuf,
        /// The reason.
        source: MetaError,
    },
    /// The system has no random bytes.
    #[error("choose a random number")]
    Random(#[source] getrandom::Error),
}

impl InspectError {
    fn of(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Unreadable {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Returns true if a folder holds a master's metadata, or what is left of it.
///
/// # Errors
/// [`InspectError`] if the folder cannot be read.
pub fn is_metadata(folder: &Path) -> Result<bool, InspectError> {
    for name in ["log", "log-owner", "index", "snapshot.bin"] {
        let path = folder.join(name);
        if path.try_exists().map_err(InspectError::of(&path))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looks at the metadata in `folder`. Changes nothing there; makes a folder for a copy of the index in
/// the system's folder for temporary files. Blocks the thread.
///
/// # Errors
/// [`InspectError`] if this user may not read the folder, or there is no room for the copy.
pub fn inspect(folder: &Path, payloads: PayloadScope) -> Result<MetadataInspection, InspectError> {
    let folder = &folder.canonicalize().map_err(InspectError::of(folder))?;
    let mut inspection = Inspection::new("master", folder.display().to_string());
    let reader = FolderReader::of(folder);
    let lock = match reader.lock("LOCK") {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let start = "a master runs on the folder, so nothing was judged: look at its /ready, or stop it and inspect again";
            return Ok(MetadataInspection {
                inspection: inspection.end(StartOutcome::InUse, start.to_owned()),
                facts: None,
                examination: None,
                _lock: None,
            });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(InspectError::of(&folder.join("LOCK"))(error)),
    };
    let (log_files, log_bytes) = check_readable(folder)?;

    remove_leftovers();
    let scratch = path_of_inspection().map_err(InspectError::Random)?;
    let log = OverlayDisk::measured_over(reader).subdir("log");
    let log: Arc<dyn Disk> = log.map_err(InspectError::of(&folder.join("log")))?;
    let derived = Arc::new(Derived::default());
    let verifies = payloads != PayloadScope::None;
    let examination =
        examine(folder, &log, scratch.clone(), derived, verifies).map_err(|source| {
            InspectError::Scratch {
                folder: folder.clone(),
                scratch,
                source,
            }
        })?;

    inspection.fact("log", format!("{log_files} files, {log_bytes} bytes"));
    inspection.fact("snapshot", &examination.snapshot);
    let there = |name: &str| match folder.join(name).try_exists() {
        Ok(true) => "there",
        Ok(false) => "missing",
        Err(_) => "cannot be read",
    };
    let index = there("index");
    let has_index = index == "there";
    inspection.fact("index", index);
    inspection.fact("log-owner", there("log-owner"));
    let mut facts = None;
    if let Ok(store) = &examination.store {
        facts = read_facts(&**store, &mut inspection);
    }
    inspection.fact("verified", verified(&examination, verifies, has_index));
    let (outcome, start) = conclude(&examination);
    Ok(MetadataInspection {
        inspection: inspection.end(outcome, start),
        facts,
        examination: Some(examination),
        _lock: lock,
    })
}

impl MetadataInspection {
    /// Returns the names of the files whose blocks belong to one of `sessions`.
    pub fn files_of(&self, sessions: &BTreeSet<SessionId>) -> Findings {
        let mut files = Findings::new("files that need what is damaged or missing");
        let store = self.examination.as_ref().map(|found| &found.store);
        let Some(Ok(store)) = store else {
            return files;
        };
        for_each(&**store, keys::NAMES, &mut |key, value| {
            let is_hit =
                FileRecord::decode(&value.value).is_ok_and(|file| sessions.contains(&file.session));
            if is_hit {
                let mut parts = key
                    .get(1..)
                    .unwrap_or_default()
                    .splitn(2, |byte| *byte == 0);
                let tenant = String::from_utf8_lossy(parts.next().unwrap_or_default());
                let name = String::from_utf8_lossy(parts.next().unwrap_or_default());
                files.push(match &*tenant {
                    "" | "default" => name.into_owned(),
                    tenant => format!("{name} of tenant {tenant}"),
                });
            }
        });
        files
    }
}

/// Checks that this user may read every file, so that a file that only others may read is not taken
/// for damaged. Returns the number of log files and their bytes.
fn check_readable(folder: &Path) -> Result<(u64, u64), InspectError> {
    let (mut files, mut bytes) = (0, 0);
    for name in ["", "log", "index"] {
        let folder = folder.join(name);
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(InspectError::of(&folder))?,
        };
        for entry in entries {
            let entry = entry.map_err(InspectError::of(&folder))?;
            let path = entry.path();
            let metadata = std::fs::metadata(&path).map_err(InspectError::of(&path))?;
            if !metadata.is_file() {
                continue;
            }
            match std::fs::File::open(&path) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(InspectError::of(&path)(error));
                }
                // The open of the metadata says what any other error is.
                _ => {}
            }
            if name == "log" && parse_file_name(&entry.file_name().to_string_lossy()).is_some() {
                files += 1;
                bytes += metadata.len();
            }
        }
    }
    Ok((files, bytes))
}

/// Calls `visit` with every key of a kind and its value. Values that cannot be read are left out.
fn for_each(store: &dyn MetaStore, kind: u8, visit: &mut dyn FnMut(&[u8], &Versioned)) {
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let Ok(runtime) = runtime else { return };
    let mut after: Option<Vec<u8>> = None;
    loop {
        let page = runtime.block_on(store.scan(&[kind], after.as_deref(), INSPECTED_PAGE));
        let Ok(page) = page else { return };
        let Some((last, _)) = page.last() else { return };
        after = Some(last.clone());
        for (key, value) in &page {
            visit(key, value);
        }
    }
}

/// Reads the facts by which disks are judged, and reports the cluster, the position and the number of
/// names.
fn read_facts(store: &dyn MetaStore, inspection: &mut Inspection) -> Option<MasterFacts> {
    let runtime = tokio::runtime::Builder::new_current_thread().build().ok()?;
    let cluster = match runtime.block_on(store.get(keys::CLUSTER)) {
        Ok(Some(found)) => ClusterRecord::decode(&found.value).ok(),
        Ok(None) | Err(_) => None,
    };
    match &cluster {
        Some(cluster) => inspection.fact("cluster", cluster.cluster),
        None => inspection.fact("cluster", "none"),
    }
    let history = store.history();
    let mut disks: HashMap<StoreUuid, KnownDisk> = HashMap::new();
    for_each(store, keys::STORES, &mut |key, value| {
        let store = keys::uuid_of(key).map(StoreUuid::from_bytes);
        if let (Ok(store), Ok(record)) = (store, StoreRecord::decode(&value.value)) {
            let known = KnownDisk {
                node: record.node,
                seen: record.seen,
                accepted: record.accepted,
                sessions: Vec::new(),
            };
            disks.insert(store, known);
        }
    });
    for_each(store, keys::SESSIONS, &mut |key, value| {
        let session = keys::uuid_of(key).map(SessionId::from_bytes);
        let record = SessionRecord::decode(&value.value);
        if let (Ok(session), Ok(SessionRecord::Committed(committed))) = (session, record) {
            for store in &committed.stores {
                if let Some(known) = disks.get_mut(store) {
                    known.sessions.push(session);
                }
            }
        }
    });
    let mut names: u64 = 0;
    for_each(store, keys::NAMES, &mut |_, _| names += 1);

    inspection.fact("position", history.position);
    inspection.fact("names", names);
    let mut known: Vec<String> = disks
        .iter()
        .map(|(store, disk)| format!("{} of node {}", store, disk.node))
        .collect();
    known.sort();
    inspection.fact("disks", known.join(", "));
    let state = store.writer_state().borrow().clone();
    Some(MasterFacts {
        cluster: cluster.map(|cluster| (cluster.cluster, cluster.dedup_key)),
        head: history.head(),
        lives: history.lives,
        disks,
        is_read_only: state.read_only().is_some(),
    })
}

/// Returns the parts of the folder that were verified, in words. Damage ends the verification of
/// snapshot and log.
fn verified(examination: &Examination, verifies: bool, has_index: bool) -> String {
    let note = examination.note.as_ref();
    let is_whole = note.is_some_and(|note| note.hole.is_none() && note.damage.is_none());
    let has_snapshot = examination.snapshot != "missing";
    let of_log = match (is_whole, verifies) {
        (true, true) if has_snapshot => "all of log and snapshot",
        (true, true) => "all of the log",
        (true, false) => "the end of the log",
        (false, _) => "a part of log and snapshot, because of the damage",
    };
    match has_index {
        true => format!("{of_log}, and the index"),
        false => of_log.to_owned(),
    }
}

/// Returns what a start would do.
fn conclude(examination: &Examination) -> (StartOutcome, String) {
    let store = match &examination.store {
        Ok(store) => store,
        Err(error) => {
            let error = error_chain(error);
            return (StartOutcome::Refused, format!("refuses: {error}"));
        }
    };
    if let Some(why) = store.writer_state().borrow().read_only() {
        return (StartOutcome::Held, format!("starts read-only: {why}"));
    }
    let Some(note) = &examination.note else {
        return (StartOutcome::Whole, "starts whole".to_owned());
    };
    if let Some(hole) = &note.hole {
        let start = format!(
            "starts, and repairs from the index what snapshot and log lack ({}): nothing is lost",
            error_chain(hole)
        );
        return (StartOutcome::Damaged, start);
    }
    if let Some(damage) = &note.damage {
        let start = format!(
            "starts; snapshot or log are damaged ({}), and the rest of the folder has everything, so nothing is lost as long as \
             the rest is there. Write it down before the next start: cstore admin rescue FILE",
            error_chain(damage)
        );
        return (StartOutcome::Damaged, start);
    }
    (StartOutcome::Whole, format!("starts whole{}", note.plan))
}
