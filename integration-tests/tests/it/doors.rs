//! I10 at every gRPC door that the descriptors name: one that is added later is tried without a
//! line here.

use bytes::Bytes;
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::grpc::call;
use cstore_proto::Signer;
use cstore_testkit::random;
use prost::Message;
use tonic::Code;

use crate::PROGRAM;

/// Service and method of every RPC, as the descriptors say.
pub(crate) fn methods() -> Vec<(String, String)> {
    let set = prost_types::FileDescriptorSet::decode(cstore_proto::DESCRIPTORS).unwrap();
    let services = set.file.iter().flat_map(|file| &file.service);
    let methods =
        services.flat_map(|service| service.method.iter().map(move |method| (service, method)));
    methods
        .map(|(service, method)| (service.name().to_owned(), method.name().to_owned()))
        .collect()
}

pub(crate) fn addr(cluster: &Cluster, service: &str) -> String {
    if service == "Transfer" {
        cluster.addr("worker-1")
    } else {
        cluster.master.clone()
    }
}

pub(crate) async fn started() -> Cluster {
    tokio::task::spawn_blocking(|| Cluster::builder(PROGRAM).start())
        .await
        .unwrap()
}

/// A cluster blocks when it ends.
pub(crate) async fn end(cluster: Cluster, allowed: &'static [&'static str]) {
    let ended = tokio::task::spawn_blocking(move || {
        cluster.wait_ready();
        cluster.audit(allowed);
    });
    ended.await.unwrap();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i10_garbage_in_every_rpc_is_refused_and_breaks_nothing() {
    let cluster = started().await;
    let secret = cluster.secret();
    for (n, (service, method)) in methods().into_iter().enumerate() {
        let (addr, path) = (
            addr(&cluster, &service),
            format!("/cstore.v1.{service}/{method}"),
        );
        let access = cstore_proto::ACCESS
            .iter()
            .find(|(known, _)| path.ends_with(known));
        let (_, callers) = access.expect("the method is in the table");
        let bearer = Signer::new(&secret, callers[0]).bearer(&path);
        // A field of a length that is not there, then noise.
        let mut messages = vec![Bytes::from_static(&[0x0a, 0xff, 0xff, 0xff, 0xff, 0x0f])];
        messages.extend((0..8).map(|round| Bytes::from(random(200, n as u64 * 100 + round))));
        for message in messages {
            if let Err(status) = call(&addr, &path, Some(&bearer), message).await {
                assert!(
                    !matches!(status.code(), Code::Unknown | Code::DeadlineExceeded),
                    "{path}: {status}"
                );
                assert!(!status.message().contains("panic"), "{path}: {status}");
            }
        }
    }
    end(cluster, &[]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn health_and_reflection_answer_everybody() {
    let cluster = started().await;
    let has = |bytes: &Bytes, text: &str| {
        bytes
            .windows(text.len())
            .any(|found| found == text.as_bytes())
    };
    for (addr, services) in [
        (
            cluster.master.clone(),
            &["Cluster", "Namespace", "Uploads"][..],
        ),
        (cluster.addr("worker-1"), &["Transfer"]),
    ] {
        // HealthCheckRequest{} is answered HealthCheckResponse{status: SERVING}.
        let health = call(&addr, "/grpc.health.v1.Health/Check", None, Bytes::new())
            .await
            .unwrap();
        assert_eq!(health[..], [0x08, 0x01], "{addr} is not serving");
        for version in ["v1", "v1alpha"] {
            let path = format!("/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo");
            // ServerReflectionRequest{list_services: ""}
            let listed = call(&addr, &path, None, Bytes::from_static(&[0x3a, 0x00]))
                .await
                .unwrap();
            for service in services {
                assert!(
                    has(&listed, &format!("cstore.v1.{service}")),
                    "{path} does not list {service}"
                );
            }
            // ServerReflectionRequest{file_containing_symbol: "cstore.v1.Namespace.ListFiles"}
            let symbol = b"cstore.v1.Namespace.ListFiles";
            let wanted = [&[0x22, symbol.len() as u8][..], symbol].concat();
            let described = call(&addr, &path, None, wanted.into()).await.unwrap();
            assert!(
                has(&described, "next_page_token"),
                "{path} does not describe ListFiles"
            );
        }
    }
    end(cluster, &[]).await;
}
