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

#[test]
fn a_named_tenant_sees_files_and_sizes_but_no_space() {
    let fake = Fake::start(|request| {
        let path = request.path.as_str();
        if path.starts_with("/api/usage?") || path.ends_with("?explain=freed") {
            return Reply::problem(403, "permission_denied");
        }
        two_files(request)
    });
    let note = "space is shown to the default tenant only";
    let output = cstore(&fake, &["rm", "-r", "-n", "a"]);
    let told = format!("a/  1 file, 1 B, {note}\n");
    assert!(
        status(&output) == 0 && said(&output).contains(&told),
        "{}",
        said(&output)
    );
    let output = cstore(&fake, &["rm", "-r", "-n", "a", "--json"]);
    let would = &lines(&output.stdout)[0];
    assert!(
        would["files"] == 1 && would["freed_bytes"].is_null(),
        "{would}"
    );
    let output = cstore(&fake, &["du"]);
    let told = said(&output);
    assert!(status(&output) == 0 && told.contains(note), "{told}");
    assert!(
        told.contains("      2       -       -      -      2  "),
        "{told}"
    );
    let output = cstore(&fake, &["du", "a/", "--json"]);
    assert_eq!(
        lines(&output.stdout)[0],
        serde_json::json!({
            "prefix": "a/", "files": 1, "logical_bytes": 1, "unique_bytes": null, "shared_bytes": null,
            "freed_bytes": null
        })
    );
    // Without a valid token nothing is shown, and the failure names the argument.
    let denied = Fake::start(|_| Reply::problem(401, "unauthenticated"));
    let output = cstore(&denied, &["du"]);
    assert!(
        status(&output) == 5 && said(&output).starts_with("cstore: /: "),
        "{}",
        said(&output)
    );
}

#[test]
fn space_that_comes_back_later_is_told_with_the_figures() {
    let fake = Fake::start(|request| match request.path.as_str() {
        "/api/stats" => Reply::new(200, r#"{"files":2,"logical_bytes":2,"pending_releases":1}"#),
        _ => two_files(request),
    });
    for args in [&["du"][..], &["rm", "-r", "-n", "a"]] {
        let output = cstore(&fake, args);
        let told = String::from_utf8(output.stderr.clone()).unwrap();
        assert!(
            status(&output) == 0 && told.contains("the store still frees files"),
            "{args:?}: {told}"
        );
        let output = cstore(&fake, &[args, &["--json"]].concat());
        assert_eq!((status(&output), output.stderr.len()), (0, 0), "{args:?}");
    }
}

#[test]
fn a_file_where_a_folder_is_meant_is_told_and_the_other_way_round() {
    let fake = Fake::start(|request| match request.method.as_str() {
        "HEAD" if request.path == "/api/files/b" => Reply::new(200, "x").with("etag", "\"e\""),
        _ => two_files(request),
    });
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("b")).unwrap();
    std::fs::create_dir(dir.path().join("a")).unwrap();
    for (args, expected, told) in [
        (
            &["rm", "-r", "b"][..],
            3,
            "cstore: b: it is a file, and --recursive takes",
        ),
        (&["rm", "-r", "-n", "c"], 3, "it is a file"),
        (&["get", "-r", "b"], 3, "leave --recursive away"),
        (
            &["cp", "a", "c"],
            3,
            "it is a folder, and `cp` and `mv` take one file",
        ),
        (&["mv", "a", "c"], 3, "it is a folder"),
        (
            &["get", "b"],
            4,
            "b is a folder of this machine and is in the way",
        ),
        (&["get", "a"], 3, "it is a folder, which --recursive takes"),
    ] {
        let args: Vec<&str> = args.to_vec();
        // A usage without files is that of no folder.
        let none = Fake::start(|request| match request.path.as_str() {
            path if path.starts_with("/api/usage?") => Reply::new(
                200,
                r#"{"prefix":"c/","files":0,"logical_bytes":0,"unique_bytes":0,"shared_bytes":0,"freed_bytes":0}"#,
            ),
            _ => Reply::new(200, "x").with("etag", "\"e\""),
        });
        let url = if args.contains(&"-n") {
            &none.url
        } else {
            &fake.url
        };
        let output = command(url, &args)
            .current_dir(dir.path())
            .output()
            .unwrap();
        assert!(
            status(&output) == expected && said(&output).contains(told),
            "{args:?}: {} {}",
            status(&output),
            said(&output)
        );
    }
    assert_eq!(fake.count("DELETE"), 0);
}

