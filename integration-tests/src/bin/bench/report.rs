//! Results as Markdown and as JSON.

use std::fmt::Write;
use std::time::{SystemTime, UNIX_EPOCH};

use serde_json::{Value, json};

use crate::plan::Plan;
use crate::results::Results;
use crate::rows::{Figure, Row, large_size};

/// Part by which a ratio may differ from 1 between two runs of the same program.
const NOISE: f64 = 0.05;

/// Digits after the point, so that three or four figures remain.
fn number(value: f64) -> String {
    match value {
        value if value >= 100.0 => format!("{value:.0}"),
        value if value >= 10.0 => format!("{value:.1}"),
        value => format!("{value:.2}"),
    }
}

fn cell(value: Option<f64>) -> String {
    value.map_or_else(|| "–".to_owned(), number)
}

/// A ratio is bold if the judged contestant loses by more than [`NOISE`].
fn ratio_cell(ratio: Option<f64>, is_rate: bool) -> String {
    match ratio {
        Some(ratio) if ratio.is_finite() => {
            let loses = if is_rate {
                ratio < 1.0 - NOISE
            } else {
                ratio > 1.0 + NOISE
            };
            let mark = if loses { "**" } else { "" };
            format!("{mark}{ratio:.2}{mark}")
        }
        _ => "–".to_owned(),
    }
}

/// Prints the table and writes both files.
pub(crate) fn write(plan: &Plan, results: &Results) {
    let text = markdown(plan, results);
    println!("\n{text}");
    std::fs::create_dir_all("bench-results").unwrap();
    let seconds = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap()
        .as_secs();
    let path = format!("bench-results/{}-{seconds}", results.machine.commit);
    std::fs::write(format!("{path}.md"), text).unwrap();
    let json = serde_json::to_string_pretty(&json(plan, results)).unwrap();
    std::fs::write(format!("{path}.json"), json).unwrap();
    println!("written to {path}.md and .json");
}

/// Returns the table of medians and ratios.
fn markdown(plan: &Plan, results: &Results) -> String {
    let mut out = String::new();
    let names: Vec<&str> = results
        .entrants
        .iter()
        .map(|one| one.name.as_str())
        .collect();
    let ratios: Vec<String> = plan
        .pairs
        .iter()
        .map(|(judged, rival)| format!("{} / {}", names[*judged], names[*rival]))
        .collect();
    let columns = [
        names.iter().map(|name| (*name).to_owned()).collect(),
        ratios,
    ]
    .concat();
    writeln!(out, "| work | figure | {} |", columns.join(" | ")).unwrap();
    writeln!(out, "|---|---|{}", "---|".repeat(columns.len())).unwrap();

    for row in &plan.rows {
        for (n, figure) in row.figures().iter().enumerate() {
            let title = if n == 0 {
                row.title(plan.mib)
            } else {
                String::new()
            };
            let medians = (0..names.len()).map(|place| cell(results.median(*row, place, *figure)));
            let ratios = plan
                .pairs
                .iter()
                .map(|pair| ratio_cell(results.ratio(*row, *pair, *figure), figure.is_rate()));
            let cells: Vec<String> = medians.chain(ratios).collect();
            writeln!(
                out,
                "| {title} | {} | {} |",
                figure.unit(),
                cells.join(" | ")
            )
            .unwrap();
        }
    }
    let mut memory_row = |title: &str, unit: &str, peaks: &[f64]| {
        if peaks.is_empty() {
            return;
        }
        let medians = peaks.iter().map(|peak| cell(Some(*peak)));
        let ratio = |(judged, rival): &(usize, usize)| {
            ratio_cell(Some(peaks[*judged] / peaks[*rival]), false)
        };
        let cells: Vec<String> = medians.chain(plan.pairs.iter().map(ratio)).collect();
        writeln!(out, "| {title} | {unit} | {} |", cells.join(" | ")).unwrap();
    };
    memory_row("all rows above", "peak RSS MB", &results.loaded_peaks);
    let (peaks, after): (Vec<f64>, Vec<f64>) = results
        .memory
        .iter()
        .map(|memory| (memory.peak, memory.after))
        .unzip();
    memory_row(&memory_title(plan), "peak RSS MB", &peaks);
    memory_row("", "RSS MB after it", &after);

    writeln!(out, "\n{}", legend(plan, results)).unwrap();
    out
}

