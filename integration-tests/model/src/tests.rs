//! Bounds that are small enough for each test run.

use stateright::{Checker, HasDiscoveries};

use super::*;

/// Explores the model, up to `states` of them. Returns the steps that lead to a violation, if
/// there is one, and how many states there were.
fn explore(rules: Rules, states: usize) -> (Option<Vec<Step>>, usize) {
    let checker = Judgements(rules).checker();
    let checker = checker
        .finish_when(HasDiscoveries::AnyFailures)
        .target_state_count(states)
        .spawn_bfs()
        .join();
    let violations = checker.discoveries().into_values();
    let steps = violations.map(stateright::Path::into_actions).next();
    (steps, checker.unique_state_count())
}

/// Returns rules under bounds that are explored in a few seconds.
fn small(rules: Rules) -> Rules {
    let is_wide = rules.swaps > 0 || rules.late;
    let sessions = if rules.accepts > 0 { 2 } else { 3 };
    let positions = if rules.swaps > 0 && rules.late { 2 } else { 3 };
    Rules {
        restarts: rules.restarts.min(u8::from(!is_wide)),
        swaps: rules.swaps.min(1),
        positions: rules.positions.min(positions),
        sessions: rules.sessions.min(sessions),
        sets: rules.sets.min(sessions),
        ..rules
    }
}

/// All states of small bounds. The large ones are run by `make model`.
#[test]
fn i4_all_rules_together_free_nothing_that_is_needed() {
    for (name, rules) in WHOLE {
        let (violation, states) = explore(small(rules), 50_000_000);
        assert_eq!(violation, None, "{name}");
        assert!(states > 10_000, "{states} states of {name}");
    }
}

/// Each rule is there for something: without it there is a way to lose a file.
#[test]
fn i4_without_a_rule_something_is_freed_that_is_needed() {
    let runs = without().into_iter();
    for run in runs.filter(|run| !run.is_second_net && run.name != rules::LARGE) {
        let rules = Rules {
            restarts: 0,
            positions: 3,
            ..run.rules
        };
        let (violation, states) = explore(rules, 20_000_000);
        let steps = violation.map(|steps| steps.len());
        assert!(
            steps.is_some_and(|steps| (5..=16).contains(&steps)),
            "without {}: {steps:?} of {states} states",
            run.name
        );
    }
}

/// Nothing follows if one of the second nets is left out.
#[test]
fn i4_without_a_second_net_nothing_is_freed_that_is_needed() {
    let runs = without().into_iter();
    for run in runs.filter(|run| run.is_second_net) {
        let (violation, states) = explore(small(run.rules), 50_000_000);
        assert_eq!(violation, None, "without {}", run.name);
        assert!(states > 10_000, "{states} states without {}", run.name);
    }
}
