//! All kinds of bad input in one table, printed: what was sent to a cluster of three storage nodes
//! and two workers, what it answered, and that nothing of it is left.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::grpc;
use cstore_integration_tests::http::Client;
use cstore_proto::v1;
use cstore_testkit::{PATIENCE, random, until_blocking};
use prost::Message;
use serde_json::Value;

use crate::PROGRAM;
use crate::matrix::frames::Visitor;

use super::cases::{forms, headers, names};

/// Sends a request and returns status, code and text of the answer.
fn ask(cluster: &Cluster, head: &str, body: &[u8]) -> (u16, String, String) {
    let (line, headers) = head.split_once('\n').unwrap_or((head, ""));
    let (method, path) = line.split_once(' ').unwrap();
    let headers: String = headers.lines().map(|line| format!("{line}\r\n")).collect();
    let mut client = Client::connect(&cluster.gateway).unwrap();
    let answer = if headers.contains("transfer-encoding") {
        client.head(method, path, &headers).unwrap();
        client.send(body).unwrap();
        client.answer(false).unwrap()
    } else {
        client.call(method, path, &headers, body).unwrap()
    };
    let problem: Value = answer.json();
    assert_eq!(
        answer.header("content-type"),
        Some("application/problem+json"),
        "{head}"
    );
    assert_eq!(
        problem["trace_id"].as_str(),
        answer.header("x-cstore-trace-id"),
        "{head}"
    );
    let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("detail"))
}

/// Returns the statistics of the store once no release is pending.
fn held(cluster: &Cluster) -> Value {
    until_blocking("releases", || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        (stats["pending_releases"] == 0).then_some(stats)
    })
}

#[test]
fn i10_every_bad_input_gets_its_answer_and_leaves_nothing_behind() {
    let cluster = Cluster::builder(PROGRAM).start();
    assert_eq!(cluster.ask("PUT", "/api/files/taken", b"taken").status, 201);
    assert_eq!(cluster.ask("PUT", "/api/files/other", b"other").status, 201);
    let before = until_blocking("both in the statistics", || {
        Some(held(&cluster)).filter(|stats| stats["unique_bytes"] == 10)
    });
    println!("| input | answer | says |\n|---|---|---|");
    let mut n = 0;
    for (what, head, body, status, words) in names().into_iter().chain(headers()).chain(forms()) {
        let (found, code, detail) = ask(&cluster, &head, &body);
        println!("| {what} | {found} {code} | {detail:.110} |");
        assert_eq!(found, status, "{what}: {detail}");
        assert!(
            detail.contains(words),
            "{what} should say {words:?}: {detail}"
        );
        n += 1;
    }
    n += inner(&cluster);
    println!("{n} kinds of bad input");
    let listed = cluster.ask("GET", "/api/files", b"").json();
    let names: Vec<&str> = listed["files"]
        .as_array()
        .unwrap()
        .iter()
        .map(|f| f["name"].as_str().unwrap())
        .collect();
    assert_eq!(names, ["other", "taken"]);
    assert!(cluster.ask("GET", "/api/files/taken", b"").body == b"taken");
    until_blocking("the same space as before", || {
        let after = held(&cluster);
        [
            "files",
            "logical_bytes",
            "unique_bytes",
            "physical_bytes",
            "blocks",
        ]
        .iter()
        .all(|key| after[key] == before[key])
        .then_some(())
    });
    cluster.audit(&[]);
}

/// Sends bad input behind the gateway: bodies that break off, tickets, RPCs and frames.
fn inner(cluster: &Cluster) -> usize {
    let mut broken = Client::connect(&cluster.gateway).unwrap();
    broken
        .head("PUT", "/api/files/broken", "content-length: 1000000\r\n")
        .unwrap();
    broken.send(&random(600_000, 5)).unwrap();
    drop(broken);
    println!("| a body that breaks off | (gone) | |");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let call = |addr: &str, path: &str, bearer: Option<&str>, message: Vec<u8>| {
        runtime
            .block_on(grpc::call(addr, path, bearer, Bytes::from(message)))
            .unwrap_err()
    };
    let bearer = cluster.bearer();
    let ticket = v1::Ticket {
        body: Bytes::from_static(b"x"),
        mac: Bytes::from_static(&[0; 32]),
        ..v1::Ticket::default()
    };
    let header = v1::UploadHeader {
        ticket: Some(ticket),
        name: "forged".to_owned(),
        ..v1::UploadHeader::default()
    };
    let small = v1::PutSmallRequest {
        header: Some(header),
        ..v1::PutSmallRequest::default()
    };
    let worker = cluster.addr("worker-1");
    let list = "/cstore.v1.Namespace/ListFiles";
    let calls = [
        (
            "a forged ticket",
            call(
                &worker,
                "/cstore.v1.Transfer/PutSmall",
                Some(&bearer),
                small.encode_to_vec(),
            ),
        ),
        (
            "a call without a bearer",
            call(&cluster.master, list, None, Vec::new()),
        ),
        (
            "a message that is none",
            call(&cluster.master, list, Some(&bearer), vec![0xff; 100]),
        ),
        (
            "a method that there is not",
            call(
                &cluster.master,
                "/cstore.v1.Namespace/None",
                Some(&bearer),
                Vec::new(),
            ),
        ),
    ];
    for (what, status) in &calls {
        println!(
            "| {what} | {:?} | {:.110} |",
            status.code(),
            status.message()
        );
        assert_ne!(status.code(), tonic::Code::Ok, "{what}");
    }
    let frames: [(&str, Vec<u8>); 4] = [
        (
            "an opcode that there is not",
            [&[0x7e, 13, 0, 0, 0][..], &[0; 13]].concat(),
        ),
        ("a frame of 4 GiB", vec![0x31, 0xff, 0xff, 0xff, 0xff]),
        ("a frame that is too short", vec![0x30, 1, 0, 0, 0, 0]),
        (
            "a frame with a count beyond its end",
            [&[0x32, 49, 0, 0, 0][..], &[0; 13], &[0xff; 36]].concat(),
        ),
    ];
    for (what, bytes) in &frames {
        let mut member = Visitor::member(cluster, "storage-1");
        member.send(bytes);
        let answer = member.receive();
        println!(
            "| {what} | {} | |",
            answer.as_ref().map_or("closed", |_| "Error frame")
        );
        assert!(answer.is_none_or(|(opcode, _)| opcode == 0x00), "{what}");
    }
    let mut stranger = TcpStream::connect(cluster.addr("storage-1")).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    println!(
        "| HTTP to a storage node | {} bytes, closed | |",
        answer.len()
    );
    2 + calls.len() + frames.len()
}
