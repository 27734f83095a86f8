//! Metrics of a running cluster on its admin ports.

use std::collections::BTreeMap;
use std::io::Write;
use std::process::{Command, Stdio};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_integration_tests::tools;
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

const OPEN: &str = "application/openmetrics-text";

fn scrape(cluster: &Cluster, role: &str, accept: &str) -> Answer {
    let mut client = Client::connect(&cluster.admin_addr(role)).unwrap();
    let answer = client
        .call("GET", "/metrics", &format!("accept: {accept}\r\n"), b"")
        .unwrap();
    assert_eq!(answer.status, 200, "{role}");
    answer
}

/// Names and kinds, as a scrape declares them.
fn declared(text: &str) -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    for line in text.lines().filter_map(|line| line.strip_prefix("# TYPE ")) {
        let (name, kind) = line.split_once(' ').unwrap();
        assert_eq!(
            found.insert(name.to_owned(), kind.to_owned()),
            None,
            "{name} is declared twice"
        );
    }
    found
}

/// Names and kinds, as `docs/metrics.md` tells them.
pub(crate) fn documented() -> BTreeMap<String, String> {
    let path = format!("{}/../docs/metrics.md", env!("CARGO_MANIFEST_DIR"));
    let text = std::fs::read_to_string(path).unwrap();
    let rows = text.lines().filter_map(|line| line.strip_prefix("| `"));
    let row = |line: &str| {
        let mut cells = line
            .split('|')
            .map(|cell| cell.trim().trim_matches('`').to_owned());
        Some((cells.next()?, cells.next()?))
    };
    rows.filter_map(row).collect()
}

/// The metric that a sample or an expression names: histograms have three names.
pub(crate) fn family<'a>(known: &BTreeMap<String, String>, name: &'a str) -> Option<&'a str> {
    if known.contains_key(name) {
        return Some(name);
    }
    let base = ["_bucket", "_sum", "_count"]
        .iter()
        .find_map(|suffix| name.strip_suffix(suffix))?;
    known
        .get(base)
        .is_some_and(|kind| kind == "histogram")
        .then_some(base)
}

/// Returns the sum of all samples whose lines begin with `begin`.
fn sum(text: &str, begin: &str) -> f64 {
    let samples = text.lines().filter(|line| line.starts_with(begin));
    samples
        .map(|line| line.rsplit(' ').next().unwrap().parse::<f64>().unwrap())
        .sum()
}

/// A cluster that has done some of everything, and the trace of an upload.
fn busy() -> (Cluster, String) {
    let cluster = Cluster::builder(PROGRAM).start();
    let body = random(3 << 20, 5);
    let put = cluster.ask("PUT", "/api/files/one", &body);
    assert_eq!(put.status, 201, "{}", put.text());
    assert_eq!(
        cluster.ask("PUT", "/api/files/same", &body).json()["new_blocks"],
        0
    );
    assert_eq!(cluster.ask("PUT", "/api/files/small", b"small").status, 201);
    assert!(cluster.ask("GET", "/api/files/one", b"").body == body);
    assert_eq!(cluster.ask("GET", "/api/files/none", b"").status, 404);
    assert_eq!(cluster.ask("DELETE", "/api/files/one", b"").status, 204);
    let id = put.header("x-cstore-trace-id").unwrap().to_owned();
    (cluster, id)
}

/// Beginnings of samples, and their least sum after [`busy`]. A role may count a request after its
/// answer was sent.
const COUNTED: [(&str, f64); 7] = [
    ("cstore_worker_known_blocks_total", 48.0),
    ("cstore_worker_new_blocks_total", 48.0),
    ("cstore_worker_uploads_total{outcome=\"committed\"}", 3.0),
    ("cstore_storage_commit_seconds_count", 3.0),
    ("cstore_master_commit_bytes_sum", 4_096.0),
    (
        "cstore_gateway_requests_total{method=\"GET\",route=\"/api/files/{*name}\",status=\"404\"}",
        1.0,
    ),
    (
        "cstore_mesh_served_total{role=\"worker\",method=\"cstore.v1.Transfer/Upload\",code=\"Ok\"}",
        2.0,
    ),
];

