//! Downloads: cut, interrupted, replaced, hostile.

use std::io::Write;
use std::path::Path;
use std::process::Stdio;

use cstore_testkit::until_blocking;
use serde_json::Value;

use crate::files::fake::{Fake, Reply, Request};
use crate::files::run::{bytes, command, cstore, files_in, interrupt, lines, said, status, text};

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
    let output = cstore(
        &fake,
        &["get", "a/f", text(&dest), "--json", "--retries", "1"],
    );
    assert_eq!(status(&output), 0, "{}", said(&output));
    assert!(std::fs::read(&dest).unwrap() == content);
    assert_eq!(files_in(dir.path()), ["f"]);
    assert!(fake.seen().len() > 5, "{} requests", fake.seen().len());
    for request in &fake.seen()[1..] {
        assert_eq!(request.header("if-range"), Some("\"e-1\""));
    }
    let got = &lines(&output.stdout)[0];
    assert_eq!(
        (&got["size"], &got["etag"]),
        (&500_000.into(), &"e-1".into())
    );
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
    assert_eq!(
        files_in(dir.path()),
        ["f.cstore-part", "f.cstore-part.json"]
    );
    let output = cstore(&fake, &get);
    assert_eq!(
        (status(&output), &lines(&output.stdout)[0]["status"]),
        (0, &"resumed".into())
    );
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
    assert!(
        std::fs::read(&dest).unwrap() == new,
        "bytes of two states have met"
    );
    // Bytes that were written to stdout cannot be taken back.
    let (first, second) = (bytes(300_000, 3), new);
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        match n {
            1 => Reply::file(request, &first, "e-1").cut(200_000),
            _ if request.header("if-match") == Some("\"e-2\"") => {
                Reply::file(request, &second, "e-2")
            }
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
                    Reply::new(206, vec![0; 50_000])
                        .with("content-range", range)
                        .with("etag", tag)
                }
                _ => Reply::file(request, &served, "e-1"),
            }
        });
        let output = cstore(&fake, &["get", "f", text(&dest), "--force"]);
        assert_eq!(status(&output), 0, "{lie}: {}", said(&output));
        assert!(std::fs::read(&dest).unwrap() == content, "{lie}");
        assert_eq!(
            fake.seen()[2].header("range"),
            None,
            "{lie}: it begins anew"
        );
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
        let files: Vec<Value> = names
            .iter()
            .map(|name| serde_json::json!({"name": name, "size": 4, "etag": "e-1"}))
            .collect();
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
    assert_eq!(
        (told.len(), told[7]["error"]["code"].clone()),
        (8, "partial".into()),
        "{}",
        said(&output)
    );
    // And a name cannot steer the terminal.
    let fake = Fake::start(|_: &Request| {
        Reply::new(
            200,
            r#"{"files":[{"name":"a\u001b[2Jb","size":1,"etag":"e"}],"prefixes":[]}"#,
        )
    });
    assert_eq!(
        String::from_utf8(cstore(&fake, &["ls"]).stdout).unwrap(),
        "a\u{fffd}[2Jb\n"
    );
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
        if n == 1 {
            Reply {
                hang: true,
                ..reply.cut(300_000)
            }
        } else {
            reply
        }
    });
    let part = dir.path().join("f.cstore-part");
    let child = command(&fake.url, &["get", "f", text(&dest)])
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    until_blocking("the first bytes", || {
        std::fs::metadata(&part).is_ok_and(|part| part.len() > 0)
    });
    let output = interrupt(child);
    assert_eq!(
        (status(&output), said(&output).as_str()),
        (130, "cstore: interrupted\n")
    );
    assert!(!dest.try_exists().unwrap());
    let output = cstore(&fake, &["get", "f", text(&dest)]);
    assert!(
        status(&output) == 0 && said(&output).contains("resumed"),
        "{}",
        said(&output)
    );
    assert!(std::fs::read(&dest).unwrap() == content);
    // An upload that is interrupted has not sent its last byte.
    let (fifo, mut n) = (Fake::start(|_| Reply::lost()), 0);
    let mut command = command(&fifo.url, &["put", "-", "f"]);
    let mut child = command
        .stdin(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let stdin = child.stdin.take().unwrap();
    until_blocking("the upload has begun", || {
        n += (&stdin).write(&[0; 1_000]).unwrap();
        n > 200_000
    });
    assert_eq!(status(&interrupt(child)), 130);
    assert_eq!(fifo.seen().len(), 0, "no whole request has arrived");
}
