//! A model of what master and disks judge of each other: every order of seals, commits, removals,
//! beats and restarts, while the master's folder is exchanged for a copy of it and back, or a disk
//! for an older copy. Lives, epochs and seals are those of the program, and they are judged by the
//! program's own functions: [`history::place`], [`history::may_obey`], [`epoch::place`] and
//! [`epoch::is_held`]. What is around them, when a master writes and what a disk obeys, is written
//! down here once more.
//!
//! Two disks; session 0 has a part on both, session 1 on the first one. Two things must never
//! happen: a set is freed that a folder has committed whose history does not lead to this release;
//! and a release is obeyed by a disk that has lost a committed set, because references were not
//! counted. Each rule has a switch in [`Rules`], and a run without it says what it is for.

mod rules;
mod state;

use cstore_types::SealSeq;
use cstore_types::epoch::{self, SealPoint};
use cstore_types::history::{self, Life, Point};
use stateright::{Model, Property};

pub use rules::{ALL, OLDER_DISK, Rules, SECOND_NETS, without_one};
pub use state::State;
use state::{Disk, Folder, Master, Session};

/// Sessions of the model.
pub const SESSIONS: usize = 2;
/// Disks of the model.
pub const DISKS: usize = 2;

/// A step of one part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Step {
    /// A disk seals its part of a session.
    Seal(usize, usize),
    /// The master commits a session.
    Commit(usize),
    /// The file of a session is removed.
    Remove(usize),
    /// A session that a disk reports is taken for abandoned.
    GiveUp(usize),
    /// A disk asks the master, and obeys the answer.
    Beat(usize),
    /// A disk writes down what it has noted.
    Keep(usize),
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

/// Returns true if a session has a part on a disk.
const fn has_part(session: usize, disk: usize) -> bool {
    session == 0 || disk == 0
}

impl Judgements {
    fn may_write(&self, master: &Master) -> bool {
        let Rules {
            contested,
            heard_before_write,
            positions,
            ..
        } = self.0;
        let is_heard = master.told.iter().any(Option::is_some);
        !(contested && master.is_contested)
            && (is_heard || !heard_before_write)
            && master.folder.position < positions
    }

    fn may_release(&self, master: &Master) -> bool {
        let are_all_heard = master.told.iter().all(Option::is_some);
        !(self.0.contested && master.is_contested) && (are_all_heard || !self.0.all_heard)
    }

    fn may_commit(&self, state: &State, session: usize) -> bool {
        let folder = &state.master.folder;
        let issued = state.issued[session];
        let is_of_history = issued.is_none_or(|issued| folder.contains(&issued));
        let is_held = |disk: usize| {
            let told = state.master.told[disk].as_ref();
            state.seals[disk][session].is_some_and(|seal| {
                told.is_some_and(|told| epoch::is_held(&told.epochs, told.head, &seal))
            })
        };
        let mut disks = (0..DISKS).filter(|disk| has_part(session, *disk));
        folder.sessions[session] == Session::Unknown
            && self.may_write(&state.master)
            && (is_of_history || !self.0.ticket)
            && disks.all(|disk| match self.0.told {
                true => is_held(disk),
                false => state.seals[disk][session].is_some(),
            })
    }

    fn may_seal(&self, state: &State, disk: usize, session: usize) -> bool {
        let sealing = &state.disks[disk];
        has_part(session, disk)
            && state.seals[disk][session].is_none()
            && !sealing.doubts_master
            && (sealing.has_judged || !self.0.judged_first)
    }

    /// Returns true if the folder may be taken away: somebody who stays has heard its newest write.
    fn may_swap(&self, state: &State) -> bool {
        let head = state.master.folder.head();
        // The first disk may be exchanged, too.
        let staying = state.disks.iter().skip(usize::from(self.0.rollback));
        let mut heard = staying.map(|disk| disk.kept == head);
        state.other.is_some()
            && state.swaps < self.0.swaps
            && (!self.0.witness || heard.any(|heard| heard))
    }

