//! Safety of bytes: acknowledged ones are there, forged ones never come in, none are changed.

use bytes::Bytes;
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::Client;
use cstore_testkit::{random, until_blocking};
use cstore_types::{Block, BlockId, BlockKind, DedupKey, MapVersion, SessionId};
use cstore_wire::{Prefix, PutStatus, Request, Response};

use super::{number, stats};
use crate::PROGRAM;
use crate::matrix::frames::Visitor;

#[test]
fn b01_a_full_disk_never_answers_success() {
    let cluster = Cluster::one_of_each(PROGRAM).env("FS_SIZE", "6MiB").start();
    let answer = cluster.ask("PUT", "/api/files/large", &random(12 << 20, 1));
    assert_eq!(
        (answer.status, &answer.json()["code"]),
        (507, &"full".into()),
        "{}",
        answer.text()
    );
    assert_eq!(cluster.ask("GET", "/api/files/large", b"").status, 404);
}

#[test]
fn b02_a_storage_node_that_is_down_never_answers_success_and_later_uploads_are_stored() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    let body = random(300_000, 2);
    cluster.kill("storage-1");
    let refused = cluster.ask("PUT", "/api/files/a", &body);
    assert!(
        [503, 504].contains(&refused.status),
        "{} {}",
        refused.status,
        refused.text()
    );
    cluster.launch("storage-1");
    let stored = until_blocking("an upload that is taken", || {
        Some(cluster.ask("PUT", "/api/files/a", &body)).filter(|put| put.status == 201)
    });
    assert_eq!(number(&stored.json(), "new_bytes"), body.len() as u64);
    assert!(cluster.ask("GET", "/api/files/a", b"").body == body);
}

#[test]
fn b03_a_wrong_digest_of_the_whole_file_is_refused() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    for (header, size) in [
        ("content-md5: AAAAAAAAAAAAAAAAAAAAAA==", 10),
        ("content-md5: AAAAAAAAAAAAAAAAAAAAAA==", 1_000_000),
        (&format!("x-cstore-sha256: {}", "00".repeat(32)), 1_000_000),
    ] {
        let mut client = Client::connect(&cluster.gateway).unwrap();
        let answer = client
            .call(
                "PUT",
                "/api/files/a",
                &format!("{header}\r\n"),
                &random(size, 3),
            )
            .unwrap();
        assert_eq!(answer.status, 400, "{header} {}", answer.text());
    }
    assert_eq!(cluster.ask("GET", "/api/files/a", b"").status, 404);
    until_blocking("space of what was refused", || {
        (number(&stats(&cluster), "physical_bytes") == 0).then_some(())
    });
}

#[test]
fn b04_bytes_that_are_not_what_their_id_says_are_never_stored() {
    let cluster = Cluster::one_of_each(PROGRAM).start();
    // The id of an honest block under some key, with other bytes; a worker is the worst who could
    // try.
    let honest = vec![b'G'; 64];
    let id = BlockId::of_many(&DedupKey::from_bytes([7; 32]), &[&honest])[0];
    let mut member = Visitor::member(&cluster, "storage-1");
    let block = Block {
        id,
        kind: BlockKind::Data,
        bytes: Bytes::from(vec![b'E'; 64]),
    };
    let request = Request::PutBlocks {
        session: SessionId::from_bytes([1; 16]),
        blocks: vec![block],
    };
    member.send(&request.to_bytes(&Prefix {
        request_id: 1,
        map_version: MapVersion(1),
        trace: None,
        knows_version_3: false,
    }));
    let (opcode, payload) = member.receive().expect("an answer");
    let opcode = cstore_wire::Opcode::from_byte(opcode).unwrap();
    let (_, answer) = Response::decode(opcode, payload.into()).unwrap();
    let Response::PutResult(found) = answer else {
        panic!("{answer:?}")
    };
    assert!(matches!(found[..], [PutStatus::Refused(_)]), "{found:?}");
    assert_eq!(cluster.ask("PUT", "/api/files/honest", &honest).status, 201);
    assert!(cluster.ask("GET", "/api/files/honest", b"").body == honest);
}

#[test]
fn b05_blocks_of_equal_md5_are_two_blocks() {
    const LEFT: &str = "d131dd02c5e6eec4693d9a0698aff95c2fcab58712467eab4004583eb8fb7f8955ad340609f4b30283e488832571415a085125e8f7cdc99fd91dbdf280373c5bd8823e3156348f5bae6dacd436c919c6dd53e2b487da03fd02396306d248cda0e99f33420f577ee8ce54b67080a80d1ec69821bcb6a8839396f9652b6ff72a70";
    const RIGHT: &str = "d131dd02c5e6eec4693d9a0698aff95c2fcab50712467eab4004583eb8fb7f8955ad340609f4b30283e4888325f1415a085125e8f7cdc99fd91dbd7280373c5bd8823e3156348f5bae6dacd436c919c6dd53e23487da03fd02396306d248cda0e99f33420f577ee8ce54b67080280d1ec69821bcb6a8839396f965ab6ff72a70";
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "128")
        .start();
    for (name, text) in [("left", LEFT), ("right", RIGHT)] {
        let put = cluster.ask(
            "PUT",
            &format!("/api/files/{name}"),
            &hex::decode(text).unwrap(),
        );
        assert_eq!(
            (put.status, number(&put.json(), "new_blocks")),
            (201, 1),
            "{name}"
        );
    }
    for (name, text) in [("left", LEFT), ("right", RIGHT)] {
        assert_eq!(
            hex::encode(cluster.ask("GET", &format!("/api/files/{name}"), b"").body),
            text
        );
    }
}

#[test]
fn b13_the_last_block_has_its_true_length() {
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "64")
        .start();
    for size in [0, 1, 63, 64, 65, 127, 128, 129] {
        let body = random(size, 13);
        let path = format!("/api/files/{size}");
        assert_eq!(cluster.ask("PUT", &path, &body).status, 201);
        assert!(cluster.ask("GET", &path, b"").body == body, "{size}");
    }
    // Zeros in place of the missing bytes are another file.
    let short = cluster.ask("PUT", "/api/files/short", b"x").json();
    let padded = cluster
        .ask("PUT", "/api/files/padded", &[&b"x"[..], &[0; 63]].concat())
        .json();
    assert_ne!(short["etag"], padded["etag"]);
    assert_eq!(number(&padded, "new_blocks"), 1);
}

#[test]
fn b20_zeros_are_zeros_and_the_digit_zero_is_a_digit() {
    let cluster = Cluster::one_of_each(PROGRAM)
        .env("BLOCK_SIZE", "64")
        .start();
    for (name, byte) in [("zeros", 0), ("digits", b'0')] {
        let body = vec![byte; 1_000];
        assert_eq!(
            cluster
                .ask("PUT", &format!("/api/files/{name}"), &body)
                .status,
            201
        );
        assert!(
            cluster.ask("GET", &format!("/api/files/{name}"), b"").body == body,
            "{name}"
        );
    }
    assert_eq!(
        number(
            &cluster
                .ask("GET", "/api/files/zeros?explain=freed", b"")
                .json(),
            "blocks"
        ),
        2
    );
}
