//! Mistakes of users: what is refused, and which hint is given.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpListener;
use std::process::Stdio;

use cstore_testkit::nobody;

use crate::files::fake::{Fake, Reply, Request};
use crate::files::run::{command, cstore, files_in, lines, said, status, text};

/// A store with the files `a/x` and `b`.
fn two_files(request: &Request) -> Reply {
    let page = |names: &[&str]| {
        let files: Vec<_> = names
            .iter()
            .map(|name| serde_json::json!({"name": name, "size": 1, "etag": "e"}))
            .collect();
        Reply::new(
            200,
            serde_json::json!({"files": files, "prefixes": []}).to_string(),
        )
    };
    if request.path.starts_with("/api/files?prefix=&") {
        return page(&["a/x", "b"]);
    }
    if request.path.starts_with("/api/files?prefix=a%2F") {
        return page(&["a/x"]);
    }
    if request.path.starts_with("/api/files?") {
        return page(&[]);
    }
    if request.path.starts_with("/api/usage?") {
        let usage = r#"{"prefix":"","files":2,"logical_bytes":2,"unique_bytes":1,"shared_bytes":0,"freed_bytes":1}"#;
        return Reply::new(200, usage);
    }
    match request.method.as_str() {
        "DELETE" if ["/api/files/a/x", "/api/files/b"].contains(&request.path.as_str()) => {
            Reply::new(204, "")
        }
        "HEAD" => Reply::new(404, ""),
        _ => Reply::problem(404, "not_found"),
    }
}

#[test]
fn everything_goes_only_when_all_is_meant() {
    let fake = Fake::start(two_files);
    for (args, told) in [
        (&["-r", "/"][..], "--all"),
        (&["-r", "a", "/"], "--all"),
        (&["-r", "/", "--yes"], "--all"),
        (&["-r", ""], "--all"),
        (&["-r", "", "--all"], "empty name"),
        (&[""], "empty name"),
        (&["-r", "a", "--all"], "goes together with /"),
        (&["a", "--all"], "--recursive"),
    ] {
        let output = cstore(&fake, &[&["rm"], args].concat());
        assert!(
            status(&output) == 64 && said(&output).contains(told),
            "{args:?}: {}",
            said(&output)
        );
    }
    assert_eq!(fake.seen().len(), 0);
    let would = cstore(&fake, &["rm", "-r", "-n", "/"]);
    assert!(
        status(&would) == 0 && said(&would).contains("2 files"),
        "{}",
        said(&would)
    );
    assert_eq!(fake.count("DELETE"), 0);
    let output = cstore(&fake, &["rm", "-r", "/", "--all"]);
    assert_eq!(
        (status(&output), fake.count("DELETE")),
        (0, 2),
        "{}",
        said(&output)
    );
}