#[test]
fn a_lost_upload_says_whether_the_file_may_be_stored() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("f");
    std::fs::write(&file, "x").unwrap();
    let put = |url: &str, more: &[&str]| {
        let args = [&["put", text(&file), "f", "--retries", "0"], more].concat();
        let output = command(url, &args).output().unwrap();
        assert_eq!(status(&output), 6);
        said(&output)
    };
    let lost = Fake::start(|_| Reply::lost());
    let told = put(&lost.url, &[]);
    assert!(
        told.contains("may have been stored; it is safe to run the command again"),
        "{told}"
    );
    let told = put(&lost.url, &["--overwrite"]);
    assert!(
        told.contains("whether the file was stored is unknown"),
        "{told}"
    );
    // A proxy in front of a gateway says this, and knows nothing.
    let busy = Fake::start(|_| Reply::problem(502, "unavailable"));
    let told = put(&busy.url, &[]);
    assert!(!told.contains("stored"), "{told}");
    let (free, _held) = nobody();
    let told = put(&format!("http://{free}"), &[]);
    assert!(
        told.contains("the file was not stored; it is safe"),
        "{told}"
    );
}

#[test]
fn smoke_and_health_end_with_the_status_of_the_reason() {
    for (http, code, expected) in [
        (401, "unauthenticated", 5),
        (403, "permission_denied", 5),
        (507, "resource_exhausted", 7),
        (503, "unavailable", 6),
        (500, "internal", 1),
    ] {
        let fake = Fake::start(move |_| Reply::problem(http, code));
        let output = cstore(&fake, &["smoke", "--wait", "0s"]);
        assert_eq!(status(&output), expected, "{http}: {}", said(&output));
    }
    let fake = Fake::start(|_| Reply::problem(401, "unauthenticated"));
    for args in [
        &["smoke"][..],
        &["smoke", "--load", "--for", "1s"],
        &["smoke", "--check", "--prefix", "p", "--settle", "0s"],
    ] {
        let output = cstore(&fake, args);
        assert!(
            status(&output) == 5 && said(&output).contains("CSTORE_TOKEN"),
            "{args:?}: {}",
            said(&output)
        );
    }
    let (free, _held) = nobody();
    for args in [
        &["smoke", "--wait", "0s"][..],
        &["health", "--addr", &free],
        &["admin", "gc", "--addr", &format!("{free},{free}")],
    ] {
        let output = command(&format!("http://{free}"), args).output().unwrap();
        assert_eq!(status(&output), 6, "{args:?}: {}", said(&output));
    }
    let starting = Fake::start(|_| Reply::new(503, r#"[{"part":"master","reason":"no"}]"#));
    let addr = starting.url.trim_start_matches("http://");
    let output = cstore(&starting, &["health", "--addr", addr]);
    assert_eq!(status(&output), 6, "{}", said(&output));
}

#[test]
fn the_space_of_nothing_is_no_row_of_zeros() {
    let fake = Fake::start(|_| {
        let usage = r#"{"prefix":"nope","files":0,"logical_bytes":0,"unique_bytes":0,"shared_bytes":0,"freed_bytes":0}"#;
        Reply::new(200, usage)
    });
    let output = cstore(&fake, &["du", "nope"]);
    assert!(
        status(&output) == 3 && said(&output).contains("no name begins with this"),
        "{}",
        said(&output)
    );
    assert!(output.stdout.is_empty());
}
