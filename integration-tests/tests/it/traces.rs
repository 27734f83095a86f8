//! One trace through everything: the tree of an upload and of a download over four services.

use std::io::Read;
use std::net::TcpListener;
use std::time::Instant;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_integration_tests::otlp::{Collector, Trace};
use cstore_testkit::{PATIENCE, random};

use crate::PROGRAM;

const FOUR: [&str; 4] = [
    "cstore-gateway",
    "cstore-master",
    "cstore-storage",
    "cstore-worker",
];

fn traced(collector: &Collector) -> Cluster {
    Cluster::builder(PROGRAM)
        // A node that is lost for a moment is a refusal and a retry in the tree, which these tests
        // take for a defect.
        .env("CSTORE_HEARTBEAT_MS", "2000")
        .env("OTEL_EXPORTER_OTLP_ENDPOINT", &collector.endpoint)
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start()
}

/// Checks what holds of every trace: four services, one root, no span without its parent, no
/// errors, no span a block.
fn check_whole(trace: &Trace) {
    assert_eq!(
        trace.services().into_iter().collect::<Vec<_>>(),
        FOUR,
        "{}",
        trace.tree()
    );
    assert!(trace.orphans().is_empty(), "orphans in\n{}", trace.tree());
    let roots: Vec<_> = trace
        .0
        .iter()
        .filter(|span| span.parent.is_empty())
        .collect();
    assert_eq!(roots.len(), 1, "{}", trace.tree());
    assert!(
        trace.0.iter().all(|span| !span.is_error),
        "{}",
        trace.tree()
    );
    let batches = trace
        .0
        .iter()
        .filter(|span| span.kind == "client" && span.name.ends_with("Blocks"));
    assert!(
        batches.count() < 48 / 2,
        "a span is for a batch, not for a block:\n{}",
        trace.tree()
    );
}

/// Returns true if both ends of each of these calls have been exported, in any order and by any
/// process.
fn has_calls(trace: &Trace, names: &[&str]) -> bool {
    let has = |name: &str, kind| trace.named(name).iter().any(|span| span.kind == kind);
    names
        .iter()
        .all(|name| has(name, "client") && has(name, "server"))
}

/// Asserts that `child` hangs below `parent`, both named by name and kind.
fn check_below(trace: &Trace, child: (&str, &str), parent: (&str, &str)) {
    let found = trace
        .named(child.0)
        .into_iter()
        .filter(|span| span.kind == child.1)
        .collect::<Vec<_>>();
    assert!(!found.is_empty(), "no {child:?} in\n{}", trace.tree());
    for span in found {
        let above = trace
            .parent(span)
            .map(|span| (span.name.as_str(), span.kind));
        assert_eq!(
            above,
            Some(parent),
            "parent of {child:?} in\n{}",
            trace.tree()
        );
    }
}

#[test]
fn an_upload_and_a_download_are_one_tree_each_over_four_services() {
    let collector = Collector::start();
    let cluster = traced(&collector);
    let body = random(3 << 20, 1);
    let put = cluster.ask("PUT", "/api/files/traced", &body);
    let id = put.json()["trace_id"].as_str().unwrap().to_owned();
    assert_eq!(put.header("x-cstore-trace-id"), Some(id.as_str()));
    let (root, upload) = (
        ("PUT /api/files/{*name}", "server"),
        "cstore.v1.Transfer/Upload",
    );
    let (begin, commit) = (
        "cstore.v1.Uploads/BeginUpload",
        "cstore.v1.Uploads/CommitUpload",
    );
    let calls = [begin, upload, commit, "HaveBlocks", "PutBlocks"];
    let put = collector.trace(&id, |trace| {
        trace.is_whole() && has_calls(trace, &calls) && !trace.named("commit").is_empty()
    });
    println!("{}", put.tree());
    check_whole(&put);
    for (name, parent) in [(begin, root), (upload, root), (commit, (upload, "server"))] {
        check_below(&put, (name, "client"), parent);
        check_below(&put, (name, "server"), (name, "client"));
    }
    for frame in ["HaveBlocks", "PutBlocks"] {
        check_below(&put, (frame, "client"), (upload, "server"));
        check_below(&put, (frame, "server"), (frame, "client"));
        assert_eq!(
            put.named(frame)[0].attributes["rpc.system.name"],
            "cstore.block"
        );
    }
    for span in put.named("commit") {
        let above = put.parent(span).unwrap();
        let waits = ["PutBlocks", "PutSeal", "Seal", commit].contains(&above.name.as_str());
        assert!(
            waits && above.kind == "server",
            "a commit below {}",
            above.name
        );
        assert!(
            span.attributes["cstore.commit.bytes"]
                .parse::<u64>()
                .unwrap()
                >= 4_096,
            "{span:?}"
        );
        assert!(
            span.attributes["cstore.commit.sync_seconds"]
                .parse::<f64>()
                .unwrap()
                > 0.0,
            "{span:?}"
        );
    }
    let stream = put.one(upload, "server");
    let told = |key: &str| stream.attributes[key].as_str();
    assert_eq!(
        (
            told("cstore.blocks"),
            told("cstore.misses"),
            told("cstore.hits")
        ),
        ("48", "48", "0")
    );
    assert_eq!(
        (told("cstore.bytes"), told("cstore.chunker")),
        ("3145728", "fixed:65536")
    );

    let got = cluster.ask("GET", "/api/files/traced", b"");
    assert!(got.body == body);
    let (root, download) = (
        ("GET /api/files/{*name}", "server"),
        "cstore.v1.Transfer/Download",
    );
    let find = "cstore.v1.Namespace/GetFile";
    let get = collector.trace(got.header("x-cstore-trace-id").unwrap(), |trace| {
        trace.is_whole() && has_calls(trace, &[find, download, "GetBlocks"])
    });
    println!("{}", get.tree());
    check_whole(&get);
    for (name, parent) in [(find, root), (download, root)] {
        check_below(&get, (name, "client"), parent);
        check_below(&get, (name, "server"), (name, "client"));
    }
    check_below(&get, ("GetBlocks", "client"), (download, "server"));
    check_below(&get, ("GetBlocks", "server"), ("GetBlocks", "client"));
    // Nothing that runs by itself is traced.
    let background = ["Heartbeat", "Health", "Register", "WatchMap"];
    for span in collector.all() {
        assert!(
            !background.iter().any(|name| span.name.contains(name)),
            "{} is traced",
            span.name
        );
    }
}

