//! The matrix: structures, kinds of damage, states of the folder, and the expected outcomes.

use std::collections::BTreeSet;
use std::fmt;

use super::fixture::{MASTER, STORAGE, State};

/// A kind of damage.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Damage {
    /// One bit of a byte of the structure is flipped.
    Flip,
    /// The structure, or its first 4 KiB, becomes zeros.
    Zero,
    /// The file ends where the structure begins, or in the middle if it is one structure.
    Truncate,
    /// Reads of the structure fail with EIO.
    Eio,
    /// The file is gone.
    Delete,
    /// The file and another one of its kind have each other's names.
    Swap,
    /// An older copy of the file.
    Older,
    /// The file of this name of another cluster.
    Foreign,
    /// A folder has the name of the file.
    Folder,
}

use Damage::{Delete, Eio, Flip, Folder, Foreign, Older, Swap, Truncate, Zero};

/// Damage to bytes of a structure.
const BYTES: &[Damage] = &[Flip, Zero, Truncate, Eio];
/// Damage to a file as a whole.
const FILE: &[Damage] = &[Delete, Swap, Older, Foreign, Folder];
/// Damage to a whole file that does not change any more, so that older copies are equal.
const FINAL_FILE: &[Damage] = &[Delete, Swap, Foreign, Folder];
/// Damage to a small file that is one structure.
const BOTH: &[Damage] = &[Flip, Zero, Truncate, Eio, Delete, Older, Foreign];

/// A structure of a data folder. "Sealed" is a file with a footer, "crashed" the one that a kill
/// left.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Structure {
    NewestSlot,
    OtherSlot,
    AllSlots,
    Superblock,
    SealedHeader,
    CrashedHeader,
    SealedFrame,
    CrashedFrame,
    SealedDirectory,
    CrashedDirectory,
    SealedBlock,
    CrashedBlock,
    SealedSet,
    CrashedSet,
    Release,
    Footer,
    SealedSegment,
    CrashedSegment,
    NewestImage,
    AllImages,
    Inventory,
    Bitmap,
    Lock,
    SealedLogFrame,
    SealedLogRecord,
    NewestLogRecord,
    SealedLog,
    NewestLog,
    Snapshot,
    Index,
    LogOwner,
}

use Structure::*;

/// Every structure: its name in the table, and the damage that it gets.
const STRUCTURES: &[(Structure, &str, &[Damage])] = &[
    (NewestSlot, "superblock slot, newest", BYTES),
    (OtherSlot, "superblock slot, another", &[Flip, Zero, Eio]),
    (AllSlots, "superblock slots, all", BYTES),
    (Superblock, "superblock.bin", &[Delete, Older, Foreign]),
    (SealedHeader, "segment header, sealed", BYTES),
    (CrashedHeader, "segment header, crashed", BYTES),
    (SealedFrame, "frame header, sealed", BYTES),
    (CrashedFrame, "frame header, crashed", BYTES),
    (
        SealedDirectory,
        "frame directory, sealed",
        &[Flip, Zero, Eio],
    ),
    (
        CrashedDirectory,
        "frame directory, crashed",
        &[Flip, Zero, Eio],
    ),
    (SealedBlock, "block, sealed", BYTES),
    (CrashedBlock, "block, crashed", BYTES),
    (SealedSet, "reference set, sealed", &[Flip, Zero, Eio]),
    (CrashedSet, "reference set, crashed", &[Flip, Zero, Eio]),
    (Release, "release record", &[Flip, Zero, Eio]),
    (Footer, "footer", BYTES),
    (SealedSegment, "segment file, sealed", FINAL_FILE),
    (CrashedSegment, "segment file, crashed", FILE),
    (NewestImage, "inventory image, newest", BYTES),
    (AllImages, "inventory images, all", BYTES),
    (Inventory, "inventory.bin", &[Delete, Older, Foreign]),
    (Bitmap, "bitmap.bin", BOTH),
    (Lock, "LOCK", &[Zero, Eio, Delete, Foreign, Folder]),
    (SealedLogFrame, "log frame, sealed", BYTES),
    (SealedLogRecord, "log record, sealed", &[Flip, Zero, Eio]),
    (NewestLogRecord, "log record, newest file", BYTES),
    (SealedLog, "log file, sealed", FINAL_FILE),
    (NewestLog, "log file, newest", FILE),
    (Snapshot, "snapshot.bin", BOTH),
    (Index, "index", BOTH),
    (
        LogOwner,
        "log-owner",
        &[Flip, Zero, Truncate, Eio, Delete, Foreign],
    ),
];

