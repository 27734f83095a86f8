//! Transitions: how each step changes the state.

use cstore_types::SealSeq;
use cstore_types::epoch::{self, SealPoint};
use cstore_types::history::{self, Life, Point};

use crate::rules::Rules;
use crate::state::{Answer, Disk, Session, State, Told};
use crate::{DISKS, Judgements, SESSIONS, SETS};

impl Judgements {
    /// Adds one write to the master's folder. The first write of a process begins a life.
    pub(crate) fn write(&self, state: &mut State) {
        let number = state.fresh_life();
        let master = &mut state.master;
        let folder = &mut master.folder;
        folder.position += 1;
        if self.0.has_exchanges() && !std::mem::replace(&mut master.has_written, true) {
            folder.lives.push(Life {
                term: folder.lives.last().map_or(0, |last| last.term) + 1,
                life: number,
                first: folder.position,
                ..Life::default()
            });
        }
    }

    /// Draws the nonce of an open.
    pub(crate) fn open(&self, state: &mut State, at: usize) {
        if self.0.epochs {
            state.disks[at].nonce = state.fresh_nonce(at);
        }
    }

    pub(crate) fn seal(&self, state: &mut State, at: usize, set: usize) {
        if self.0.has_exchanges() {
            let folder = &state.master.folder;
            let issued = (folder.head(), folder.era);
            state.issued[self.session_of(set)].get_or_insert(issued);
        }
        let disk = &mut state.disks[at];
        if !disk.has_begun {
            disk.has_begun = true;
            let epoch = disk.next_epoch();
            disk.head = epoch::first_seq(epoch.number) - 1;
            disk.epochs.push(epoch);
        }
        disk.head += 1;
        disk.sets |= 1 << set;
        let current = disk.epochs.last().copied().unwrap_or_default();
        state.seals[at][set] = Some(SealPoint {
            seq: SealSeq(disk.head),
            nonce: if self.0.nonces { current.nonce } else { 0 },
        });
    }

    pub(crate) fn commit(&self, state: &mut State, session: usize) {
        self.write(state);
        let master = &mut state.master;
        master.folder.sessions[session] = Session::Committed;
        for at in 0..DISKS {
            let sets = self.sets_of(session, at);
            let Some(seal) = sets.filter_map(|set| state.seals[at][set]).max() else {
                continue;
            };
            let told = master.told[at].as_ref();
            let folder = &mut master.folder;
            let seen = match told.is_some_and(|told| told.is_suspect) && self.0.own_seal {
                false => &mut folder.seen[at],
                true if self.0.remembers_doubt => &mut folder.seen_in_doubt[at],
                true => continue,
            };
            // Seals of two copies cannot be compared: the last one counts, which the other lacks.
            let is_of_other_copy = told.is_some_and(|told| {
                told.is_suspect && !epoch::is_held(&told.epochs, told.head, seen)
            });
            if *seen < seal || !self.0.seen_rises || is_of_other_copy && self.0.own_seal {
                *seen = seal;
            }
            // A disk that holds the later seal holds the earlier one, too.
            if folder.seen[at] >= folder.seen_in_doubt[at] && folder.seen[at] == seal {
                folder.seen_in_doubt[at] = SealPoint::default();
            }
        }
    }

    /// Takes the report of a disk, and sends the answer on its way.
    pub(crate) fn report(&self, state: &mut State, at: usize) {
        let rules = &self.0;
        let disk = &state.disks[at];
        let folder = &state.master.folder;
        let seen = [folder.seen[at], folder.seen_in_doubt[at]];
        let epochs = disk.told_epochs();
        let head = disk.head;
        let is_older = match rules.epochs {
            true => !seen.iter().all(|seen| epoch::is_held(&epochs, head, seen)),
            false => seen.iter().any(|seen| seen.seq.0 > head),
        };
        let is_suspect = disk.is_in_doubt() || rules.master_judges && is_older;
        state.master.told[at] = Some(Told {
            epochs,
            head,
            is_suspect,
        });
        self.take_accepted(state, at);
        self.answer(state, at, seen);
    }

