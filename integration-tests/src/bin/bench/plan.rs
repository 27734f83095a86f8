//! The plan of a run: the contestants, rows and rounds that the command line names.

use std::path::{Path, PathBuf};

use clap::Parser;

use crate::ours::{self, Setup};
use crate::processes::Servers;
use crate::rows::Row;
use crate::weed::{self, Variant};

/// Measures C-Store over loopback, alone or beside other programs, round by round in turns. Prints
/// medians and ratios as Markdown, and writes all values to bench-results/.
#[derive(Debug, Parser)]
#[command(name = "bench")]
pub(crate) struct Arguments {
    /// Program that is judged: a path to cstore. Without it the program of this tree
    #[arg(long)]
    program: Option<PathBuf>,
    /// Rivals, separated by spaces or commas: a path to another cstore, weed (SeaweedFS by its
    /// filer), weed:fsync, weed:s3, weed:s3:fsync
    #[arg(long, default_value = "")]
    against: String,
    /// Set-ups of cstore programs: dev (one process) and four (processes)
    #[arg(long, default_value = "dev four")]
    setups: String,
    /// Rows of the table; all without it
    #[arg(long, default_value = "")]
    rows: String,
    /// Measurements of each row and contestant; medians count
    #[arg(long, default_value_t = 3, value_parser = clap::value_parser!(u16).range(1..))]
    rounds: u16,
    /// Size of the large files in MiB
    #[arg(long, default_value_t = 1_024, value_parser = clap::value_parser!(u32).range(1..))]
    mib: u32,
    /// Also measures peak memory after 60,000 names and 10 large files, each on a new store
    #[arg(long)]
    memory: bool,
    /// Measures only what tracing costs, in this number of rounds
    #[arg(long)]
    pub(crate) tracing: Option<usize>,
}

/// The program of a contestant and the options of its start.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Kind {
    Ours {
        program: Option<PathBuf>,
        setup: Setup,
    },
    Weed(Variant),
}

/// A contestant that can be started any number of times.
#[derive(Debug, Clone)]
pub(crate) struct Contestant {
    name: String,
    kind: Kind,
}

impl Contestant {
    pub(crate) fn start(&self) -> Servers {
        match &self.kind {
            Kind::Ours { program, setup } => ours::start(&self.name, program.as_ref(), *setup, &[]),
            Kind::Weed(variant) => weed::start(*variant),
        }
    }

    pub(crate) fn name(&self) -> &str {
        &self.name
    }

    /// Returns true if the other one is a pair for this one: the same set-up of another program, or
    /// another system.
    fn is_comparable(&self, other: &Self) -> bool {
        match (&self.kind, &other.kind) {
            (Kind::Ours { setup, .. }, Kind::Ours { setup: other, .. }) => setup == other,
            _ => true,
        }
    }
}

/// Everything that the command line says.
#[derive(Debug)]
pub(crate) struct Plan {
    /// The judged program in each set-up, then its rivals.
    pub(crate) contestants: Vec<Contestant>,
    /// Places of the contestants whose medians are divided, judged one first.
    pub(crate) pairs: Vec<(usize, usize)>,
    pub(crate) rows: Vec<Row>,
    pub(crate) rounds: usize,
    pub(crate) mib: u64,
    pub(crate) memory: bool,
}

fn words(text: &str) -> impl Iterator<Item = &str> {
    text.split([' ', ',']).filter(|word| !word.is_empty())
}

/// Returns the contestants of one program of ours.
fn programs(label: &str, program: Option<&PathBuf>, setups: &[Setup]) -> Vec<Contestant> {
    let contestant = |setup: &Setup| Contestant {
        name: format!("{label} {}", setup.name()),
        kind: Kind::Ours {
            program: program.cloned(),
            setup: *setup,
        },
    };
    setups.iter().map(contestant).collect()
}

/// Returns the path of a program of ours, once it has said its version.
fn cstore(path: &Path) -> Result<PathBuf, String> {
    let path = path
        .canonicalize()
        .map_err(|error| format!("{}: {error}", path.display()))?;
    ours::version(Some(&path))?;
    Ok(path)
}

fn rivals(against: &str, setups: &[Setup]) -> Result<Vec<Contestant>, String> {
    let mut rivals = Vec::new();
    let mut old = 0;
    for word in words(against) {
        if word == "weed" || word.starts_with("weed:") {
            let variant = Variant::parse(word)?;
            weed::find()?;
            rivals.push(Contestant {
                name: variant.name(),
                kind: Kind::Weed(variant),
            });
        } else if PathBuf::from(word).is_file() {
            old += 1;
            let label = if old == 1 {
                "old".to_owned()
            } else {
                format!("old{old}")
            };
            rivals.extend(programs(&label, Some(&cstore(Path::new(word))?), setups));
        } else {
            return Err(format!(
                "contestant {word:?} is neither a file nor known: allowed are a path to a cstore \
                 program, weed, weed:fsync, weed:s3 and weed:s3:fsync"
            ));
        }
    }
    Ok(rivals)
}

/// Returns the pairs of the judged contestants, which come first, and their rivals. Without rivals
/// the first set-up is compared with each other one.
fn pairs(contestants: &[Contestant], n_judged: usize) -> Vec<(usize, usize)> {
    if n_judged == contestants.len() {
        return (1..n_judged).map(|other| (0, other)).collect();
    }
    let mut pairs = Vec::new();
    for rival in n_judged..contestants.len() {
        for judged in 0..n_judged {
            if contestants[judged].is_comparable(&contestants[rival]) {
                pairs.push((judged, rival));
            }
        }
    }
    pairs
}

impl Plan {
    /// # Errors
    /// A message that says what is allowed.
    pub(crate) fn new(arguments: &Arguments) -> Result<Self, String> {
        let setups: Vec<Setup> = words(&arguments.setups)
            .map(Setup::parse)
            .collect::<Result<_, _>>()?;
        if setups.is_empty() {
            return Err("no set-up is named: allowed are dev and four".to_owned());
        }
        let mut rows: Vec<Row> = words(&arguments.rows)
            .map(Row::parse)
            .collect::<Result<_, _>>()?;
        if rows.is_empty() {
            rows = Row::ALL.to_vec();
        }
        let program = arguments.program.as_deref().map(cstore).transpose()?;
        let judged = programs("new", program.as_ref(), &setups);
        let rivals = rivals(&arguments.against, &setups)?;

        let n_judged = judged.len();
        let contestants = [judged, rivals].concat();
        for (place, contestant) in contestants.iter().enumerate() {
            let is_same = |other: &Contestant| other.name == contestant.name;
            if contestants[..place].iter().any(is_same) {
                return Err(format!("{} is named twice", contestant.name));
            }
        }
        Ok(Self {
            pairs: pairs(&contestants, n_judged),
            contestants,
            rows,
            rounds: arguments.rounds.into(),
            mib: arguments.mib.into(),
            memory: arguments.memory,
        })
    }
}
