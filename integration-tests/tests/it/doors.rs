//! I13 and I10 at every gRPC door that the .proto files name: one that is added later is tried without a line here.

use bytes::Bytes;
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::content::random;
use cstore_integration_tests::grpc::call;
use tonic::Code;

use crate::PROGRAM;

const FILES: [&str; 4] = ["cluster", "namespace", "transfer", "uploads"];

/// Service and method of every RPC, as the contract says.
fn methods() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for file in FILES {
        let path = format!("{}/../proto/cstore/v1/{file}.proto", env!("CARGO_MANIFEST_DIR"));
        let mut service = String::new();
        for line in std::fs::read_to_string(path).unwrap().lines() {
            let words: Vec<&str> = line.split([' ', '(', '{']).filter(|word| !word.is_empty()).collect();
            match words[..] {
                ["service", name, ..] => service = name.to_owned(),
                ["rpc", name, ..] => found.push((service.clone(), name.to_owned())),
                _ => {}
            }
        }
    }
    assert!(found.len() >= 17, "only {} methods were found", found.len());
    found
}

fn addr(cluster: &Cluster, service: &str) -> String {
    if service == "Transfer" { cluster.addr("worker-1") } else { cluster.master.clone() }
}

async fn started() -> Cluster {
    tokio::task::spawn_blocking(|| Cluster::builder(PROGRAM).start()).await.unwrap()
}

/// A cluster blocks when it ends.
async fn end(cluster: Cluster, allowed: &'static [&'static str]) {
    let ended = tokio::task::spawn_blocking(move || {
        cluster.wait_ready();
        cluster.audit(allowed);
    });
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_every_rpc_is_refused_without_the_right_bearer_and_none_with_it() {
    let cluster = started().await;
    let right = cluster.bearer();
    let other = cluster.bearer().chars().rev().collect::<String>();
    let longer = format!("{right}0");
    for (service, method) in methods() {
        let (addr, path) = (addr(&cluster, &service), format!("/cstore.v1.{service}/{method}"));
        for wrong in [None, Some(""), Some("wrong"), Some(other.as_str()), Some(longer.as_str())] {
            let refused = call(&addr, &path, wrong, Bytes::new()).await.unwrap_err();
            assert_eq!(refused.code(), Code::Unauthenticated, "{path} with {wrong:?}: {refused}");
        }
        if let Err(status) = call(&addr, &path, Some(&right), Bytes::new()).await {
            let known = !matches!(status.code(), Code::Unauthenticated | Code::Unimplemented);
            assert!(known, "{path} with the right bearer: {status}");
        }
    }
    end(cluster, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_garbage_in_every_rpc_is_refused_and_breaks_nothing() {
    let cluster = started().await;
    let bearer = cluster.bearer();
    for (n, (service, method)) in methods().into_iter().enumerate() {
        let (addr, path) = (addr(&cluster, &service), format!("/cstore.v1.{service}/{method}"));
        // A field of a length that is not there, then noise.
        let mut messages = vec![Bytes::from_static(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f])];
        messages.extend((0..8).map(|round| Bytes::from(random(200, n as u64 * 100 + round))));
        for message in messages {
            if let Err(status) = call(&addr, &path, Some(&bearer), message).await {
                assert!(!matches!(status.code(), Code::Unknown | Code::DeadlineExceeded), "{path}: {status}");
                assert!(!status.message().contains("panic"), "{path}: {status}");
            }
        }
    }
    end(cluster, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_answer_everybody() {
    let cluster = started().await;
    let has = |bytes: &Bytes, text: &str| bytes.windows(text.len()).any(|found| found == text.as_bytes());
    for (addr, services) in [
        (cluster.master.clone(), &["Cluster", "Namespace", "Uploads"][..]),
        (cluster.addr("worker-1"), &["Transfer"]),
    ] {
        // HealthCheckRequest{} is answered HealthCheckResponse{status: SERVING}.
        let health = call(&addr, "/grpc.health.v1.Health/Check", None, Bytes::new()).await.unwrap();
        assert_eq!(health[..], [0x08, 0x01], "{addr} is not serving");
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            // ServerReflectionRequest{list_services: ""}
            let listed = call(&addr, &path, None, Bytes::from_static(&[0x3a, 0x00])).await.unwrap();
            for service in services {
                assert!(has(&listed, &format!("cstore.v1.{service}")), "{path} does not list {service}");
            }
            // ServerReflectionRequest{file_containing_symbol: "cstore.v1.Namespace.ListFiles"}
            let symbol = b"cstore.v1.Namespace.ListFiles";
            let wanted = [&[0x22, symbol.len() as u8][..], symbol].concat();
            let described = call(&addr, &path, None, wanted.into()).await.unwrap();
            assert!(has(&described, "next_page_token"), "{path} does not describe ListFiles");
        }
    }
    end(cluster, &[]).await;
}
