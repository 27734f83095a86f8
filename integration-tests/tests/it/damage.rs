//! I1, I4, I8, I12 on the real program: each structure of a data folder, with each kind of damage.
//!
//! ```text
//! fixture ──copy──▶ strike ──▶ start ──▶ observe ──▶ work ──▶ kill ──▶ undo ──▶ start ──▶ whole?
//!                   bytes or    all      which files  delete,           original          every file,
//!                   file        roles    are lost     fill              bytes             the hold ends
//! ```
//! The oracle is outside of the program: the contents of all files stay in the test (`corpus`), and a
//! second reader of the formats (`format`) tells which files have bytes at the damaged place.
//!
//! In each cell must hold, whatever is expected of it otherwise: a file that is not hit reads back
//! byte-identical; one that is hit reads back identical or answers an error; no role panics; and
//! when the original bytes are back, every file is whole and the disk frees again.
//!
//! `cargo test` runs a slice for a bounded time: cells in an order that the seed chooses, first
//! those that bring each structure and each kind of damage. `CSTORE_DAMAGE=all` (`make damage`) runs
//! all cells, and any other value those whose line in the table contains it.

mod cells;
mod corpus;
mod fixture;
mod format;
mod site;
mod strike;
mod trial;

use std::collections::BTreeMap;
use std::io::Write;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use cstore_testkit::seed;
use parking_lot::Mutex;

use crate::SEED;
use cells::{Cell, Expected, Holds, Lost, Start, Writes};
use fixture::Fixture;
use site::Choices;
use trial::Observation;

/// Cells at a time. Each is a cluster of four processes.
const PARALLEL: usize = 2;
/// Cells of a slice, at most, and the time after which it begins no further one.
const SLICE: usize = 110;
const SLICE_TIME: Duration = Duration::from_secs(120);

/// Outcome of one cell.
struct Row {
    cell: Cell,
    /// `None` if the cell does not apply to the folder.
    seen: Option<Observation>,
    /// Differences from the expected outcome.
    faults: Vec<String>,
    taken: Duration,
}

#[test]
fn i1_i4_i8_damage_costs_what_it_hits_and_nothing_else() {
    let seed = seed(SEED);
    let wanted = wanted();
    let mut cells = Choices::new(seed).shuffle(Cell::all());
    match wanted.as_deref() {
        None => {
            cells = Cell::order_for_slice(cells);
            cells.truncate(SLICE);
        }
        Some("all") => cells = Cell::all(),
        Some(text) => cells.retain(|cell| line_of(cell).contains(text)),
    }
    let fixture = Fixture::new();
    let begun = Instant::now();
    let deadline = wanted.is_none().then_some(SLICE_TIME);
    let mut rows = run_all(&fixture, &cells, seed, deadline);

    rows.sort_by_key(|row| Cell::all().iter().position(|cell| *cell == row.cell));
    print_table(&rows, cells.len(), seed, begun.elapsed());
    let failed: Vec<String> = rows
        .iter()
        .filter(|row| !row.faults.is_empty())
        .map(|row| format!("{}: {}", line_of(&row.cell), row.faults.join("; ")))
        .collect();
    assert!(
        failed.is_empty(),
        "{} cells are not as expected:\n{}",
        failed.len(),
        failed.join("\n")
    );
}

/// Cells that the caller wants; `None` for a slice.
fn wanted() -> Option<String> {
    let found = std::env::vars().find(|(key, _)| key == "CSTORE_DAMAGE");
    found.map(|(_, text)| text).filter(|text| !text.is_empty())
}

fn line_of(cell: &Cell) -> String {
    let line = cell.to_string();
    line.split_whitespace().collect::<Vec<_>>().join(" ")
}

fn run_all(fixture: &Fixture, cells: &[Cell], seed: u64, deadline: Option<Duration>) -> Vec<Row> {
    let (next, rows) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
    let begun = Instant::now();
    std::thread::scope(|scope| {
        for _ in 0..PARALLEL {
            scope.spawn(|| {
                while deadline.is_none_or(|deadline| begun.elapsed() < deadline) {
                    let n = next.fetch_add(1, Ordering::Relaxed);
                    let Some(cell) = cells.get(n) else { return };
                    let row = run_one(fixture, cell, seed);
                    if !row.faults.is_empty() {
                        println!("{}: {}", line_of(cell), row.faults.join("; "));
                    }
                    rows.lock().push(row);
                }
            });
        }
    });
    rows.into_inner()
}

/// Runs one cell. Its choices depend on the seed and the cell alone, so that it can be repeated
/// without the others.
fn run_one(fixture: &Fixture, cell: &Cell, seed: u64) -> Row {
    let number = Cell::all().iter().position(|other| other == cell).unwrap() as u64;
    let mut choices = Choices::new(seed + number * 7_919);
    let begun = Instant::now();
    let run = || trial::run(fixture, cell, &mut choices);
    let outcome = std::panic::catch_unwind(AssertUnwindSafe(run));
    let taken = begun.elapsed();
    match outcome {
        Ok(seen) => Row {
            cell: *cell,
            faults: seen
                .as_ref()
                .map(|seen| faults(&cell.expected(), seen))
                .unwrap_or_default(),
            seen,
            taken,
        },
        Err(_) => Row {
            cell: *cell,
            seen: None,
            faults: vec!["the trial broke off".to_owned()],
            taken,
        },
    }
}

