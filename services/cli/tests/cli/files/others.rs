//! Refusals, lists, tokens, and what the program says of itself.

use std::process::Stdio;

use cstore_testkit::nobody;
use serde_json::Value;

use crate::files::fake::{Fake, Reply, Request};
use crate::files::run::{command, cstore, etag, files_in, lines, said, status, text};

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
        assert_eq!(
            (status(&output), told.len()),
            (expected, 1),
            "{http}: {}",
            said(&output)
        );
        let error = &told[0]["error"];
        assert_eq!(
            (error["code"].as_str(), error["trace_id"].as_str()),
            (Some(code), Some("t-1")),
            "{error}"
        );
        let plain = cstore(&fake, &["cp", "a", "b", "--retries", "0"]);
        assert_eq!(status(&plain), expected);
        // 409 is about the new name, which is taken.
        let about = if http == 409 { "b" } else { "a" };
        let hint = match http {
            401 => "; CSTORE_TOKEN or --token-file takes the token",
            _ => "",
        };
        assert_eq!(
            said(&plain),
            format!("cstore: {about}: said by a test{hint} (trace t-1)\n")
        );
    }
    let (free, _held) = nobody();
    let output = command(&format!("http://{free}"), &["ls", "--retries", "1"])
        .output()
        .unwrap();
    assert!(
        status(&output) == 6 && said(&output).contains("connection refused"),
        "{}",
        said(&output)
    );
    // HEAD has no body to say why.
    let fake = Fake::start(|_| Reply::new(404, ""));
    assert_eq!(
        said(&cstore(&fake, &["stat", "a"])),
        "cstore: a: there is no file \"a\" (trace t-0)\n"
    );
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
    assert!(
        status(&output) == 5 && fake.seen().len() < 20,
        "{} requests",
        fake.seen().len()
    );
    assert!(said(&output).contains("given up"), "{}", said(&output));
}

