//! TLS on the inner ports (I13): every pair shakes hands, nothing goes in the open, strangers stay
//! outside.

use std::path::Path;
use std::process::Command;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::mesh;
use cstore_integration_tests::proxy::{HOST, Proxy, Way};
use cstore_mesh::{
    ClientOptions, Dial, Discovery, MasterClient, MeshMetrics, Protocol, Service, Tls,
};
use cstore_proto::{Caller, Signer, v1};
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;

const HOSTS: &str = "127.0.0.1,127.0.0.2,127.0.0.3,127.0.0.4";

/// A certificate of the CA in `out` for a node that is dialled as `hosts`.
fn certify(out: &Path, node: &str, hosts: &str) {
    let out = out.to_string_lossy();
    let made = Command::new(PROGRAM)
        .args([
            "admin", "certs", "--force", "--out", &out, "--node", node, "--host", hosts,
        ])
        .output()
        .unwrap();
    assert!(
        made.status.success(),
        "{}",
        String::from_utf8_lossy(&made.stderr)
    );
}

/// Gives every role a certificate and lets it speak TLS. The roles are stopped afterwards.
fn secure(cluster: &mut Cluster) {
    for role in cluster.roles() {
        cluster.kill(&role);
        certify(&cluster.dir().join("tls"), &role, HOSTS);
        let dir = cluster.dir().join("tls").join(&role).display().to_string();
        cluster.set_env_of(&role, "CSTORE_TLS_DIR", &dir);
    }
}

#[test]
fn i13_every_pair_shakes_hands_and_nothing_goes_in_the_open() {
    let mut builder = Cluster::builder(PROGRAM);
    for part in [
        "worker-1",
        "worker-2",
        "storage-1",
        "storage-2",
        "storage-3",
    ] {
        builder = builder.env_of(part, "CSTORE_ADVERTISE_HOST", HOST);
    }
    let mut cluster = builder.start_unready();
    secure(&mut cluster);
    let mut proxies = Vec::new();
    for (role, host) in [
        ("gateway", "127.0.0.2"),
        ("worker", "127.0.0.3"),
        ("storage", "127.0.0.4"),
    ] {
        let proxy = Proxy::before_on(host, &cluster.master).unwrap();
        for part in cluster
            .roles()
            .into_iter()
            .filter(|part| part.starts_with(role))
        {
            cluster.set_env_of(&part, "CSTORE_MASTER_ADDR", &proxy.addr);
        }
        proxies.push((format!("{role} to master"), proxy));
    }
    for part in cluster.roles() {
        let pair = match part.split('-').next() {
            Some("worker") => format!("gateway to {part}"),
            Some("storage") => format!("worker to {part}"),
            _ => continue,
        };
        proxies.push((pair, Proxy::before(&cluster.addr(&part)).unwrap()));
    }
    for role in cluster.roles() {
        cluster.launch(&role);
    }
    cluster.wait_ready();
    let body = random(600_000, 1);
    for name in ["a-very-secret-name-1", "a-very-secret-name-2"] {
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/{name}"), &body)
                .status,
            201
        );
        assert!(cluster.ask("GET", &format!("/api/files/{name}"), b"").body == body);
    }
    for (pair, proxy) in &proxies {
        let (there, back) = (proxy.first_bytes(Way::There), proxy.first_bytes(Way::Back));
        println!(
            "{pair}: {} connections, first bytes {:02x?} / {:02x?}",
            there.len(),
            &there[0][..6],
            &back[0][..6]
        );
        // A handshake record with a ClientHello (1), answered by one with a ServerHello (2): RFC
        // 8446, section 5.1.
        assert!(
            there.iter().all(|first| first[0] == 0x16 && first[5] == 1),
            "{pair}: {there:02x?}"
        );
        assert!(
            back.iter().all(|first| first[0] == 0x16 && first[5] == 2),
            "{pair}: {back:02x?}"
        );
        for secret in [&body[100_000..100_032], b"a-very-secret-name".as_slice()] {
            assert!(!proxy.saw(secret), "{pair}: {secret:02x?} went in the open");
        }
    }
    cluster.audit(&[]);
}

