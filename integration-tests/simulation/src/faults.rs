//! Faults and their times, from a seed; and the nodes that are cut off from the master at each
//! moment.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;
use std::time::Duration;

use rand::RngExt;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use turmoil::Sim;

use crate::io::Resets;

/// Faults strike within this time.
pub(crate) const FAULTS: Duration = Duration::from_secs(5);
const LONGEST_MS: u64 = 3_500;
const MOMENT_MS: u64 = 300;

#[derive(Debug, Clone, PartialEq, Eq)]
enum Fault {
    /// A node is dead for a while.
    Crash(String),
    /// A node dies and is back at once.
    Restart(String),
    /// Nothing passes between two nodes, and what was on its way is lost.
    Cut(String, String),
    /// Nothing passes from the first to the second: requests arrive, and their answers are lost.
    Mute(String, String),
    /// For a moment the answers of the second to the first are lost, then the connections of the
    /// first are reset.
    LoseAnswers(String, String),
    /// Messages between two nodes arrive much later.
    Hold(String, String),
}

impl Fault {
    fn random(rng: &mut StdRng, nodes: &[String], clients: &[String]) -> Self {
        let any = |rng: &mut StdRng| nodes.choose(rng).expect("there are nodes").clone();
        match rng.random_range(0..10) {
            0 | 1 => Self::Crash(any(rng)),
            2 => Self::Restart(any(rng)),
            kind => {
                let pair = |rng: &mut StdRng| loop {
                    let everyone: Vec<String> = nodes.iter().chain(clients).cloned().collect();
                    let a = everyone.choose(rng).expect("there are nodes").clone();
                    let b = any(rng);
                    if a != b && speak(&a, &b) {
                        return (a, b);
                    }
                };
                let (a, b) = pair(rng);
                let (a, b) = if rng.random_bool(0.5) { (a, b) } else { (b, a) };
                match kind {
                    3 | 4 => Self::Cut(a, b),
                    5 => Self::Mute(a, b),
                    6 => Self::Hold(a, b),
                    _ if dials(&a) > dials(&b) => Self::LoseAnswers(a, b),
                    _ => Self::LoseAnswers(b, a),
                }
            }
        }
    }

    fn link(&self) -> Option<(&str, &str)> {
        match self {
            Self::Crash(_) | Self::Restart(_) => None,
            Self::Cut(a, b) | Self::Mute(a, b) | Self::LoseAnswers(a, b) | Self::Hold(a, b) => {
                Some((a, b))
            }
        }
    }

    fn touches_same(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Crash(a) | Self::Restart(a), Self::Crash(b) | Self::Restart(b)) => a == b,
            _ => match (self.link(), other.link()) {
                (Some((a, b)), Some((c, d))) => (a, b) == (c, d) || (a, b) == (d, c),
                _ => false,
            },
        }
    }

    /// Returns the node whose heartbeats do not reach the master during the fault.
    fn cuts_off(&self) -> Option<&str> {
        match self {
            Self::Crash(node) if node != "master" => Some(node),
            Self::Cut(a, b) | Self::Hold(a, b) if a == "master" => Some(b),
            Self::Cut(a, b) | Self::Hold(a, b) | Self::Mute(a, b) if b == "master" => Some(a),
            _ => None,
        }
    }

    fn begin(&self, sim: &mut Sim<'_>) {
        match self {
            Self::Crash(node) => sim.crash(node.as_str()),
            Self::Restart(node) => sim.bounce(node.as_str()),
            Self::Cut(a, b) => sim.partition(a.as_str(), b.as_str()),
            Self::Mute(a, b) => sim.partition_oneway(a.as_str(), b.as_str()),
            Self::LoseAnswers(a, b) => sim.partition_oneway(b.as_str(), a.as_str()),
            Self::Hold(a, b) => sim.hold(a.as_str(), b.as_str()),
        }
    }

    fn end(&self, sim: &mut Sim<'_>, resets: &Resets) {
        match self {
            Self::Crash(node) => sim.bounce(node.as_str()),
            Self::Restart(_) => {}
            Self::Cut(a, b) => sim.repair(a.as_str(), b.as_str()),
            Self::Mute(a, b) => sim.repair_oneway(a.as_str(), b.as_str()),
            Self::LoseAnswers(a, b) => {
                sim.repair_oneway(b.as_str(), a.as_str());
                resets.reset(a, b);
            }
            Self::Hold(a, b) => sim.release(a.as_str(), b.as_str()),
        }
    }
}

