//! Cost of tracing: CPU seconds per GiB without it, with one trace in twenty, with all, in
//! alternating rounds.

use cstore_integration_tests::otlp::Collector;
use cstore_testkit::random;

use crate::load::Load;
use crate::report::median;
use crate::servers::Servers;

const BYTES: usize = 512 << 20;
const FILE: usize = 8 << 20;

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
    let data = random(BYTES, 1);
    let mut cpu: [Vec<f64>; 3] = Default::default();
    for round in 0..rounds {
        // Each way goes first, second and last equally often.
        for turn in 0..WAYS.len() {
            let at = (turn + round) % WAYS.len();
            let used = measure(WAYS[at], &collector, &data);
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
            median(used.clone()),
            median(ratios)
        );
    }
    println!("{} spans were collected", collector.all().len());
}

fn measure(way: Way, collector: &Collector, data: &[u8]) -> f64 {
    let env = match way.share {
        None => Vec::new(),
        Some(share) => vec![
            ("OTEL_EXPORTER_OTLP_ENDPOINT", collector.endpoint.as_str()),
            ("OTEL_TRACES_SAMPLER", "parentbased_traceidratio"),
            ("OTEL_TRACES_SAMPLER_ARG", share),
        ],
    };
    let servers = Servers::start_with("four", &env);
    let load = Load {
        addr: servers.gateway.clone(),
        base: "/api/files/t-".to_owned(),
    };
    let shape = (BYTES / FILE, FILE, 4);
    let before = servers.usage();
    let put = load.put(shape, data, 0);
    let get = load.get(shape, None);
    let used = servers.usage().since(&before);
    used.cpu_seconds / ((put.bytes + get.bytes) as f64 / (1_u64 << 30) as f64)
}