/// One damage to one structure of one folder.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Cell {
    pub(super) structure: Structure,
    pub(super) damage: Damage,
    pub(super) state: State,
    /// The index of the master is removed, too, so that snapshot and log are the only copy.
    pub(super) without_index: bool,
}

/// Expected end of a start of the struck role.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Start {
    Starts,
    /// The start is refused, and the reason names the damaged file.
    Refuses,
    /// The start is refused; the reason may leave out the damaged file.
    RefusesSomehow,
    /// Either it starts, or it refuses and names the damaged file.
    Either,
}

/// Expected doubts of the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Holds {
    Never,
    /// Nothing but these kinds.
    May(&'static [&'static str]),
    /// At least one of these kinds.
    Must(&'static [&'static str]),
}

/// Bound on the files that are unreadable while the damage is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Lost {
    Nothing,
    /// All files that need a damaged block, and no others.
    ExactlyPayloads,
    /// At most the files that need a damaged block.
    Payloads,
    /// At most the files that need a block of a damaged frame.
    Frames,
    /// Errors of any file, for a master without an intact copy of its truth.
    Errors,
    /// The same, and names may be missing, for a master that is an older copy.
    Names,
}

/// Expected outcome of a cell.
#[derive(Debug, Clone, Copy)]
pub(super) struct Expected {
    pub(super) start: Start,
    pub(super) holds: Holds,
    pub(super) lost: Lost,
    pub(super) writes: Writes,
}

/// Expected answers to writes of a role that starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Writes {
    Taken,
    /// Refused: a write would build on a hole.
    Refused,
    /// Taken if the damage is made good.
    Either,
}

const WHOLE: Expected = Expected {
    start: Start::Starts,
    holds: Holds::Never,
    lost: Lost::Nothing,
    writes: Writes::Taken,
};
const REFUSED: Expected = Expected {
    start: Start::Refuses,
    ..WHOLE
};
/// A master with a hole that no index fills.
const HOLE: Expected = Expected {
    start: Start::Either,
    holds: Holds::May(&["master"]),
    lost: Lost::Errors,
    writes: Writes::Refused,
};
/// Kinds that say that acknowledged frames of a file are missing, whichever check sees it first.
const FRAMES_GONE: &[&str] = &[
    "segment_short",
    "segment_damaged",
    "store_older",
    "sets_lost",
];
const ANY_SEGMENT: &[&str] = &[
    "segment_missing",
    "segment_short",
    "segment_damaged",
    "segment_foreign",
];

const fn starts(holds: Holds, lost: Lost) -> Expected {
    Expected {
        holds,
        lost,
        ..WHOLE
    }
}

impl Structure {
    /// True for structures of the master.
    pub(super) fn is_of_master(self) -> bool {
        self >= SealedLogFrame
    }

    /// Process whose data it belongs to.
    pub(super) fn role(self) -> &'static str {
        if self.is_of_master() { MASTER } else { STORAGE }
    }

    fn name(self) -> &'static str {
        let found = STRUCTURES.iter().find(|(structure, ..)| *structure == self);
        found.map_or("", |(_, name, _)| name)
    }

    /// True if only a process that was killed, or only one that was stopped, leaves it.
    fn exists_in(self, state: State) -> bool {
        match self {
            CrashedHeader | CrashedFrame | CrashedDirectory | CrashedBlock | CrashedSet
            | CrashedSegment => state == State::Killed,
            Bitmap => state == State::Stopped,
            _ => true,
        }
    }
}

