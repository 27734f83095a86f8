//! The parts of the model and what they remember.

use cstore_types::epoch::{self, Epoch, SealPoint};
use cstore_types::history::{self, Life, Place, Point};

use crate::rules::Rules;
use crate::{DISKS, SESSIONS, SETS};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Session {
    /// Neither committed nor ended.
    Unknown,
    /// The file exists.
    Committed,
    /// The file was removed.
    Removed,
    /// The upload was taken for abandoned.
    GivenUp,
    /// The upload was begun in another era. It never commits, and nothing of it is released.
    Kept,
}

impl Session {
    pub(crate) const fn is_released(self) -> bool {
        matches!(self, Self::Removed | Self::GivenUp)
    }
}

/// The contents of one metadata folder of the master.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Folder {
    pub(crate) lives: Vec<Life>,
    pub(crate) position: u64,
    pub(crate) sessions: [Session; SESSIONS],
    pub(crate) seen: [SealPoint; DISKS],
    /// Newest seal of each disk that a commit rests on that was made while the disk was in doubt.
    pub(crate) seen_in_doubt: [SealPoint; DISKS],
    /// Point that each disk had noted of another history when a person accepted this one.
    pub(crate) accepted: [Point; DISKS],
    /// Number of the accept in which the era of new sessions began; 0 before the first one.
    pub(crate) era: u8,
    /// A person has accepted the other folder, without what this one has written. Not a part of the
    /// program: only the properties look at it.
    pub(crate) is_forsaken: bool,
    /// Sessions that had ended when a person accepted this folder; one bit each. Not a part of the
    /// program, either.
    pub(crate) settled: u8,
}

impl Folder {
    pub(crate) fn head(&self) -> Point {
        let life = self.lives.last().copied().unwrap_or_default();
        Point {
            term: life.term,
            life: life.life,
            position: self.position,
            ..Point::default()
        }
    }

    /// Returns the sessions that are committed; one bit each.
    pub(crate) fn committed(&self) -> u8 {
        let is_committed = |session: &usize| self.sessions[*session] == Session::Committed;
        let sessions = (0..SESSIONS).filter(is_committed);
        sessions.fold(0, |sessions, session| sessions | 1 << session)
    }

    pub(crate) fn contains(&self, point: &Point) -> bool {
        history::place(&self.lives, self.position, |_| None, point) == Place::Contains
    }
}

/// The last report of a disk to the running master process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    pub(crate) epochs: Vec<Epoch>,
    /// Newest sequence.
    pub(crate) head: u64,
    /// The disk was older than what the master has seen of it, or said that it is in doubt.
    pub(crate) is_suspect: bool,
}

/// A process of the master.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Master {
    pub(crate) folder: Folder,
    pub(crate) has_written: bool,
    pub(crate) told: [Option<Told>; DISKS],
    /// Points that disks have noted and that this history does not contain.
    pub(crate) contests: [Option<Point>; DISKS],
}

impl Master {
    pub(crate) const fn open(folder: Folder) -> Self {
        Self {
            folder,
            has_written: false,
            told: [None, None],
            contests: [None; DISKS],
        }
    }

    pub(crate) fn is_contested(&self) -> bool {
        self.contests.iter().any(Option::is_some)
    }
}

/// An answer of the master to a disk.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Answer {
    pub(crate) head: Point,
    pub(crate) lives: Vec<Life>,
    pub(crate) accepted: Option<Point>,
    /// Seals that the disk must hold.
    pub(crate) seen: [SealPoint; 2],
    /// Sessions that are released; one bit each.
    pub(crate) releases: u8,
    /// Those of them that another folder has committed. Not a part of the program.
    pub(crate) wrong: u8,
    /// Sessions that are committed. Not a part of the program.
    pub(crate) committed: u8,
}

/// A disk and its process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    /// One bit a set.
    pub(crate) sets: u8,
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) head: u64,
    /// Nonce of this open; 0 while the disk is not open.
    pub(crate) nonce: u64,
    pub(crate) has_begun: bool,
    /// Newest place in the master's history that was heard and agreed with.
    pub(crate) noted: Point,
    /// The part of it that outlives a restart: written before something is obeyed, and now and
    /// then.
    pub(crate) kept: Point,
    pub(crate) doubts_master: bool,
    /// The seal that this disk has lost.
    pub(crate) lacks: Option<SealPoint>,
    /// A person has accepted that it is lost.
    pub(crate) is_loss_accepted: bool,
    pub(crate) has_judged: bool,
    /// The answer that is on its way.
    pub(crate) answer: Option<Answer>,
}

impl Disk {
    pub(crate) fn holds(&self, rules: &Rules, seal: &SealPoint) -> bool {
        match rules.epochs {
            true => epoch::place(&self.epochs, self.head, seal) == Place::Contains,
            false => seal.seq.0 <= self.head,
        }
    }

    pub(crate) fn has_set(&self, set: usize) -> bool {
        self.sets >> set & 1 == 1
    }

