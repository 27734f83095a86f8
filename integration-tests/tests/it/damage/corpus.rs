//! The files that must survive, with their contents kept in the test, and the oracle that tells
//! which of them have bytes at a place of the disk.

use std::collections::{BTreeSet, HashMap};
use std::ops::Range;
use std::path::{Path, PathBuf};

use cstore_testkit::random;

use super::format::{Frame, KIND_DATA, KIND_LEAF, KIND_RELEASE, KIND_SET, LogFile, ids_of_leaf};

/// Block size of the fixture. Small, so that the largest file needs a leaf of a recipe.
pub(super) const BLOCK_SIZE: usize = 16 << 10;
/// Blocks at the beginning of the larger files that several files share.
const SHARED_BLOCKS: usize = 3;
/// Different shared beginnings.
const SHARED_GROUPS: usize = 4;
const SIZES: [usize; 13] = [
    1, 100, 4_095, 4_096, 5_000, 16_383, 16_384, 16_385, 60_000, 100_000, 120_000, 200_000, 400_000,
];
const LARGEST: usize = 3 << 20;
/// Files, and which of them each life of the fixture uploads.
const FILES: usize = 40;
const LIVES: [Range<usize>; 4] = [0..12, 12..22, 22..30, 30..FILES];

/// Frames at the end of a crashed file that are not damaged: there damage is a torn write, of which
/// nothing was acknowledged.
pub(super) const TAIL: usize = 2;

/// Id of a block.
type BlockId = [u8; 32];

/// A file as a client sends it.
#[derive(Debug)]
pub(super) struct File {
    pub(super) path: String,
    pub(super) body: Vec<u8>,
}

/// All files of the fixture.
#[derive(Debug)]
pub(super) struct Corpus {
    /// Files that are there when the disk is damaged.
    pub(super) kept: Vec<File>,
}

impl Corpus {
    pub(super) fn new() -> Self {
        let kept = (0..FILES).map(|n| {
            let size = match n {
                30 => LARGEST,
                _ => SIZES[n % SIZES.len()],
            };
            File {
                path: format!("/api/files/kept/{n:02}"),
                body: body(size, n),
            }
        });
        Self {
            kept: kept.collect(),
        }
    }

    /// Files that are uploaded in a life of the fixture.
    pub(super) fn of_life(&self, life: usize) -> &[File] {
        &self.kept[LIVES[life].clone()]
    }

    /// Files that are uploaded and deleted in a life of the fixture. They share blocks with kept
    /// ones, and one of them has the content of a kept one.
    pub(super) fn deleted_in_life(&self, life: usize) -> Vec<File> {
        let twin = self.of_life(life).iter().rev().find(|file| {
            // Larger than one block, so that the twin is no single frame.
            file.body.len() > 2 * BLOCK_SIZE
        });
        let mut bodies: Vec<Vec<u8>> = (0..3)
            .map(|n| body(80_000 + 1_000 * n, 100 + 10 * life + n))
            .collect();
        bodies.push(twin.expect("each life has larger files").body.clone());
        let named = bodies.into_iter().enumerate();
        named
            .map(|(n, body)| File {
                path: format!("/api/files/deleted/{life}-{n}"),
                body,
            })
            .collect()
    }
}

/// Content of file `n`. Those of more than the shared part begin with one of a few beginnings.
fn body(size: usize, n: usize) -> Vec<u8> {
    let shared = SHARED_BLOCKS * BLOCK_SIZE;
    if size <= shared {
        return random(size, 1_000 + n as u64);
    }
    let mut body = random(shared, (n % SHARED_GROUPS) as u64);
    body.extend(random(size - shared, 1_000 + n as u64));
    body
}

/// A segment of an undamaged disk.
#[derive(Debug)]
pub(super) struct Segment {
    /// Path below the data folder.
    pub(super) path: PathBuf,
    pub(super) file: LogFile,
}

