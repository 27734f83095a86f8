//! Medians as a table and as JSON.

use std::process::Command;

use serde::Serialize;

use crate::load::Outcome;
use crate::servers::Usage;

/// One work of one run. MB are 10^6 bytes.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Row {
    work: String,
    mb_per_second: f64,
    per_second: f64,
    p50_ms: f64,
    p99_ms: f64,
    cpu_seconds_per_gib: f64,
    syncs_per_operation: f64,
}

impl Row {
    pub(crate) fn new(work: &str, outcome: &Outcome, used: &Usage) -> Self {
        let at = |share: f64| {
            let last = outcome.latencies.len().saturating_sub(1);
            outcome
                .latencies
                .get((last as f64 * share) as usize)
                .copied()
                .unwrap_or(0.0)
        };
        let count = outcome.latencies.len() as f64;
        Self {
            work: work.to_owned(),
            mb_per_second: outcome.bytes as f64 / 1e6 / outcome.seconds,
            per_second: count / outcome.seconds,
            p50_ms: at(0.5),
            p99_ms: at(0.99),
            cpu_seconds_per_gib: used.cpu_seconds / (outcome.bytes as f64 / (1u64 << 30) as f64),
            syncs_per_operation: used.syncs / count,
        }
    }
}

/// All runs of one set-up.
#[derive(Debug, Serialize)]
pub(crate) struct Table {
    setup: String,
    runs: usize,
    pub(crate) peak_rss_mb: f64,
    rows: Vec<Row>,
}

pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(0.0)
}

impl Table {
    pub(crate) fn new(setup: &str, runs: usize) -> Self {
        Self {
            setup: setup.to_owned(),
            runs,
            peak_rss_mb: 0.0,
            rows: Vec::new(),
        }
    }

    pub(crate) fn add(&mut self, row: Row) {
        self.rows.push(row);
    }

    pub(crate) fn print(&self) {
        println!(
            "\n{}: medians of {} runs; servers' peak memory together {:.0} MB",
            self.setup, self.runs, self.peak_rss_mb
        );
        println!(
            "{:<36} {:>8} {:>9} {:>8} {:>8} {:>10} {:>9}",
            "work", "MB/s", "/s", "p50 ms", "p99 ms", "CPU s/GiB", "syncs/op"
        );
        let mut seen: Vec<&str> = Vec::new();
        for row in &self.rows {
            if seen.contains(&row.work.as_str()) {
                continue;
            }
            seen.push(&row.work);
            let same = || self.rows.iter().filter(|other| other.work == row.work);
            let mid = |get: fn(&Row) -> f64| median(same().map(get).collect());
            println!(
                "{:<36} {:>8.0} {:>9.0} {:>8.2} {:>8.2} {:>10.1} {:>9.2}",
                row.work,
                mid(|row| row.mb_per_second),
                mid(|row| row.per_second),
                mid(|row| row.p50_ms),
                mid(|row| row.p99_ms),
                mid(|row| row.cpu_seconds_per_gib),
                mid(|row| row.syncs_per_operation),
            );
        }
    }
}

pub(crate) fn write_json(tables: &[Table]) {
    let commit = Command::new("git")
        .args(["rev-parse", "--short", "HEAD"])
        .output();
    let commit = commit
        .map(|out| String::from_utf8_lossy(&out.stdout).trim().to_owned())
        .unwrap_or_default();
    let cpu = std::fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpu
        .lines()
        .find(|line| line.starts_with("model name"))
        .unwrap_or_default()
        .to_owned();
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let json = serde_json::json!({ "commit": commit, "machine": { "cpu": model, "cores": cores }, "tables": tables });
    std::fs::create_dir_all("bench-results").unwrap();
    let path = format!("bench-results/{commit}.json");
    std::fs::write(&path, serde_json::to_string_pretty(&json).unwrap()).unwrap();
    println!("\nwritten to {path}");
}
