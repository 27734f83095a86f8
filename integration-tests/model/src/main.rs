//! Runs the model with all rules, then without each of them, and prints what follows: states, depth
//! and the steps that lead to a violation. A run of all rules that is not exhausted says so.

#![allow(
    clippy::print_stdout,
    clippy::disallowed_types,
    reason = "the table is what it is run for, with the time that it took"
)]

use std::time::{Duration, Instant};

use cstore_model::{COMBINED, Judgements, Rules, WHOLE, Without, without};
use stateright::{Checker, HasDiscoveries, Model};

/// Time of one run. A larger model is cut off.
///
/// One thread explores: otherwise the way to a violation is not always the shortest one, and the
/// number of states that were explored until then differs from run to run.
const PATIENCE: Duration = Duration::from_secs(120);

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
    for (name, rules) in WHOLE.into_iter().chain(COMBINED) {
        run(&format!("all rules, {name}"), rules);
    }
    for Without { name, rules, .. } in without() {
        run(&format!("without: {name}"), rules);
    }
}
