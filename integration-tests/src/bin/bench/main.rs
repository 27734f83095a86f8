//! `make bench`: measures C-Store over loopback, alone or beside rivals, as a judge would.
//!
//! ```text
//! round ─> row ─> contestant (in turns) ─> sync ─> load ─> figures
//! ```
//! All contestants run during the whole measurement, on stores that fill, on one file system. Each
//! round measures each row on all of them, one after the other, so what changes on the machine
//! changes for all. `bench --help` lists the arguments, `docs/performance.md` explains the rows.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a measuring program may fail loudly, print, and needs the wall clock"
)]

mod client;
mod content;
mod disk;
mod load;
mod machine;
mod memory;
mod ours;
mod plan;
mod processes;
mod report;
mod results;
mod rows;
mod tracing_cost;
mod weed;

use std::process::ExitCode;

use clap::Parser;
use plan::{Arguments, Plan};
use processes::Servers;
use results::Results;
use rows::{Figure, Measured, Round, Row};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    // Started by itself as one of the servers: the program under test is linked in, so nothing else
    // is built.
    if args.get(1).is_some_and(|arg| arg == "cstore") {
        return cstore::main_with(
            args.into_iter().skip(1),
            &cstore_node::ProcessEnv::snapshot(),
        );
    }
    let arguments = Arguments::parse_from(args);
    if let Some(rounds) = arguments.tracing {
        tracing_cost::run(rounds);
        return ExitCode::SUCCESS;
    }
    let plan = match Plan::new(&arguments) {
        Ok(plan) => plan,
        Err(message) => {
            eprintln!("bench: {message}");
            return ExitCode::from(64);
        }
    };

    let mut results = run(&plan);
    if plan.memory {
        for contestant in &plan.contestants {
            println!("memory of {}", contestant.name());
            let servers = contestant.start();
            results
                .memory
                .push(memory::measure(&servers, plan.mib << 20));
        }
    }
    report::write(&plan, &results);
    ExitCode::SUCCESS
}

/// Runs all rounds.
fn run(plan: &Plan) -> Results {
    let machine = machine::Machine::inspect();
    println!("{}", machine.describe());
    let processors = machine::Processors::read();
    let client = processes::cpu_seconds(std::process::id());
    let running: Vec<Servers> = plan
        .contestants
        .iter()
        .map(plan::Contestant::start)
        .collect();
    let mut results = Results::new(machine, &running);
    for round in 0..plan.rounds {
        results.limits.push(disk::measure());
        let mut contests: Vec<Round<'_>> = running
            .iter()
            .map(|servers| Round::new(servers, round, plan.mib << 20))
            .collect();
        for (n, row) in plan.rows.iter().enumerate() {
            for turn in 0..running.len() {
                // Each contestant comes first, second and last equally often.
                let place = (turn + round + n) % running.len();
                // The bytes of each row are compared once: later rounds send the same.
                let measured = contests[place].measure(*row, round == 0);
                print_progress(plan, round, *row, &running[place].name, &measured);
                results.add(*row, place, measured);
            }
        }
    }
    let servers = running.iter().map(|servers| servers.usage().cpu_seconds);
    let own = servers.sum::<f64>() + processes::cpu_seconds(std::process::id()) - client;
    results.others = processors.used_by_others(own);
    results.loaded_peaks = running.iter().map(Servers::peak_rss_mb).collect();
    results
}

fn print_progress(plan: &Plan, round: usize, row: Row, name: &str, measured: &Measured) {
    let figures: Vec<String> = row
        .figures()
        .iter()
        .filter_map(|figure| Some(format!("{:.2} {}", figure.of(measured)?, figure.unit())))
        .collect();
    let client = measured.outcome.client_cpu_seconds * 1e6;
    println!(
        "round {} of {}: {:<10} {name:<12} {}; client CPU {:.0} µs/op",
        round + 1,
        plan.rounds,
        row.name(),
        figures.join(", "),
        client / Figure::count(measured)
    );
}