/// Compares what was seen with what is expected.
fn faults(expected: &Expected, seen: &Observation) -> Vec<String> {
    let mut faults = seen.violations.clone();
    match (&seen.refused, expected.start) {
        (Some(reason), Start::Starts) => faults.push(format!("refused: {reason}")),
        (Some(reason), Start::Refuses | Start::Either) if !seen.names_the_file => {
            faults.push(format!("the refusal does not name the file: {reason}"));
        }
        (None, Start::Refuses | Start::RefusesSomehow) => faults.push("it starts".to_owned()),
        _ => {}
    }
    if !seen.wrong.is_empty() {
        faults.push(format!("wrong bytes: {:?}", seen.wrong));
    }
    if seen.refused.is_some() || matches!(expected.start, Start::Refuses | Start::RefusesSomehow) {
        return faults;
    }
    faults.extend(faults_of_holds(expected.holds, seen));
    faults.extend(faults_of_files(expected.lost, seen));
    match &seen.writes_refused {
        Some(code) if expected.writes == Writes::Taken => {
            faults.push(format!("writes are refused: {code}"))
        }
        None if expected.writes == Writes::Refused => faults.push("it takes writes".to_owned()),
        _ => {}
    }
    faults
}

/// Consequences of damage to a segment that hides records, beside the doubt about its cause.
const CONSEQUENCES: [&str; 3] = ["sets_lost", "blocks_absent", "store_older"];

fn faults_of_holds(expected: Holds, seen: &Observation) -> Option<String> {
    let kinds = match expected {
        Holds::Never => &[],
        Holds::May(kinds) | Holds::Must(kinds) => kinds,
    };
    let is_of_segment = kinds
        .iter()
        .any(|kind| kind.starts_with("segment_") || *kind == "set_damaged");
    let is_expected = |kind: &String| {
        kinds.contains(&kind.as_str()) || is_of_segment && CONSEQUENCES.contains(&kind.as_str())
    };
    if !seen.doubts.iter().all(is_expected) {
        let found: Vec<&str> = seen.doubts.iter().map(String::as_str).collect();
        return Some(format!("hold {}", found.join(" ")));
    }
    let is_missed =
        matches!(expected, Holds::Must(_)) && !kinds.iter().any(|kind| seen.doubts.contains(*kind));
    is_missed.then(|| format!("no hold {}", kinds.join("|")))
}

fn faults_of_files(expected: Lost, seen: &Observation) -> Option<String> {
    let nothing = corpus::Numbers::new();
    let may_be_lost = match expected {
        Lost::Nothing => &nothing,
        Lost::ExactlyPayloads | Lost::Payloads => &seen.hit_payloads,
        Lost::Frames => &seen.hit_frames,
        Lost::Errors | Lost::Names => &seen.lost,
    };
    if !seen.gone.is_empty() && expected != Lost::Names {
        return Some(format!("not found: {:?}", seen.gone));
    }
    if expected == Lost::ExactlyPayloads && seen.lost != seen.hit_payloads {
        let (lost, hit) = (&seen.lost, &seen.hit_payloads);
        return Some(format!("unreadable {lost:?}, hit {hit:?}"));
    }
    let beyond = &seen.lost - may_be_lost;
    (!beyond.is_empty()).then(|| format!("unreadable though not hit: {beyond:?}"))
}

/// Outcome in a few words.
fn found(seen: &Observation) -> String {
    if seen.refused.is_some() {
        let names = if seen.names_the_file {
            ", names the file"
        } else {
            ""
        };
        return format!("refused{names}");
    }
    let mut words = Vec::new();
    match seen.lost.len() + seen.gone.len() + seen.wrong.len() {
        0 => words.push("whole".to_owned()),
        lost => words.push(format!("{lost} unreadable")),
    }
    if !seen.doubts.is_empty() {
        let kinds: Vec<&str> = seen.doubts.iter().map(String::as_str).collect();
        words.push(format!("hold {}", kinds.join(" ")));
    }
    if let Some(code) = &seen.writes_refused {
        words.push(format!("writes {code}"));
    }
    words.join(", ")
}

/// Prints all rows past the test harness, which hides the output of passed tests.
fn print_table(rows: &[Row], wanted: usize, seed: u64, taken: Duration) {
    let mut table = format!(
        "\n{:25} {:8} {:17} {:4} {:>7} {:>4}  {:40} expected\n",
        "structure", "damage", "state", "", "seconds", "lost", "found"
    );
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for row in rows {
        let verdict = match (&row.seen, row.faults.is_empty()) {
            (_, false) => "FAIL",
            (None, true) => "n/a",
            (Some(_), true) => "ok",
        };
        *counts.entry(verdict).or_default() += 1;
        let lost = row
            .seen
            .as_ref()
            .map_or(0, |seen| seen.lost.len() + seen.gone.len());
        table += &format!(
            "{} {verdict:4} {:7.1} {lost:4}  {:40} {}\n",
            row.cell,
            row.taken.as_secs_f64(),
            row.seen.as_ref().map(found).unwrap_or_default(),
            row.cell.expected(),
        );
    }
    table += &format!(
        "{} of {wanted} cells in {:.0} s, {counts:?}, CSTORE_SEED={seed}\n",
        rows.len(),
        taken.as_secs_f64()
    );
    let _ = std::io::stdout().write_all(table.as_bytes());
}