#[test]
fn a_refusal_is_no_error_of_the_system_and_its_body_names_the_trace() {
    let collector = Collector::start();
    let cluster = traced(&collector);
    let missing = cluster.ask("GET", "/api/files/missing", b"");
    assert_eq!(missing.status, 404);
    let id = missing.json()["error"]["trace_id"]
        .as_str()
        .unwrap()
        .to_owned();
    let trace = collector.trace(&id, |trace| {
        trace.is_whole() && has_calls(trace, &["cstore.v1.Namespace/GetFile"])
    });
    assert!(
        trace.0.iter().all(|span| !span.is_error),
        "{}",
        trace.tree()
    );
    let asked = trace.one("cstore.v1.Namespace/GetFile", "server");
    assert_eq!(asked.attributes["rpc.response.status_code"], "NotFound");
    let root = trace.one("GET /api/files/{*name}", "server");
    assert_eq!(root.attributes["http.response.status_code"], "404");
}

#[test]
fn the_callers_trace_is_continued_and_its_decision_not_to_sample_is_kept() {
    let collector = Collector::start();
    let cluster = traced(&collector);
    let mut client = Client::connect(&cluster.gateway).unwrap();
    let mut put = |name: &str, flags: &str, id: &str| {
        let parent = format!("traceparent: 00-{id}-00f067aa0ba902b7-{flags}\r\n");
        let put = client
            .call(
                "PUT",
                &format!("/api/files/{name}"),
                &parent,
                &random(200_000, 7),
            )
            .unwrap();
        assert_eq!(
            (put.status, put.json()["trace_id"].as_str()),
            (201, Some(id))
        );
    };
    put("unsampled", "00", "11111111111111111111111111111111");
    put("sampled", "01", "22222222222222222222222222222222");
    // A span whose parent has not been exported yet looks like an orphan, too.
    let trace = collector.trace("22222222222222222222222222222222", |trace| {
        let orphans = trace.orphans();
        trace.services().len() == 4
            && matches!(orphans[..], [span] if span.parent == "00f067aa0ba902b7")
    });
    assert_eq!(
        trace.orphans()[0].kind,
        "server",
        "the caller's span is the parent of the request:\n{}",
        trace.tree()
    );
    assert!(
        collector
            .all()
            .iter()
            .all(|span| !span.trace.starts_with("1111")),
        "it was not to be sampled"
    );
}

#[test]
fn a_collector_that_is_dead_or_never_answers_harms_nothing() {
    let dead = TcpListener::bind("127.0.0.1:0")
        .unwrap()
        .local_addr()
        .unwrap();
    let hole = TcpListener::bind("127.0.0.1:0").unwrap();
    let swallows = hole.local_addr().unwrap();
    std::thread::spawn(move || {
        for mut stream in hole.incoming().flatten() {
            std::thread::spawn(
                move || while stream.read(&mut [0; 4_096]).is_ok_and(|read| read > 0) {},
            );
        }
    });
    for collector in [dead, swallows] {
        let cluster = Cluster::builder(PROGRAM)
            .env(
                "OTEL_EXPORTER_OTLP_ENDPOINT",
                &format!("http://{collector}"),
            )
            .env("OTEL_BSP_SCHEDULE_DELAY", "50")
            .start();
        let before = cluster.peak_memory("worker-1");
        let begun = Instant::now();
        for n in 0..100 {
            let body = random(100_000, n);
            assert_eq!(
                cluster.ask("PUT", &format!("/api/files/{n}"), &body).status,
                201
            );
            assert!(cluster.ask("GET", &format!("/api/files/{n}"), b"").body == body);
        }
        assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
        let grown = cluster.peak_memory("worker-1").saturating_sub(before);
        assert!(grown < 64 << 20, "{grown} bytes more");
        for role in ["gateway", "storage-1"] {
            let begun = Instant::now();
            assert!(cluster.stop(role).success());
            assert!(
                begun.elapsed() < PATIENCE / 2,
                "{role} stopped after {:?}",
                begun.elapsed()
            );
        }
    }
}
