//! `make trace-demo`: a small cluster of separate processes, one upload, one download, and their
//! traces as trees.
//!
//! The traces come from a collector inside of this program. With `OTEL_EXPORTER_OTLP_ENDPOINT` set
//! they go there instead, and only their ids are printed.

#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a demonstration prints, and may fail loudly"
)]

use std::process::ExitCode;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::otlp::Collector;
use cstore_testkit::random;

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().collect();
    // Started by itself as one of the servers: the program is linked in, so nothing else is built.
    if args.len() > 1 {
        return cstore::main_with(args, &cstore_node::ProcessEnv::snapshot());
    }
    let given = std::env::vars().find(|(key, _)| key == "OTEL_EXPORTER_OTLP_ENDPOINT");
    let collector = given.is_none().then(Collector::start);
    let endpoint = match (&collector, given) {
        (Some(collector), _) => collector.endpoint.clone(),
        (None, Some((_, endpoint))) => endpoint,
        (None, None) => String::new(),
    };
    let program = std::env::current_exe().unwrap();
    let cluster = Cluster::builder(&program.to_string_lossy())
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start();
    println!(
        "3 storage nodes, 2 workers, a master and a gateway at http://{}\n",
        cluster.gateway
    );
    let put = cluster.ask("PUT", "/api/files/demo", &random(1_000_000, 1));
    assert_eq!(put.status, 201, "{}", put.text());
    println!("PUT /api/files/demo, 1,000,000 bytes: {}", put.text());
    let get = cluster.ask("GET", "/api/files/demo", b"");
    println!(
        "GET /api/files/demo: {} with {} bytes\n",
        get.status,
        get.body.len()
    );
    for answer in [put, get] {
        let id = answer.header("x-cstore-trace-id").unwrap();
        println!("trace {id}");
        if let Some(collector) = &collector {
            let trace =
                collector.trace(id, |trace| trace.is_whole() && trace.services().len() == 4);
            println!("{}", trace.tree());
        }
    }
    for role in cluster.roles() {
        // A clean stop exports the spans that are still queued.
        cluster.stop(&role);
    }
    ExitCode::SUCCESS
}
