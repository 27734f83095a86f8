//! I1, I2, I4, I11, I12 under faults from a seed. `CSTORE_SEED` picks the first seed,
//! `CSTORE_CASES` how many.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cstore_simulation::{Outcome, Setup, run};
use cstore_testkit::{seed, seed_and_cases};

/// Runs one seed on a thread of its own, so that nothing is left over from the seed before.
fn run_alone(seed: u64, setup: Setup) -> Outcome {
    std::thread::spawn(move || run(seed, setup)).join().unwrap()
}

/// Sums over many runs.
#[derive(Debug, Default, Clone, Copy)]
struct Sums {
    seeds: u64,
    acknowledged: u64,
    /// Changes of names whose outcome is unknown.
    uncertain: u64,
    simulated_s: u64,
}

/// Runs seeds on all cores until one is violated. Returns that one, and the sums.
fn first_violated(seeds: std::ops::Range<u64>, setup: Setup) -> (Option<(u64, Outcome)>, Sums) {
    let (next, shared) = (
        AtomicU64::new(seeds.start),
        Mutex::new((None, Sums::default())),
    );
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while shared.lock().unwrap().0.is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run_alone(seed, setup);
                    let (found, sums) = &mut *shared.lock().unwrap();
                    sums.seeds += 1;
                    sums.acknowledged += outcome.acknowledged;
                    sums.uncertain += outcome.uncertain;
                    sums.simulated_s += outcome.simulated.as_secs();
                    if outcome.violation.is_some() {
                        found.get_or_insert((seed, outcome));
                    }
                }
            });
        }
    });
    shared.into_inner().unwrap()
}

fn show(seed: u64, outcome: &Outcome) -> String {
    let from = outcome.trace.len().saturating_sub(200);
    format!(
        "CSTORE_SEED={seed}\n{}\n{:?}",
        outcome.trace[from..].join("\n"),
        outcome.violation
    )
}

#[test]
fn i12_nothing_acknowledged_is_lost_and_everything_heals() {
    println!("{}", nothing_is_lost(Setup::Apart, 500));
}

#[test]
fn i12_nothing_acknowledged_is_lost_by_one_process_with_all_roles() {
    println!("{}", nothing_is_lost(Setup::OneProcess, 200));
}

/// Runs seeds and returns a summary. Panics with the trace of the first one that is violated.
fn nothing_is_lost(setup: Setup, cases: u64) -> String {
    let (first, cases) = seed_and_cases(1, cases);
    let start = tokio::time::Instant::now();
    let (found, sums) = first_violated(first..first + cases, setup);
    let took = start.elapsed();
    if let Some((seed, outcome)) = found {
        panic!("{}", show(seed, &outcome));
    }
    assert!(
        sums.acknowledged > 5 * cases,
        "the runs do too little: {sums:?}"
    );
    format!("{setup:?}: {sums:?} in {took:?}")
}

/// A failing seed can be repeated: the traces name every call with its answer and its millisecond.
/// Runs of one process can differ after a crash.
#[test]
fn the_same_seed_is_the_same_run() {
    let first = seed(1);
    for seed in first..first + 10 {
        let (one, two) = (run_alone(seed, Setup::Apart), run_alone(seed, Setup::Apart));
        let same = one
            .trace
            .iter()
            .zip(&two.trace)
            .take_while(|(one, two)| one == two)
            .count();
        let rest = |trace: &[String]| trace.iter().skip(same).take(3).cloned().collect::<Vec<_>>();
        assert!(
            one.trace == two.trace,
            "seed {seed}: {:#?} {:#?}",
            rest(&one.trace),
            rest(&two.trace)
        );
        assert_eq!(one.simulated, two.simulated);
    }
}
