//! Seeds. `CSTORE_SEED` picks the first, `CSTORE_CASES` how many.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use cstore_simulation::{Sabotage, run};

fn env(name: &str, default: u64) -> u64 {
    std::env::vars().find(|(key, _)| key == name).and_then(|(_, value)| value.parse().ok()).unwrap_or(default)
}

#[test]
fn probe() {
    let seed = env("CSTORE_SEED", 1);
    let start = tokio::time::Instant::now();
    let outcome = run(seed, Sabotage::None);
    for line in &outcome.trace {
        println!("{line}");
    }
    println!("{:?} simulated {:?} in {:?}", outcome.violation, outcome.simulated, start.elapsed());
}
