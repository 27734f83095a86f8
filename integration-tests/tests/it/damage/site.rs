//! Places of structures in an undamaged data folder.

use std::ops::Range;
use std::path::{Path, PathBuf};

use super::cells::{Cell, Structure};
use super::corpus::{Oracle, Segment, TAIL};
use super::fixture::{Fixture, STORAGE, files_of};
use super::format::{
    BLOCK, CHECKED_HEADER, Frame, KIND_DATA, KIND_RELEASE, KIND_SET, LogFile, Record, images, slots,
};

/// Random choices of one cell.
#[derive(Debug)]
pub(super) struct Choices(u64);

/// Place of a structure.
#[derive(Debug)]
pub(super) struct Site {
    /// Path below the data folder.
    pub(super) path: PathBuf,
    /// Bytes that a checksum of the program covers.
    pub(super) ranges: Vec<Range<usize>>,
}

impl Choices {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not 0.
    pub(super) fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from((self.0 >> 16) % bound as u64).unwrap()
    }

    /// Returns a random one of `items`; `None` if there are none.
    pub(super) fn pick<T>(&mut self, items: impl IntoIterator<Item = T>) -> Option<T> {
        let mut items: Vec<T> = items.into_iter().collect();
        if items.is_empty() {
            return None;
        }
        let n = self.below(items.len());
        Some(items.swap_remove(n))
    }

    /// The same items in random order.
    pub(super) fn shuffle<T>(&mut self, mut items: Vec<T>) -> Vec<T> {
        for n in (1..items.len()).rev() {
            items.swap(n, self.below(n + 1));
        }
        items
    }
}

impl Site {
    /// A structure of one range.
    fn of(path: impl Into<PathBuf>, range: Range<usize>) -> Self {
        Self::new(path, vec![range])
    }

    fn new(path: impl Into<PathBuf>, ranges: Vec<Range<usize>>) -> Self {
        Self {
            path: path.into(),
            ranges,
        }
    }

    /// Finds the structure of a cell; `None` if the folder has no such structure.
    pub(super) fn find(fixture: &Fixture, cell: &Cell, choices: &mut Choices) -> Option<Self> {
        use Structure::*;

        let folder = fixture.folder(cell.state);
        let oracle = fixture.oracle(cell.state);
        let whole = |path: PathBuf| {
            let length = std::fs::metadata(folder.join(&path)).ok()?.len();
            Some(Self::of(path, 0..usize::try_from(length).unwrap()))
        };
        let on_disk = |name: &str| Path::new(STORAGE).join(name);
        let superblock = || slots(&std::fs::read(folder.join(on_disk("superblock.bin"))).unwrap());
        let inventory = || images(&std::fs::read(folder.join(on_disk("inventory.bin"))).unwrap());

        match cell.structure {
            NewestSlot => Some(superblock()[..1].to_vec()).map(|slot| (slot, "superblock.bin")),
            OtherSlot => choices
                .pick(superblock().into_iter().skip(1))
                .map(|slot| (vec![slot], "superblock.bin")),
            AllSlots => Some((superblock(), "superblock.bin")),
            NewestImage => Some((inventory()[..1].to_vec(), "inventory.bin")),
            AllImages => Some((inventory(), "inventory.bin")),
            _ => None,
        }
        .map(|(ranges, name)| Self::new(on_disk(name), ranges))
        .or_else(|| match cell.structure {
            Superblock => whole(on_disk("superblock.bin")),
            Inventory => whole(on_disk("inventory.bin")),
            Bitmap => whole(on_disk("bitmap.bin")),
            Lock => whole(on_disk("LOCK")),
            Snapshot => whole("master/snapshot.bin".into()),
            LogOwner => whole("master/log-owner".into()),
            Index => whole(largest_below(&folder, Path::new("master/index"))),
            SealedLogFrame | SealedLogRecord | NewestLogRecord | SealedLog | NewestLog => {
                log_site(&folder, cell.structure, choices)
            }
            _ => segment_site(oracle, &folder, cell.structure, choices),
        })
    }
}

/// Path of the largest file of a folder and its folders, relative to `root`.
fn largest_below(root: &Path, folder: &Path) -> PathBuf {
    let mut folders = vec![root.join(folder)];
    let mut largest = (0, PathBuf::new());
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap();
            let metadata = entry.metadata().unwrap();
            if metadata.is_dir() {
                folders.push(entry.path());
            } else if metadata.len() >= largest.0 {
                largest = (metadata.len(), entry.path());
            }
        }
    }
    largest.1.strip_prefix(root).unwrap().to_path_buf()
}

