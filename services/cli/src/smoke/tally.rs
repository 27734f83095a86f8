//! Results of the requests of a load.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use crate::client::{Answer, Lost};
use crate::limits::SHOWN_FAILURES;

/// Operation on a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Verb {
    Put,
    Get,
    Delete,
}

#[derive(Debug, Default)]
pub(super) struct Tally {
    verbs: BTreeMap<Verb, Count>,
    /// First failures: seconds since the beginning, and what happened.
    told: Vec<(f64, String)>,
    n_failed: usize,
}

#[derive(Debug, Default)]
struct Count {
    took: Vec<Duration>,
    failed: BTreeMap<String, u64>,
}

/// Summary of one verb.
#[derive(Debug, Serialize)]
pub(super) struct Line {
    ok: usize,
    failed: BTreeMap<String, u64>,
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

impl Tally {
    pub(super) fn good(&mut self, verb: Verb, took: Duration) {
        self.verbs.entry(verb).or_default().took.push(took);
    }

    pub(super) fn bad(
        &mut self,
        verb: Verb,
        name: &str,
        at: Duration,
        outcome: &Result<Answer, Lost>,
    ) {
        let (cause, detail) = match outcome {
            Ok(answer) => (answer.status.as_u16().to_string(), answer.told()),
            Err(lost) => (lost.to_string(), String::new()),
        };
        self.n_failed += 1;
        if self.told.len() < SHOWN_FAILURES {
            self.told.push((
                at.as_secs_f64(),
                format!("{verb:?} {name}: {cause} {detail}")
                    .trim_end()
                    .to_owned(),
            ));
        }
        *self
            .verbs
            .entry(verb)
            .or_default()
            .failed
            .entry(cause)
            .or_default() += 1;
    }

    pub(super) fn n_failed(&self) -> usize {
        self.n_failed
    }

    pub(super) fn told(&self) -> &[(f64, String)] {
        &self.told
    }

    pub(super) fn lines(&mut self) -> BTreeMap<Verb, Line> {
        let line = |(verb, count): (&Verb, &mut Count)| {
            count.took.sort_unstable();
            let at = |share: usize| {
                let last = count.took.len().saturating_sub(1);
                count
                    .took
                    .get(last * share / 100)
                    .map_or(0.0, |took| took.as_secs_f64() * 1e3)
            };
            let (p50_ms, p99_ms, max_ms) = (at(50), at(99), at(100));
            (
                *verb,
                Line {
                    ok: count.took.len(),
                    failed: count.failed.clone(),
                    p50_ms,
                    p99_ms,
                    max_ms,
                },
            )
        };
        self.verbs.iter_mut().map(line).collect()
    }
}

impl std::fmt::Display for Line {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let failed: u64 = self.failed.values().sum();
        write!(
            f,
            "{:>7} ok  {failed:>5} failed  p50 {:>7.1} ms  p99 {:>7.1} ms  max {:>8.1} ms",
            self.ok, self.p50_ms, self.p99_ms, self.max_ms
        )?;
        for (cause, count) in &self.failed {
            write!(f, "  [{cause}: {count}]")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_counted_by_cause_and_times_are_of_what_succeeded() {
        let mut tally = Tally::default();
        (1..=100).for_each(|n| tally.good(Verb::Put, Duration::from_millis(n)));
        tally.bad(Verb::Put, "a", Duration::ZERO, &Err(Lost::Refused));
        tally.bad(Verb::Put, "b", Duration::ZERO, &Err(Lost::Refused));
        tally.bad(Verb::Get, "c", Duration::ZERO, &Err(Lost::Timeout));
        assert_eq!((tally.n_failed(), tally.told().len()), (3, 3));
        let lines = tally.lines();
        let put = &lines[&Verb::Put];
        assert_eq!((put.ok, put.failed["connection refused"]), (100, 2));
        assert_eq!((put.p50_ms, put.p99_ms, put.max_ms), (50.0, 99.0, 100.0));
        assert_eq!(
            (
                lines[&Verb::Get].ok,
                lines[&Verb::Get].failed["no answer in time"]
            ),
            (0, 1)
        );
    }
}