    /// Returns true if this disk says that it has lost a seal.
    pub(crate) const fn is_in_doubt(&self) -> bool {
        self.lacks.is_some() && !self.is_loss_accepted
    }

    /// Returns the epochs that this disk tells. The epoch of the current open is one of them, also
    /// before its first write.
    pub(crate) fn told_epochs(&self) -> Vec<Epoch> {
        let mut epochs = self.epochs.clone();
        if !self.has_begun {
            epochs.push(self.next_epoch());
        }
        epochs
    }

    pub(crate) fn next_epoch(&self) -> Epoch {
        Epoch {
            number: self.epochs.last().map_or(0, |last| last.number) + 1,
            nonce: self.nonce,
            end_before: self.head,
        }
    }

    /// Forgets what a process keeps in memory.
    pub(crate) fn stop(&mut self, rules: &Rules) {
        self.doubts_master = false;
        self.has_judged = false;
        self.answer = None;
        self.noted = self.kept;
        if rules.epochs {
            self.has_begun = false;
            self.nonce = 0;
        }
    }
}

/// A state of the whole.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct State {
    pub(crate) master: Master,
    /// A copy of the folder, which may take its place.
    pub(crate) other: Option<Folder>,
    pub(crate) disks: [Disk; DISKS],
    pub(crate) older: Option<Disk>,
    /// Head of the master's history, and era, when the first set of a session was sealed.
    pub(crate) issued: [Option<(Point, u8)>; SESSIONS],
    /// Seals that the worker holds.
    pub(crate) seals: [[Option<SealPoint>; SETS]; DISKS],
    /// Sets of each disk that a person has accepted as lost.
    pub(crate) written_off: [u8; DISKS],
    pub(crate) swaps: u8,
    pub(crate) rollbacks: u8,
    pub(crate) restarts: u8,
    pub(crate) accepts: u8,
    pub(crate) freed_committed: bool,
    pub(crate) obeyed_over_loss: bool,
}

impl State {
    pub(crate) fn new() -> Self {
        let disk = Disk {
            sets: 0,
            epochs: Vec::new(),
            head: 0,
            nonce: 1,
            has_begun: false,
            noted: Point::default(),
            kept: Point::default(),
            doubts_master: false,
            lacks: None,
            is_loss_accepted: false,
            has_judged: false,
            answer: None,
        };
        let folder = Folder {
            lives: Vec::new(),
            position: 0,
            sessions: [Session::Unknown; SESSIONS],
            seen: [SealPoint::default(); DISKS],
            seen_in_doubt: [SealPoint::default(); DISKS],
            accepted: [Point::default(); DISKS],
            era: 0,
            is_forsaken: false,
            settled: 0,
        };
        Self {
            master: Master::open(folder),
            other: None,
            disks: [disk.clone(), disk],
            older: None,
            issued: [None; SESSIONS],
            seals: [[None; SETS]; DISKS],
            written_off: [0; DISKS],
            swaps: 0,
            rollbacks: 0,
            restarts: 0,
            accepts: 0,
            freed_committed: false,
            obeyed_over_loss: false,
        }
    }

    fn folders(&self) -> impl Iterator<Item = &Folder> {
        [&self.master.folder].into_iter().chain(&self.other)
    }

    /// Returns a number that no life and no point has. Numbers are drawn from what is remembered, so
    /// that states that differ only in numbers that nobody remembers are one state.
    pub(crate) fn fresh_life(&self) -> u64 {
        let lives = self.folders().flat_map(|folder| &folder.lives);
        let accepted = self.folders().flat_map(|folder| folder.accepted);
        let disks = self.disks.iter().chain(&self.older);
        let points = disks.clone().flat_map(|disk| [disk.noted, disk.kept]);
        let points = points
            .chain(self.issued.into_iter().flatten().map(|(point, _)| point))
            .chain(accepted)
            .chain(self.master.contests.into_iter().flatten());
        let answers = disks.filter_map(|disk| disk.answer.as_ref());
        let lives = lives.chain(answers.flat_map(|answer| &answer.lives));
        let numbers = lives
            .map(|life| life.life)
            .chain(points.map(|point| point.life));
        numbers.max().unwrap_or(0) + 1
    }

    /// Returns a nonce that no epoch and no seal of a disk has.
    pub(crate) fn fresh_nonce(&self, at: usize) -> u64 {
        let copies = [&self.disks[at]]
            .into_iter()
            .chain(self.older.as_ref().filter(|_| at == 0));
        let lists = copies.clone().map(|disk| &disk.epochs);
        let lists = lists.chain(self.master.told[at].iter().map(|told| &told.epochs));
        let seals = copies.filter_map(|disk| disk.lacks);
        let seals = seals
            .chain(
                self.folders()
                    .flat_map(|folder| [folder.seen[at], folder.seen_in_doubt[at]]),
            )
            .chain(self.seals[at].into_iter().flatten());
        let nonces = lists.flatten().map(|epoch| epoch.nonce);
        nonces
            .chain(seals.map(|seal| seal.nonce))
            .max()
            .unwrap_or(0)
            + 1
    }
}
