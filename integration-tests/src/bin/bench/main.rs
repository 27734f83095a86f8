//! `make bench`: measures the real program over loopback, prints a table and writes JSON.
//!
//! Two set-ups, `cstore dev` and four processes; five runs of each work on one store that fills;
//! medians. Every acknowledgement is durable. `BENCH_RUNS`, `BENCH_MIB` and `BENCH_SETUPS`
//! (dev,four) change the defaults. `BENCH_TRACING=10` measures instead what tracing costs, in so
//! many rounds.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::disallowed_types,
    clippy::disallowed_methods,
    reason = "a measuring program may fail loudly, print, and needs the wall clock"
)]

mod load;
mod report;
mod servers;
mod tracing_cost;

use std::process::ExitCode;

use cstore_testkit::random;
use load::{Load, Outcome};
use report::{Row, Table};
use servers::Servers;

fn env(name: &str, default: &str) -> String {
    std::env::var(name)
        .ok()
        .filter(|value| !value.is_empty())
        .unwrap_or_else(|| default.to_owned())
}

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
    if let Ok(rounds) = env("BENCH_TRACING", "").parse() {
        tracing_cost::run(rounds);
        return ExitCode::SUCCESS;
    }
    let runs: usize = env("BENCH_RUNS", "5").parse().unwrap();
    let bytes: usize = env("BENCH_MIB", "1024").parse::<usize>().unwrap() << 20;
    let mut tables = Vec::new();
    for setup in env("BENCH_SETUPS", "dev,four").split(',') {
        let servers = Servers::start(setup);
        let mut table = Table::new(setup, runs);
        for run in 0..runs {
            println!("{setup}: run {} of {runs}", run + 1);
            one_run(&servers, run, bytes, &mut table);
        }
        table.peak_rss_mb = servers.peak_rss_mb();
        table.print();
        tables.push(table);
    }
    report::write_json(&tables);
    ExitCode::SUCCESS
}

fn one_run(servers: &Servers, run: usize, bytes: usize, table: &mut Table) {
    let load = |base: &str| Load {
        addr: servers.gateway.clone(),
        base: format!("/api/files/{base}-{run}-"),
    };
    let big = random(bytes, run as u64 + 1);
    let part = (bytes / 16).max(1 << 20);
    let large = (bytes / part, part, 4);
    let mut measure = |name: &str, work: &dyn Fn() -> Outcome| {
        let before = servers.usage();
        let outcome = work();
        let used = servers.usage().since(&before);
        table.add(Row::new(name, &outcome, &used));
    };
    measure("PUT 1 GiB unique", &|| load("big").put(large, &big, 0));
    measure("PUT the same again", &|| load("again").put(large, &big, 0));
    measure("GET 1 GiB", &|| load("big").get(large, None));
    measure("PUT 2,000 x 100 KiB, 50 at once", &|| {
        load("mid").put((2_000, 100 << 10, 50), &big, 7)
    });
    let small = (10_000, 4 << 10, 32);
    let fresh = random(small.0 * small.1, 1_000 + run as u64);
    measure("PUT 10,000 x 4 KiB, 32 at once", &|| {
        load("small").put(small, &fresh, 0)
    });
    measure("GET 10,000 x 4 KiB, 32 at once", &|| {
        load("small").get(small, None)
    });
    let middle = (part / 2, part / 2 + (1 << 20).min(part / 2) - 1);
    measure("GET range of 1 MiB, one at a time", &|| {
        load("big").get((200, part, 1), Some((middle, large.0)))
    });
}