    /// Judges this master by what a disk has noted, and sends the answer on its way.
    fn answer(&self, state: &mut State, at: usize, seen: [SealPoint; 2]) {
        let rules = &self.0;
        let noted = state.disks[at].noted;
        let master = &mut state.master;
        let folder = &master.folder;
        let accepted = folder.accepted[at];
        let is_accepted = !accepted.is_origin() && (accepted == noted || !rules.accepts_one_point);
        let is_ours = match rules.lives {
            true => history::may_obey(&noted, &folder.lives, &folder.head(), None),
            false => noted.position <= folder.position,
        };
        master.contests[at] = (!is_ours && !is_accepted).then_some(noted);

        let (releases, wrong) = match self.may_release(master) {
            true => self.releases(state),
            false => (0, 0),
        };
        let folder = &state.master.folder;
        let head = match rules.has_exchanges() {
            true => folder.head(),
            false => Point::default(),
        };
        state.disks[at].answer = Some(Answer {
            head,
            lives: folder.lives.clone(),
            accepted: is_accepted.then_some(noted),
            seen,
            releases,
            wrong,
            committed: folder.committed(),
        });
    }

    /// Returns the sessions that the master releases, and those of them that must not be freed:
    /// another folder has committed them, whose history does not lead to this release.
    ///
    /// If a person has accepted this folder over the other one, two kinds may be freed: files that
    /// were removed from this folder, and sessions that had ended in it before the accept.
    fn releases(&self, state: &State) -> (u8, u8) {
        let folder = &state.master.folder;
        let (mut releases, mut wrong) = (0, 0);
        for session in (0..SESSIONS).filter(|session| folder.sessions[*session].is_released()) {
            releases |= 1 << session;
            let is_needed = state.other.as_ref().is_some_and(|other| {
                let is_settled = folder.settled >> session & 1 == 1;
                let is_removed = folder.sessions[session] == Session::Removed;
                other.sessions[session] == Session::Committed
                    && !folder.contains(&other.head())
                    && !(other.is_forsaken && (is_removed || is_settled))
            });
            wrong |= u8::from(is_needed) << session;
        }
        (releases, wrong)
    }

    /// Takes a disk as it is if a person has accepted that it has lost what was seen of it.
    fn take_accepted(&self, state: &mut State, at: usize) {
        let disk = &state.disks[at];
        let folder = &state.master.folder;
        let seen = [folder.seen[at], folder.seen_in_doubt[at]].map(Some);
        let is_about_seen = seen.contains(&disk.lacks) || !self.0.accepts_one_seal;
        if !disk.is_loss_accepted || disk.lacks.is_none() || !is_about_seen {
            return;
        }
        let last = disk.epochs.last().copied().unwrap_or_default();
        let head = SealPoint {
            seq: SealSeq(disk.head),
            nonce: if self.0.nonces { last.nonce } else { 0 },
        };
        if folder.seen[at] == head {
            return;
        }
        let is_settled = |seal: SealPoint| {
            let is_accepted = disk.lacks == Some(seal) || !self.0.accepts_one_seal;
            is_accepted || disk.holds(&self.0, &seal)
        };
        let settled = [folder.seen[at], folder.seen_in_doubt[at]].map(is_settled);
        self.write(state);
        let folder = &mut state.master.folder;
        if settled[0] {
            folder.seen[at] = head;
        }
        if settled[1] {
            folder.seen_in_doubt[at] = SealPoint::default();
        }
    }

