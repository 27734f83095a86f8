//! The commands over files, as processes in front of a gateway that does what it should not.

#![allow(clippy::unwrap_used, reason = "a helper of a test fails as the test does")]

mod fake;

use std::io::Write;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use fake::{Fake, Reply, Request};
use serde_json::Value;
use tokio::time::Instant;

fn command(url: &str, args: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_cstore"));
    command.args(args).env_clear().env("CSTORE_URL", url);
    command
}

fn cstore(fake: &Fake, args: &[&str]) -> Output {
    command(&fake.url, args).stdin(Stdio::null()).output().unwrap()
}

fn status(output: &Output) -> i32 {
    output.status.code().unwrap_or(-1)
}

fn said(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn lines(bytes: &[u8]) -> Vec<Value> {
    String::from_utf8_lossy(bytes).lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Bytes that do not repeat.
fn bytes(len: usize, seed: u64) -> Vec<u8> {
    let mut state = seed | 1;
    let next = |_| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 56) as u8
    };
    (0..len).map(next).collect()
}

/// The ETag of a file that is one block.
fn etag(bytes: &[u8]) -> String {
    use md5::{Digest, Md5};
    format!("{}-1", hex::encode(Md5::digest(Md5::digest(bytes))))
}

fn files_in(dir: &Path) -> Vec<String> {
    let names =
        std::fs::read_dir(dir).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    names
}

#[test]
fn a_get_that_is_cut_again_and_again_goes_on_from_what_it_has() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    let content = bytes(500_000, 1);
    let served = content.clone();
    let fake = Fake::start(move |request| {
        let reply = Reply::file(request, &served, "e-1");
        let half = reply.body.len() / 2;
        if half > 1_000 { reply.cut(half) } else { reply }
    });
    let output = cstore(&fake, &["get", "a/f", text(&dest), "--json", "--retries", "1"]);
    assert_eq!(status(&output), 0, "{}", said(&output));
    assert!(std::fs::read(&dest).unwrap() == content);
    assert_eq!(files_in(dir.path()), ["f"]);
    assert!(fake.seen().len() > 5, "{} requests", fake.seen().len());
    for request in &fake.seen()[1..] {
        assert_eq!(request.header("if-range"), Some("\"e-1\""));
    }
    let got = &lines(&output.stdout)[0];
    assert_eq!((&got["size"], &got["etag"]), (&500_000.into(), &"e-1".into()));
}

#[test]
fn an_interrupted_get_is_taken_up_by_the_next_process() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    let content = bytes(300_000, 2);
    let served = content.clone();
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        let reply = Reply::file(request, &served, "e-1");
        if n == 1 { reply.cut(200_000) } else { reply }
    });
    let get = ["get", "f", text(&dest), "--json", "--retries", "0"];
    let output = cstore(&fake, &get);
    assert_eq!(status(&output), 6, "{}", said(&output));
    assert_eq!(files_in(dir.path()), ["f.cstore-part", "f.cstore-part.json"]);
    let output = cstore(&fake, &get);
    assert_eq!((status(&output), &lines(&output.stdout)[0]["status"]), (0, &"resumed".into()));
    assert_eq!(fake.seen()[1].header("range"), Some("bytes=200000-"));
    assert!(std::fs::read(&dest).unwrap() == content);
    assert_eq!(files_in(dir.path()), ["f"]);
}

#[test]
fn i2_a_file_that_is_replaced_between_two_tries_is_begun_anew() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    let (old, new) = (bytes(300_000, 3), bytes(250_000, 4));
    let (first, second) = (old, new.clone());
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        if n == 1 {
            Reply::file(request, &first, "e-1").cut(200_000)
        } else {
            Reply::file(request, &second, "e-2")
        }
    });
    let output = cstore(&fake, &["get", "f", text(&dest)]);
    assert_eq!(status(&output), 0, "{}", said(&output));
    assert!(std::fs::read(&dest).unwrap() == new, "bytes of two states have met");
    // What has flowed to stdout cannot be called back.
    let (first, second) = (bytes(300_000, 3), new);
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        match n {
            1 => Reply::file(request, &first, "e-1").cut(200_000),
            _ if request.header("if-match") == Some("\"e-2\"") => Reply::file(request, &second, "e-2"),
            _ => Reply::problem(412, "precondition_failed"),
        }
    });
    let output = cstore(&fake, &["get", "f", "-"]);
    assert_eq!(
        (status(&output), output.stdout.len()),
        (4, 200_000),
        "{}",
        String::from_utf8_lossy(&output.stderr)
    );
}

