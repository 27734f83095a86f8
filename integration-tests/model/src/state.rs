//! The parts of the model and what they remember.

use cstore_types::epoch::{self, Epoch, SealPoint};
use cstore_types::history::{self, Life, Place, Point};

use crate::rules::Rules;
use crate::{DISKS, SESSIONS};

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Session {
    Unknown,
    Committed,
    Ended,
}

/// The contents of one metadata folder of the master.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Folder {
    pub(crate) lives: Vec<Life>,
    pub(crate) position: u64,
    pub(crate) sessions: [Session; SESSIONS],
    pub(crate) seen: [SealPoint; DISKS],
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

    pub(crate) fn contains(&self, point: &Point) -> bool {
        history::place(&self.lives, self.position, |_| None, point) == Place::Contains
    }
}

/// The last report of a disk to the running master process: its epochs and its newest sequence.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Told {
    pub(crate) epochs: Vec<Epoch>,
    pub(crate) head: u64,
}

/// A process of the master.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Master {
    pub(crate) folder: Folder,
    pub(crate) has_written: bool,
    pub(crate) told: [Option<Told>; DISKS],
    pub(crate) is_contested: bool,
}

/// A disk and its process.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(crate) struct Disk {
    /// One bit a session.
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
    pub(crate) has_judged: bool,
}

impl Disk {
    pub(crate) fn holds(&self, rules: &Rules, seal: &SealPoint) -> bool {
        match rules.epochs {
            true => epoch::place(&self.epochs, self.head, seal) == Place::Contains,
            false => seal.seq.0 <= self.head,
        }
    }

    /// Returns the report of this disk. It includes the epoch of the current open, also before the
    /// first write of that epoch.
    pub(crate) fn told(&self) -> Told {
        let mut epochs = self.epochs.clone();
        if !self.has_begun {
            epochs.push(self.next_epoch());
        }
        Told {
            epochs,
            head: self.head,
        }
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
    pub(crate) was_rolled_back: bool,
    pub(crate) issued: [Option<Point>; SESSIONS],
    /// Seals that the worker holds.
    pub(crate) seals: [[Option<SealPoint>; SESSIONS]; DISKS],
    pub(crate) swaps: u8,
    pub(crate) restarts: u8,
    pub(crate) freed_committed: bool,
    pub(crate) obeyed_over_loss: bool,
}

impl State {
    /// Returns a number that no life and no point has. Numbers are drawn from what is there, so
    /// that states that differ only in numbers that nobody remembers are one state.
    pub(crate) fn fresh_life(&self) -> u64 {
        let folders = [Some(&self.master.folder), self.other.as_ref()];
        let lives = folders
            .into_iter()
            .flatten()
            .flat_map(|folder| &folder.lives);
        let disks = self.disks.iter().chain(&self.older);
        let points = disks.flat_map(|disk| [disk.noted, disk.kept]);
        let points = points.chain(self.issued.into_iter().flatten());
        let numbers = lives
            .map(|life| life.life)
            .chain(points.map(|point| point.life));
        numbers.max().unwrap_or(0) + 1
    }

    /// Returns a nonce that no epoch and no seal of a disk has.
    pub(crate) fn fresh_nonce(&self, disk: usize) -> u64 {
        let copies = [
            Some(&self.disks[disk]),
            self.older.as_ref().filter(|_| disk == 0),
        ];
        let lists = copies.into_iter().flatten().map(|disk| &disk.epochs);
        let lists = lists.chain(self.master.told[disk].iter().map(|told| &told.epochs));
        let folders = [Some(&self.master.folder), self.other.as_ref()];
        let seen = folders
            .into_iter()
            .flatten()
            .map(|folder| folder.seen[disk]);
        let seals = self.seals[disk].into_iter().flatten();
        let seals = seals.chain(seen).chain(self.disks[disk].lacks);
        let nonces = lists.flatten().map(|epoch| epoch.nonce);
        nonces
            .chain(seals.map(|seal| seal.nonce))
            .max()
            .unwrap_or(0)
            + 1
    }
}