#[test]
fn metrics_of_a_running_cluster_are_those_of_their_document() {
    let (cluster, _) = busy();
    for (begin, least) in COUNTED {
        until_blocking(&format!("{begin} to be at least {least}"), || {
            let roles = cluster.roles();
            let sums = roles
                .iter()
                .map(|role| sum(&scrape(&cluster, role, "*/*").text(), begin));
            (sums.sum::<f64>() >= least).then_some(())
        });
    }
    let mut found = BTreeMap::new();
    let mut texts = BTreeMap::new();
    for role in cluster.roles() {
        let text = scrape(&cluster, &role, "*/*").text();
        let own = declared(&text);
        for sample in text.lines().filter(|line| !line.starts_with('#')) {
            let name = sample.split(['{', ' ']).next().unwrap();
            assert!(
                family(&own, name).is_some(),
                "{role} does not declare {name}"
            );
        }
        found.extend(own);
        texts.insert(role, text);
    }
    assert_eq!(
        found,
        documented(),
        "left is what runs, right is docs/metrics.md"
    );

    let all: String = texts.values().map(String::as_str).collect();
    assert_eq!(
        sum(
            &texts["master"],
            "cstore_master_nodes{role=\"storage\",state=\"ready\"}"
        ),
        3.0
    );
    assert_eq!(
        sum(&texts["master"], "cstore_master_nodes{"),
        5.0,
        "each node has one state"
    );
    assert_eq!(sum(&all, "cstore_build_info{"), 7.0, "seven processes");
    check_with_promtool(&texts);
}

fn check_with_promtool(texts: &BTreeMap<String, String>) {
    let Some(promtool) = tools::find_or_skip("promtool", "exposition") else {
        return;
    };
    for (role, text) in texts {
        let mut command = Command::new(&promtool);
        command
            .args(["check", "metrics"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(text.as_bytes())
            .unwrap();
        let output = child.wait_with_output().unwrap();
        let said = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(
            output.status.success() && said.is_empty(),
            "promtool about {role}: {said}"
        );
    }
}

#[test]
fn whoever_asks_for_openmetrics_gets_exemplars_that_name_traces() {
    let (cluster, id) = busy();
    let exemplar = format!(" # {{trace_id=\"{id}\"}} ");
    until_blocking("the upload to be an exemplar of a storage node", || {
        let text: String = cluster
            .roles()
            .iter()
            .map(|role| scrape(&cluster, role, OPEN).text())
            .collect();
        let is_named = |line: &str| {
            line.starts_with("cstore_storage_request_seconds_bucket") && line.contains(&exemplar)
        };
        text.lines().any(is_named).then_some(())
    });
    let mut named = Vec::new();
    for role in cluster.roles() {
        let answer = scrape(&cluster, &role, OPEN);
        assert!(
            answer.header("content-type").unwrap().starts_with(OPEN),
            "{:?}",
            answer.headers
        );
        let text = answer.text();
        assert!(text.ends_with("# EOF\n"), "{role}");
        let lines = text.lines().filter(|line| line.contains(&exemplar));
        named.extend(lines.map(|line| line.split('{').next().unwrap().to_owned()));
        let plain = scrape(&cluster, &role, "text/plain");
        assert!(
            plain
                .header("content-type")
                .unwrap()
                .starts_with("text/plain; version=0.0.4")
        );
        assert!(
            !plain.text().contains("trace_id"),
            "the older text has no exemplars"
        );
    }
    // Only this upload put blocks by batches, so nothing took the place of its exemplar there.
    assert!(
        named
            .iter()
            .any(|name| name == "cstore_storage_request_seconds_bucket"),
        "{id} is in {named:?}"
    );
    assert!(
        named.iter().all(|name| name.ends_with("_seconds_bucket")),
        "{named:?}"
    );
}