#[test]
fn i2_a_gateway_that_sends_another_range_or_too_much_spoils_no_file() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    let content = bytes(100_000, 5);
    for lie in ["range", "etag", "none", "size"] {
        let served = content.clone();
        let mut n = 0;
        let fake = Fake::start(move |request| {
            n += 1;
            match n {
                1 => Reply::file(request, &served, "e-1").cut(50_000),
                2 => {
                    let (range, tag) = match lie {
                        "range" => ("bytes 10-49999/100000", "\"e-1\""),
                        "etag" => ("bytes 50000-99999/100000", "\"e-2\""),
                        "size" => ("bytes 50000-99999/100001", "\"e-1\""),
                        _ => ("nonsense", "\"e-1\""),
                    };
                    Reply::new(206, vec![0; 50_000]).with("content-range", range).with("etag", tag)
                }
                _ => Reply::file(request, &served, "e-1"),
            }
        });
        let output = cstore(&fake, &["get", "f", text(&dest), "--force"]);
        assert_eq!(status(&output), 0, "{lie}: {}", said(&output));
        assert!(std::fs::read(&dest).unwrap() == content, "{lie}");
        assert_eq!(fake.seen()[2].header("range"), None, "{lie}: it begins anew");
        std::fs::remove_file(&dest).unwrap();
    }
    for bad in [
        Reply::new(200, "x"),
        Reply::new(200, "x").with("etag", "weak"),
        Reply::new(200, "x").with("etag", "\"\""),
    ] {
        let fake = Fake::start(move |_| bad.clone());
        assert_eq!(status(&cstore(&fake, &["get", "f", text(&dest)])), 1);
        assert!(!dest.try_exists().unwrap());
    }
}

#[test]
fn hostile_names_leave_no_trace_outside_of_the_folder() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("in");
    let fake = Fake::start(|request: &Request| {
        if !request.path.starts_with("/api/files?") {
            return Reply::file(request, b"evil", "e-1");
        }
        let names = [
            "d/../evil",
            "../evil",
            "/tmp/cstore-evil",
            "d//evil",
            "d/a/../../../evil",
            "d/x\u{0}y",
            "other",
            "d/good",
        ];
        let files: Vec<Value> =
            names.iter().map(|name| serde_json::json!({"name": name, "size": 4, "etag": "e-1"})).collect();
        Reply::new(
            200,
            serde_json::json!({"files": files, "prefixes": [], "next_page_token": ""}).to_string(),
        )
    });
    let output = cstore(&fake, &["get", "-r", "d", text(&root), "--json"]);
    assert_eq!(status(&output), 2, "{}", said(&output));
    assert_eq!(files_in(dir.path()), ["in"]);
    assert_eq!(files_in(&root), ["good"]);
    assert!(!Path::new("/tmp/cstore-evil").try_exists().unwrap());
    let told = lines(&output.stderr);
    assert_eq!((told.len(), told[7]["error"]["code"].clone()), (8, "partial".into()), "{}", said(&output));
    // And a name cannot steer the terminal.
    let fake = Fake::start(|_: &Request| {
        Reply::new(200, r#"{"files":[{"name":"a\u001b[2Jb","size":1,"etag":"e"}],"prefixes":[]}"#)
    });
    assert_eq!(String::from_utf8(cstore(&fake, &["ls"]).stdout).unwrap(), "a\u{fffd}[2Jb\n");
}