    /// Judges an answer, and obeys it.
    pub(crate) fn hear(&self, state: &mut State, at: usize) {
        let rules = &self.0;
        let disk = &mut state.disks[at];
        let Some(answer) = disk.answer.take() else {
            return;
        };

        // Nothing of an answer is used before it was judged.
        let is_ours = match rules.lives {
            true => {
                let accepted = answer.accepted.as_ref();
                history::may_obey(&disk.noted, &answer.lives, &answer.head, accepted)
            }
            false => answer.accepted.is_some() || disk.noted.position <= answer.head.position,
        };
        disk.doubts_master = rules.hold && !is_ours;
        let is_lost = |seal: &&SealPoint| rules.suspect && !disk.holds(rules, seal);
        let lost = answer.seen.iter().find(is_lost).copied();
        Self::judge_loss(rules, disk, lost);
        disk.has_judged = rules.judged_first;
        if disk.doubts_master {
            return;
        }
        disk.noted = answer.head;
        if disk.is_in_doubt() || lost.is_some() {
            return;
        }

        let released = |set: usize| answer.releases >> self.session_of(set) & 1 == 1;
        let sets = (0..SETS).filter(|set| released(*set) && disk.has_set(*set));
        let freed: u8 = sets.fold(0, |sets, set| sets | 1 << set);
        if freed == 0 {
            return;
        }
        disk.kept = disk.noted;
        disk.sets &= !freed;
        let is_wrong =
            |set: usize| freed >> set & 1 == 1 && answer.wrong >> self.session_of(set) & 1 == 1;
        state.freed_committed |= (0..SETS).any(is_wrong);
        // Sessions that this folder has committed since the answer was made count, too.
        let folder = &state.master.folder;
        let committed = match folder.contains(&answer.head) {
            true => answer.committed | folder.committed(),
            false => answer.committed,
        };
        state.obeyed_over_loss |=
            self.lost_sets(state, at, committed) & !freed & !state.written_off[at] != 0;
    }

    /// Ends the doubt of a disk, or begins one over a seal that was `lost`.
    fn judge_loss(rules: &Rules, disk: &mut Disk, lost: Option<SealPoint>) {
        if lost.is_none() && !disk.doubts_master {
            let is_back = disk.lacks.is_none_or(|lacks| disk.holds(rules, &lacks));
            if disk.is_loss_accepted || is_back || !rules.own_seal {
                disk.lacks = None;
                disk.is_loss_accepted = false;
            }
        }
        if lost.is_some() && !disk.is_in_doubt() && disk.lacks != lost {
            disk.lacks = lost;
            disk.is_loss_accepted = false;
        }
    }

    /// Goes on with this master although a disk has obeyed another one, on behalf of a person.
    pub(crate) fn accept_master(&self, state: &mut State, at: usize) -> Option<()> {
        let noted = state.master.contests[at].take()?;
        self.write(state);
        state.accepts += 1;
        for at in 0..DISKS {
            state.written_off[at] |= self.lost_sets(state, at, state.master.folder.committed());
        }
        let era = state.accepts;
        let State { master, other, .. } = state;
        let folder = &mut master.folder;
        folder.accepted[at] = noted;
        folder.is_forsaken = false;
        if let Some(other) = other {
            other.is_forsaken = true;
        }
        folder.era = era;
        folder.settled = (0..SESSIONS)
            .filter(|session| folder.sessions[*session].is_released())
            .fold(0, |sessions, session| sessions | 1 << session);
        Some(())
    }

    /// Accepts, on behalf of a person, that a disk has lost a seal.
    pub(crate) fn accept_loss(&self, state: &mut State, at: usize) {
        state.disks[at].is_loss_accepted = true;
        state.written_off[at] |= self.lost_sets(state, at, state.master.folder.committed());
        state.accepts += 1;
    }

    /// Returns the sets of a disk that were sealed, whose session is one of `committed`, and which the
    /// disk does not have; one bit each.
    fn lost_sets(&self, state: &State, at: usize, committed: u8) -> u8 {
        (0..SETS)
            .filter(|set| committed >> self.session_of(*set) & 1 == 1)
            .filter(|set| state.seals[at][*set].is_some() && !state.disks[at].has_set(*set))
            .fold(0, |sets, set| sets | 1 << set)
    }
}
