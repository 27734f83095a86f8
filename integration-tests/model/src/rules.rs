//! The rules, each with a switch, and the bounds of a run.

/// Rules that can be left out, and bounds of a run.
#[derive(Debug, Clone, Copy)]
pub struct Rules {
    /// Histories are judged by their lives, not by positions alone.
    pub lives: bool,
    /// A contested master neither writes nor releases.
    pub contested: bool,
    /// Nothing is released or given up before all disks were heard in this life (rule J).
    pub all_heard: bool,
    /// Nothing is written before a disk was heard.
    pub heard_before_write: bool,
    /// A disk that doubts its master obeys no release and takes no seal.
    pub hold: bool,
    /// A ticket is good under the history that made it only.
    pub ticket: bool,
    /// Each open of a disk that writes begins an epoch.
    pub epochs: bool,
    /// A seal names the nonce of its epoch.
    pub nonces: bool,
    /// The newest seal that the master has seen only rises.
    pub seen_rises: bool,
    /// A disk that lacks what the master has seen obeys no release.
    pub suspect: bool,
    /// The doubt of a disk ends only with the seal that it began with, and a commit over a disk in
    /// doubt does not raise the newest seal that the master has seen.
    pub own_seal: bool,
    /// A commit rests only on seals that their disks have told this life of the master (rule T).
    pub told: bool,
    /// A disk takes seals only after it has judged an answer (rule F).
    pub judged_first: bool,
    /// The master judges by the epochs that a disk tells whether the disk has lost what was seen of
    /// it, and does not only believe what the disk says of itself.
    pub master_judges: bool,
    /// A commit rests on the newest seal of each open of a disk, not on the newest one alone.
    pub seal_per_open: bool,
    /// A session of another era (begun before a person accepted this master, or under the other
    /// folder) is kept instead of given up.
    pub keeps_unknown: bool,
    /// A session of another era does not commit.
    pub commits_own_era: bool,
    /// An accept of a master is about one point that a disk has noted, and about no other.
    pub accepts_one_point: bool,
    /// An accept of an older disk is about one seal that it has lost, and about no other.
    pub accepts_one_seal: bool,
    /// The newest seal that was committed over a disk in doubt is remembered beside the newest one
    /// that was committed before the doubt, and the disk must hold both.
    pub remembers_doubt: bool,
    /// A disk in doubt takes seals. The program does; without it, `remembers_doubt` is not needed.
    pub seals_in_doubt: bool,
    /// The newest write of a folder that is taken away was heard and written down by a disk that
    /// stays.
    pub witness: bool,
    /// An answer may arrive after other steps. If not, a report and its answer are one step.
    pub late: bool,
    /// Sessions: 2 or 3.
    pub sessions: usize,
    /// Sets of the first disk: one of each session, or one more of the last one.
    pub sets: usize,
    /// A disk that was exchanged for its copy may come back.
    pub returns: bool,
    /// Exchanges of the first disk for its copy.
    pub rollbacks: u8,
    /// Accepts by a person.
    pub accepts: u8,
    /// Exchanges of the master's folder.
    pub swaps: u8,
    /// Restarts of all together.
    pub restarts: u8,
    /// Writes of the master.
    pub positions: u64,
}

impl Rules {
    /// Returns true if the master's folder may be exchanged. If not, its history contains every
    /// point of it, so that no lives and points are kept, and there are fewer states.
    pub(crate) const fn has_exchanges(&self) -> bool {
        self.swaps > 0
    }
}

/// All rules of the program, and exchanges of the master's folder.
pub const ALL: Rules = Rules {
    lives: true,
    contested: true,
    all_heard: true,
    heard_before_write: true,
    hold: true,
    ticket: true,
    epochs: true,
    nonces: true,
    seen_rises: true,
    suspect: true,
    own_seal: true,
    told: true,
    judged_first: true,
    master_judges: true,
    seal_per_open: true,
    keeps_unknown: true,
    commits_own_era: true,
    accepts_one_point: true,
    accepts_one_seal: true,
    remembers_doubt: true,
    seals_in_doubt: true,
    witness: true,
    late: false,
    sessions: 2,
    sets: 2,
    returns: false,
    rollbacks: 0,
    accepts: 0,
    swaps: 2,
    restarts: 1,
    positions: 4,
};

/// An older copy of a disk.
pub const OLDER_DISK: Rules = Rules {
    rollbacks: 1,
    swaps: 0,
    restarts: 2,
    ..ALL
};

/// An older copy of a disk, and answers that arrive late.
pub const LATE_TO_DISK: Rules = Rules {
    late: true,
    ..OLDER_DISK
};

/// An older copy of a disk, and two sets of one session on it.
pub const TWO_SETS: Rules = Rules {
    sets: 3,
    ..OLDER_DISK
};

/// An exchange of the master's folder, and answers that arrive late.
pub const LATE_OF_FOLDER: Rules = Rules {
    late: true,
    swaps: 1,
    restarts: 0,
    positions: 3,
    ..ALL
};

/// Exchanges of the master's folder, and accepts of a master.
pub const ACCEPTED_MASTER: Rules = Rules {
    accepts: 2,
    restarts: 0,
    positions: 3,
    ..ALL
};

/// Two older copies of a disk, and an accept of such a disk in between.
pub const ACCEPTED_DISK: Rules = Rules {
    sessions: 3,
    sets: 3,
    accepts: 1,
    rollbacks: 2,
    restarts: 0,
    ..OLDER_DISK
};

/// A disk that comes back after an older copy of it has taken its place.
pub const RETURNING_DISK: Rules = Rules {
    returns: true,
    rollbacks: 2,
    restarts: 1,
    ..OLDER_DISK
};