#[test]
fn a_busy_gateway_is_asked_again_and_the_whole_file_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("note.txt");
    let content = bytes(700_000, 6);
    std::fs::write(&src, &content).unwrap();
    let busy = |n: usize| (n <= 2).then(|| Reply::problem(503, "unavailable").with("retry-after", "0"));
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        let size = request.body.len();
        busy(n).unwrap_or_else(|| {
            Reply::new(201, format!(r#"{{"size":{size},"etag":"e-1","new_bytes":{size}}}"#))
        })
    });
    let put = ["put", text(&src), "d/", "--meta", "Owner=Ada=B", "--verify", "--json"];
    let output = cstore(&fake, &put);
    assert_eq!(status(&output), 0, "{}", said(&output));
    let stored = &lines(&output.stdout)[0];
    assert_eq!((&stored["status"], &stored["name"]), (&"created".into(), &"d/note.txt".into()));
    let requests = fake.seen();
    assert_eq!(requests.len(), 3);
    for request in &requests {
        assert!(request.is("PUT", "/api/files/d/note.txt") && request.body == content);
        assert_eq!(request.header("content-length"), Some("700000"));
        assert_eq!(request.header("if-none-match"), Some("*"));
        assert_eq!(request.header("content-type"), Some("text/plain"));
        assert_eq!(request.header("x-cstore-meta-owner"), Some("Ada=B"));
        assert_eq!(request.header("x-cstore-sha256").map(str::len), Some(64));
    }
    let list = r#"{"files":[],"prefixes":["a/"],"next_page_token":null}"#;
    let mut n = 0;
    let fake = Fake::start(move |_| {
        n += 1;
        busy(n).unwrap_or_else(|| Reply::new(200, list))
    });
    assert_eq!(String::from_utf8(cstore(&fake, &["ls"]).stdout).unwrap(), "a/\n");
    let mut n = 0;
    let fake = Fake::start(move |_| {
        n += 1;
        busy(n).unwrap_or_else(|| Reply::new(204, ""))
    });
    assert_eq!((status(&cstore(&fake, &["rm", "a"])), fake.count("DELETE")), (0, 3));
}

#[test]
fn a_put_whose_answer_was_lost_is_recognised_and_that_of_another_is_not() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("f");
    std::fs::write(&src, "mine").unwrap();
    for (there, expected) in [("mine", 0), ("ours", 4)] {
        let mut n = 0;
        let fake = Fake::start(move |request| {
            n += 1;
            match (n, request.method.as_str()) {
                (1, _) => Reply::lost(),
                (_, "HEAD") => Reply::file(request, there.as_bytes(), &etag(there.as_bytes())),
                _ => Reply::problem(412, "precondition_failed"),
            }
        });
        let output = cstore(&fake, &["put", text(&src), "f", "--json"]);
        assert_eq!(status(&output), expected, "{there}: {}", said(&output));
        assert_eq!((fake.count("PUT"), fake.count("HEAD")), (2, 1));
    }
    // A large file is not sent when its name is taken.
    let content = bytes(2 << 20, 7);
    std::fs::write(&src, &content).unwrap();
    for (there, expected) in [(content.clone(), 0), (bytes(2 << 20, 8), 4)] {
        let tag = etag(&there);
        let fake = Fake::start(move |request| Reply::file(request, &there, &tag));
        let output = cstore(&fake, &["put", text(&src), "f"]);
        assert_eq!((status(&output), fake.count("PUT")), (expected, 0), "{}", said(&output));
    }
}

#[test]
fn stdin_is_sent_once() {
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        if n == 1 {
            Reply::new(201, format!(r#"{{"size":{},"etag":"e"}}"#, request.body.len()))
        } else {
            Reply::lost()
        }
    });
    let put = || {
        let mut command = command(&fake.url, &["put", "-", "f", "--overwrite"]);
        let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&bytes(1 << 20, 9)).unwrap();
        child.wait_with_output().unwrap()
    };
    assert_eq!(status(&put()), 0);
    assert_eq!((status(&put()), fake.count("PUT")), (6, 2));
    assert!(fake.seen()[0].body == bytes(1 << 20, 9) && fake.seen()[0].path == "/api/files/f?overwrite=true");
}

