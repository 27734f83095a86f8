//! I1, I2, I4, I11, I12 under faults from a seed. `CSTORE_SEED` picks the first seed, `CSTORE_CASES` how many.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::atomic::{AtomicU64, Ordering};

use cstore_simulation::{Outcome, Sabotage, run};

fn env(name: &str, default: u64) -> u64 {
    std::env::vars().find(|(key, _)| key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(default)
}

/// Runs one seed on a thread of its own, so that nothing is left over from the seed before.
fn run_alone(seed: u64, sabotage: Sabotage) -> Outcome {
    std::thread::spawn(move || run(seed, sabotage)).join().unwrap()
}

/// Runs seeds on all cores until one is violated; answers the lowest of those that were, and how many ran.
fn first_violated(seeds: std::ops::Range<u64>, sabotage: Sabotage) -> (Option<(u64, Outcome)>, u64) {
    let (next, ran, found) = (AtomicU64::new(seeds.start), AtomicU64::new(0), std::sync::Mutex::new(None));
    let cores = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    std::thread::scope(|scope| {
        for _ in 0..cores {
            scope.spawn(|| {
                while found.lock().unwrap().is_none() {
                    let seed = next.fetch_add(1, Ordering::Relaxed);
                    if seed >= seeds.end {
                        return;
                    }
                    let outcome = run_alone(seed, sabotage);
                    ran.fetch_add(1, Ordering::Relaxed);
                    if outcome.violation.is_some() {
                        found.lock().unwrap().get_or_insert((seed, outcome));
                    }
                }
            });
        }
    });
    (found.into_inner().unwrap(), ran.into_inner())
}

fn show(seed: u64, outcome: &Outcome) -> String {
    let from = outcome.trace.len().saturating_sub(200);
    format!("CSTORE_SEED={seed}\n{}\n{:?}", outcome.trace[from..].join("\n"), outcome.violation)
}

#[test]
fn i12_nothing_acknowledged_is_lost_and_everything_heals() {
    let (first, cases) = (env("CSTORE_SEED", 1), env("CSTORE_CASES", 500));
    println!("CSTORE_SEED={first} CSTORE_CASES={cases}");
    let start = tokio::time::Instant::now();
    let (found, ran) = first_violated(first..first + cases, Sabotage::None);
    println!("{ran} seeds in {:?}", start.elapsed());
    if let Some((seed, outcome)) = found {
        panic!("{}", show(seed, &outcome));
    }
}

#[test]
fn i11_a_repeated_call_that_must_not_be_is_caught() {
    let (found, ran) = first_violated(1..2_000, Sabotage::RepeatEverything);
    let (seed, outcome) = found.expect("a rename or delete whose answer was lost is told a lie");
    println!("caught after {ran} seeds: {}", show(seed, &outcome));
}

#[test]
fn i12_a_node_that_is_ready_while_it_is_down_is_caught() {
    let (found, ran) = first_violated(1..200, Sabotage::LeasesNeverEnd);
    let (seed, outcome) = found.expect("a node that was cut off is named");
    println!("caught after {ran} seeds: {}", show(seed, &outcome));
}
/// What a failing seed printed can be had again: the traces name every call with its answer and its millisecond.
#[test]
fn the_same_seed_is_the_same_run() {
    let first = env("CSTORE_SEED", 1);
    for seed in first..first + 10 {
        let (one, two) = (run_alone(seed, Sabotage::None), run_alone(seed, Sabotage::None));
        let same = one.trace.iter().zip(&two.trace).take_while(|(one, two)| one == two).count();
        let rest = |trace: &[String]| trace.iter().skip(same).take(3).cloned().collect::<Vec<_>>();
        assert!(one.trace == two.trace, "seed {seed}: {:#?} {:#?}", rest(&one.trace), rest(&two.trace));
        assert_eq!(one.simulated, two.simulated);
    }
}
