//! Judge: what the master's answers say about this disk, and whether it is the right master.
//!
//! The master remembers the newest seal of this disk on which a file rests, and the newest one of a
//! time of doubt. A disk that does not hold both is an older copy, or has lost writes that were
//! acknowledged. The disk remembers the
//! newest place in the master's history by which it has gone. A master whose history does not
//! contain it is an older copy, or another one. Either is a doubt, which ends when the other side
//! shows that it has what it lacked, or when a person accepts it.
//!
//! Nothing of an answer is used before it was judged.

use std::sync::Arc;

use cstore_types::SealSeq;
use cstore_types::epoch::{self, Epoch, SealPoint, SeenSeals};
use cstore_types::history::{self, Life, Place, Point};
use parking_lot::Mutex;

use super::doubts::Finding;
use super::error::EngineError;
use super::format::{Doubt, DoubtKind};
use super::hold::Hold;
use super::locked_log::LockedLog;
use super::volume::Volume;

/// Part of an answer that is judged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Answer {
    /// Newest seals of this disk on which files rest; `None` from a master that knows no epochs.
    pub seen: Option<SeenSeals>,
    /// The master's history; `None` from a master that tells none.
    pub history: Option<MasterHistory>,
}

/// History of a master, as far as this disk needs it.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct MasterHistory {
    /// Place that it has reached.
    pub head: Point,
    /// Lives from the one on that this disk has noted.
    pub lives: Vec<Life>,
    /// Place that this disk has noted, if a person said that it is to go on with this master.
    pub accepted: Option<Point>,
}

/// Judges answers of the master. Clones share everything.
#[derive(Debug, Clone)]
pub struct Judge {
    log: Arc<LockedLog>,
    volume: Arc<Volume>,
    hold: Hold,
    /// Newest place in the master's history that this process has obeyed.
    noted: Arc<Mutex<Point>>,
}

impl Judge {
    pub(super) fn new(log: Arc<LockedLog>, volume: Arc<Volume>, hold: Hold) -> Self {
        let noted = volume.superblock().noted;
        Self {
            log,
            volume,
            hold,
            noted: Arc::new(Mutex::new(noted)),
        }
    }

    /// Returns the epochs of this disk, oldest first. The last one is that of this open, also if
    /// nothing was written in it yet.
    pub fn epochs(&self) -> Vec<Epoch> {
        self.volume.epochs()
    }

    /// Returns the seal of a sequence of this disk. Its nonce is 0 if the epoch was forgotten.
    pub fn seal_point(&self, seq: SealSeq) -> SealPoint {
        let nonce = self.volume.nonce_of(epoch::epoch_of(seq.0));
        SealPoint {
            seq,
            nonce: nonce.unwrap_or(0),
        }
    }

    /// Returns the newest place in the master's history that was noted.
    pub fn noted(&self) -> Point {
        *self.noted.lock()
    }

    /// Judges an answer that changes no doubt, and notes its place. Returns false if
    /// [`Self::judge`] has to look at it. Does not block.
    pub fn agrees(&self, answer: &Answer) -> bool {
        let is_about_answers =
            |doubt: &Doubt| matches!(doubt.kind, DoubtKind::StoreOlder | DoubtKind::Master);
        let agrees = !self.hold.waits()
            && !self.hold.doubts().iter().any(is_about_answers)
            && answer.seen.is_none_or(|seen| self.holds_all(&seen))
            && self.is_ours(answer.history.as_ref());
        if agrees && let Some(history) = &answer.history {
            *self.noted.lock() = history.head;
        }
        agrees
    }

    /// Judges an answer. Returns true if the disk holds what the master has seen of it, and the
    /// master's history what the disk has noted. Blocks the thread. Answers MUST be judged one
    /// after the other, in their order.
    ///
    /// Seals race with this safely: one is durable here before the master can have seen it.
    pub fn judge(&self, answer: &Answer) -> bool {
        // What another master has seen of this disk proves that the disk is old, but never that it
        // is not.
        let is_ours = self.judge_master(answer.history.as_ref());
        let holds = self.judge_seen(answer.seen.unwrap_or_default(), is_ours);
        self.hold.begin();
        holds && is_ours
    }