impl Cell {
    /// All cells.
    pub(super) fn all() -> Vec<Self> {
        let mut cells = Vec::new();
        for state in [State::Stopped, State::Killed] {
            for (structure, _, damages) in STRUCTURES {
                if !structure.exists_in(state) {
                    continue;
                }
                for damage in *damages {
                    // The file that a stopped process left is new in its last life.
                    let is_first = *structure == NewestLog && state == State::Stopped;
                    if is_first && *damage == Older {
                        continue;
                    }
                    let cell = Self {
                        structure: *structure,
                        damage: *damage,
                        state,
                        without_index: false,
                    };
                    cells.push(cell);
                    let is_of_truth =
                        structure.is_of_master() && !matches!(structure, Index | LogOwner);
                    if is_of_truth {
                        cells.push(Self {
                            without_index: true,
                            ..cell
                        });
                    }
                }
            }
        }
        cells
    }

    /// Order of the cells of a slice: first one of each structure and of each damage, then the
    /// others. `cells` is in random order.
    pub(super) fn order_for_slice(cells: Vec<Self>) -> Vec<Self> {
        let mut structures = BTreeSet::new();
        let mut damages = BTreeSet::new();
        let (first, rest): (Vec<Self>, Vec<Self>) = cells.into_iter().partition(|cell| {
            let is_new_structure = structures.insert(cell.structure);
            let is_new_damage = damages.insert(cell.damage);
            is_new_structure || is_new_damage
        });
        [first, rest].concat()
    }

    /// True if sets are hidden that hold blocks of intact segments. Such a block is freed by a
    /// sweep over pins if a disk on hold frees at all, so the trial waits for two of them.
    pub(super) fn is_swept(&self) -> bool {
        self.structure == SealedSegment
            || self.structure == SealedSet && self.state == State::Killed
    }

    /// Expected outcome.
    pub(super) fn expected(&self) -> Expected {
        if self.structure.is_of_master() {
            self.expected_of_master()
        } else {
            self.expected_of_storage()
        }
    }

    fn expected_of_storage(&self) -> Expected {
        use Holds::{May, Must, Never};
        let superblock = &["superblock"];
        let inventory = &["inventory"];
        match (self.structure, self.damage) {
            (NewestSlot, Truncate) => starts(May(superblock), Lost::Nothing),
            (Superblock, Older) => starts(May(superblock), Lost::Nothing),
            (Superblock, Foreign) => Expected {
                start: Start::RefusesSomehow,
                ..WHOLE
            },
            (AllSlots | Superblock, _) => starts(Must(superblock), Lost::Nothing),

            (SealedHeader | CrashedHeader, Truncate) => starts(Must(ANY_SEGMENT), Lost::Frames),
            (SealedHeader | CrashedHeader, Eio) => starts(May(ANY_SEGMENT), Lost::Frames),
            (SealedFrame | SealedBlock, Truncate) => {
                starts(Must(&["segment_short", "segment_damaged"]), Lost::Frames)
            }
            // A bad sector has bytes of its neighbours, too: a part of a block or of a set.
            (SealedFrame | SealedDirectory | SealedBlock, Eio) => {
                starts(May(&["set_damaged"]), Lost::Payloads)
            }
            (CrashedFrame | CrashedDirectory, Flip | Zero | Eio) => {
                starts(Must(&["segment_damaged"]), Lost::Frames)
            }
            (CrashedFrame | CrashedBlock, Truncate) => starts(Must(FRAMES_GONE), Lost::Frames),
            (CrashedBlock, Eio) => starts(May(&["segment_damaged", "set_damaged"]), Lost::Payloads),
            (CrashedBlock, _) => starts(May(&["segment_damaged"]), Lost::ExactlyPayloads),
            (SealedBlock, _) => starts(Never, Lost::ExactlyPayloads),
            (SealedSet, _) if self.state == State::Stopped => {
                starts(May(&["set_damaged"]), Lost::Payloads)
            }
            (SealedSet, _) => starts(Must(&["set_damaged"]), Lost::Payloads),
            (CrashedSet, _) => starts(Must(&["set_damaged", "segment_damaged"]), Lost::Payloads),
            (Release, _) => {
                let kinds = &[
                    "segment_damaged",
                    "set_damaged",
                    "sets_lost",
                    "blocks_absent",
                ];
                starts(May(kinds), Lost::Payloads)
            }
            (Footer, Truncate) => starts(May(&["segment_short"]), Lost::Nothing),

            (SealedSegment | CrashedSegment, Delete) => {
                starts(Must(&["segment_missing"]), Lost::Frames)
            }
            (SealedSegment | CrashedSegment, Swap | Foreign) => {
                starts(Must(&["segment_foreign"]), Lost::Frames)
            }
            (SealedSegment | CrashedSegment, Older) => starts(Must(FRAMES_GONE), Lost::Frames),
            (SealedSegment | CrashedSegment, _) => starts(Must(ANY_SEGMENT), Lost::Frames),

            (NewestImage, _) | (Inventory, Older) => starts(May(inventory), Lost::Nothing),
            (AllImages | Inventory, _) => starts(Must(inventory), Lost::Nothing),
            (Lock, Folder) => REFUSED,
            _ => WHOLE,
        }
    }

