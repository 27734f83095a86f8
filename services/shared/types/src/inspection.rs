//! Reports on folders that were looked at without changing them, for `cstore admin inspect`.

use std::collections::HashMap;

use crate::epoch::SeenSeals;
use crate::history::{Life, Point};
use crate::limits::MAX_INSPECTED_SHOWN;
use crate::{ClusterUuid, DedupKey, NodeId, SessionId, StoreUuid};

/// Outcome of a start on a folder, the best one first.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum StartOutcome {
    /// The part starts and everything that was looked at is whole.
    Whole,
    /// The part starts and goes on by itself; something is damaged, or was mended.
    Damaged,
    /// The part starts and waits for a person: a disk on hold, a master that is read-only.
    Held,
    /// The part does not start.
    Refused,
    /// Another process has the folder, so nothing was judged.
    InUse,
}

impl StartOutcome {
    /// Returns the word for programs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Whole => "whole",
            Self::Damaged => "damaged",
            Self::Held => "held",
            Self::Refused => "refused",
            Self::InUse => "in_use",
        }
    }
}

/// Payloads that a look at a folder reads.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PayloadScope {
    /// Every payload.
    All,
    /// All payloads of some segments; of a master all, because its log is small.
    Sample,
    /// No payload.
    None,
}

/// Report on one part of a system: a storage disk or the folder of a master.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Inspection {
    /// `storage` or `master`.
    pub part: &'static str,
    /// The folder.
    pub path: String,
    /// Outcome of a start.
    pub outcome: StartOutcome,
    /// The outcome as a sentence, with what an operator can do.
    pub start: String,
    /// Facts about the folder, each with its name.
    pub facts: Vec<(&'static str, String)>,
    /// Lists of what was found, none of them empty.
    pub findings: Vec<Findings>,
}

impl Inspection {
    /// Makes the report on a folder of which nothing was judged yet.
    pub fn new(part: &'static str, path: String) -> Self {
        Self {
            part,
            path,
            outcome: StartOutcome::Whole,
            start: String::new(),
            facts: Vec::new(),
            findings: Vec::new(),
        }
    }

    /// Adds a fact.
    pub fn fact(&mut self, name: &'static str, value: impl ToString) {
        self.facts.push((name, value.to_string()));
    }

    /// Adds a list, unless it is empty.
    pub fn list(&mut self, findings: Findings) {
        if findings.count > 0 {
            self.findings.push(findings);
        }
    }

    /// Sets the outcome and its sentence.
    pub fn end(mut self, outcome: StartOutcome, start: String) -> Self {
        (self.outcome, self.start) = (outcome, start);
        self
    }
}

/// A bounded list of things of one kind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Findings {
    /// Kind of the things, in the plural.
    pub what: &'static str,
    /// Number of all things that were found.
    pub count: u64,
    /// The first of them, [`MAX_INSPECTED_SHOWN`] at most.
    pub shown: Vec<String>,
}

impl Findings {
    /// Makes an empty list.
    pub const fn new(what: &'static str) -> Self {
        Self {
            what,
            count: 0,
            shown: Vec::new(),
        }
    }

    /// Makes the list of `items`.
    pub fn of<T: ToString>(what: &'static str, items: impl IntoIterator<Item = T>) -> Self {
        let mut findings = Self::new(what);
        for item in items {
            findings.push(item);
        }
        findings
    }

    /// Counts a thing, and shows it if there is room.
    pub fn push(&mut self, item: impl ToString) {
        self.count += 1;
        if self.shown.len() < MAX_INSPECTED_SHOWN {
            self.shown.push(item.to_string());
        }
    }
}

/// Facts of a master's metadata by which disks are judged, as the master would tell them.
#[derive(Debug, Clone, Default)]
pub struct MasterFacts {
    /// Identity of the cluster and the key of its block ids; `None` in metadata without a cluster.
    pub cluster: Option<(ClusterUuid, DedupKey)>,
    /// Place that the history has reached.
    pub head: Point,
    /// Lives of the history.
    pub lives: Vec<Life>,
    /// Disks that ever registered.
    pub disks: HashMap<StoreUuid, KnownDisk>,
    /// The master would only read: it does not tell disks which sessions have committed.
    pub is_read_only: bool,
}

/// A disk as the master knows it.
#[derive(Debug, Clone)]
pub struct KnownDisk {
    /// Node of the disk.
    pub node: NodeId,
    /// Seals of the disk on which files rest.
    pub seen: SeenSeals,
    /// Place in another history that a person has accepted for the disk; the origin if there is
    /// none.
    pub accepted: Point,
    /// Committed sessions of which the disk must hold reference sets.
    pub sessions: Vec<SessionId>,
}
