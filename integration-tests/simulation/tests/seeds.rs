//! I1, I2, I4, I11, I12 under faults from a seed. `CSTORE_SEED` picks the first seed,
//! `CSTORE_CASES` how many.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use cstore_simulation::{Outcome, run};
use cstore_testkit::{seed, seed_and_cases};

/// Runs one seed on a thread of its own, so that nothing is left over from the seed before.
fn run_alone(seed: u64) -> Outcome {
    std::thread::spawn(move || run(seed)).join().unwrap()
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
fn first_violated(seeds: std::ops::Range<u64>) -> (Option<(u64, Outcome)>, Sums) {
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
                    let outcome = run_alone(seed);
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
    let (first, cases) = seed_and_cases(1, 500);
    let start = tokio::time::Instant::now();
    let (found, sums) = first_violated(first..first + cases);
    println!("{sums:?} in {:?}", start.elapsed());
    if let Some((seed, outcome)) = found {
        panic!("{}", show(seed, &outcome));
    }
    assert!(
        sums.acknowledged > 5 * cases,
        "the runs do too little: {sums:?}"
    );
}

/// A failing seed can be repeated: the traces name every call with its answer and its millisecond.
#[test]
fn the_same_seed_is_the_same_run() {
    let first = seed(1);
    for seed in first..first + 10 {
        let (one, two) = (run_alone(seed), run_alone(seed));
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