#[test]
fn a_gateway_that_has_stored_something_else_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("f");
    std::fs::write(&src, "four").unwrap();
    for (body, told) in
        [(r#"{"size":3,"etag":"e"}"#, "4 bytes were sent"), ("{}", "not understood"), ("", "not understood")]
    {
        let fake = Fake::start(move |_| Reply::new(201, body));
        let output = cstore(&fake, &["put", text(&src), "f"]);
        assert!(status(&output) == 1 && said(&output).contains(told), "{body}: {}", said(&output));
    }
}

#[test]
fn a_request_that_may_have_been_carried_out_is_repeated_only_where_that_is_harmless() {
    let lost = || Fake::start(|_| Reply::lost());
    for verb in ["cp", "mv"] {
        let fake = lost();
        let output = cstore(&fake, &[verb, "a", "b"]);
        assert_eq!((status(&output), fake.seen().len()), (6, 1), "{verb}");
        assert!(said(&output).contains("unknown"), "{}", said(&output));
    }
    let fake = lost();
    assert_eq!((status(&cstore(&fake, &["rm", "a", "--if-match", "e-1"])), fake.seen().len()), (6, 1));
    assert_eq!(fake.seen()[0].header("if-match"), Some("\"e-1\""));
    // Gone after a lost answer is what was wished; gone before is not.
    let mut n = 0;
    let fake = Fake::start(move |_| {
        n += 1;
        if n == 1 { Reply::lost() } else { Reply::problem(404, "not_found") }
    });
    assert_eq!(status(&cstore(&fake, &["rm", "a"])), 0);
    assert_eq!(status(&cstore(&fake, &["rm", "a"])), 3);
}

#[test]
fn every_refusal_has_its_status_and_its_line_of_json() {
    for (http, code, expected) in [
        (404, "not_found", 3),
        (409, "already_exists", 4),
        (412, "precondition_failed", 4),
        (401, "unauthenticated", 5),
        (403, "permission_denied", 5),
        (503, "overloaded", 6),
        (504, "deadline", 6),
        (507, "full", 7),
        (400, "invalid_argument", 1),
        (500, "internal", 1),
    ] {
        let fake = Fake::start(move |_| Reply::problem(http, code));
        let output = cstore(&fake, &["ls", "--json", "--retries", "0"]);
        let told = lines(&output.stderr);
        assert_eq!((status(&output), told.len()), (expected, 1), "{http}: {}", said(&output));
        let error = &told[0]["error"];
        assert_eq!(
            (error["code"].as_str(), error["trace_id"].as_str()),
            (Some(code), Some("t-1")),
            "{error}"
        );
        let plain = cstore(&fake, &["cp", "a", "b", "--retries", "0"]);
        assert_eq!(status(&plain), expected);
        assert_eq!(said(&plain), "cstore: a: said by a test (trace t-1)\n");
    }
    let nobody = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let output = command(&format!("http://{nobody}"), &["ls", "--retries", "1"]).output().unwrap();
    assert!(status(&output) == 6 && said(&output).contains("connection refused"), "{}", said(&output));
    // HEAD has no body to say why.
    let fake = Fake::start(|_| Reply::new(404, ""));
    assert_eq!(said(&cstore(&fake, &["stat", "a"])), "cstore: a: 404 Not Found\n");
}

#[test]
fn of_many_files_each_failure_is_told_and_the_end_says_that_some_are_done() {
    let answer = |request: &Request| match request.path.as_str() {
        "/api/files/gone" => Reply::problem(404, "not_found"),
        "/api/files/held" => Reply::problem(403, "permission_denied"),
        _ => Reply::new(204, ""),
    };
    let fake = Fake::start(answer);
    for (names, expected, told) in [
        (&["a", "b"][..], 0, 0),
        (&["gone"], 3, 1),
        (&["gone", "gone"], 3, 3),
        (&["a", "gone"], 2, 2),
        (&["gone", "held"], 2, 3),
    ] {
        let output = cstore(&fake, &[&["rm", "--json"], names].concat());
        assert_eq!(
            (status(&output), lines(&output.stderr).len()),
            (expected, told),
            "{names:?}: {}",
            said(&output)
        );
    }
    // Without a right there is no use in going on for thousands of files.
    let names: Vec<String> = (0..200).map(|n| format!("n{n}")).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let fake = Fake::start(|_| Reply::problem(403, "permission_denied"));
    let output = cstore(&fake, &[&["rm"], &names[..]].concat());
    assert!(status(&output) == 5 && fake.seen().len() < 20, "{} requests", fake.seen().len());
    assert!(said(&output).contains("given up"), "{}", said(&output));
}

#[test]
fn lists_go_on_page_by_page_and_a_list_that_does_not_is_ended() {
    let page = |request: &Request| {
        let (_, token) = request.path.split_once("page_token=").unwrap();
        let n: usize = token.split('&').next().unwrap().parse().unwrap_or(0);
        let next = if n < 3 { (n + 1).to_string() } else { String::new() };
        let body = serde_json::json!({
            "files": [{"name": format!("f{n}"), "size": n, "etag": "e", "modified": "M", "content_type": "t"}],
            "prefixes": [format!("d{n}/")], "next_page_token": next});
        Reply::new(200, body.to_string())
    };
    let fake = Fake::start(page);
    let out = |args: &[&str]| String::from_utf8(cstore(&fake, args).stdout).unwrap();
    assert_eq!(out(&["ls"]), "d0/\nf0\nd1/\nf1\nd2/\nf2\nd3/\nf3\n");
    assert_eq!(out(&["ls", "--limit", "3"]), "d0/\nf0\nd1/\n");
    let long = out(&["ls", "-l", "--limit", "2"]);
    let columns: Vec<usize> = long.lines().map(|line| line.rfind(['d', 'f']).unwrap()).collect();
    assert_eq!(columns[0], columns[1], "{long}");
    let all = cstore(&fake, &["ls", "--json"]);
    let all = lines(&all.stdout);
    assert_eq!((all.len(), &all[0]["prefix"], &all[7]["name"]), (8, &"d0/".into(), &"f3".into()));
    let endless = Fake::start(|_| Reply::new(200, r#"{"files":[],"prefixes":[],"next_page_token":"x"}"#));
    let output = cstore(&endless, &["ls"]);
    assert!(status(&output) == 1 && said(&output).contains("does not go on"), "{}", said(&output));
}

#[test]
fn a_reader_that_goes_away_ends_the_command_in_silence() {
    let mut n = 0;
    let fake = Fake::start(move |_| {
        n += 1;
        let files: Vec<Value> = (0..1_000)
            .map(|k| serde_json::json!({"name": format!("a-rather-long-name-{n}-{k}"), "size": 1, "etag": "e"}))
            .collect();
        let body = serde_json::json!({"files": files, "prefixes": [], "next_page_token": n.to_string()});
        Reply::new(200, body.to_string())
    });
    for args in [&["ls"][..], &["ls", "--json"]] {
        let mut child =
            command(&fake.url, args).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((status(&output), said(&output)), (141, String::new()));
    }
    let fake = Fake::start(|request| Reply::file(request, &vec![0; 1 << 20], "e-1"));
    let mut child =
        command(&fake.url, &["get", "f", "-"]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((status(&output), said(&output)), (141, String::new()));
}

/// Waits for what another process does.
fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let end = Instant::now() + Duration::from_secs(20);
    while !condition() {
        assert!(Instant::now() < end, "{what} did not happen");
        pause();
    }
}

#[allow(clippy::disallowed_methods, reason = "bounded by the deadline of the condition that is awaited")]
fn pause() {
    std::thread::sleep(Duration::from_millis(5));
}

fn interrupt(child: Child) -> Output {
    let pid = rustix::process::Pid::from_child(&child);
    rustix::process::kill_process(pid, rustix::process::Signal::INT).unwrap();
    child.wait_with_output().unwrap()
}

#[test]
fn a_signal_ends_with_130_and_what_has_arrived_is_taken_up_later() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    let content = bytes(400_000, 10);
    let served = content.clone();
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        let reply = Reply::file(request, &served, "e-1");
        if n == 1 { Reply { hang: true, ..reply.cut(300_000) } } else { reply }
    });
    let part = dir.path().join("f.cstore-part");
    let child = command(&fake.url, &["get", "f", text(&dest)]).stderr(Stdio::piped()).spawn().unwrap();
    until("the first bytes", || std::fs::metadata(&part).is_ok_and(|part| part.len() > 0));
    let output = interrupt(child);
    assert_eq!((status(&output), said(&output).as_str()), (130, "cstore: interrupted\n"));
    assert!(!dest.try_exists().unwrap());
    let output = cstore(&fake, &["get", "f", text(&dest)]);
    assert!(status(&output) == 0 && said(&output).contains("resumed"), "{}", said(&output));
    assert!(std::fs::read(&dest).unwrap() == content);
    // An upload that is interrupted has not sent its last byte.
    let (fifo, mut n) = (Fake::start(|_| Reply::lost()), 0);
    let mut command = command(&fifo.url, &["put", "-", "f"]);
    let mut child = command.stdin(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let stdin = child.stdin.take().unwrap();
    until("the upload has begun", || {
        n += (&stdin).write(&[0; 1_000]).unwrap();
        n > 200_000
    });
    assert_eq!(status(&interrupt(child)), 130);
    assert_eq!(fifo.seen().len(), 0, "no whole request has arrived");
}

#[test]
fn i13_the_token_goes_to_the_gateway_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    std::fs::write(&file, "cst_1_fromfile\n").unwrap();
    std::os::unix::fs::chown(&file, None, None).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let fake = Fake::start(|_| Reply::problem(401, "unauthenticated"));
    let from_env = command(&fake.url, &["ls"]).env("CSTORE_TOKEN", "cst_1_fromenv").output().unwrap();
    let args = ["ls", "--token-file", text(&file)];
    let from_file = command(&fake.url, &args).env("CSTORE_TOKEN", "cst_1_fromenv").output().unwrap();
    let sent: Vec<String> =
        fake.seen().iter().map(|request| request.header("authorization").unwrap().to_owned()).collect();
    assert_eq!(sent, ["Bearer cst_1_fromenv", "Bearer cst_1_fromfile"]);
    for output in [from_env, from_file] {
        assert!(status(&output) == 5 && !said(&output).contains("cst_1_"), "{}", said(&output));
    }
    let redirect = Fake::start(|_| Reply::new(302, "").with("location", "http://127.0.0.1:1/"));
    assert_eq!(status(&cstore(&redirect, &["ls"])), 1, "a token is not carried elsewhere");
}