fn memory_title(plan: &Plan) -> String {
    format!("60,000 names and 10 × {}, new store", large_size(plan.mib))
}

/// Returns what a reader needs beside the table.
fn legend(plan: &Plan, results: &Results) -> String {
    let mut lines = vec![format!(
        "Medians of {} rounds in turns at {}, MB are 10^6 bytes, CPU and RSS are the sums over the \
         server processes, – is not known.",
        plan.rounds, results.machine.commit
    )];
    if !plan.pairs.is_empty() {
        lines.push(
            "A ratio is the median of the first divided by that of the second: for rates (MB/s, /s) \
             more than 1 is better for the first, for costs less than 1. It is bold where the first \
             loses by more than 5 %."
                .to_owned(),
        );
    }
    for entrant in &results.entrants {
        lines.push(format!("* {}: {}", entrant.name, entrant.version));
    }
    lines.push(format!(
        "* machine: {}; others and the kernel used {:.0} % of it during the rounds",
        results.machine.describe(),
        results.others * 100.0
    ));
    if let Some(limits) = results.limits() {
        lines.push(format!(
            "* its disk, measured beside, one writer: 1 MiB write + fdatasync {:.0} MB/s, 4 KiB \
             append + fdatasync {:.0}/s",
            limits.large_mb_per_second, limits.small_per_second
        ));
    }
    lines.join("\n")
}

/// Returns every value of every round, with medians and ratios.
fn json(plan: &Plan, results: &Results) -> Value {
    let machine = &results.machine;
    let entrants: Vec<Value> = results
        .entrants
        .iter()
        .map(|one| json!({ "name": one.name, "version": one.version, "program": one.program }))
        .collect();
    let limits: Vec<Value> = results
        .limits
        .iter()
        .map(|limits| {
            json!({
                "write_1mib_fdatasync_mb_per_second": limits.large_mb_per_second,
                "append_4kib_fdatasync_per_second": limits.small_per_second,
            })
        })
        .collect();
    json!({
        "commit": machine.commit,
        "machine": {
            "cpu": machine.cpu,
            "cores": machine.cores,
            "memory_gib": machine.memory_gib,
            "kernel": machine.kernel,
            "file_system": machine.file_system,
            "busy_share_at_start": machine.busy,
            "idle": !machine.is_busy(),
        },
        "share_used_by_others": results.others,
        "rounds": plan.rounds,
        "large_mib": plan.mib,
        "contestants": entrants,
        "disk_limits": limits,
        "rows": plan.rows.iter().map(|row| row_json(plan, results, *row)).collect::<Vec<_>>(),
        "peak_rss_mb_of_all_rows": results.loaded_peaks,
        "peak_rss_mb_of_60000_names_and_10_large_files":
            results.memory.iter().map(|memory| memory.peak).collect::<Vec<_>>(),
        "rss_mb_after_60000_names_and_10_large_files":
            results.memory.iter().map(|memory| memory.after).collect::<Vec<_>>(),
    })
}

fn row_json(plan: &Plan, results: &Results, row: Row) -> Value {
    let mut figures = serde_json::Map::new();
    for figure in Figure::ALL {
        let name = |place: usize| results.entrants[place].name.clone();
        let values: serde_json::Map<String, Value> = (0..results.entrants.len())
            .map(|place| {
                let runs = results.runs(row, place, figure);
                let median = results.median(row, place, figure);
                (name(place), json!({ "runs": runs, "median": median }))
            })
            .collect();
        let ratios: serde_json::Map<String, Value> = plan
            .pairs
            .iter()
            .map(|pair| {
                let text = format!("{} / {}", name(pair.0), name(pair.1));
                (text, json!(results.ratio(row, *pair, figure)))
            })
            .collect();
        let better = if figure.is_rate() { "more" } else { "less" };
        let value = json!({ "better": better, "values": values, "ratios": ratios });
        figures.insert(figure.unit().to_owned(), value);
    }
    json!({ "row": row.name(), "title": row.title(plan.mib), "figures": figures })
}