#[test]
fn a_mistake_is_told_with_what_helps() {
    let fake = Fake::start(two_files);
    let dir = tempfile::tempdir().unwrap();
    let into = format!("{}/", text(&dir.path().join("new")));
    for (args, expected, told) in [
        (
            &["stat", "s3://b/a"][..],
            64,
            "this is an S3 URL; names have no scheme and are like b/a",
        ),
        (&["ls", "s3://b/"], 64, "this is an S3 URL"),
        (
            &["get", "/abs/a.jpg"],
            64,
            "names have no leading /; the name is \"abs/a.jpg\"",
        ),
        (&["ls", "/abs"], 64, "names have no leading /"),
        (
            &["get", "docs/"],
            64,
            "is a folder: `put`, `get` and `rm` take folders with --recursive",
        ),
        (&["stat", "docs/"], 64, "--recursive"),
        (&["put", "a.jpg"], 64, "<DEST>"),
        (
            &["get", "nosuch", &into],
            3,
            "cstore: nosuch: there is no file \"nosuch\"",
        ),
        (
            &["stat", "nosuch"],
            3,
            "cstore: nosuch: there is no file \"nosuch\"",
        ),
        (
            &["stat", "a"],
            3,
            "there is no file \"a\": it is a folder; `ls -l` lists",
        ),
        (
            &["ls", "nosuch/"],
            3,
            "there is no name that begins with \"nosuch/\"",
        ),
        (&["ls", "many/*"], 3, "many/*: no name matches this pattern"),
        (&["rm", "many/*"], 3, "many/*: no name matches this pattern"),
        (
            &["stat", "many/*"],
            3,
            "it is taken as it is written; `ls` lists what a pattern matches",
        ),
        (&["put", "-r", ".", "x", "--exclude", "[a"], 64, "--exclude"),
        (&["put", ".", "x", "--exclude", "a"], 64, "--recursive"),
    ] {
        let output = cstore(&fake, args);
        assert!(
            status(&output) == expected && said(&output).contains(told),
            "{args:?}: {} {}",
            status(&output),
            said(&output)
        );
    }
    // An empty store is no mistake.
    let empty = Fake::start(|_| Reply::new(200, r#"{"files":[],"prefixes":[]}"#));
    for args in [&["ls"][..], &["ls", "/"], &["ls", "-r"]] {
        let output = cstore(&empty, args);
        assert_eq!((status(&output), said(&output)), (0, String::new()));
    }
    let output = cstore(&empty, &["ls", "x", "--json"]);
    assert_eq!(lines(&output.stderr)[0]["error"]["code"], "not_found");
}

#[test]
fn a_gateway_that_is_away_is_told_before_the_end_and_where_to_look() {
    let (free, _held) = nobody();
    let run = |more: &[&str]| {
        let output = command(&format!("http://{free}"), &[&["ls"], more].concat())
            .output()
            .unwrap();
        assert_eq!(status(&output), 6);
        said(&output)
    };
    let hint = format!(
        "cstore: http://{free}: connection refused; is it running? CSTORE_URL or --url says where the gateway is"
    );
    assert_eq!(
        run(&["--retries=1"]),
        format!("{hint} (trying again)\n{hint}\n")
    );
    assert_eq!(run(&["--retries=1", "-q"]), format!("{hint}\n"));
    assert_eq!(
        run(&["--retries=1", "--json"]).lines().count(),
        1,
        "errors only"
    );
    assert_eq!(
        run(&["--retries=0"]).lines().count(),
        1,
        "nothing is tried again"
    );

    // This server accepts connections and never responds.
    let silent = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", silent.local_addr().unwrap());
    let mut child = command(&url, &["ls"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut line = String::new();
    BufReader::new(child.stderr.take().unwrap())
        .read_line(&mut line)
        .unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert_eq!(
        line,
        format!(
            "cstore: {url} has not answered for 1.5 s (still waiting); CSTORE_URL or --url says where the gateway is\n"
        )
    );
}

#[test]
fn a_port_of_another_protocol_is_told_and_not_asked_again() {
    // A server of gRPC greets with SETTINGS of HTTP/2.
    let settings = &[0, 0, 0, 4, 0, 0, 0, 0, 0][..];
    let refusal = &b"HTTP/1.1 400 Bad Request\r\n\r\n"[..];
    for (scheme, greeting, expected, told) in [
        (
            "http",
            settings,
            1,
            "does not speak HTTP/1.1, so it is no gateway's; ",
        ),
        (
            "https",
            refusal,
            1,
            "does not speak TLS; is its URL http:// ",
        ),
        (
            "https",
            &[],
            6,
            "ended during the TLS handshake; is its URL http:// ",
        ),
    ] {
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let url = format!("{scheme}://{}", server.local_addr().unwrap());
        let served = std::thread::spawn(move || {
            let (mut stream, _) = server.accept().unwrap();
            // Bytes that are not read would make the end of the connection a reset.
            let _ = stream.read(&mut [0; 4_096]);
            stream.write_all(greeting).unwrap();
        });
        let output = command(&url, &["ls", "--retries", "0"]).output().unwrap();
        assert!(
            status(&output) == expected && said(&output).contains(told),
            "{}",
            said(&output)
        );
        served.join().unwrap();
    }
}

#[test]
fn a_folder_ends_with_totals_and_what_was_left_out() {
    let dir = tempfile::tempdir().unwrap();
    let root = dir.path().join("root");
    std::fs::create_dir_all(root.join("empty")).unwrap();
    for name in ["a", "b", "c.log"] {
        std::fs::write(root.join(name), vec![7; 1 << 20]).unwrap();
    }
    std::os::unix::fs::symlink("a", root.join("link")).unwrap();
    let fake = Fake::start(|request| {
        let new = if request.path.ends_with('a') {
            1 << 20
        } else {
            0
        };
        match request.method.as_str() {
            "PUT" => {
                let size = request.body.len();
                Reply::new(
                    201,
                    format!(r#"{{"size":{size},"etag":"e","new_bytes":{new}}}"#),
                )
            }
            _ => Reply::new(404, ""),
        }
    });
    let put = ["put", "-r", text(&root), "x", "--exclude", "*.log"];
    let output = cstore(&fake, &[&put[..], &["--skip-links"]].concat());
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    let told: Vec<&str> = told.lines().collect();
    assert_eq!(status(&output), 0, "{}", said(&output));
    assert!(
        told[0].starts_with("2 files, 2.00 MiB, 1.00 MiB new, ") && told[0].ends_with(" s"),
        "{told:?}"
    );
    assert_eq!(
        told[1..],
        ["1 empty folder is not kept", "1 symbolic link was skipped"]
    );
    let results = String::from_utf8(output.stdout).unwrap();
    assert!(
        results.lines().count() == 2 && results.contains("x/b  1.00 MiB  created, 0 B new\n"),
        "{results}"
    );
    for mute in ["--quiet", "--json"] {
        let output = cstore(&fake, &[&put[..], &["--skip-links", mute]].concat());
        assert_eq!((status(&output), output.stderr.len()), (0, 0), "{mute}");
    }
    // The totals stand before the failure.
    let output = cstore(&fake, &put);
    let told = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(
        status(&output) == 2 && told.contains("--skip-links") && told.contains("2 files, 2.00 MiB"),
        "{told}"
    );
    // For one file its own line has the totals.
    let output = cstore(&fake, &["put", text(&root.join("a")), "a"]);
    let told = said(&output);
    assert!(
        told.contains("-> a  1.00 MiB  created, 1.00 MiB new, ") && told.lines().count() == 1,
        "{told}"
    );
}

#[test]
fn a_folder_comes_back_without_what_is_excluded() {
    let fake = Fake::start(|request| {
        if request.path.starts_with("/api/files?") {
            let names = ["d/a", "d/b.log", "d/.git/x", "d/sub/c.log", "d/sub/e"];
            let files = names.map(|name| serde_json::json!({"name": name, "size": 1, "etag": "e"}));
            let page = serde_json::json!({"files": files, "prefixes": []});
            return Reply::new(200, page.to_string());
        }
        Reply::file(request, b"x", "e-1")
    });
    let dir = tempfile::tempdir().unwrap();
    let dest = dir.path().join("back");
    let args = [
        "get",
        "-r",
        "d",
        text(&dest),
        "--exclude",
        "*.log",
        "--exclude",
        ".git/",
    ];
    let output = cstore(&fake, &args);
    assert_eq!(status(&output), 0, "{}", said(&output));
    assert_eq!(files_in(&dest), ["a", "sub"]);
    assert_eq!(files_in(&dest.join("sub")), ["e"]);
}