/// Finds a structure of the master's log. Frames that the snapshot covers are needed by nobody, so
/// only later ones are damaged.
fn log_site(folder: &Path, structure: Structure, choices: &mut Choices) -> Option<Site> {
    let snapshot = std::fs::read(folder.join("master/snapshot.bin")).unwrap();
    let covered = u64::from_le_bytes(snapshot[8..16].try_into().unwrap());
    let mut files: Vec<(PathBuf, LogFile)> = files_of(&folder.join("master/log"))
        .into_iter()
        .map(|path| {
            let file = LogFile::parse(&std::fs::read(&path).unwrap());
            (path.strip_prefix(folder).unwrap().to_path_buf(), file)
        })
        .collect();
    let is_needed = |frame: &&Frame| {
        frame.records.iter().any(|record| {
            record.kind == 7 && u64::from_be_bytes(record.key[..8].try_into().unwrap()) > covered
        })
    };
    let (newest_path, newest) = files.pop()?;
    let whole = |path: PathBuf| {
        let length = std::fs::metadata(folder.join(&path)).unwrap().len();
        Some(Site::of(path, 0..usize::try_from(length).unwrap()))
    };

    if structure == Structure::NewestLog {
        return whole(newest_path);
    }
    if structure == Structure::NewestLogRecord {
        let frames = &newest.frames[..newest.frames.len().saturating_sub(TAIL)];
        let frame = choices.pick(frames.iter().filter(is_needed))?;
        let record = choices.pick(&frame.records)?;
        return Some(Site::of(newest_path, record.payload.clone()));
    }
    files.retain(|(_, file)| file.frames.iter().any(|frame| is_needed(&frame)));
    let (path, file) = choices.pick(files)?;
    if structure == Structure::SealedLog {
        return whole(path);
    }
    let frame = choices.pick(file.frames.iter().filter(is_needed))?;
    let range = match structure {
        Structure::SealedLogFrame => choices.pick([
            frame.start..frame.start + CHECKED_HEADER,
            frame.directory.clone(),
        ])?,
        _ => choices.pick(&frame.records)?.payload.clone(),
    };
    Some(Site::of(path, range))
}

/// Finds a structure of a segment that kept files need.
fn segment_site(
    oracle: &Oracle,
    folder: &Path,
    structure: Structure,
    choices: &mut Choices,
) -> Option<Site> {
    use Structure::*;

    let is_crashed = matches!(
        structure,
        CrashedHeader
            | CrashedFrame
            | CrashedDirectory
            | CrashedBlock
            | CrashedSet
            | CrashedSegment
    );
    let is_needed = |segment: &&Segment| {
        let frames = segment.file.frames.iter();
        segment.file.footer.is_none() == is_crashed
            && frames
                .into_iter()
                .any(|frame| !oracle.files_of_frame(frame).is_empty())
    };
    let fitting: Vec<&Segment> = oracle.segments.iter().filter(is_needed).collect();

    match structure {
        SealedHeader | CrashedHeader => {
            let segment = choices.pick(fitting)?;
            Some(Site::of(&segment.path, 0..BLOCK))
        }
        SealedSegment | CrashedSegment => {
            // A missing segment with sets of blocks in others does the most harm.
            let hidden = |segment: &&Segment| oracle.hidden_by_segment(&segment.path);
            let hiding = fitting
                .iter()
                .copied()
                .filter(|segment| hidden(segment) > 0);
            let segment = match structure {
                SealedSegment if choices.below(2) == 0 => {
                    fitting.iter().copied().max_by_key(hidden)
                }
                SealedSegment => choices.pick(hiding),
                _ => choices.pick(fitting),
            }?;
            let length = std::fs::metadata(folder.join(&segment.path)).unwrap().len();
            let range = 0..usize::try_from(length).unwrap();
            Some(Site::of(&segment.path, range))
        }
        Footer => {
            let segment = choices.pick(fitting)?;
            let parts = [segment.file.footer.clone()?, segment.file.trailer.clone()];
            Some(Site::of(&segment.path, choices.pick(parts)?))
        }
        SealedFrame | CrashedFrame | SealedDirectory | CrashedDirectory => {
            let frames = fitting.iter().flat_map(|segment| {
                let frames = segment.settled_frames().iter();
                frames.map(|frame| (&segment.path, frame))
            });
            let needed = frames.filter(|(_, frame)| !oracle.files_of_frame(frame).is_empty());
            let (path, frame) = choices.pick(needed)?;
            let range = match structure {
                SealedFrame | CrashedFrame => frame.start..frame.start + CHECKED_HEADER,
                _ => frame.directory.clone(),
            };
            Some(Site::of(path, range))
        }
        Release => {
            let released = |frame: &Frame| frame.records.iter().all(|r| r.kind == KIND_RELEASE);
            let records = records(oracle.segments.iter(), &released);
            let (path, record) = choices.pick(records)?;
            Some(Site::of(path, record.entry.clone()))
        }
        _ => {
            let is_block = matches!(structure, SealedBlock | CrashedBlock);
            let records = records(fitting.into_iter(), &|_| true);
            let fits = |record: &Record| match is_block {
                true => {
                    record.kind == KIND_DATA
                        && oracle.is_single(&record.key)
                        && !oracle.files_of_block(&record.key).is_empty()
                }
                false => record.kind == KIND_SET && oracle.is_live_set(&record.key),
            };
            let (path, record) = choices.pick(records.into_iter().filter(|(_, r)| fits(r)))?;
            Some(Site::of(path, record.payload.clone()))
        }
    }
}

/// Records of the settled frames that satisfy `wanted`.
fn records<'a>(
    segments: impl Iterator<Item = &'a Segment>,
    wanted: &dyn Fn(&Frame) -> bool,
) -> Vec<(&'a PathBuf, &'a Record)> {
    let mut found = Vec::new();
    for segment in segments {
        let frames = segment.settled_frames().iter();
        for frame in frames.filter(|frame| wanted(frame)) {
            found.extend(frame.records.iter().map(|record| (&segment.path, record)));
        }
    }
    found
}