#[test]
fn what_is_in_the_way_here_is_not_replaced_without_force() {
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("f");
    let tag = etag(b"theirs");
    let fake = Fake::start(move |request| Reply::file(request, b"theirs", &tag));
    std::fs::write(&dest, "mine").unwrap();
    let get = |more: &[&str]| cstore(&fake, &[&["get", "f", text(&dest)], more].concat());
    assert_eq!(status(&get(&[])), 4);
    assert_eq!(std::fs::read(&dest).unwrap(), b"mine");
    assert_eq!(status(&get(&["--force", "--verify"])), 0);
    assert_eq!(std::fs::read(&dest).unwrap(), b"theirs");
    let again = get(&[]);
    assert!(status(&again) == 0 && said(&again).contains("unchanged"), "{}", said(&again));
    // A folder takes the file in, and is never replaced.
    let output = cstore(&fake, &["get", "a/f", text(dir.path()), "--force"]);
    assert_eq!(status(&output), 0, "{}", said(&output));
    std::fs::create_dir(dir.path().join("g")).unwrap();
    assert_eq!(status(&cstore(&fake, &["get", "a/g", text(dir.path()), "--force"])), 4);
    // Damage on the way is found.
    std::fs::write(&dest, "mine").unwrap();
    let fake = Fake::start(|request| Reply::file(request, b"thairs", &etag(b"theirs")));
    let output = cstore(&fake, &["get", "f", text(&dest), "--force", "--verify"]);
    assert!(status(&output) == 1 && said(&output).contains("not what the gateway has"), "{}", said(&output));
    assert_eq!(std::fs::read(&dest).unwrap(), b"mine");
    assert_eq!(files_in(dir.path()), ["f", "g"]);
}

