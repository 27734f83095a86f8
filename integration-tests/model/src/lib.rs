//! A model of what master and disks judge of each other: every order of seals, commits, removals,
//! beats, accepts and restarts, while the master's folder is exchanged for a copy of it and back, or
//! a disk for an older copy. Lives, epochs and seals are those of the program, and they are judged by
//! the program's own functions: [`history::place`](cstore_types::history::place),
//! [`history::may_obey`](cstore_types::history::may_obey), [`epoch::place`] and [`epoch::is_held`].
//! The model implements the rest itself: when a master writes, and what a disk obeys.
//!
//! Two disks; session 0 has a set on both, the others on the first disk. Two things must
//! never happen: a set is freed that a folder has committed whose history does not lead to this
//! release; and a release is obeyed by a disk that has lost a committed set, because references were
//! not counted. Each rule has a switch in [`Rules`], and a run without it says what it is for.

mod rules;
mod state;
mod steps;
#[cfg(test)]
mod tests;

use cstore_types::epoch;
use stateright::{Model, Property};

pub use rules::{
    ACCEPTED_DISK, ACCEPTED_MASTER, ALL, COMBINED, LATE_OF_FOLDER, LATE_TO_DISK, OLDER_DISK,
    RETURNING_DISK, Rules, TWO_SETS, WHOLE, Without, without,
};
pub use state::State;
use state::{Master, Session};

/// Most sessions of the model.
const SESSIONS: usize = 3;
/// Disks of the model.
const DISKS: usize = 2;
/// Most sets of a disk.
const SETS: usize = 3;

/// A step of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A disk seals a set.
    Seal(usize, usize),
    /// The master commits a session.
    Commit(usize),
    /// The file of a session is removed.
    Remove(usize),
    /// A session that a disk reports is taken for abandoned.
    GiveUp(usize),
    /// A disk asks the master, and obeys the answer.
    Beat(usize),
    /// A disk asks the master. The answer is on its way.
    Report(usize),
    /// An answer arrives, and the disk obeys it.
    Hear(usize),
    /// A disk writes down what it has noted.
    Keep(usize),
    /// A person accepts this master for a disk that has obeyed another one.
    AcceptMaster(usize),
    /// A person accepts that a disk has lost what was seen of it.
    AcceptLoss(usize),
    /// A disk's process is restarted.
    RestartDisk(usize),
    /// The master's process is restarted.
    RestartMaster,
    /// The master's folder is copied.
    CopyFolder,
    /// The master's folder and its copy change places.
    Swap,
    /// The first disk is copied.
    CopyDisk,
    /// The first disk is exchanged for its copy.
    RollBack,
}

/// The model under some rules.
#[derive(Debug, Clone, Copy)]
pub struct Judgements(pub Rules);

impl Judgements {
    /// Returns the session of a set.
    fn session_of(&self, set: usize) -> usize {
        set.min(self.0.sessions - 1)
    }

    /// Returns the sets that a session has on a disk.
    fn sets_of(&self, session: usize, disk: usize) -> impl Iterator<Item = usize> + use<> {
        let last = self.0.sessions - 1;
        let sets = (0..self.0.sets).filter(move |set| last.min(*set) == session);
        sets.filter(move |set| *set == 0 || disk == 0)
    }

    fn may_write(&self, master: &Master) -> bool {
        let Rules {
            contested,
            heard_before_write,
            positions,
            ..
        } = self.0;
        let is_heard = master.told.iter().any(Option::is_some);
        !(contested && master.is_contested())
            && (is_heard || !heard_before_write)
            && master.folder.position < positions
    }

    fn may_release(&self, master: &Master) -> bool {
        let are_all_heard = master.told.iter().all(Option::is_some);
        !(self.0.contested && master.is_contested()) && (are_all_heard || !self.0.all_heard)
    }

    fn may_commit(&self, state: &State, session: usize) -> bool {
        let folder = &state.master.folder;
        let issued = state.issued[session];
        let is_of_history = issued.is_none_or(|(issued, _)| folder.contains(&issued));
        folder.sessions[session] == Session::Unknown
            && self.may_write(&state.master)
            && (is_of_history || !self.0.ticket)
            && (!Self::is_of_other_era(state, session) || !self.0.commits_own_era)
            && (0..DISKS).all(|disk| self.are_sealed(state, session, disk))
    }

    /// Returns true if a disk has sealed its sets of a session, and has told that it holds them.
    fn are_sealed(&self, state: &State, session: usize, disk: usize) -> bool {
        let mut seals = Vec::new();
        for set in self.sets_of(session, disk) {
            let Some(seal) = state.seals[disk][set] else {
                return false;
            };
            seals.push(seal);
        }
        // Seals of one open are contained up to the newest of them.
        let newest = seals.iter().copied().max();
        if !self.0.seal_per_open {
            seals.retain(|seal| Some(*seal) == newest);
        }
        let told = state.master.told[disk].as_ref();
        !self.0.told
            || seals
                .iter()
                .all(|seal| told.is_some_and(|told| epoch::is_held(&told.epochs, told.head, seal)))
    }

    fn may_seal(&self, state: &State, disk: usize, set: usize) -> bool {
        let sealing = &state.disks[disk];
        state.seals[disk][set].is_none()
            && !sealing.doubts_master
            && (!sealing.is_in_doubt() || self.0.seals_in_doubt)
            && (sealing.has_judged || !self.0.judged_first)
    }

    /// Returns true if a person has accepted this master after a session was begun, or if the
    /// session was begun elsewhere.
    fn is_of_other_era(state: &State, session: usize) -> bool {
        let era = state.master.folder.era;
        era > 0 && state.issued[session].is_none_or(|(_, issued)| issued != era)
    }

