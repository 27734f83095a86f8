//! Cost of tracing: CPU seconds per GiB without it, with one trace in twenty, with all, in
//! alternating rounds.

use cstore_integration_tests::otlp::Collector;

use crate::content::File;
use crate::load::{Load, Request};
use crate::ours::{self, Setup};
use crate::results::median;

const BYTES: u64 = 512 << 20;
const FILE: u64 = 8 << 20;

#[derive(Debug, Clone, Copy)]
struct Way {
    name: &'static str,
    /// Share of traces that are sampled; none without a collector.
    share: Option<&'static str>,
}

const WAYS: [Way; 3] = [
    Way {
        name: "off",
        share: None,
    },
    Way {
        name: "5 %",
        share: Some("0.05"),
    },
    Way {
        name: "100 %",
        share: Some("1"),
    },
];

/// Runs the rounds and prints medians and ranges of the ratios to the run without traces of the
/// same round.
pub(crate) fn run(rounds: usize) {
    let collector = Collector::start();
    let mut cpu: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        // Each way goes first, second and last equally often.
        for turn in 0..WAYS.len() {
            let at = (turn + round) % WAYS.len();
            let used = measure(WAYS[at], &collector);
            println!(
                "round {} {:<6} {used:.2} CPU s/GiB",
                round + 1,
                WAYS[at].name
            );
            cpu[at].push(used);
        }
    }
    println!(
        "\nPUT and GET of {} MiB in files of {} MiB, four processes",
        BYTES >> 20,
        FILE >> 20
    );
    for (way, used) in WAYS.iter().zip(&cpu) {
        let ratios: Vec<f64> = used
            .iter()
            .zip(&cpu[0])
            .map(|(used, off)| used / off)
            .collect();
        let (low, high) = ratios.iter().fold((f64::MAX, 0.0_f64), |(low, high), r| {
            (low.min(*r), high.max(*r))
        });
        println!(
            "{:<6} median {:.2} CPU s/GiB; ratio to off: median {:.3}, from {low:.3} to {high:.3}",
            way.name,
            median(used.clone()).unwrap(),
            median(ratios).unwrap()
        );
    }
    println!("{} spans were collected", collector.all().len());
}

fn measure(way: Way, collector: &Collector) -> f64 {
    let env = match way.share {
        None => Vec::new(),
        Some(share) => vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", share),
        ],
    };
    let servers = ours::start(way.name, None, Setup::Four, &env);
    let load = Load {
        count: usize::try_from(BYTES / FILE).unwrap(),
        clients: 4,
        size: FILE,
    };
    let run = |is_put| {
        let request = |number| Request {
            is_put,
            file: File {
                group: "traced",
                content: "traced",
                round: 0,
                number,
                size: FILE,
            },
            range: None,
        };
        load.run(&servers, request).bytes
    };
    let before = servers.usage();
    let bytes = run(true) + run(false);
    let used = servers.usage().since(&before);
    used.cpu_seconds / (bytes as f64 / (1_u64 << 30) as f64)
}