    /// Adds one write to the master's folder. The first write of a process begins a life.
    fn write(&self, state: &mut State) {
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
    fn open(&self, state: &mut State, disk: usize) {
        if self.0.epochs {
            state.disks[disk].nonce = state.fresh_nonce(disk);
        }
    }

    fn seal(&self, state: &mut State, at: usize, session: usize) {
        if self.0.has_exchanges() {
            let head = state.master.folder.head();
            state.issued[session].get_or_insert(head);
        }
        let disk = &mut state.disks[at];
        if !disk.has_begun {
            disk.has_begun = true;
            let epoch = disk.next_epoch();
            disk.head = epoch::first_seq(epoch.number) - 1;
            disk.epochs.push(epoch);
        }
        disk.head += 1;
        disk.sets |= 1 << session;
        let current = disk.epochs.last().copied().unwrap_or_default();
        state.seals[at][session] = Some(SealPoint {
            seq: SealSeq(disk.head),
            nonce: if self.0.nonces { current.nonce } else { 0 },
        });
    }

    fn commit(&self, state: &mut State, session: usize) {
        self.write(state);
        state.master.folder.sessions[session] = Session::Committed;
        for disk in (0..DISKS).filter(|disk| has_part(session, *disk)) {
            // The disk says that it is in doubt.
            if self.0.own_seal && state.disks[disk].lacks.is_some() {
                continue;
            }
            let seen = &mut state.master.folder.seen[disk];
            if let Some(seal) = state.seals[disk][session]
                && (*seen < seal || !self.0.seen_rises)
            {
                *seen = seal;
            }
        }
    }

    fn beat(&self, state: &mut State, at: usize) {
        let rules = &self.0;
        let State {
            master,
            other,
            disks,
            ..
        } = state;
        let disk = &mut disks[at];
        master.told[at] = Some(disk.told());

        // Each judges itself by what the other remembers, before anything of the answer is used.
        let folder = &master.folder;
        let is_ours = match rules.lives {
            true => history::may_obey(&disk.noted, &folder.lives, &folder.head(), None),
            false => disk.noted.position <= folder.position,
        };
        master.is_contested |= !is_ours;
        disk.doubts_master = rules.hold && !is_ours;
        if rules.suspect {
            let is_back = disk.lacks.is_some_and(|lost| disk.holds(rules, &lost));
            if is_back || !rules.own_seal {
                disk.lacks = None;
            }
            let seen = folder.seen[at];
            if disk.lacks.is_none() && !disk.holds(rules, &seen) {
                disk.lacks = Some(seen);
            }
        }
        disk.has_judged = rules.judged_first;
        if disk.doubts_master || disk.lacks.is_some() {
            return;
        }

        if rules.has_exchanges() {
            disk.noted = master.folder.head();
        }
        if !self.may_release(master) {
            return;
        }
        let sessions = master.folder.sessions;
        let is_set = |sets: u8, session: usize| sets >> session & 1 == 1;
        for session in (0..SESSIONS).filter(|session| sessions[*session] == Session::Ended) {
            if !is_set(disk.sets, session) {
                continue;
            }
            disk.kept = disk.noted;
            disk.sets &= !(1 << session);
            let lost = |of: usize| {
                sessions[of] == Session::Committed && has_part(of, at) && !is_set(disk.sets, of)
            };
            state.obeyed_over_loss |= (0..SESSIONS).any(lost);
            state.freed_committed |= other.as_ref().is_some_and(|other| {
                other.sessions[session] == Session::Committed
                    && !master.folder.contains(&other.head())
            });
        }
    }
}

impl Model for Judgements {
    type State = State;
    type Action = Step;

    fn init_states(&self) -> Vec<State> {
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
            has_judged: false,
        };
        let folder = Folder {
            lives: Vec::new(),
            position: 0,
            sessions: [Session::Unknown; SESSIONS],
            seen: [SealPoint::default(); DISKS],
        };
        vec![State {
            master: Master {
                folder,
                has_written: false,
                told: [None, None],
                is_contested: false,
            },
            other: None,
            disks: [disk.clone(), disk],
            older: None,
            was_rolled_back: false,
            issued: [None; SESSIONS],
            seals: [[None; SESSIONS]; DISKS],
            swaps: 0,
            restarts: 0,
            freed_committed: false,
            obeyed_over_loss: false,
        }]
    }

    fn actions(&self, state: &State, steps: &mut Vec<Step>) {
        if state.freed_committed || state.obeyed_over_loss {
            return;
        }
        let master = &state.master;
        let sessions = master.folder.sessions;
        for (session, standing) in sessions.into_iter().enumerate() {
            let sealing = (0..DISKS).filter(|disk| self.may_seal(state, *disk, session));
            steps.extend(sealing.map(|disk| Step::Seal(disk, session)));
            if self.may_commit(state, session) {
                steps.push(Step::Commit(session));
            }
            if standing == Session::Committed && self.may_write(master) {
                steps.push(Step::Remove(session));
            }
            let mut heard = (0..DISKS).filter(|disk| master.told[*disk].is_some());
            let is_reported = heard.any(|disk| state.disks[disk].sets >> session & 1 == 1);
            let may_give_up = self.may_release(master) && self.may_write(master);
            if standing == Session::Unknown && is_reported && may_give_up {
                steps.push(Step::GiveUp(session));
            }
        }

        let may_restart = state.restarts < self.0.restarts;
        for disk in 0..DISKS {
            steps.push(Step::Beat(disk));
            let Disk { noted, kept, .. } = &state.disks[disk];
            steps.extend((noted != kept).then_some(Step::Keep(disk)));
            steps.extend(may_restart.then_some(Step::RestartDisk(disk)));
        }
        steps.extend(may_restart.then_some(Step::RestartMaster));
        steps.extend((self.0.swaps > 0 && state.other.is_none()).then_some(Step::CopyFolder));
        steps.extend(self.may_swap(state).then_some(Step::Swap));
        if self.0.rollback && !state.was_rolled_back {
            steps.push(match state.older {
                None => Step::CopyDisk,
                Some(_) => Step::RollBack,
            });
        }
    }