    fn may_give_up(&self, state: &State, session: usize) -> bool {
        let master = &state.master;
        let is_reported = |disk: usize| {
            let mut sets = self.sets_of(session, disk);
            master.told[disk].is_some() && sets.any(|set| state.disks[disk].has_set(set))
        };
        master.folder.sessions[session] == Session::Unknown
            && self.may_release(master)
            && self.may_write(master)
            && (0..DISKS).any(is_reported)
    }

    /// Returns true if the folder may be taken away: somebody who stays has heard its newest write.
    fn may_swap(&self, state: &State) -> bool {
        let head = state.master.folder.head();
        // The first disk may be exchanged, too.
        let staying = state.disks.iter().skip(usize::from(self.0.rollbacks > 0));
        let mut heard = staying.map(|disk| disk.kept == head);
        state.other.is_some()
            && state.swaps < self.0.swaps
            && (!self.0.witness || heard.any(|heard| heard))
    }

    /// Adds the steps of sessions.
    fn add_sessions(&self, state: &State, steps: &mut Vec<Step>) {
        let master = &state.master;
        for session in 0..self.0.sessions {
            for disk in 0..DISKS {
                let sets = self.sets_of(session, disk);
                let sealing = sets.filter(|set| self.may_seal(state, disk, *set));
                steps.extend(sealing.map(|set| Step::Seal(disk, set)));
            }
            if self.may_commit(state, session) {
                steps.push(Step::Commit(session));
            }
            let is_there = master.folder.sessions[session] == Session::Committed;
            if is_there && self.may_write(master) {
                steps.push(Step::Remove(session));
            }
            if self.may_give_up(state, session) {
                steps.push(Step::GiveUp(session));
            }
        }
    }

    /// Adds the steps of a disk.
    fn add_disk(&self, state: &State, at: usize, steps: &mut Vec<Step>) {
        let disk = &state.disks[at];
        match self.0.late {
            true => {
                steps.push(Step::Report(at));
                steps.extend(disk.answer.is_some().then_some(Step::Hear(at)));
            }
            false => steps.push(Step::Beat(at)),
        }
        steps.extend((disk.noted != disk.kept).then_some(Step::Keep(at)));
        if state.restarts < self.0.restarts {
            steps.push(Step::RestartDisk(at));
        }
        if state.accepts < self.0.accepts {
            let is_contested = state.master.contests[at].is_some();
            steps.extend(is_contested.then_some(Step::AcceptMaster(at)));
            steps.extend(disk.is_in_doubt().then_some(Step::AcceptLoss(at)));
        }
    }
}

impl Model for Judgements {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
        vec![State::new()]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.freed_committed || state.obeyed_over_loss {
            return;
        }
        self.add_sessions(state, steps);
        for disk in 0..DISKS {
            self.add_disk(state, disk, steps);
        }
        let may_restart = state.restarts < self.0.restarts;
        steps.extend(may_restart.then_some(Step::RestartMaster));
        steps.extend((self.0.swaps > 0 && state.other.is_none()).then_some(Step::CopyFolder));
        steps.extend(self.may_swap(state).then_some(Step::Swap));
        if state.rollbacks < self.0.rollbacks {
            steps.push(match state.older {
                None => Step::CopyDisk,
                Some(_) => Step::RollBack,
            });
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        match step {
            Step::Seal(disk, set) => self.seal(&mut state, disk, set),
            Step::Commit(session) => self.commit(&mut state, session),
            Step::Remove(session) => {
                self.write(&mut state);
                state.master.folder.sessions[session] = Session::Removed;
            }
            Step::GiveUp(session) => {
                let is_kept = self.0.keeps_unknown && Self::is_of_other_era(last, session);
                self.write(&mut state);
                state.master.folder.sessions[session] = match is_kept {
                    true => Session::Kept,
                    false => Session::GivenUp,
                };
            }
            Step::Beat(disk) => {
                self.report(&mut state, disk);
                self.hear(&mut state, disk);
            }
            Step::Report(disk) => self.report(&mut state, disk),
            Step::Hear(disk) => self.hear(&mut state, disk),
            Step::AcceptMaster(disk) => self.accept_master(&mut state, disk)?,
            Step::AcceptLoss(disk) => self.accept_loss(&mut state, disk),
            Step::Keep(disk) => state.disks[disk].kept = state.disks[disk].noted,
            Step::RestartDisk(disk) => {
                state.disks[disk].stop(&self.0);
                self.open(&mut state, disk);
                state.restarts += 1;
            }
            Step::RestartMaster => {
                state.master = Master::open(state.master.folder);
                state.restarts += 1;
            }
            Step::CopyFolder => state.other = Some(state.master.folder.clone()),
            Step::Swap => {
                let back = state.other.replace(state.master.folder)?;
                state.master = Master::open(back);
                state.swaps += 1;
            }
            Step::CopyDisk => {
                let mut copy = state.disks[0].clone();
                copy.stop(&self.0);
                state.older = Some(copy);
            }
            Step::RollBack => {
                let mut disk = std::mem::replace(&mut state.disks[0], state.older.take()?);
                if self.0.returns {
                    disk.stop(&self.0);
                    state.older = Some(disk);
                }
                self.open(&mut state, 0);
                state.rollbacks += 1;
            }
        }
        Some(state)
    }

    fn properties(&self) -> Vec<Property<Self>> {
        vec![
            Property::always(
                "no set is freed that another folder has committed",
                |_, state: &State| !state.freed_committed,
            ),
            Property::always(
                "no release is obeyed by a disk that lost a committed set",
                |_, state: &State| !state.obeyed_over_loss,
            ),
        ]
    }
}