    fn expected_of_master(&self) -> Expected {
        let older = Expected {
            lost: Lost::Names,
            ..HOLE
        };
        let either = Expected {
            start: Start::Either,
            writes: Writes::Either,
            ..WHOLE
        };
        match (self.structure, self.damage) {
            // Names are served from the index.
            (LogOwner, _) => Expected {
                writes: Writes::Refused,
                ..either
            },
            (Index, Delete | Older | Foreign) => WHOLE,
            // A damaged value is an error of its key until the next start makes the index anew.
            (Index, _) => Expected {
                lost: Lost::Errors,
                ..either
            },
            // A log that ends early is an older copy of the log.
            (NewestLog | NewestLogRecord, Truncate | Delete | Older | Foreign | Swap | Folder)
                if self.without_index =>
            {
                older
            }
            // The footer has what header and directory of a frame say.
            (SealedLogFrame, Flip | Zero) => WHOLE,
            (_, _) if self.without_index => HOLE,
            (Snapshot, Flip | Zero | Truncate | Delete | Older | Foreign) => WHOLE,
            (SealedLogRecord | NewestLogRecord, Flip | Zero) => WHOLE,
            _ => either,
        }
    }
}

impl fmt::Display for Damage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Flip => "flip",
            Zero => "zero",
            Truncate => "truncate",
            Eio => "eio",
            Delete => "delete",
            Swap => "swap",
            Older => "older",
            Foreign => "foreign",
            Folder => "folder",
        })
    }
}

impl fmt::Display for Cell {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let state = match (self.state, self.without_index) {
            (State::Stopped, false) => "stopped",
            (State::Stopped, true) => "stopped, no index",
            (State::Killed, false) => "killed",
            (State::Killed, true) => "killed, no index",
        };
        write!(
            f,
            "{:25} {:8} {state:17}",
            self.structure.name(),
            self.damage
        )
    }
}

impl fmt::Display for Expected {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.start {
            Start::Starts => {}
            Start::Refuses => return f.write_str("refused, names the file"),
            Start::RefusesSomehow => return f.write_str("refused"),
            Start::Either => f.write_str("refused, or ")?,
        }
        f.write_str(match self.lost {
            Lost::Nothing => "whole",
            Lost::ExactlyPayloads => "hit files unreadable",
            Lost::Payloads => "at most hit files",
            Lost::Frames => "at most files of hit frames",
            Lost::Errors => "errors",
            Lost::Names => "older",
        })?;
        match self.writes {
            Writes::Taken => {}
            Writes::Refused => f.write_str(", read-only")?,
            Writes::Either => f.write_str(", maybe read-only")?,
        }
        match self.holds {
            Holds::Never => Ok(()),
            Holds::May(kinds) => write!(f, ", may hold {}", kinds.join("|")),
            Holds::Must(kinds) => write!(f, ", hold {}", kinds.join("|")),
        }
    }
}
