//! Bounds of the counts, by set-up, kind and request, and how counts are judged.
//!
//! A bound is what was seen, plus a margin for what is not the request's: 2 % of syncs and
//! allocations, 5 % of bytes, 3 % or 0.1 to 0.6 of calls that follow from the protocol, a third or
//! more of [`SCHEDULED`] calls, which also depend on which thread sleeps at the moment.
//! Whoever makes a count smaller lowers its bound in the same commit; whoever makes one larger mends
//! it, or raises the bound and says in the commit what the costs buy. Seen in the profile of the
//! tests.

use std::collections::BTreeMap;
use std::fmt;

/// Kinds of requests, in the order of the columns of all tables.
pub(crate) const WORKS: [&str; 4] = ["PUT 4 KiB", "GET 4 KiB", "PUT 100 KiB", "GET 100 KiB"];

/// Kinds of counts that every machine has.
pub(crate) const STORAGE_SYNCS: &str = "syncs of the storage log";
pub(crate) const MASTER_SYNCS: &str = "syncs of the metadata log";
pub(crate) const ALLOCATIONS: &str = "allocations";
pub(crate) const ALLOCATED: &str = "KiB allocated";
/// System calls with bounds of their own, as strace names them.
pub(crate) const CALLS: [&str; 12] = [
    "fdatasync",
    "pwrite64",
    "pwritev",
    "pread64",
    "preadv2",
    "sync_file_range",
    "fstatfs",
    "writev",
    "write",
    "recvfrom",
    "epoll_wait",
    "futex",
];
/// System calls that a clock paces: the storage node measures its file system and its files at
/// intervals, so a slow machine has more of them for each request. They have no bound.
pub(crate) const PACED_CALLS: [&str; 2] = ["statfs", "statx"];
/// Sum of the system calls that have no bound of their own.
pub(crate) const OTHER_CALLS: &str = "other system calls";

