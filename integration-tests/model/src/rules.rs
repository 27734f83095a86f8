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
    /// That doubt ends with the seal that it began with, and commits over it raise nothing.
    pub own_seal: bool,
    /// A commit rests only on seals that their disks have told this life of the master (rule T).
    pub told: bool,
    /// A disk takes seals only after it has judged an answer (rule F).
    pub judged_first: bool,
    /// The newest write of a folder that is taken away was heard and written down by a disk that
    /// stays.
    pub witness: bool,
    /// A disk may be exchanged for an older copy once.
    pub rollback: bool,
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

/// All rules, and exchanges of the master's folder.
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
    witness: true,
    rollback: false,
    swaps: 2,
    restarts: 1,
    positions: 4,
};

/// All rules, and an older copy of a disk.
pub const OLDER_DISK: Rules = Rules {
    rollback: true,
    swaps: 0,
    restarts: 2,
    ..ALL
};

/// Rules that are not needed for these two properties as long as all others stand: each is a second
/// net, or serves another invariant.
pub const SECOND_NETS: [&str; 3] = [
    "tickets of one history",
    "a disk heard before writes",
    "an answer before seals",
];

/// Returns the rules without one of them, each with its name and under what shows it.
pub fn without_one() -> Vec<(&'static str, Rules)> {
    let folders = |change: fn(&mut Rules)| {
        let mut rules = ALL;
        change(&mut rules);
        rules
    };
    let disk = |change: fn(&mut Rules)| {
        let mut rules = OLDER_DISK;
        change(&mut rules);
        rules
    };
    vec![
        ("lives", folders(|rules| rules.lives = false)),
        (
            "all disks heard first",
            folders(|rules| rules.all_heard = false),
        ),
        (
            "hold and contest",
            folders(|rules| {
                rules.hold = false;
                rules.contested = false;
            }),
        ),
        ("hold", folders(|rules| rules.hold = false)),
        ("contest", folders(|rules| rules.contested = false)),
        ("a witness", folders(|rules| rules.witness = false)),
        (
            "tickets of one history",
            folders(|rules| rules.ticket = false),
        ),
        (
            "a disk heard before writes",
            folders(|rules| rules.heard_before_write = false),
        ),
        ("epochs", disk(|rules| rules.epochs = false)),
        ("nonces of seals", disk(|rules| rules.nonces = false)),
        (
            "seen that only rises",
            disk(|rules| rules.seen_rises = false),
        ),
        ("suspect", disk(|rules| rules.suspect = false)),
        ("its own seal", disk(|rules| rules.own_seal = false)),
        ("seals that were told", disk(|rules| rules.told = false)),
        (
            "an answer before seals",
            disk(|rules| rules.judged_first = false),
        ),
        (
            "an answer before seals, and seals that were told",
            disk(|rules| {
                rules.judged_first = false;
                rules.told = false;
            }),
        ),
    ]
}