/// Lists files at the master over TLS with the certificates of a folder.
async fn list_with(cluster: &Cluster, tls: &Tls) -> Result<v1::ListFilesResponse, tonic::Status> {
    let dial = Dial::secured(Some(tls), Protocol::Grpc);
    let signer = Signer::new(&cluster.secret(), Caller::Operator);
    let options = ClientOptions {
        dial,
        ..ClientOptions::new("test", signer, MeshMetrics::default())
    };
    let (service, manager) =
        Service::new("master", Discovery::of(&cluster.master).unwrap(), &options);
    drop(cstore_node::shutdown::spawn("endpoints", manager.run()));
    MasterClient::new(&service)
        .list_files(v1::ListFilesRequest::default())
        .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i13_strangers_are_refused_at_the_handshake() {
    let started = tokio::task::spawn_blocking(|| {
        let mut cluster = Cluster::one_of_each(PROGRAM).start_unready();
        secure(&mut cluster);
        cluster.roles().iter().for_each(|role| cluster.launch(role));
        cluster.wait_ready();
        cluster
    });
    let cluster = started.await.unwrap();
    let tls = cluster.dir().join("tls");
    list_with(&cluster, &Tls::load(tls.join("gateway"), true).unwrap())
        .await
        .unwrap();

    let plain = mesh::master(
        &cluster.master,
        &Signer::new(&cluster.secret(), Caller::Operator),
    );
    let refused = plain
        .list_files(v1::ListFilesRequest::default())
        .await
        .unwrap_err();
    println!("without TLS: {refused}");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");

    let foreign = cluster.dir().join("foreign");
    certify(&foreign, "gateway", HOSTS);
    let refused = list_with(&cluster, &Tls::load(foreign.join("gateway"), true).unwrap())
        .await
        .unwrap_err();
    println!("with a CA of its own: {refused}");
    assert!(
        refused.message().contains("invalid peer certificate"),
        "{refused}"
    );

    // It trusts the right CA, but its own certificate is of another.
    std::fs::copy(tls.join("ca.pem"), foreign.join("gateway/ca.pem")).unwrap();
    let refused = list_with(&cluster, &Tls::load(foreign.join("gateway"), true).unwrap())
        .await
        .unwrap_err();
    println!("with a certificate of another CA: {refused}");
    assert_eq!(refused.code(), tonic::Code::Unavailable, "{refused}");
    assert!(
        cluster
            .log("master")
            .contains("refused a caller at the TLS handshake")
    );

    certify(&tls, "elsewhere", "example.org");
    let elsewhere = tls.join("elsewhere").display().to_string();
    let stopped = tokio::task::spawn_blocking(move || {
        let mut cluster = cluster;
        cluster.kill("master");
        cluster.set_env_of("master", "CSTORE_TLS_DIR", &elsewhere);
        cluster.launch("master");
        cluster
    });
    let cluster = stopped.await.unwrap();
    let wrong = list_with(&cluster, &Tls::load(tls.join("gateway"), true).unwrap())
        .await
        .unwrap_err();
    println!("at a server of another name: {wrong}");
    assert!(wrong.message().contains("not valid for name"), "{wrong}");
    tokio::task::spawn_blocking(move || drop(cluster))
        .await
        .unwrap();
}

#[test]
fn certificates_are_renewed_without_a_restart_and_a_broken_set_changes_nothing() {
    let mut cluster = Cluster::builder(PROGRAM).start_unready();
    secure(&mut cluster);
    cluster.roles().iter().for_each(|role| cluster.launch(role));
    cluster.wait_ready();
    let tls = cluster.dir().join("tls");
    let takes = |worker: &str| {
        until_blocking(&format!("an upload to {worker}"), || {
            let put = cluster
                .call("PUT", "/api/files/turn?overwrite=true", &random(100_000, 1))
                .ok()?;
            (put.status < 300 && put.json()["node"] == worker).then_some(())
        });
    };
    // Valid, but for another name: who connects from now on must refuse it.
    certify(&tls, "worker-1", "example.org");
    cluster.restart("gateway");
    until_blocking("a refusal", || {
        // The certificate is looked at once a second, so a gateway that came too early comes again.
        if cluster
            .log("worker-1")
            .contains("certificates were renewed")
        {
            return Some(());
        }
        cluster.restart("gateway");
        cluster.wait_ready();
        None
    });
    cluster.restart("gateway");
    cluster.wait_ready();
    for n in 0..10 {
        let put = cluster.ask("PUT", &format!("/api/files/{n}"), &random(100_000, n));
        assert_eq!(
            (put.status, put.json()["node"].as_str()),
            (201, Some("worker-2")),
            "{}",
            put.text()
        );
    }
    certify(&tls, "worker-1", HOSTS);
    takes("worker-1");
    std::fs::write(tls.join("worker-1/cert.pem"), "no certificate").unwrap();
    cluster.restart("gateway");
    until_blocking("a warning", || {
        let said = cluster
            .log("worker-1")
            .contains("new certificates cannot be used");
        if !said {
            cluster.restart("gateway");
            cluster.wait_ready();
        }
        said.then_some(())
    });
    cluster.restart("gateway");
    cluster.wait_ready();
    takes("worker-1");
    assert_eq!(
        cluster
            .log("worker-1")
            .matches("new certificates cannot be used")
            .count(),
        1,
        "said once"
    );
}

#[test]
fn grpcurl_speaks_tls_with_the_certificates_of_a_node() {
    let Ok(version) = Command::new("grpcurl").arg("-version").output() else {
        return println!("SKIP grpcurl over TLS: grpcurl is not on PATH");
    };
    assert!(version.status.success());
    let mut cluster = Cluster::one_of_each(PROGRAM).start_unready();
    secure(&mut cluster);
    cluster.roles().iter().for_each(|role| cluster.launch(role));
    cluster.wait_ready();
    let dir = cluster.dir().join("tls/gateway");
    let file = |name: &str| dir.join(name).display().to_string();
    let call = |with_certificate: bool| {
        let mut command = Command::new("grpcurl");
        command.args(["-cacert", &file("ca.pem"), "-max-time", "10"]);
        if with_certificate {
            command.args(["-cert", &file("cert.pem"), "-key", &file("key.pem")]);
        }
        command.args(["-H", &format!("authorization: Bearer {}", cluster.bearer())]);
        command
            .args([&cluster.master, "cstore.v1.Namespace/ListFiles"])
            .output()
            .unwrap()
    };
    let answered = call(true);
    assert!(
        answered.status.success(),
        "{}",
        String::from_utf8_lossy(&answered.stderr)
    );
    assert!(String::from_utf8_lossy(&answered.stdout).contains("clusterUuid"));
    assert!(
        !call(false).status.success(),
        "a caller without a certificate came in"
    );
}

#[test]
fn certificates_that_cannot_be_used_are_said_before_anything_starts() {
    let cluster = Cluster::one_of_each(PROGRAM).start_unready();
    let empty = tempfile::tempdir().unwrap();
    let dir = empty.path().display().to_string();
    let refused = cluster
        .command("worker-1")
        .env("CSTORE_TLS_DIR", &dir)
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&refused.stderr).into_owned();
    assert_eq!(refused.status.code(), Some(64), "{said}");
    assert!(
        said.contains("CSTORE_TLS_DIR") && said.contains("ca.pem"),
        "{said}"
    );
}
