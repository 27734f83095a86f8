//! Safety of the ports: nobody stops a process, nobody is admitted without a credential.

use std::io::{Read, Write};
use std::net::TcpStream;

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, until_blocking};

use crate::PROGRAM;
use crate::matrix::frames::Visitor;

fn works(cluster: &Cluster, name: &str) {
    let body = random(200_000, 11);
    assert_eq!(
        cluster
            .ask("PUT", &format!("/api/files/{name}"), &body)
            .status,
        201,
        "{name}"
    );
    assert!(
        cluster.ask("GET", &format!("/api/files/{name}"), b"").body == body,
        "{name}"
    );
}

#[test]
fn b09_a_length_beyond_its_bounds_is_refused_before_anything_is_reserved() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    // From a member, behind the handshake: the worst place.
    for length in [200_000_000_u32, u32::MAX, 1 << 31] {
        for opcode in [0x30, 0x31, 0x32, 0x33, 0x34, 0x35, 0x36] {
            let mut member = Visitor::member(&cluster, "storage-1");
            member.send(&[&[opcode][..], &length.to_le_bytes(), &[0; 1_000]].concat());
            while let Some((answer, _)) = member.receive() {
                assert_eq!(answer, 0x00, "opcode {opcode:#x} of {length} bytes");
            }
        }
    }
    assert!(cluster.peak_memory("storage-1") < 100 << 20);
    works(&cluster, "after");
    cluster.audit(&[]);
}

#[test]
fn b11_idle_connections_stop_no_port() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let ports = [
        &cluster.gateway,
        &cluster.master,
        &cluster.addr("worker-1"),
        &cluster.addr("storage-1"),
    ];
    let idle: Vec<TcpStream> = (0..80)
        .map(|n| TcpStream::connect(ports[n % ports.len()].as_str()).unwrap())
        .collect();
    let mut begun: Vec<TcpStream> = (0..80)
        .map(|n| TcpStream::connect(ports[n % ports.len()].as_str()).unwrap())
        .collect();
    for stream in &mut begun {
        stream.write_all(&[0x03]).unwrap();
    }
    works(&cluster, "beside");
    cluster.restart("worker-1");
    cluster.wait_ready();
    works(
        &cluster,
        "beside, from a new connection"
            .replace([' ', ','], "-")
            .as_str(),
    );
    drop((idle, begun));
}

#[test]
fn b18_a_peer_that_goes_or_speaks_nonsense_is_answered_and_kills_nothing() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let pids = cluster.pids();
    // An opcode that there is not: the prototype's peer waited for ever.
    let mut member = Visitor::member(&cluster, "storage-1");
    member.send(&[0x7e, 13, 0, 0, 0]);
    member.send(&[0; 13]);
    assert_eq!(
        member.receive().map(|(opcode, _)| opcode),
        Some(0x00),
        "told what is wrong"
    );
    assert!(member.receive().is_none(), "and hung up on");
    // Peers that go while they are being written to.
    assert_eq!(
        cluster
            .ask("PUT", "/api/files/large", &random(8 << 20, 18))
            .status,
        201
    );
    for _ in 0..20 {
        let mut reader = TcpStream::connect(&cluster.gateway).unwrap();
        reader
            .write_all(b"GET /api/files/large HTTP/1.1\r\nhost: x\r\n\r\n")
            .unwrap();
        reader.read_exact(&mut [0; 1_000]).unwrap();
        drop(reader);
    }
    works(&cluster, "after");
    assert_eq!(cluster.pids(), pids, "the same processes");
    cluster.audit(&[]);
}

#[test]
fn b19_nobody_comes_in_unasked() {
    let mut cluster = Cluster::one_of_each(PROGRAM).start();
    cluster.set_env_of("gateway", "CSTORE_ANONYMOUS", "FALSE");
    cluster.restart("gateway");
    let status = |path: &str| {
        Client::connect(&cluster.gateway)
            .ok()?
            .call("GET", path, "", b"")
            .ok()
    };
    let refused = until_blocking("the gateway", || status("/api/files"));
    assert_eq!(refused.status, 401, "{}", refused.text());
    // No other site may use a browser that can reach it.
    let mut client = Client::connect(&cluster.gateway).unwrap();
    for (method, path) in [
        ("GET", "/"),
        ("OPTIONS", "/api/files/a"),
        ("GET", "/api/files/a"),
    ] {
        let headers = "origin: http://elsewhere.example\r\naccess-control-request-method: PUT\r\n";
        let answer = client.call(method, path, headers, b"").unwrap();
        assert_eq!(
            answer.header("access-control-allow-origin"),
            None,
            "{method} {path}"
        );
    }
}
