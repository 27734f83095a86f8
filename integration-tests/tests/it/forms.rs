//! The prototype's own route, `POST /api/upload`, and bodies without a length, over the real parts.

use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::http::{Answer, Client};
use cstore_testkit::random;
use sha2::{Digest, Sha256};

use crate::PROGRAM;

fn form(file_name: &str, body: &[u8]) -> Vec<u8> {
    let head = "--XY\r\nContent-Disposition: form-data; name=\"note\"\r\n\r\nnot the file\r\n\
         --XY\r\nContent-Disposition: form-data; name=\"file\"; filename=\"NAME\"\r\n\
         Content-Type: image/png\r\n\r\n"
        .replace("NAME", file_name);
    [head.as_bytes(), body, b"\r\n--XY--\r\n"].concat()
}

fn post(cluster: &Cluster, query: &str, form: &[u8]) -> Answer {
    let mut client = Client::connect(&cluster.gateway).unwrap();
    let kind = "content-type: multipart/form-data; boundary=XY\r\n";
    client
        .call("POST", &format!("/api/upload{query}"), kind, form)
        .unwrap()
}

#[test]
fn i1_a_form_becomes_a_file_and_the_same_again_stores_nothing_new() {
    let cluster = Cluster::builder(PROGRAM).start();
    // Bytes of the delimiter inside of the file do not end it; 64 KiB and below takes another way
    // than above.
    for (n, size) in [0usize, 1, 65_000, 3_000_000].into_iter().enumerate() {
        let mut body = random(size, n as u64);
        body.extend_from_slice(b"\r\n--X\r\n--X");
        let put = post(&cluster, "", &form(&format!("{n}.png"), &body));
        assert_eq!(put.status, 201, "{}", put.text());
        let told = put.json();
        assert_eq!(
            (told["status"].as_str(), told["size"].as_u64()),
            (Some("success"), Some(body.len() as u64))
        );
        assert_eq!(told["blocks"], told["new_blocks"], "{told}");
        assert_eq!(told["trace_id"].as_str().map(str::len), Some(32), "{told}");
        let again = post(&cluster, &format!("?name=again/{n}"), &form("x", &body)).json();
        assert_eq!(
            (&again["new_blocks"], &again["new_bytes"]),
            (&0.into(), &0.into()),
            "{again}"
        );
        for name in [format!("{n}.png"), format!("again/{n}")] {
            let got = cluster.ask("GET", &format!("/api/download/{name}"), b"");
            assert!(
                got.status == 200 && got.body == body,
                "{name}: {}",
                got.status
            );
            assert_eq!(got.header("content-type"), Some("image/png"));
        }
    }
    assert_eq!(post(&cluster, "", &form("0.png", b"taken")).status, 409);
    assert_eq!(
        post(&cluster, "?overwrite=true", &form("0.png", b"new")).status,
        200
    );
    assert_eq!(cluster.ask("GET", "/api/files/0.png", b"").body, b"new");
    cluster.audit(&[]);
}

#[test]
fn i2_i10_a_form_that_breaks_off_or_is_none_leaves_no_file() {
    let cluster = Cluster::builder(PROGRAM).start();
    let whole = form("broken", &random(200_000, 1));
    for cut in [30, 150, 100_000, whole.len() - 5] {
        let answer = post(&cluster, "", &whole[..cut]);
        assert_eq!(
            (answer.status, &answer.json()["error"]["code"]),
            (400, &"invalid_argument".into()),
            "{cut}"
        );
    }
    assert_eq!(post(&cluster, "?name=a//b", &whole).status, 400);
    assert_eq!(cluster.ask("POST", "/api/upload", b"no form").status, 400);
    assert_eq!(
        cluster.ask("GET", "/api/files", b"").json()["files"],
        serde_json::json!([])
    );
    cluster.audit(&[]);
}

#[test]
fn i1_a_body_of_unknown_length_is_stored_when_its_digest_is_right() {
    let cluster = Cluster::builder(PROGRAM).start();
    let body = random(1_000_000, 4);
    let right = hex::encode(Sha256::digest(&body));
    for (name, digest, status) in [
        ("right", right.as_str(), 201),
        ("wrong", &"0".repeat(64), 400),
    ] {
        let mut client = Client::connect(&cluster.gateway).unwrap();
        let headers = format!("transfer-encoding: chunked\r\nx-cstore-sha256: {digest}\r\n");
        client
            .head("PUT", &format!("/api/files/{name}"), &headers)
            .unwrap();
        for piece in body.chunks(33_333) {
            client
                .send(format!("{:x}\r\n", piece.len()).as_bytes())
                .unwrap();
            client.send(&[piece, b"\r\n"].concat()).unwrap();
        }
        client.send(b"0\r\n\r\n").unwrap();
        let answer = client.answer(false).unwrap();
        assert_eq!(answer.status, status, "{name}: {}", answer.text());
    }
    assert!(cluster.ask("GET", "/api/files/right", b"").body == body);
    assert_eq!(cluster.ask("GET", "/api/files/wrong", b"").status, 404);
    cluster.audit(&[]);
}