/// Runs of all rules, each with its name.
pub const WHOLE: [(&str, Rules); 9] = [
    ("folders exchanged", ALL),
    ("a disk rolled back", OLDER_DISK),
    ("a disk rolled back, late answers", LATE_TO_DISK),
    ("a disk rolled back, two sets of a session", TWO_SETS),
    ("folders exchanged, late answers", LATE_OF_FOLDER),
    ("a master accepted", ACCEPTED_MASTER),
    (
        "a disk accepted once",
        Rules {
            accepts: 1,
            ..OLDER_DISK
        },
    ),
    ("a disk accepted between two older copies", ACCEPTED_DISK),
    ("a disk comes back", RETURNING_DISK),
];

/// Runs of all rules that are too large for the tests.
pub const COMBINED: [(&str, Rules); 2] = [
    (
        "a master accepted, late answers",
        Rules {
            accepts: 1,
            ..LATE_OF_FOLDER
        },
    ),
    (
        "a folder exchanged and a disk rolled back",
        Rules {
            rollbacks: 1,
            late: false,
            ..LATE_OF_FOLDER
        },
    ),
];

/// A run without a rule.
#[derive(Debug, Clone, Copy)]
pub struct Without {
    /// Name of what is left out.
    pub name: &'static str,
    /// The rules that are left, and bounds under which they are explored.
    pub rules: Rules,
    /// The other rules suffice: what is left out is a second net, or serves another invariant.
    pub is_second_net: bool,
}

const fn needed(name: &'static str, rules: Rules) -> Without {
    Without {
        name,
        rules,
        is_second_net: false,
    }
}

const fn second_net(name: &'static str, rules: Rules) -> Without {
    Without {
        name,
        rules,
        is_second_net: true,
    }
}

/// Returns `rules` after a change.
fn but(mut rules: Rules, change: fn(&mut Rules)) -> Rules {
    change(&mut rules);
    rules
}

/// Returns runs without one of the rules, or without two of them.
pub fn without() -> Vec<Without> {
    let mut runs = without_for_folders();
    runs.extend(without_for_disks());
    runs.extend(without_for_accepts());
    runs
}

fn without_for_folders() -> Vec<Without> {
    vec![
        needed("lives", but(ALL, |rules| rules.lives = false)),
        needed(
            "all disks heard first",
            but(ALL, |rules| rules.all_heard = false),
        ),
        needed(
            "hold and contest",
            but(ALL, |rules| {
                rules.hold = false;
                rules.contested = false;
            }),
        ),
        needed("hold", but(ALL, |rules| rules.hold = false)),
        needed("contest", but(ALL, |rules| rules.contested = false)),
        needed("a witness", but(ALL, |rules| rules.witness = false)),
        second_net(
            "tickets of one history",
            but(ALL, |rules| rules.ticket = false),
        ),
        second_net(
            "a disk heard before writes",
            but(ALL, |rules| rules.heard_before_write = false),
        ),
    ]
}

fn without_for_disks() -> Vec<Without> {
    let early = |rules| but(rules, |rules| rules.judged_first = false);
    vec![
        needed("epochs", but(OLDER_DISK, |rules| rules.epochs = false)),
        needed(
            "nonces of seals",
            but(OLDER_DISK, |rules| rules.nonces = false),
        ),
        needed(
            "seen that only rises",
            but(OLDER_DISK, |rules| rules.seen_rises = false),
        ),
        needed("suspect", but(OLDER_DISK, |rules| rules.suspect = false)),
        needed(
            "its own seal",
            but(OLDER_DISK, |rules| rules.own_seal = false),
        ),
        needed(
            "seals that were told",
            but(OLDER_DISK, |rules| rules.told = false),
        ),
        needed(
            "seals of each open",
            but(TWO_SETS, |rules| rules.seal_per_open = false),
        ),
        second_net("an answer before seals", early(OLDER_DISK)),
        second_net("an answer before seals, late answers", early(LATE_TO_DISK)),
        second_net(
            "the master's own judgement, late answers",
            but(LATE_TO_DISK, |rules| rules.master_judges = false),
        ),
        needed(
            "an answer before seals and the master's own judgement, late answers",
            but(early(LATE_TO_DISK), |rules| rules.master_judges = false),
        ),
        needed(
            "an answer before seals and seals that were told",
            but(early(OLDER_DISK), |rules| rules.told = false),
        ),
        needed(
            "what was committed in doubt, a disk comes back",
            but(RETURNING_DISK, |rules| rules.remembers_doubt = false),
        ),
        second_net(
            "what was committed in doubt, but no seals in doubt, a disk comes back",
            but(RETURNING_DISK, |rules| {
                rules.remembers_doubt = false;
                rules.seals_in_doubt = false;
            }),
        ),
    ]
}

/// Name of the run that is too large for the tests.
pub(crate) const LARGE: &str = "an accept of one point, three exchanges";

fn without_for_accepts() -> Vec<Without> {
    vec![
        needed(
            "kept sessions",
            but(ACCEPTED_MASTER, |rules| rules.keeps_unknown = false),
        ),
        needed(
            "commits of this era",
            but(ACCEPTED_MASTER, |rules| rules.commits_own_era = false),
        ),
        needed(
            LARGE,
            but(ACCEPTED_MASTER, |rules| {
                rules.accepts_one_point = false;
                rules.swaps = 3;
            }),
        ),
        needed(
            "what was committed in doubt, a disk accepted",
            but(ACCEPTED_DISK, |rules| rules.remembers_doubt = false),
        ),
        needed(
            "an accept of one seal",
            but(ACCEPTED_DISK, |rules| rules.accepts_one_seal = false),
        ),
    ]
}