/// Returns the rank of a node by its name. Of two nodes the one of higher rank dials.
fn dials(name: &str) -> u8 {
    match name.split('-').next() {
        Some("client") => 3,
        Some("worker") => 2,
        Some("storage") => 1,
        _ => 0,
    }
}

/// Returns true if two nodes ever communicate: a fault between others would have no effect.
fn speak(a: &str, b: &str) -> bool {
    let kind = |name: &str| name.split('-').next().unwrap_or_default().to_owned();
    let mut kinds = [kind(a), kind(b)];
    kinds.sort();
    !matches!(
        (kinds[0].as_str(), kinds[1].as_str()),
        ("client", "storage" | "client")
    ) && kinds[0] != kinds[1]
}

/// Since when nodes have been cut off from the master, in simulated time.
pub(crate) type CutOff = Rc<RefCell<BTreeMap<String, Duration>>>;

/// The faults of one run.
pub(crate) struct Plan {
    coming: Vec<(Duration, Duration, Fault)>,
    struck: Vec<(Duration, Fault)>,
    cut_off: CutOff,
    resets: Resets,
}

impl Plan {
    /// Plans random faults from `start` on.
    pub(crate) fn random(
        rng: &mut StdRng,
        nodes: &[String],
        clients: &[String],
        start: Duration,
        cut_off: CutOff,
        resets: Resets,
    ) -> Self {
        let count = rng.random_range(4..12);
        let ms = Duration::from_millis;
        let fault = |rng: &mut StdRng| {
            let begin = start + ms(rng.random_range(0..FAULTS.as_millis() as u64 * 4 / 5));
            let fault = Fault::random(rng, nodes, clients);
            let longest = if matches!(fault, Fault::LoseAnswers(..)) {
                MOMENT_MS
            } else {
                LONGEST_MS
            };
            let end = (begin + ms(rng.random_range(20..longest))).min(start + FAULTS);
            (begin, end, fault)
        };
        let mut coming: Vec<_> = (0..count).map(|_| fault(rng)).collect();
        coming.sort_by_key(|(begin, ..)| std::cmp::Reverse(*begin));
        Self {
            coming,
            struck: Vec::new(),
            cut_off,
            resets,
        }
    }

    /// Begins and ends the faults that are due, and returns a description of each.
    pub(crate) fn advance(&mut self, sim: &mut Sim<'_>) -> Vec<String> {
        let now = sim.elapsed();
        let mut said = Vec::new();
        let (over, struck) = std::mem::take(&mut self.struck)
            .into_iter()
            .partition(|(end, _)| *end <= now);
        self.struck = struck;
        let over: Vec<(Duration, Fault)> = over;
        for (_, fault) in over {
            fault.end(sim, &self.resets);
            said.push(format!("over: {fault:?}"));
        }
        while self.coming.last().is_some_and(|(begin, ..)| *begin <= now) {
            let Some((_, end, fault)) = self.coming.pop() else {
                break;
            };
            if self
                .struck
                .iter()
                .any(|(_, other)| fault.touches_same(other))
            {
                continue;
            }
            fault.begin(sim);
            said.push(format!("struck: {fault:?}"));
            if !matches!(fault, Fault::Restart(_)) {
                self.struck.push((end, fault));
            }
        }
        let mut cut_off = self.cut_off.borrow_mut();
        let off: Vec<&str> = self
            .struck
            .iter()
            .filter_map(|(_, fault)| fault.cuts_off())
            .collect();
        cut_off.retain(|node, _| off.contains(&node.as_str()));
        for node in off {
            cut_off.entry(node.to_owned()).or_insert(now);
        }
        said
    }

    /// Returns true if no fault is in force and none will come.
    pub(crate) fn is_over(&self) -> bool {
        self.coming.is_empty() && self.struck.is_empty()
    }
}
