//! Report on a disk for people: the part of `cstore admin inspect` that looks at a storage disk.
//!
//! Nothing in the folder is changed: files are opened for reading only, and the disk is opened over
//! an overlay in memory. The lock of the disk is held, shared, until the report is made, so that no
//! node changes the files under it; a node that starts in that time is refused as if another one
//! ran.

use std::collections::BTreeSet;
use std::io::{self, ErrorKind};
use std::path::{Path, PathBuf};

use cstore_log::{FileState, FolderReader, LockGuard, OverlayDisk, file_name};
use cstore_types::inspection::{Findings, Inspection, MasterFacts, PayloadScope, StartOutcome};
use cstore_types::{NodeId, SessionId, StoreUuid, error_chain};

use crate::engine::examine::{DamagedBlock, Examination, Opened, Subject, examine};
use crate::engine::{
    Doubt, DoubtKind, INVENTORY_FILE, LOCK_FILE, Look, SEGMENTS_DIR, SUPERBLOCK_FILE,
};
use crate::limits::MAX_NAMED_ACCEPTS;

/// Report on a disk, with what the master's metadata can say more about.
#[derive(Debug)]
pub struct DiskInspection {
    /// The report.
    pub inspection: Inspection,
    /// Identity of the disk, if it is known.
    pub store: Option<StoreUuid>,
    /// Sessions whose files need something that is damaged or missing.
    pub hit: BTreeSet<SessionId>,
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
}

impl InspectError {
    fn of(path: &Path) -> impl Fn(io::Error) -> Self {
        move |source| Self::Unreadable {
            path: path.to_path_buf(),
            source,
        }
    }
}