impl Segment {
    /// Frames in which damage is no torn write: all but the last ones of a crashed file.
    pub(super) fn settled_frames(&self) -> &[Frame] {
        let frames = &self.file.frames;
        let tail = match self.file.footer {
            Some(_) => 0,
            None => TAIL.min(frames.len()),
        };
        &frames[..frames.len() - tail]
    }
}

/// Map from places of the undamaged disk to files of the corpus.
#[derive(Debug)]
pub(super) struct Oracle {
    pub(super) segments: Vec<Segment>,
    /// Numbers of the kept files that need a block or a leaf.
    needed_by: HashMap<BlockId, BTreeSet<usize>>,
    copies: HashMap<BlockId, usize>,
    /// Segment in which the last record of a block or leaf lies.
    homes: HashMap<BlockId, PathBuf>,
    /// Sets that keep blocks of kept files and were not released.
    live_sets: Vec<LiveSet>,
}

/// A set that keeps blocks of kept files.
#[derive(Debug)]
struct LiveSet {
    segment: PathBuf,
    key: Vec<u8>,
    ids: Vec<BlockId>,
}

/// Numbers of kept files.
pub(super) type Numbers = BTreeSet<usize>;

impl Oracle {
    /// Reads the segments of a disk, and finds every block of the corpus in them.
    ///
    /// # Panics
    /// If a block of a kept file is on no segment.
    pub(super) fn read(folder: &Path, disk: &Path, corpus: &Corpus) -> Self {
        let mut found = Vec::new();
        for path in super::fixture::files_of(&folder.join(disk).join("segments")) {
            let bytes = std::fs::read(&path).unwrap();
            let path = path.strip_prefix(folder).unwrap().to_path_buf();
            let file = LogFile::parse(&bytes);
            assert!(
                path.ends_with(format!("{:08x}.bin", file.id)),
                "{}: id {}",
                path.display(),
                file.id
            );
            found.push((Segment { path, file }, bytes));
        }

        let mut oracle = Self {
            segments: Vec::new(),
            needed_by: HashMap::new(),
            copies: HashMap::new(),
            homes: HashMap::new(),
            live_sets: Vec::new(),
        };
        oracle.map_blocks(&found, corpus);
        oracle.map_leaves(&found, corpus);
        oracle.map_sets(&found);
        oracle.segments = found.into_iter().map(|(segment, _)| segment).collect();
        oracle
    }

    fn map_blocks(&mut self, found: &[(Segment, Vec<u8>)], corpus: &Corpus) {
        let mut ids: HashMap<&[u8], BlockId> = HashMap::new();
        for (segment, bytes) in found {
            for record in segment.file.records().filter(|r| r.kind == KIND_DATA) {
                let id = record.key[..].try_into().unwrap();
                ids.insert(&bytes[record.payload.clone()], id);
                *self.copies.entry(id).or_default() += 1;
            }
        }
        for (n, file) in corpus.kept.iter().enumerate() {
            for block in file.body.chunks(BLOCK_SIZE) {
                let id = ids
                    .get(block)
                    .unwrap_or_else(|| panic!("a block of {} is on no segment", file.path));
                self.needed_by.entry(*id).or_default().insert(n);
            }
        }
    }

    /// A leaf belongs to the files that have all of its blocks.
    fn map_leaves(&mut self, found: &[(Segment, Vec<u8>)], corpus: &Corpus) {
        let mut leaves = Vec::new();
        for (segment, bytes) in found {
            for record in segment.file.records().filter(|r| r.kind == KIND_LEAF) {
                let id: BlockId = record.key[..].try_into().unwrap();
                *self.copies.entry(id).or_default() += 1;
                leaves.push((id, ids_of_leaf(&bytes[record.payload.clone()])));
            }
        }
        for (leaf, ids) in leaves {
            let all = 0..corpus.kept.len();
            let has = |n: &usize, id| {
                self.needed_by
                    .get(id)
                    .is_some_and(|files| files.contains(n))
            };
            let files: Numbers = all.filter(|n| ids.iter().all(|id| has(n, id))).collect();
            self.needed_by.insert(leaf, files);
        }
        assert!(
            corpus.kept.iter().any(|file| file.body.len() == LARGEST),
            "one file is large enough for a leaf"
        );
    }

