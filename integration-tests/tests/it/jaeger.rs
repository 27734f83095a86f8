//! Our traces in a real Jaeger, if there is one: an operator sees what its query API returns.

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::tools;
use cstore_testkit::{PATIENCE, random, until_blocking};
use serde_json::Value;

use crate::PROGRAM;

/// A Jaeger with memory only, on ports of its own.
struct Jaeger {
    child: Child,
    collector: String,
    query: String,
}

impl Jaeger {
    fn start(program: &Path, dir: &Path) -> Self {
        // Held together, so that no two are the same.
        let listeners = [(); 3].map(|()| TcpListener::bind("127.0.0.1:0").unwrap());
        let [collector, query, grpc] = listeners
            .each_ref()
            .map(|listener| listener.local_addr().unwrap().to_string());
        drop(listeners);
        let config = serde_json::json!({
            "service": {
                "extensions": ["jaeger_storage", "jaeger_query"],
                "pipelines": {"traces": {"receivers": ["otlp"], "exporters": ["jaeger_storage_exporter"]}},
                "telemetry": {"metrics": {"level": "none"}},
            },
            "extensions": {
                "jaeger_storage": {"backends": {"memory": {"memory": {"max_traces": 10_000}}}},
                "jaeger_query": {
                    "storage": {"traces": "memory"},
                    "http": {"endpoint": query},
                    "grpc": {"endpoint": grpc},
                },
            },
            "receivers": {"otlp": {"protocols": {"grpc": {"endpoint": collector}}}},
            "exporters": {"jaeger_storage_exporter": {"trace_storage": "memory"}},
        });
        let file = dir.join("jaeger.json");
        std::fs::write(&file, config.to_string()).unwrap();
        let log = std::fs::File::create(dir.join("jaeger.log")).unwrap();
        let child = Command::new(program)
            .arg("--config")
            .arg(&file)
            .stdout(Stdio::null())
            .stderr(log)
            .spawn()
            .unwrap();
        let jaeger = Self {
            child,
            collector,
            query,
        };
        until_blocking("an answer of jaeger", || jaeger.ask("/api/services"));
        jaeger
    }

    /// The data of an answer of its query API.
    fn ask(&self, path: &str) -> Option<Value> {
        let mut stream = TcpStream::connect(&self.query).ok()?;
        stream.set_read_timeout(Some(PATIENCE)).ok()?;
        // The older version has no chunks: the answer ends with the connection.
        write!(
            stream,
            "GET {path} HTTP/1.0\r\nhost: {}\r\n\r\n",
            self.query
        )
        .ok()?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).ok()?;
        let (_, body) = answer.split_once("\r\n\r\n")?;
        let mut parsed: Value = serde_json::from_str(body).ok()?;
        Some(parsed["data"].take())
    }

    /// A trace, once it is as `complete` asks.
    fn trace(&self, id: &str, complete: impl Fn(&Value) -> bool) -> Value {
        until_blocking(&format!("trace {id} in jaeger"), || {
            // The data of a trace that Jaeger does not know yet is null.
            let trace = self.ask(&format!("/api/traces/{id}"))?.get_mut(0)?.take();
            Some(trace).filter(&complete)
        })
    }
}

impl Drop for Jaeger {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn services(trace: &Value) -> BTreeSet<&str> {
    let processes = trace["processes"].as_object();
    let names = processes
        .into_iter()
        .flatten()
        .filter_map(|(_, process)| process["serviceName"].as_str());
    names.collect()
}

/// Ids of parents that are not in the trace.
fn missing_parents(trace: &Value) -> Vec<&str> {
    let spans = || trace["spans"].as_array().into_iter().flatten();
    let ids: BTreeSet<&str> = spans().filter_map(|span| span["spanID"].as_str()).collect();
    let references = spans()
        .filter_map(|span| span["references"].as_array())
        .flatten();
    let parents = references.filter(|reference| reference["refType"] == "CHILD_OF");
    parents
        .filter_map(|reference| reference["spanID"].as_str())
        .filter(|id| !ids.contains(id))
        .collect()
}

/// Returns true if spans of all services and of both kinds are there, and the parent of each. The
/// root ends last, so without it a parent would be missing.
fn is_whole(trace: &Value) -> bool {
    let kinds = kinds(trace);
    services(trace).len() == 4
        && missing_parents(trace).is_empty()
        && kinds.contains("client")
        && kinds.contains("server")
}

/// Kinds of the spans.
fn kinds(trace: &Value) -> BTreeSet<&str> {
    let spans = trace["spans"].as_array().into_iter().flatten();
    let tags = spans.filter_map(|span| span["tags"].as_array()).flatten();
    tags.filter(|tag| tag["key"] == "span.kind")
        .filter_map(|tag| tag["value"].as_str())
        .collect()
}

#[test]
fn jaeger_shows_an_upload_and_a_download_over_four_services() {
    let Some(program) = tools::find_or_skip("jaeger", "jaeger") else {
        return;
    };
    let dir = tempfile::tempdir().unwrap();
    let jaeger = Jaeger::start(&program, dir.path());
    let cluster = Cluster::builder(PROGRAM)
        .env(
            "OTEL_EXPORTER_OTLP_ENDPOINT",
            &format!("http://{}", jaeger.collector),
        )
        .env("OTEL_BSP_SCHEDULE_DELAY", "50")
        .start();
    let body = random(1_000_000, 9);
    let put = cluster.ask("PUT", "/api/files/shown", &body);
    assert_eq!(put.status, 201, "{}", put.text());
    let get = cluster.ask("GET", "/api/files/shown", b"");
    assert!(get.body == body);
    for answer in [put, get] {
        let id = answer.header("x-cstore-trace-id").unwrap();
        let trace = jaeger.trace(id, is_whole);
        let expected = [
            "cstore-gateway",
            "cstore-master",
            "cstore-storage",
            "cstore-worker",
        ];
        assert_eq!(services(&trace).into_iter().collect::<Vec<_>>(), expected);
        let spans = trace["spans"].as_array().unwrap();
        let tags = || {
            spans
                .iter()
                .filter_map(|span| span["tags"].as_array())
                .flatten()
        };
        assert!(
            !tags().any(|tag| tag["key"] == "error" && tag["value"] != false),
            "{trace:#}"
        );
        println!(
            "jaeger has trace {id} with {} spans of {:?}",
            spans.len(),
            services(&trace)
        );
        let named = |span: &Value| {
            let service = &trace["processes"][span["processID"].as_str()?]["serviceName"];
            Some(format!(
                "{} {}",
                service.as_str()?,
                span["operationName"].as_str()?
            ))
        };
        let names: BTreeSet<String> = spans.iter().filter_map(named).collect();
        println!("  {}", names.into_iter().collect::<Vec<_>>().join("\n  "));
    }
}