/// Returns true if a folder holds a storage disk, or what is left of one.
///
/// # Errors
/// [`InspectError`] if the folder cannot be read.
pub fn is_disk(folder: &Path) -> Result<bool, InspectError> {
    for name in [SUPERBLOCK_FILE, INVENTORY_FILE, SEGMENTS_DIR] {
        let path = folder.join(name);
        if path.try_exists().map_err(InspectError::of(&path))? {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Looks at the disk in `folder`, and judges it by what `master` knows of it if that is given.
/// Changes nothing. Blocks the thread, for as long as the payloads take to be read.
///
/// # Errors
/// [`InspectError`] if this user may not read the folder.
pub fn inspect(
    folder: &Path,
    payloads: PayloadScope,
    master: Option<&MasterFacts>,
) -> Result<DiskInspection, InspectError> {
    let path = folder.display().to_string();
    let mut inspection = Inspection::new("storage", path.clone());
    let reader = FolderReader::of(folder);
    let lock: Option<LockGuard> = match reader.lock(LOCK_FILE) {
        Ok(lock) => Some(lock),
        Err(error) if error.kind() == ErrorKind::WouldBlock => {
            let start = "a node runs on the disk, so nothing was judged: ask it by `cstore admin hold list`, or stop it and \
                         inspect again";
            return Ok(DiskInspection {
                inspection: inspection.end(StartOutcome::InUse, start.to_owned()),
                store: None,
                hit: BTreeSet::new(),
            });
        }
        Err(error) if error.kind() == ErrorKind::NotFound => None,
        Err(error) => return Err(InspectError::of(&folder.join(LOCK_FILE))(error)),
    };
    let (segments, bytes) = check_readable(folder)?;

    let name = folder.file_name().and_then(|name| name.to_str());
    let node = name.and_then(|name| NodeId::new(name).ok());
    let node = node.unwrap_or_else(|| NodeId::new("storage").expect("a valid name"));
    let subject = Subject {
        disk: OverlayDisk::measured_over(reader),
        path: &path,
        node,
        bytes,
        payloads,
        master,
    };
    let examination = examine(&subject);
    drop(lock);

    say_disk(&mut inspection, &examination);
    inspection.fact("segments", format!("{segments} files, {bytes} bytes"));
    if let Ok(opened) = &examination.opened {
        say_opened(&mut inspection, opened, payloads);
    }
    let (outcome, start) = conclude(&examination);
    let hit = examination.opened.as_ref().map(|opened| opened.hit.clone());
    Ok(DiskInspection {
        inspection: inspection.end(outcome, start),
        store: examination.look.ok().and_then(|look| look.store()),
        hit: hit.unwrap_or_default(),
    })
}

/// Checks that this user may read every file, so that a file that only others may read is not taken
/// for damaged. Returns the number of segments and the bytes of all files.
fn check_readable(folder: &Path) -> Result<(u64, u64), InspectError> {
    let (mut segments, mut bytes) = (0, 0);
    for (folder, is_of_segments) in [
        (folder.to_path_buf(), false),
        (folder.join(SEGMENTS_DIR), true),
    ] {
        let entries = match std::fs::read_dir(&folder) {
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            entries => entries.map_err(InspectError::of(&folder))?,
        };
        for entry in entries {
            let path = entry.map_err(InspectError::of(&folder))?.path();
            let metadata = std::fs::metadata(&path).map_err(InspectError::of(&path))?;
            if !metadata.is_file() {
                continue;
            }
            match std::fs::File::open(&path) {
                Err(error) if error.kind() == ErrorKind::PermissionDenied => {
                    return Err(InspectError::of(&path)(error));
                }
                // The open of the disk says what any other error is.
                _ => {}
            }
            bytes += metadata.len();
            segments += u64::from(is_of_segments);
        }
    }
    Ok((segments, bytes))
}

/// Adds what superblock and inventory say.
fn say_disk(inspection: &mut Inspection, examination: &Examination) {
    let slots = match &examination.slots {
        Ok((4, _)) => "4 of 4 slots valid".to_owned(),
        Ok((valid, 0)) => format!("{valid} of 4 slots valid, the others are empty"),
        Ok((valid, damaged)) => format!("{valid} of 4 slots valid, {damaged} damaged"),
        Err(error) if error.kind() == ErrorKind::NotFound => "superblock.bin is missing".to_owned(),
        Err(error) => format!("superblock.bin cannot be read: {error}"),
    };
    let look = examination.look.as_ref().ok();
    if let Some(superblock) = look.and_then(Look::superblock) {
        inspection.fact("store", superblock.store);
        inspection.fact("cluster", superblock.cluster);
        inspection.fact("node", &superblock.node);
        inspection.fact("FS_SIZE", format!("{} bytes", superblock.capacity));
        let clean = match superblock.clean {
            true => "yes",
            false => "no, it was killed or lost power",
        };
        inspection.fact("stopped cleanly", clean);
    } else if let Some(store) = look.and_then(Look::store) {
        inspection.fact("store", format!("{store}, as the segments say"));
    }
    inspection.fact("superblock", slots);
    inspection.fact("inventory", &examination.inventory);
    if look.and_then(Look::superblock).is_none() {
        let size = format!("not known; judged as for {} bytes", examination.capacity);
        inspection.fact("FS_SIZE", size);
    }
}

/// Adds what the open and the reads have found.
fn say_opened(inspection: &mut Inspection, opened: &Opened, scope: PayloadScope) {
    let Opened {
        report,
        payloads,
        sets,
        ..
    } = opened;
    let state = |state| {
        opened
            .files
            .iter()
            .filter(|file| file.state == state)
            .count()
    };
    let (sealed, cut) = (state(FileState::Sealed), state(FileState::Cut));
    inspection.fact(
        "records",
        format!(
            "{} in {sealed} sealed and {cut} cut segments",
            report.records
        ),
    );
    let damaged = payloads
        .damaged
        .iter()
        .filter(|block| block.is_needed)
        .count();
    inspection.fact(
        "blocks",
        format!("{}, {damaged} that files need are damaged", payloads.blocks),
    );
    inspection.fact(
        "reference sets",
        format!("{} whole, {} damaged", sets.whole, sets.damaged.len()),
    );
    let verified = match (scope, opened.has_key) {
        (PayloadScope::None, _) => "headers, footers and reference sets; no payloads".to_owned(),
        (_, true) => format!(
            "headers, footers, reference sets, {} segments with every frame, {} blocks against their ids",
            payloads.checked_segments, payloads.checked
        ),
        (_, false) => format!(
            "headers, footers, reference sets, {} segments with every frame; block ids not, because the cluster's key is not \
             in this folder (inspect the whole data folder for that)",
            payloads.checked_segments
        ),
    };
    inspection.fact("verified", verified);
    let judged = match opened.is_judged {
        true => "yes, by the metadata in this data folder",
        false => "no: only the master can tell whether the disk is an older copy or lacks files",
    };
    inspection.fact("compared with master", judged);

    list_segments(inspection, opened);
    list_losses(inspection, opened);
}

/// Adds the doubts, and what is damaged of segments.
fn list_segments(inspection: &mut Inspection, opened: &Opened) {
    let Opened {
        report, payloads, ..
    } = opened;
    let segments = |ids: &[u32]| ids.iter().map(|id| file_name(*id)).collect::<Vec<_>>();
    let named = |doubt: &Doubt| {
        let accepted = if doubt.accepted { "accepted: " } else { "" };
        format!("{} {}: {accepted}{doubt}", doubt.number, doubt.kind.name())
    };
    inspection.list(Findings::of("doubts", opened.doubts.iter().map(named)));
    inspection.list(Findings::of(
        "doubts that are disproved",
        opened.closed.iter().map(named),
    ));
    inspection.list(Findings::of(
        "damaged headers, which a start writes anew",
        segments(&report.damaged_headers),
    ));
    inspection.list(Findings::of(
        "footers that are damaged or unfinished, which a start writes anew or does without",
        segments(&report.damaged_footers),
    ));
    let unreadable = report.unreadable.iter();
    let unreadable = unreadable.map(|file| format!("{}: {}", file_name(file.file), file.damage));
    inspection.list(Findings::of(
        "segments of which nothing can be read",
        unreadable,
    ));
    inspection.list(Findings::of("damaged parts of segments", holes(opened)));
    let failed = payloads.failed.iter();
    let failed = failed.map(|(file, error)| format!("{}: {error}", file_name(*file)));
    inspection.list(Findings::of(
        "segments whose payloads cannot be read",
        failed,
    ));
}

/// Adds the blocks and sets that are lost, and the uploads that need them.
fn list_losses(inspection: &mut Inspection, opened: &Opened) {
    let Opened { payloads, sets, .. } = opened;
    let block = |block: &DamagedBlock| {
        let (file, offset) = (file_name(block.location.file), block.location.offset);
        let needed = if block.is_needed {
            ""
        } else {
            ", which no file needs"
        };
        format!(
            "{} in {file} at offset {offset}, {} bytes{needed}",
            block.id, block.location.len
        )
    };
    let blocks = match opened.has_key {
        true => "damaged blocks",
        false => "blocks of damaged frames, one of each frame at least is damaged",
    };
    inspection.list(Findings::of(blocks, payloads.damaged.iter().map(block)));
    let set = |(session, location, error): &(SessionId, cstore_log::Location, String)| {
        let (file, offset) = (file_name(location.file), location.offset);
        format!("of upload {session} in {file} at offset {offset}: {error}")
    };
    inspection.list(Findings::of(
        "damaged reference sets",
        sets.damaged.iter().map(set),
    ));
    inspection.list(Findings::of(
        "uploads without a reference set here",
        &opened.lost,
    ));
    inspection.list(Findings::of(
        "uploads that need what is damaged or missing",
        &opened.hit,
    ));
}

/// Returns the damaged parts that the open and the reads have found, each once.
fn holes(opened: &Opened) -> Vec<String> {
    let mut found: Vec<_> = opened.report.holes.clone();
    for hole in &opened.payloads.holes {
        if !found
            .iter()
            .any(|known| (known.file, known.offset) == (hole.file, hole.offset))
        {
            found.push(*hole);
        }
    }
    let say = |hole: &cstore_log::Hole| {
        let (file, (first, last)) = (file_name(hole.file), hole.seqs);
        let (offset, len) = (hole.offset, hole.len);
        format!(
            "{file}: offset {offset}, {len} bytes, writes {first} to {last}: {}",
            hole.damage
        )
    };
    found.iter().map(say).collect()
}

/// Returns what a start would do.
fn conclude(examination: &Examination) -> (StartOutcome, String) {
    let opened = match (&examination.look, &examination.opened) {
        (Err(error), _) | (_, Err(error)) => {
            return (
                StartOutcome::Refused,
                format!("refuses: {}", error_chain(error)),
            );
        }
        (Ok(_), Ok(opened)) => opened,
    };
    let losses = losses(opened);
    let open: Vec<&Doubt> = opened
        .doubts
        .iter()
        .filter(|doubt| !doubt.accepted)
        .collect();
    if opened.reason.is_some() {
        return (StartOutcome::Held, say_hold(opened, &open, &losses));
    }
    if !losses.is_empty() {
        let losses = losses.join(", ");
        return (
            StartOutcome::Damaged,
            format!("starts; {losses}; nothing else is lost"),
        );
    }
    let report = &opened.report;
    let is_mended = !report.damaged_headers.is_empty()
        || !report.damaged_footers.is_empty()
        || !report.holes.is_empty()
        || !opened.payloads.holes.is_empty()
        || !opened.payloads.damaged.is_empty();
    match is_mended {
        true => {
            let start =
                "starts; parts of segments are damaged, but nothing that a file needs is lost";
            (StartOutcome::Damaged, start.to_owned())
        }
        false => (StartOutcome::Whole, "starts whole".to_owned()),
    }
}

/// Returns what is lost, in words.
fn losses(opened: &Opened) -> Vec<String> {
    let blocks = opened
        .payloads
        .damaged
        .iter()
        .filter(|block| block.is_needed)
        .count();
    let mut losses = Vec::new();
    match (blocks, opened.has_key) {
        (0, _) => {}
        (1, true) => losses.push("1 block is unreadable".to_owned()),
        (_, true) => losses.push(format!("{blocks} blocks are unreadable")),
        (_, false) => losses.push(format!(
            "of {blocks} blocks in damaged frames some are unreadable"
        )),
    }
    let (absent, sets, lost) = (
        opened.sets.absent,
        opened.sets.damaged.len(),
        opened.lost.len(),
    );
    if absent > 0 {
        losses.push(format!(
            "blocks that are not here and that files need: {absent}"
        ));
    }
    if sets > 0 {
        losses.push(format!("damaged reference sets: {sets}"));
    }
    if lost > 0 {
        losses.push(format!("uploads without a reference set: {lost}"));
    }
    if !opened.payloads.failed.is_empty() {
        losses.push(format!(
            "segments that cannot be read: {}",
            opened.payloads.failed.len()
        ));
    }
    losses
}

fn say_hold(opened: &Opened, open: &[&Doubt], losses: &[String]) -> String {
    let kind = match opened.read_only {
        Some(_) => "starts on hold and read-only: it takes no uploads and frees nothing",
        None if open.iter().any(|doubt| doubt.kind == DoubtKind::Master) => {
            "starts on hold: it serves reads, takes no uploads and frees nothing"
        }
        None => "starts on hold: it serves reads and uploads, and frees nothing",
    };
    let known = match losses {
        [] => String::new(),
        losses => format!("; {}", losses.join(", ")),
    };
    let node = opened
        .node
        .as_ref()
        .map_or_else(|| "NODE".to_owned(), ToString::to_string);
    let mut accepts: Vec<String> = open
        .iter()
        .take(MAX_NAMED_ACCEPTS)
        .map(|doubt| format!("cstore admin hold accept {node} {}", doubt.number))
        .collect();
    if open.len() > MAX_NAMED_ACCEPTS {
        accepts.push("the other doubts alike".to_owned());
    }
    let reason = opened.reason.clone().unwrap_or_default();
    let way_out = match &accepts[..] {
        [] => "restart the node to see what else is in doubt".to_owned(),
        accepts => format!(
            "put back {} and start again, or start and go on without it, for good: {}",
            remedies(open),
            accepts.join(", ")
        ),
    };
    format!("{kind}, because {reason}{known}; {way_out}")
}

/// Returns the parts to put back, so that the doubts end. Unreadable data is not listed as missing.
fn remedies(open: &[&Doubt]) -> String {
    let mut things: Vec<&str> = Vec::new();
    for doubt in open {
        let thing = match doubt.kind {
            DoubtKind::Missing | DoubtKind::Absent | DoubtKind::LostSets => "what is missing",
            DoubtKind::Inventory | DoubtKind::Superblock => "what is missing or damaged",
            DoubtKind::Short | DoubtKind::Damaged | DoubtKind::Set => {
                "a whole copy of what is damaged"
            }
            DoubtKind::Foreign => "the right file in place of the foreign one",
            DoubtKind::StoreOlder => "the newest disk",
            DoubtKind::Master => "the newest folder of the master",
        };
        if !things.contains(&thing) {
            things.push(thing);
        }
    }
    things.join(" and ")
}
