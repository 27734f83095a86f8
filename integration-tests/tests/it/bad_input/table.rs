//! All kinds of bad input in one table, printed: what was sent to a cluster of three storage nodes and two workers, what
//! it answered, and that nothing of it is left.

use std::io::{Read, Write};
use std::net::TcpStream;

use bytes::Bytes;
use cstore_integration_tests::cluster::Cluster;
use cstore_integration_tests::content::random;
use cstore_integration_tests::grpc;
use cstore_integration_tests::http::Client;
use cstore_integration_tests::wait::{PATIENCE, until};
use cstore_proto::v1;
use prost::Message;
use serde_json::Value;

use crate::PROGRAM;
use crate::matrix::frames::Visitor;

/// One input over HTTP: what it is, its head without line end, its body, and the status and words of its answer.
type Case = (&'static str, String, Vec<u8>, u16, &'static str);

fn case(what: &'static str, head: &str, body: &[u8], status: u16, words: &'static str) -> Case {
    (what, head.to_owned(), body.to_vec(), status, words)
}

fn form(parts: &str) -> (String, Vec<u8>) {
    let head = "POST /api/upload\ncontent-type: multipart/form-data; boundary=B".to_owned();
    (head, parts.replace('\n', "\r\n").into_bytes())
}

fn names() -> Vec<Case> {
    let long = format!("PUT /api/files/{}", "x".repeat(1_025));
    vec![
        case("a name of 1,025 bytes", &long, b"x", 400, "1 to 1024 bytes"),
        case("no name", "PUT /api/files/", b"x", 404, "no such path"),
        case("an empty segment", "PUT /api/files/a//b", b"x", 400, "empty segment"),
        case("a slash at the end", "PUT /api/files/a/", b"x", 400, "empty segment"),
        case("a dot segment", "PUT /api/files/a/%2E%2E/b", b"x", 400, "'.' or '..'"),
        case("a control character", "PUT /api/files/a%0Ab", b"x", 400, "control characters"),
        case("no UTF-8", "PUT /api/files/%FF", b"x", 400, "UTF-8"),
        case("half an escape", "PUT /api/files/a%2", b"x", 400, "two hexadecimal digits"),
        case("a taken name", "PUT /api/files/taken", b"x", 409, "already a file"),
        case("a name that is not there", "GET /api/files/none", b"", 404, "no file"),
        case("a removal of nothing", "DELETE /api/files/none", b"", 404, "no file"),
        case("a copy of nothing", "POST /api/files/none:copy", br#"{"to":"b"}"#, 404, "no file"),
        case(
            "a copy onto a taken name",
            "POST /api/files/other:copy",
            br#"{"to":"taken"}"#,
            409,
            "already a file",
        ),
        case(
            "a rename to a bad name",
            "POST /api/files/other:rename",
            br#"{"to":"../b"}"#,
            400,
            "'.' or '..'",
        ),
        case("a copy by an array", "POST /api/files/other:copy", br#"["b", true]"#, 400, "the body must be"),
        case("a copy without JSON", "POST /api/files/other:copy", b"to=b", 400, "the body must be"),
        case(
            "a copy with more than is known",
            "POST /api/files/other:copy",
            br#"{"to":"b","force":1}"#,
            400,
            "unknown field",
        ),
        case("a verb that there is not", "POST /api/files/other:move", b"{}", 405, ":copy or :rename"),
        case("a method that there is not", "PATCH /api/files/other", b"x", 405, "does not take this method"),
        case("a path that there is not", "GET /api/nothing", b"", 404, "no such path"),
    ]
}

fn headers() -> Vec<Case> {
    let put = |header: &str| format!("PUT /api/files/new\n{header}");
    let sha = format!("x-cstore-sha256: {}", "0".repeat(64));
    let many: Vec<String> = (0..33).map(|n| format!("x-cstore-meta-k{n}: v")).collect();
    vec![
        case("a wrong MD5", &put("content-md5: AAAAAAAAAAAAAAAAAAAAAA=="), b"x", 400, "MD5"),
        case("an MD5 that is none", &put("content-md5: 123"), b"x", 400, "base64 of 16 bytes"),
        case("a wrong SHA-256", &put(&sha), &random(500_000, 1), 400, "SHA-256"),
        case("a SHA-256 that is none", &put("x-cstore-sha256: 12"), b"x", 400, "64 hexadecimal digits"),
        case("metadata with a bad key", &put("x-cstore-meta-a!: v"), b"x", 400, "a-z, 0-9"),
        case("33 metadata entries", &put(&many.join("\n")), b"x", 400, "at most 32"),
        case("a part of a file", &put("content-range: bytes 0-0/9"), b"x", 400, "in part"),
        case("a coded body", &put("content-encoding: gzip"), b"x", 400, "content-encoding"),
        case(
            "a condition by date",
            &put("if-unmodified-since: Sun, 06 Nov 1994 08:49:37 GMT"),
            b"x",
            400,
            "If-Match",
        ),
        case(
            "a removal with a condition for reads",
            "DELETE /api/files/taken\nif-none-match: *",
            b"",
            400,
            "send If-Match",
        ),
        case(
            "a change by a page of another site",
            "DELETE /api/files/taken\norigin: http://evil.example",
            b"",
            403,
            "another origin",
        ),
        case(
            "two codings",
            &put("content-encoding: identity\ncontent-encoding: gzip"),
            b"x",
            400,
            "content-encoding",
        ),
        case(
            "a parameter twice",
            "PUT /api/files/new?overwrite=true&overwrite=false",
            b"x",
            400,
            "given twice",
        ),
        case("two conditions", &put("if-match: *\nif-none-match: *"), b"x", 400, "not both"),
        case("a weak ETag to write by", &put("if-match: W/\"a-1\""), b"x", 400, "strong ETag"),
        case("a replacement of what is not there", &put("if-match: *"), b"x", 412, "no file"),
        case(
            "a replacement of another state",
            "PUT /api/files/taken\nif-match: \"other-1\"",
            b"x",
            412,
            "has etag",
        ),
        case(
            "a name that must be free",
            "PUT /api/files/taken\nif-none-match: *",
            b"x",
            412,
            "already a file",
        ),
        case(
            "a removal of another state",
            "DELETE /api/files/taken\nif-match: \"other-1\"",
            b"",
            412,
            "has etag",
        ),
        case("a read of another state", "GET /api/files/taken\nif-match: \"other-1\"", b"", 412, "If-Match"),
        case("a range outside", "GET /api/files/taken\nrange: bytes=99-", b"", 416, "has 5 bytes"),
        case("a content type that is none", &put("content-type: a\u{e9}"), b"x", 400, "printable ASCII"),
        case("a misspelt parameter", "PUT /api/files/taken?overwirte=true", b"x", 400, "overwrite"),
        case("a flag that is none", "PUT /api/files/taken?overwrite=yes", b"x", 400, "true or false"),
        case("a limit of 0", "GET /api/files?limit=0", b"", 400, "1 to 1000"),
        case("a delimiter of two characters", "GET /api/files?delimiter=ab", b"", 400, "one character"),
        case(
            "a page token of another list",
            "GET /api/files?page_token=1-00000000-00",
            b"",
            400,
            "page token",
        ),
        case("an explanation that there is not", "GET /api/files/taken?explain=all", b"", 400, "freed"),
        case("a bad token", "GET /api/files\nauthorization: Bearer nonsense", b"", 401, "holds no token"),
        case("two hosts", "GET /api/files\nhost: y", b"", 400, "one header host"),
        case(
            "a coding beside chunked",
            &put("transfer-encoding: gzip, chunked"),
            b"0\r\n\r\n",
            400,
            "chunked and nothing else",
        ),
    ]
}

fn forms() -> Vec<Case> {
    let file = "--B\ncontent-disposition: form-data; name=\"file\"; filename=\"new\"\n\nx\n";
    let cases = [
        ("a form without its end", file.to_owned(), 400, "closing delimiter"),
        (
            "a form without a file",
            "--B\ncontent-disposition: form-data; name=a\n\nx\n--B--".to_owned(),
            400,
            "no part named file",
        ),
        ("a form with two files", format!("{file}{file}--B--"), 400, "two parts"),
        (
            "a file without a name",
            "--B\ncontent-disposition: form-data; name=file\n\nx\n--B--".to_owned(),
            400,
            "no name",
        ),
        (
            "a file with a path as its name",
            file.replace("\"new\"", "\"../new\"") + "--B--",
            400,
            "'.' or '..'",
        ),
        ("a part with long headers", format!("--B\nx: {}", "y".repeat(100_000)), 413, "headers of a part"),
        (
            "a form of 40 parts",
            "--B\ncontent-disposition: form-data; name=a\n\n\n".repeat(40) + "--B--",
            413,
            "32 parts",
        ),
    ];
    cases
        .into_iter()
        .map(|(what, text, status, words)| {
            let (head, body) = form(&text);
            (what, head, body, status, words)
        })
        .chain([
            case(
                "a form that is none",
                "POST /api/upload\ncontent-type: text/plain",
                b"x",
                400,
                "multipart/form-data",
            ),
            case(
                "a form without a boundary",
                "POST /api/upload\ncontent-type: multipart/form-data",
                b"x",
                400,
                "boundary",
            ),
        ])
        .collect()
}

/// Sends it and answers status, code and text.
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
    assert_eq!(answer.header("content-type"), Some("application/problem+json"), "{head}");
    assert_eq!(problem["trace_id"].as_str(), answer.header("x-cstore-trace-id"), "{head}");
    let text = |key: &str| problem[key].as_str().unwrap_or_default().to_owned();
    (answer.status, text("code"), text("detail"))
}

/// What the store holds, when nothing waits to be released.
fn held(cluster: &Cluster) -> Value {
    until("releases", PATIENCE, || {
        let stats = cluster.ask("GET", "/api/stats", b"").json();
        (stats["pending_releases"] == 0).then_some(stats)
    })
}

#[test]
fn i10_every_bad_input_gets_its_answer_and_leaves_nothing_behind() {
    let cluster = Cluster::builder(PROGRAM).start();
    assert_eq!(cluster.ask("PUT", "/api/files/taken", b"taken").status, 201);
    assert_eq!(cluster.ask("PUT", "/api/files/other", b"other").status, 201);
    let before = until("both in the statistics", PATIENCE, || {
        Some(held(&cluster)).filter(|stats| stats["unique_bytes"] == 10)
    });
    println!("| input | answer | says |\n|---|---|---|");
    let mut n = 0;
    for (what, head, body, status, words) in names().into_iter().chain(headers()).chain(forms()) {
        let (found, code, detail) = ask(&cluster, &head, &body);
        println!("| {what} | {found} {code} | {detail:.110} |");
        assert_eq!(found, status, "{what}: {detail}");
        assert!(detail.contains(words), "{what} should say {words:?}: {detail}");
        n += 1;
    }
    n += inner(&cluster);
    println!("{n} kinds of bad input");
    let listed = cluster.ask("GET", "/api/files", b"").json();
    let names: Vec<&str> =
        listed["files"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["other", "taken"]);
    assert!(cluster.ask("GET", "/api/files/taken", b"").body == b"taken");
    until("the same space as before", PATIENCE, || {
        let after = held(&cluster);
        ["files", "logical_bytes", "unique_bytes", "physical_bytes", "blocks"]
            .iter()
            .all(|key| after[key] == before[key])
            .then_some(())
    });
    cluster.audit(&[]);
}

/// What is wrong behind the gateway: bodies that break off, tickets, RPCs and frames.
fn inner(cluster: &Cluster) -> usize {
    let mut broken = Client::connect(&cluster.gateway).unwrap();
    broken.head("PUT", "/api/files/broken", "content-length: 1000000\r\n").unwrap();
    broken.send(&random(600_000, 5)).unwrap();
    drop(broken);
    println!("| a body that breaks off | (gone) | |");
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let call = |addr: &str, path: &str, bearer: Option<&str>, message: Vec<u8>| {
        runtime.block_on(grpc::call(addr, path, bearer, Bytes::from(message))).unwrap_err()
    };
    let bearer = cluster.bearer();
    let ticket = v1::Ticket {
        body: Bytes::from_static(b"x"),
        mac: Bytes::from_static(&[0; 32]),
        ..v1::Ticket::default()
    };
    let header =
        v1::UploadHeader { ticket: Some(ticket), name: "forged".to_owned(), ..v1::UploadHeader::default() };
    let small = v1::PutSmallRequest { header: Some(header), ..v1::PutSmallRequest::default() };
    let worker = cluster.addr("worker-1");
    let list = "/cstore.v1.Namespace/ListFiles";
    let calls = [
        (
            "a forged ticket",
            call(&worker, "/cstore.v1.Transfer/PutSmall", Some(&bearer), small.encode_to_vec()),
        ),
        ("a call without a bearer", call(&cluster.master, list, None, Vec::new())),
        ("a message that is none", call(&cluster.master, list, Some(&bearer), vec![0xff; 100])),
        (
            "a method that there is not",
            call(&cluster.master, "/cstore.v1.Namespace/None", Some(&bearer), Vec::new()),
        ),
    ];
    for (what, status) in &calls {
        println!("| {what} | {:?} | {:.110} |", status.code(), status.message());
        assert_ne!(status.code(), tonic::Code::Ok, "{what}");
    }
    let frames: [(&str, Vec<u8>); 4] = [
        ("an opcode that there is not", [&[0x7e, 13, 0, 0, 0][..], &[0; 13]].concat()),
        ("a frame of 4 GiB", vec![0x31, 0xff, 0xff, 0xff, 0xff]),
        ("a frame that is too short", vec![0x30, 1, 0, 0, 0, 0]),
        ("a frame with a count beyond its end", [&[0x32, 49, 0, 0, 0][..], &[0; 13], &[0xff; 36]].concat()),
    ];
    for (what, bytes) in &frames {
        let mut member = Visitor::member(cluster, "storage-1");
        member.send(bytes);
        let answer = member.receive();
        println!("| {what} | {} | |", answer.as_ref().map_or("closed", |_| "Error frame"));
        assert!(answer.is_none_or(|(opcode, _)| opcode == 0x00), "{what}");
    }
    let mut stranger = TcpStream::connect(cluster.addr("storage-1")).unwrap();
    stranger.set_read_timeout(Some(PATIENCE)).unwrap();
    stranger.write_all(b"GET / HTTP/1.1\r\n\r\n").unwrap();
    let mut answer = Vec::new();
    let _ = stranger.read_to_end(&mut answer);
    println!("| HTTP to a storage node | {} bytes, closed | |", answer.len());
    2 + calls.len() + frames.len()
}