/// A kind of counts, and its bounds by request.
pub(crate) type Row = (&'static str, [f64; WORKS.len()]);

/// Least counts: each PUT is durable in the log of a storage node and in that of the master before
/// it is acknowledged.
const LEAST: &[Row] = &[
    (STORAGE_SYNCS, [1.0, 0.0, 1.0, 0.0]),
    (MASTER_SYNCS, [1.0, 0.0, 1.0, 0.0]),
    ("fdatasync", [2.0, 0.0, 2.0, 0.0]),
];

/// Calls whose number depends on the scheduler. Their margin is wide.
const SCHEDULED: [&str; 4] = ["write", "epoll_wait", "futex", OTHER_CALLS];
/// Share of a bound below which a count has shrunk: the bound should be lowered.
const SHRUNK: f64 = 0.85;
/// The same for [`SCHEDULED`] calls.
const SHRUNK_SCHEDULED: f64 = 0.5;
/// Bounds up to this one are never called too high: the margin may be most of them.
const SMALL: f64 = 2.0;

/// Bounds of one process with all roles.
pub(crate) const DEV: &[Row] = &[
    (STORAGE_SYNCS, [1.02, 0.02, 1.02, 0.02]),
    (MASTER_SYNCS, [1.02, 0.02, 1.02, 0.02]),
    (ALLOCATIONS, [585.0, 333.0, 602.0, 336.0]),
    (ALLOCATED, [116.0, 91.0, 325.0, 306.0]),
    ("fdatasync", [2.1, 0.1, 2.1, 0.1]),
    ("pwritev", [2.1, 0.1, 2.1, 0.1]),
    ("pwrite64", [0.3, 0.2, 0.3, 0.2]),
    ("sync_file_range", [0.3, 0.2, 0.3, 0.2]),
    ("pread64", [0.1, 0.1, 0.1, 0.1]),
    ("preadv2", [0.1, 1.1, 0.1, 2.1]),
    ("fstatfs", [0.4, 0.4, 0.4, 0.4]),
    ("writev", [1.3, 1.3, 1.3, 2.3]),
    ("recvfrom", [1.4, 1.3, 1.5, 1.3]),
    ("write", [3.8, 1.4, 3.9, 1.8]),
    ("epoll_wait", [6.0, 2.0, 7.5, 2.0]),
    ("futex", [8.0, 2.0, 14.0, 2.0]),
    (OTHER_CALLS, [2.0, 0.6, 2.0, 0.6]),
];

/// Bounds of four processes, summed up: a gateway, a worker, a storage node, a master.
pub(crate) const FOUR: &[Row] = &[
    (STORAGE_SYNCS, [1.02, 0.02, 1.02, 0.02]),
    (MASTER_SYNCS, [1.02, 0.02, 1.02, 0.02]),
    (ALLOCATIONS, [664.0, 410.0, 697.0, 426.0]),
    (ALLOCATED, [140.0, 115.0, 633.0, 612.0]),
    ("fdatasync", [2.1, 0.1, 2.1, 0.1]),
    ("pwritev", [2.1, 0.1, 2.1, 0.1]),
    ("pwrite64", [0.3, 0.2, 0.3, 0.2]),
    ("sync_file_range", [0.3, 0.2, 0.3, 0.2]),
    ("pread64", [0.1, 0.1, 0.1, 0.1]),
    ("preadv2", [0.1, 1.1, 0.1, 2.1]),
    ("fstatfs", [0.4, 0.4, 0.4, 0.4]),
    ("writev", [12.4, 12.2, 15.0, 12.6]),
    ("recvfrom", [11.5, 12.4, 17.5, 19.0]),
    ("write", [4.0, 1.5, 5.0, 1.5]),
    ("epoll_wait", [21.0, 15.0, 28.0, 18.0]),
    ("futex", [9.0, 2.0, 17.0, 2.0]),
    (OTHER_CALLS, [2.0, 0.6, 2.0, 0.6]),
];

/// Smallest counts that were seen, by kind, one for each of [`WORKS`].
#[derive(Default)]
pub(crate) struct Seen(BTreeMap<&'static str, [Option<f64>; WORKS.len()]>);

impl Seen {
    /// Adds the count of a batch.
    pub(crate) fn add(&mut self, work: usize, kind: &'static str, count: f64) {
        let best = &mut self.0.entry(kind).or_default()[work];
        *best = Some(best.map_or(count, |seen| seen.min(count)));
    }

    /// Returns a sentence for each count that is above its bound, below what durability needs, or
    /// without a bound. Prints those that have shrunk.
    pub(crate) fn check(&self, bounds: &[Row]) -> Vec<String> {
        let mut broken = Vec::new();
        for (kind, counts) in &self.0 {
            let find = |table: &[Row]| {
                let row = table.iter().find(|(name, _)| name == kind);
                row.map(|(_, bounds)| *bounds)
            };
            let least = find(LEAST).unwrap_or_default();
            let shrunk = if SCHEDULED.contains(kind) {
                SHRUNK_SCHEDULED
            } else {
                SHRUNK
            };
            let Some(most) = find(bounds) else {
                broken.push(format!("{kind}: has no bound; add its row to the table"));
                continue;
            };
            for (work, count) in counts.iter().enumerate() {
                let Some(count) = *count else { continue };
                let (name, most, least) = (WORKS[work], most[work], least[work]);
                let text = format!("{name}: {kind} per request: {count:.2} seen, bound {most}");
                if count > most {
                    broken.push(format!(
                        "{text}: it grew; mend it, or raise the bound and explain in the commit \
                         what the costs buy"
                    ));
                } else if count < least {
                    broken.push(format!(
                        "{text}: fewer than the {least} that durability needs; a reply was sent \
                         before its bytes were synced"
                    ));
                } else if most > SMALL && count < most * shrunk {
                    println!("{text}: it shrank; lower the bound so that it stays so");
                }
            }
        }
        broken
    }
}

/// Shows the counts as rows of a table of bounds.
impl fmt::Display for Seen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (kind, counts) in &self.0 {
            let counts = counts.map(|count| format!("{:.2}", count.unwrap_or(f64::NAN)));
            writeln!(f, "(\"{kind}\", [{}]),", counts.join(", "))?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seen(counts: [f64; WORKS.len()], kind: &'static str) -> Seen {
        let mut seen = Seen::default();
        for (work, count) in counts.into_iter().enumerate() {
            seen.add(work, kind, count + 1.0);
            seen.add(work, kind, count);
        }
        seen
    }

    #[test]
    fn counts_above_a_bound_or_below_durability_or_without_a_bound_are_broken() {
        let bounds: &[Row] = &[(STORAGE_SYNCS, [1.1, 0.1, 1.1, 0.1])];
        let check = |counts| seen(counts, STORAGE_SYNCS).check(bounds);
        assert!(check([1.0, 0.0, 1.0, 0.0]).is_empty());
        let grown = check([1.0, 0.2, 1.0, 0.0]);
        assert!(grown.len() == 1 && grown[0].contains("GET 4 KiB") && grown[0].contains("grew"));
        let lost = check([1.0, 0.0, 0.9, 0.0]);
        assert!(lost.len() == 1 && lost[0].contains("durability"));
        assert_eq!(seen([0.0; 4], "mmap").check(bounds).len(), 1);
    }
}