    /// Writes the noted place to the disk, if it has moved. Called BEFORE anything is obeyed that
    /// frees. Blocks the thread.
    ///
    /// # Errors
    /// [`EngineError::Io`]. The place that was written before stays.
    pub fn keep_noted(&self) -> Result<(), EngineError> {
        let noted = self.noted();
        match self.volume.superblock().noted == noted {
            true => Ok(()),
            false => self.volume.write_noted(noted),
        }
    }

    /// Returns true if the noted place is on the disk.
    pub fn is_noted_kept(&self) -> bool {
        self.volume.superblock().noted == self.noted()
    }

    fn judge_seen(&self, seen: SeenSeals, is_ours: bool) -> bool {
        let holds = self.holds_all(&seen);
        if holds && is_ours {
            let is_disproved = |doubt: &Doubt| {
                doubt.kind == DoubtKind::StoreOlder
                    && (doubt.accepted || doubt.lost_seal().is_none_or(|seal| self.holds(&seal)))
            };
            self.hold.close(is_disproved);
            self.volume.forget_epochs(self.oldest_asked_for(&seen));
        }
        for seal in seen.all().iter().filter(|seal| !self.holds(seal)) {
            self.hold.enter(older_disk(seal, self.log.durable_seq()));
        }
        holds
    }

    /// Returns the oldest epoch that somebody asks for: the master, or a doubt that is open.
    fn oldest_asked_for(&self, seen: &SeenSeals) -> u32 {
        let lost = self.hold.doubts().into_iter();
        let lost = lost.filter_map(|doubt| doubt.lost_seal());
        let in_doubt = Some(seen.in_doubt).filter(|seal| *seal != SealPoint::default());
        let asked = lost.chain([seen.newest]).chain(in_doubt);
        let seals = asked.map(|seal| epoch::epoch_of(seal.seq.0));
        seals.min().unwrap_or(0)
    }

    fn judge_master(&self, history: Option<&MasterHistory>) -> bool {
        let noted = self.noted();
        let is_accepted = history.is_some_and(|told| {
            history::may_obey(&noted, &told.lives, &told.head, told.accepted.as_ref())
        });
        let is_ours = self.is_ours(history);
        if is_accepted || is_ours {
            match is_ours {
                true => self.hold.close(|doubt| doubt.kind == DoubtKind::Master),
                false => self.hold.accept_master(),
            }
            if let Some(history) = history {
                *self.noted.lock() = history.head;
            }
            return true;
        }
        let head = history.map(|history| history.head).unwrap_or_default();
        self.hold.enter(other_master(&noted, &head));
        false
    }

    fn holds_all(&self, seen: &SeenSeals) -> bool {
        seen.all().iter().all(|seal| self.holds(seal))
    }

    fn holds(&self, point: &SealPoint) -> bool {
        let head = self.log.durable_seq();
        epoch::place(&self.volume.epochs(), head, point) == Place::Contains
    }

    /// Returns true if a history contains what this disk has noted. A master that tells no history
    /// is an older program, and right as long as no other one was heard.
    fn is_ours(&self, history: Option<&MasterHistory>) -> bool {
        let noted = self.noted();
        match history {
            None => noted.is_origin(),
            Some(MasterHistory { head, lives, .. }) => history::may_obey(&noted, lives, head, None),
        }
    }
}

/// Makes the finding about a seal that the master has seen and that is not here.
fn older_disk(seen: &SealPoint, head: u64) -> Finding {
    Finding {
        seqs: (seen.seq.0, head),
        aux: two_numbers(seen.nonce, 0),
        ..Finding::new(DoubtKind::StoreOlder)
    }
}

/// Makes the finding about a master at `head` that does not contain what was noted.
fn other_master(noted: &Point, head: &Point) -> Finding {
    Finding {
        seqs: (noted.position, head.position),
        aux: two_numbers(noted.life, head.life),
        ..Finding::new(DoubtKind::Master)
    }
}

fn two_numbers(first: u64, second: u64) -> [u8; 16] {
    let number = u128::from(second) << 64 | u128::from(first);
    number.to_le_bytes()
}
