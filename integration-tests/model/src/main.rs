//! Runs the model with all rules, then without each of them, and prints what follows: states, depth
//! and the steps that lead to a violation. A run of all rules that is not exhausted says so.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "the table is what it is run for, with the time that it took"
)]

use std::time::{Duration, Instant};

use cstore_model::{ALL, Judgements, OLDER_DISK, Rules};
use stateright::{Checker, HasDiscoveries, Model};

/// Time of one run. A larger model is cut off. One thread explores, so that the shortest way to a
/// violation is found and the numbers of states are the same in each run.
const PATIENCE: Duration = Duration::from_secs(60);

fn run(name: &str, rules: Rules) {
    let begun = Instant::now();
    let checker = Judgements(rules).checker();
    let checker = checker
        .finish_when(HasDiscoveries::AnyFailures)
        .timeout(PATIENCE)
        .spawn_bfs()
        .join();
    let found = checker.discoveries();
    let is_cut = found.is_empty() && begun.elapsed() >= PATIENCE;
    println!(
        "{name}: {} states, depth {}{}",
        checker.unique_state_count(),
        checker.max_depth(),
        if is_cut { ", cut off by time" } else { "" }
    );
    for (property, path) in found {
        let steps = path.into_actions();
        println!(
            "  violated in {} steps: {property}\n    {steps:?}",
            steps.len()
        );
    }
}

fn main() {
    run("all rules, folders exchanged", ALL);
    run("all rules, a disk rolled back", OLDER_DISK);
    for (name, rules) in cstore_model::without_one() {
        run(&format!("without: {name}"), rules);
    }
}