#[test]
fn lists_go_on_page_by_page_and_a_list_that_does_not_is_ended() {
    let page = |request: &Request| {
        let (_, token) = request.path.split_once("page_token=").unwrap();
        let n: usize = token.split('&').next().unwrap().parse().unwrap_or(0);
        let next = if n < 3 {
            (n + 1).to_string()
        } else {
            String::new()
        };
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
    let columns: Vec<usize> = long
        .lines()
        .map(|line| line.rfind(['d', 'f']).unwrap())
        .collect();
    assert_eq!(columns[0], columns[1], "{long}");
    let all = cstore(&fake, &["ls", "--json"]);
    let all = lines(&all.stdout);
    assert_eq!(
        (all.len(), &all[0]["prefix"], &all[7]["name"]),
        (8, &"d0/".into(), &"f3".into())
    );
    let endless =
        Fake::start(|_| Reply::new(200, r#"{"files":[],"prefixes":[],"next_page_token":"x"}"#));
    let output = cstore(&endless, &["ls"]);
    assert!(
        status(&output) == 1 && said(&output).contains("does not go on"),
        "{}",
        said(&output)
    );
}

#[test]
fn a_reader_that_goes_away_ends_the_command_in_silence() {
    let mut n = 0;
    let fake = Fake::start(move |_| {
        n += 1;
        let files: Vec<Value> = (0..1_000)
            .map(|k| serde_json::json!({"name": format!("a-rather-long-name-{n}-{k}"), "size": 1, "etag": "e"}))
            .collect();
        let body =
            serde_json::json!({"files": files, "prefixes": [], "next_page_token": n.to_string()});
        Reply::new(200, body.to_string())
    });
    for args in [&["ls"][..], &["ls", "--json"]] {
        let mut child = command(&fake.url, args)
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        drop(child.stdout.take());
        let output = child.wait_with_output().unwrap();
        assert_eq!((status(&output), said(&output)), (141, String::new()));
    }
    let fake = Fake::start(|request| Reply::file(request, &vec![0; 1 << 20], "e-1"));
    let mut child = command(&fake.url, &["get", "f", "-"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    drop(child.stdout.take());
    let output = child.wait_with_output().unwrap();
    assert_eq!((status(&output), said(&output)), (141, String::new()));
}

#[test]
fn i13_the_token_goes_to_the_gateway_and_nowhere_else() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("token");
    let (of_file, of_env) = (
        format!("cst_1f_{}", "A".repeat(43)),
        format!("cst_1e_{}", "A".repeat(43)),
    );
    std::fs::write(&file, format!("{of_file}\n")).unwrap();
    std::os::unix::fs::chown(&file, None, None).unwrap();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o600);
    std::fs::set_permissions(&file, mode).unwrap();
    let fake = Fake::start(|_| Reply::problem(401, "unauthenticated"));
    let from_env = command(&fake.url, &["ls"])
        .env("CSTORE_TOKEN", &of_env)
        .output()
        .unwrap();
    let args = ["ls", "--token-file", text(&file)];
    let from_file = command(&fake.url, &args)
        .env("CSTORE_TOKEN", &of_env)
        .output()
        .unwrap();
    let sent: Vec<String> = fake
        .seen()
        .iter()
        .map(|request| request.header("authorization").unwrap().to_owned())
        .collect();
    assert_eq!(
        sent,
        [format!("Bearer {of_env}"), format!("Bearer {of_file}")]
    );
    for output in [from_env, from_file] {
        assert!(
            status(&output) == 5 && !said(&output).contains("cst_1"),
            "{}",
            said(&output)
        );
    }
    let redirect = Fake::start(|_| Reply::new(302, "").with("location", "http://127.0.0.1:1/"));
    assert_eq!(
        status(&cstore(&redirect, &["ls"])),
        1,
        "a token is not carried elsewhere"
    );
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
    assert!(
        status(&again) == 0 && said(&again).contains("unchanged"),
        "{}",
        said(&again)
    );
    // A folder takes the file in, and is never replaced.
    let output = cstore(&fake, &["get", "a/f", text(dir.path()), "--force"]);
    assert_eq!(status(&output), 0, "{}", said(&output));
    std::fs::create_dir(dir.path().join("g")).unwrap();
    assert_eq!(
        status(&cstore(&fake, &["get", "a/g", text(dir.path()), "--force"])),
        4
    );
    // Damage on the way is found.
    std::fs::write(&dest, "mine").unwrap();
    let fake = Fake::start(|request| Reply::file(request, b"thairs", &etag(b"theirs")));
    let output = cstore(&fake, &["get", "f", text(&dest), "--force", "--verify"]);
    assert!(
        status(&output) == 1 && said(&output).contains("not what the gateway has"),
        "{}",
        said(&output)
    );
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
        &["ls", "--url", "http://ada:secret@127.0.0.1:1"],
        &["ls", "--url", "http://127.0.0.1:1/?a=b"],
        &["rm", "a", "--if-match", "e\n1"],
        &["put", "x", "y", "--if-match", ""],
        &["put", "x", "y", "--meta", "a b=1"],
        &["put", "x", "y", "--meta", "a=\u{e4}"],
        &["put", "x", "y", "--meta", "a=1", "--meta", "A=2"],
        &["put", "x", "y", "--content-type", ""],
        &["put", "x", "y", "--content-type", "a\nb"],
        &["put", "-", "y", "--verify"],
        &["put", "a", "b", "d/", "--if-match", "e"],
        &["put", "a/x", "b/x", "d/"],
        &["ls", "--token", "cst_1_secret"],
        &["completions", "tcsh"],
        &["man", "nothing"],
    ] {
        let output = cstore(&fake, args);
        assert_eq!(status(&output), 64, "{args:?}: {}", said(&output));
    }
    for (variable, value) in [
        ("CSTORE_TOKEN", "cst_1_\u{1}s3cret"),
        ("CSTORE_TOKEN", "s3cret"),
        ("CSTORE_TOKEN", "cst_4f1c0a9be2d7_s3cret"),
        ("CSTORE_URL", "http://ada:s3cret@g"),
    ] {
        let output = command(&fake.url, &["ls"])
            .env(variable, value)
            .output()
            .unwrap();
        assert_eq!(status(&output), 64, "{}", said(&output));
        assert!(
            said(&output).contains(variable) && !said(&output).contains("s3cret"),
            "{}",
            said(&output)
        );
    }
    assert_eq!(fake.seen().len(), 0);
    // With --json a mistake of a command line that cannot be parsed is JSON, too.
    for args in [
        &["ls", "--json", "--limit", "0"][..],
        &["put", "--json"],
        &["admin", "gc", "--json", "--fly"],
    ] {
        let output = cstore(&fake, args);
        let told = lines(&output.stderr);
        assert_eq!(
            (told.len(), &told[0]["error"]["code"]),
            (1, &"usage".into()),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn completions_and_manual_pages_know_the_commands() {
    let fake = Fake::start(|_| Reply::lost());
    for shell in ["bash", "zsh", "fish"] {
        let output = cstore(&fake, &["completions", shell]);
        assert!(
            status(&output) == 0 && said(&output).contains("if-match"),
            "{shell}"
        );
    }
    let page = said(&cstore(&fake, &["man"]));
    assert!(
        page.contains(".TH cstore") && page.contains("Exit status") && page.contains("put"),
        "{page}"
    );
    assert!(said(&cstore(&fake, &["man", "put"])).contains("overwrite"));
    assert!(said(&cstore(&fake, &["man", "admin", "token", "create"])).contains("rights"));
    let help = cstore(&fake, &["help"]);
    assert!(
        status(&help) == 0 && said(&help).contains("Exit status:"),
        "{}",
        said(&help)
    );
}

#[test]
fn a_server_that_is_no_gateway_is_told_and_not_believed() {
    let dir = tempfile::tempdir().unwrap();
    let (src, dest) = (dir.path().join("src"), dir.path().join("dest"));
    std::fs::write(&src, "four").unwrap();
    for http in [200, 204, 404] {
        let body = r#"{"files":[],"prefixes":[],"size":4,"etag":"e","code":"not_found"}"#;
        let fake = Fake::start(move |_| {
            let body = if http == 204 { "" } else { body };
            Reply::new(http, body).with("etag", "\"e\"").of_stranger()
        });
        for args in [
            &["ls"][..],
            &["stat", "a"],
            &["rm", "a"],
            &["rm", "-r", "a"],
            &["cp", "a", "b"],
            &["du"],
            &["get", "a", "-"],
            &["get", "a", text(&dest)],
            &["put", text(&src), "a"],
        ] {
            let output = cstore(&fake, args);
            assert_eq!(status(&output), 1, "{http} {args:?}: {}", said(&output));
            assert!(
                said(&output).contains("no C-Store gateway"),
                "{http} {args:?}: {}",
                said(&output)
            );
        }
    }
    assert_eq!(files_in(dir.path()), ["src"]);
    // A gateway itself answers a removal by 204 alone.
    let fake = Fake::start(|_| Reply::new(200, "{}"));
    assert_eq!(status(&cstore(&fake, &["rm", "a"])), 1);
}

#[test]
fn a_slash_alone_is_the_folder_of_everything() {
    let fake = Fake::start(|request| {
        if request.path.starts_with("/api/usage") {
            let usage = r#"{"prefix":"","files":1,"logical_bytes":1,"unique_bytes":1,"shared_bytes":0,"freed_bytes":1}"#;
            return Reply::new(200, usage);
        }
        Reply::new(
            200,
            r#"{"files":[],"prefixes":["a/"],"next_page_token":""}"#,
        )
    });
    assert_eq!(
        (
            status(&cstore(&fake, &["ls", "/"])),
            status(&cstore(&fake, &["du", "/"]))
        ),
        (0, 0)
    );
    let seen = fake.seen();
    assert!(
        seen[0].path.starts_with("/api/files?prefix=&"),
        "{}",
        seen[0].path
    );
    assert_eq!(seen[1].path, "/api/usage?prefix=");
}

#[test]
fn a_folder_that_is_not_there_is_told_among_others_and_a_folder_is_hinted_at() {
    let fake = Fake::start(|request: &Request| {
        if request.path.starts_with("/api/files?prefix=a%2F") {
            return Reply::new(
                200,
                r#"{"files":[{"name":"a/x","size":1,"etag":"e"}],"prefixes":[]}"#,
            );
        }
        if request.path.starts_with("/api/files?") {
            return Reply::new(200, r#"{"files":[],"prefixes":[]}"#);
        }
        if request.method == "DELETE" && request.path == "/api/files/a/x" {
            return Reply::new(204, "");
        }
        Reply::problem(404, "not_found")
    });
    let output = cstore(&fake, &["rm", "-r", "a", "missing"]);
    assert!(
        status(&output) == 2 && said(&output).contains("missing/: there is no file"),
        "{}",
        said(&output)
    );
    for (names, expected) in [
        (&["missing"][..], 3),
        (&["missing", "gone"], 3),
        (&["a"], 0),
    ] {
        assert_eq!(
            status(&cstore(&fake, &[&["rm", "-r"], names].concat())),
            expected,
            "{names:?}"
        );
    }
    for (args, hinted) in [
        (["rm", "a"], true),
        (["get", "a"], true),
        (["rm", "missing"], false),
        (["get", "missing"], false),
    ] {
        let dir = tempfile::tempdir().unwrap();
        let output = command(&fake.url, &args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert_eq!(
            (status(&output), said(&output).contains("--recursive")),
            (3, hinted),
            "{}",
            said(&output)
        );
        assert!(files_in(dir.path()).is_empty());
    }
}