    fn next_state(&self, last: &State, step: Step) -> Option<State> {
        let mut state = last.clone();
        let anew = |folder: Folder| Master {
            folder,
            has_written: false,
            told: [None, None],
            is_contested: false,
        };
        match step {
            Step::Seal(disk, session) => self.seal(&mut state, disk, session),
            Step::Commit(session) => self.commit(&mut state, session),
            Step::Remove(session) | Step::GiveUp(session) => {
                self.write(&mut state);
                state.master.folder.sessions[session] = Session::Ended;
            }
            Step::Beat(disk) => self.beat(&mut state, disk),
            Step::Keep(disk) => state.disks[disk].kept = state.disks[disk].noted,
            Step::RestartDisk(disk) => {
                state.disks[disk].stop(&self.0);
                self.open(&mut state, disk);
                state.restarts += 1;
            }
            Step::RestartMaster => {
                state.master = anew(state.master.folder);
                state.restarts += 1;
            }
            Step::CopyFolder => state.other = Some(state.master.folder.clone()),
            Step::Swap => {
                let back = state.other.replace(state.master.folder)?;
                state.master = anew(back);
                state.swaps += 1;
            }
            Step::CopyDisk => {
                let mut copy = state.disks[0].clone();
                copy.stop(&self.0);
                state.older = Some(copy);
            }
            Step::RollBack => {
                state.disks[0] = state.older.take()?;
                self.open(&mut state, 0);
                state.was_rolled_back = true;
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

#[cfg(test)]
mod tests {
    use stateright::{Checker, HasDiscoveries};

    use super::*;

    /// Explores the model, up to `states` of them. Returns the steps that lead to a violation, if
    /// there is one, and how many states there were.
    fn explore(rules: Rules, states: usize) -> (Option<Vec<Step>>, usize) {
        let checker = Judgements(rules).checker();
        let checker = checker
            .finish_when(HasDiscoveries::AnyFailures)
            .target_state_count(states)
            .spawn_bfs()
            .join();
        let violations = checker.discoveries().into_values();
        let steps = violations.map(stateright::Path::into_actions).next();
        (steps, checker.unique_state_count())
    }

    /// Small bounds, all states; the large ones are run by `make model`.
    #[test]
    fn i4_all_rules_together_free_nothing_that_is_needed() {
        let folders = Rules {
            swaps: 1,
            restarts: 0,
            positions: 3,
            ..ALL
        };
        for rules in [folders, OLDER_DISK] {
            let (violation, states) = explore(rules, 50_000_000);
            assert_eq!(violation, None, "{rules:?}");
            assert!(states > 10_000, "{states} states of {rules:?}");
        }
    }

    /// A disk that seals before it has judged an answer does no harm as long as its seals count
    /// only after it has told them.
    #[test]
    fn i4_seals_before_the_first_answer_are_harmless_as_long_as_they_must_be_told() {
        let early = Rules {
            judged_first: false,
            ..OLDER_DISK
        };
        assert_eq!(explore(early, 50_000_000).0, None);
        let untold = Rules {
            told: false,
            ..early
        };
        let steps = explore(untold, 50_000_000).0.map(|steps| steps.len());
        assert_eq!(steps, Some(10));
    }

    /// Each rule is there for something: without it there is a way to lose a file.
    #[test]
    fn i4_without_a_rule_something_is_freed_that_is_needed() {
        for (name, rules) in without_one() {
            if SECOND_NETS.contains(&name) {
                continue;
            }
            let rules = Rules {
                restarts: rules.restarts.min(1),
                positions: 3,
                ..rules
            };
            let (violation, states) = explore(rules, 20_000_000);
            let steps = violation.map(|steps| steps.len());
            assert!(
                steps.is_some_and(|steps| (5..=14).contains(&steps)),
                "without {name}: {steps:?} of {states} states"
            );
        }
    }
}