    fn map_sets(&mut self, found: &[(Segment, Vec<u8>)]) {
        let mut released = BTreeSet::new();
        for (segment, bytes) in found {
            for record in segment.file.records() {
                match record.kind {
                    KIND_SET => {
                        let ids = bytes[record.payload.clone()][8..].chunks_exact(32);
                        self.live_sets.push(LiveSet {
                            segment: segment.path.clone(),
                            key: record.key.clone(),
                            ids: ids.map(|id| id.try_into().unwrap()).collect(),
                        });
                    }
                    KIND_RELEASE => drop(released.insert(record.key.clone())),
                    KIND_DATA | KIND_LEAF => {
                        let id = record.key[..].try_into().unwrap();
                        self.homes.insert(id, segment.path.clone());
                    }
                    _ => {}
                }
            }
        }
        let needed = &self.needed_by;
        self.live_sets.retain(|set| {
            !released.contains(&set.key[..16]) && set.ids.iter().any(|id| needed.contains_key(id))
        });
    }

    /// Number of blocks in intact segments that nothing holds any more if a segment is missing: a
    /// disk that does not notice frees them.
    pub(super) fn hidden_by_segment(&self, path: &Path) -> usize {
        let (lost, left): (Vec<_>, Vec<_>) =
            self.live_sets.iter().partition(|set| set.segment == path);
        let held: BTreeSet<&BlockId> = left.iter().flat_map(|set| &set.ids).collect();
        let ids: BTreeSet<&BlockId> = lost.iter().flat_map(|set| &set.ids).collect();
        let is_hidden = |id: &&&BlockId| {
            !held.contains(*id) && self.homes.get(**id).is_some_and(|home| home != path)
        };
        ids.iter().filter(is_hidden).count()
    }

    /// Files that need a block by its id.
    pub(super) fn files_of_block(&self, key: &[u8]) -> Numbers {
        self.needed_by.get(key).cloned().unwrap_or_default()
    }

    /// True if the disk has one record of the block.
    pub(super) fn is_single(&self, key: &[u8]) -> bool {
        self.copies.get(key) == Some(&1)
    }

    /// True if the set with this key keeps blocks of a kept file.
    pub(super) fn is_live_set(&self, key: &[u8]) -> bool {
        self.live_sets.iter().any(|set| set.key == key)
    }

    fn segment(&self, path: &Path) -> Option<&Segment> {
        self.segments.iter().find(|segment| segment.path == path)
    }

    /// Files that need a block or a leaf with payload bytes in `ranges` of the file at `path`.
    pub(super) fn hit_payloads(&self, path: &Path, ranges: &[Range<usize>]) -> Numbers {
        let segment = self.segment(path).into_iter();
        let records = segment.flat_map(|segment| segment.file.records());
        let hit = records.filter(|record| overlaps(&record.payload, ranges));
        hit.flat_map(|record| self.files_of_block(&record.key))
            .collect()
    }

    /// Files that need a block or a leaf of a frame that has bytes in `ranges`.
    pub(super) fn hit_frames(&self, path: &Path, ranges: &[Range<usize>]) -> Numbers {
        let segment = self.segment(path).into_iter();
        let frames = segment.flat_map(|segment| &segment.file.frames);
        let hit = frames.filter(|frame| overlaps(&frame.range(), ranges));
        hit.flat_map(|frame| self.files_of_frame(frame)).collect()
    }

    /// Files that need a block or a leaf of `frame`.
    pub(super) fn files_of_frame(&self, frame: &Frame) -> Numbers {
        let records = frame.records.iter();
        records
            .flat_map(|record| self.files_of_block(&record.key))
            .collect()
    }
}

fn overlaps(range: &Range<usize>, others: &[Range<usize>]) -> bool {
    others
        .iter()
        .any(|other| range.start < other.end && other.start < range.end)
}
