//! Uploads, and what may be repeated.

use std::io::Write;
use std::process::Stdio;

use crate::files::fake::{Fake, Reply};
use crate::files::run::{bytes, command, cstore, etag, lines, said, status, text};

#[test]
fn a_busy_gateway_is_asked_again_and_the_whole_file_is_sent_again() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("note.txt");
    let content = bytes(700_000, 6);
    std::fs::write(&src, &content).unwrap();
    let busy =
        |n: usize| (n <= 2).then(|| Reply::problem(503, "unavailable").with("retry-after", "0"));
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        let size = request.body.len();
        busy(n).unwrap_or_else(|| {
            Reply::new(
                201,
                format!(r#"{{"size":{size},"etag":"e-1","new_bytes":{size}}}"#),
            )
        })
    });
    let put = [
        "put",
        text(&src),
        "d/",
        "--meta",
        "Owner=Ada=B",
        "--verify",
        "--json",
    ];
    let output = cstore(&fake, &put);
    assert_eq!(status(&output), 0, "{}", said(&output));
    let stored = &lines(&output.stdout)[0];
    assert_eq!(
        (&stored["status"], &stored["name"]),
        (&"created".into(), &"d/note.txt".into())
    );
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
    assert_eq!(
        String::from_utf8(cstore(&fake, &["ls"]).stdout).unwrap(),
        "a/\n"
    );
    let mut n = 0;
    let fake = Fake::start(move |_| {
        n += 1;
        busy(n).unwrap_or_else(|| Reply::new(204, ""))
    });
    assert_eq!(
        (status(&cstore(&fake, &["rm", "a"])), fake.count("DELETE")),
        (0, 3)
    );
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
        assert_eq!(
            (status(&output), fake.count("PUT")),
            (expected, 0),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn stdin_is_sent_once() {
    let mut n = 0;
    let fake = Fake::start(move |request| {
        n += 1;
        if n == 1 {
            Reply::new(
                201,
                format!(r#"{{"size":{},"etag":"e"}}"#, request.body.len()),
            )
        } else {
            Reply::lost()
        }
    });
    let put = || {
        let mut command = command(&fake.url, &["put", "-", "f", "--overwrite"]);
        let command = command
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        let mut child = command.spawn().unwrap();
        child
            .stdin
            .take()
            .unwrap()
            .write_all(&bytes(1 << 20, 9))
            .unwrap();
        child.wait_with_output().unwrap()
    };
    assert_eq!(status(&put()), 0);
    let lost = put();
    assert_eq!((status(&lost), fake.count("PUT")), (6, 2));
    assert!(
        said(&lost).contains("whether the file was stored is unknown"),
        "{}",
        said(&lost)
    );
    assert!(
        fake.seen()[0].body == bytes(1 << 20, 9)
            && fake.seen()[0].path == "/api/files/f?overwrite=true"
    );
}

#[test]
fn a_gateway_that_has_stored_something_else_is_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("f");
    std::fs::write(&src, "four").unwrap();
    for (body, told) in [
        (r#"{"size":3,"etag":"e"}"#, "4 bytes were sent"),
        ("{}", "not understood"),
        ("", "not understood"),
    ] {
        let fake = Fake::start(move |_| Reply::new(201, body));
        let output = cstore(&fake, &["put", text(&src), "f"]);
        assert!(
            status(&output) == 1 && said(&output).contains(told),
            "{body}: {}",
            said(&output)
        );
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
    // Somebody else may have written meanwhile what a second upload would replace.
    let dir = tempfile::tempdir().unwrap();
    let src = dir.path().join("f");
    std::fs::write(&src, bytes(300_000, 11)).unwrap();
    let fake = lost();
    let output = cstore(&fake, &["put", text(&src), "f", "--overwrite"]);
    assert_eq!(
        (status(&output), fake.count("PUT")),
        (6, 1),
        "{}",
        said(&output)
    );
    assert!(said(&output).contains("unknown"), "{}", said(&output));
    let fake = lost();
    assert_eq!(
        (
            status(&cstore(&fake, &["rm", "a", "--if-match", "e-1"])),
            fake.seen().len()
        ),
        (6, 1)
    );
    assert_eq!(fake.seen()[0].header("if-match"), Some("\"e-1\""));
    // Gone after a lost answer is what was wished; gone before is not.
    let mut n = 0;
    let fake = Fake::start(move |_| {
        n += 1;
        if n == 1 {
            Reply::lost()
        } else {
            Reply::problem(404, "not_found")
        }
    });
    assert_eq!(status(&cstore(&fake, &["rm", "a"])), 0);
    assert_eq!(status(&cstore(&fake, &["rm", "a"])), 3);
}

#[test]
fn what_cannot_be_uploaded_is_told_and_nothing_of_it_is_sent() {
    use rustix::fs::{CWD, FileType, Mode, mknodat};
    let dir = tempfile::tempdir().unwrap();
    let fake = Fake::start(|_| Reply::lost());
    let pipe = dir.path().join("pipe");
    mknodat(CWD, &pipe, FileType::Fifo, Mode::from_raw_mode(0o600), 0).unwrap();
    for (source, why) in [
        (text(&pipe), "no ordinary file"),
        ("/proc/self/status", "says that it is empty"),
    ] {
        for verify in [&[][..], &["--verify"]] {
            let output = cstore(&fake, &[&["put", source, "x"], verify].concat());
            assert!(
                status(&output) == 1 && said(&output).contains(why),
                "{}",
                said(&output)
            );
        }
    }
    let tree = dir.path().join("tree");
    std::fs::create_dir(&tree).unwrap();
    let output = cstore(&fake, &["put", "-r", text(&tree), "x"]);
    assert!(
        status(&output) == 3 && said(&output).contains("no file"),
        "{}",
        said(&output)
    );
    // A failure is told under the name that the file would have had, and its line cannot be broken
    // by it.
    std::fs::write(tree.join("a.cstore-part"), "part").unwrap();
    std::os::unix::fs::symlink("nowhere", tree.join("li\nnk")).unwrap();
    let output = cstore(&fake, &["put", "-r", text(&tree), "x", "--json"]);
    let told = lines(&output.stderr);
    let names: Vec<&str> = told
        .iter()
        .filter_map(|line| line["error"]["name"].as_str())
        .collect();
    assert_eq!(
        (status(&output), names),
        (1, vec!["x/a.cstore-part", "x/li\nnk"]),
        "{}",
        said(&output)
    );
    let plain = cstore(&fake, &["put", "-r", text(&tree), "x"]);
    assert_eq!(said(&plain).lines().count(), 3, "{}", said(&plain));
    assert_eq!(fake.seen().len(), 0);
}