#[test]
fn what_makes_no_sense_ends_with_64_before_anybody_is_asked() {
    let fake = Fake::start(|_| Reply::lost());
    for args in [
        &["put", "x"][..],
        &["put", "a", "b", "c"],
        &["put", "-", "dir/"],
        &["put", "x", "a//b"],
        &["put", "x", "y", "--meta", "novalue"],
        &["put", "x", "y", "--overwrite", "--if-match", "e"],
        &["put", "/", "y"],
        &["get", "../x"],
        &["get", "x", "-", "--json"],
        &["get", "x", "-", "-r"],
        &["rm"],
        &["rm", "-r", ""],
        &["rm", "a", "b", "--if-match", "e"],
        &["cp", "a", "/b"],
        &["ls", "--limit", "0"],
        &["get", "x", "--jobs", "0"],
        &["ls", "--url", "nowhere"],
        &["ls", "--token", "cst_1_secret"],
        &["completions", "tcsh"],
        &["man", "nothing"],
    ] {
        let output = cstore(&fake, args);
        assert_eq!(status(&output), 64, "{args:?}: {}", said(&output));
    }
    assert_eq!(fake.seen().len(), 0);
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    let fake = Fake::start(|_| Reply::lost());
    for shell in ["bash", "zsh", "fish"] {
        let output = cstore(&fake, &["completions", shell]);
        assert!(status(&output) == 0 && said(&output).contains("if-match"), "{shell}");
    }
    let page = said(&cstore(&fake, &["man"]));
    assert!(page.contains(".TH cstore") && page.contains("Exit status") && page.contains("put"), "{page}");
    assert!(said(&cstore(&fake, &["man", "put"])).contains("overwrite"));
    assert!(said(&cstore(&fake, &["man", "admin", "token", "create"])).contains("rights"));
    let help = cstore(&fake, &["help"]);
    assert!(status(&help) == 0 && said(&help).contains("Exit status:"), "{}", said(&help));
}
