//! The REST surface: downloads, names and errors, over real sockets, before a master and a worker
//! that are fakes in this process.

use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http::{Answer, send};
use crate::setup::{self, start, start_with};

pub(crate) async fn put(setup: &setup::Setup, path: &str, headers: &str, body: &str) -> Answer {
    let request = format!(
        "PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n{body}",
        body.len()
    );
    send(setup.addr, request).await
}

pub(crate) async fn get(setup: &setup::Setup, path: &str, headers: &str) -> Answer {
    send(
        setup.addr,
        format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n"),
    )
    .await
}

#[tokio::test]
async fn metadata_is_kept_with_the_file_and_given_back_by_get_and_head() {
    let setup = start().await;
    let noted = "X-CStore-Meta-Owner: Ada L.\r\nx-cstore-meta-empty:\r\n";
    assert_eq!(put(&setup, "/api/files/a", noted, "x").await.status, 201);
    for method in ["GET", "HEAD"] {
        let answer = send(
            setup.addr,
            format!("{method} /api/files/a HTTP/1.1\r\nHost: x\r\n\r\n"),
        )
        .await;
        assert_eq!(
            answer.header("x-cstore-meta-owner"),
            Some("Ada L."),
            "{method}: {}",
            answer.head
        );
        assert!(
            answer.head.contains("x-cstore-meta-empty:"),
            "{method}: {}",
            answer.head
        );
    }
    let many: String = (0..33)
        .map(|n| format!("x-cstore-meta-k{n}: v\r\n"))
        .collect();
    for (wrong, rule) in [
        (many.as_str(), "at most 32"),
        ("x-cstore-meta-: v\r\n", "1 to 64 characters"),
        ("x-cstore-meta-a: 1\r\nx-cstore-meta-a: 2\r\n", "twice"),
        (
            &format!("x-cstore-meta-a: {}\r\n", "v".repeat(1_025)),
            "1024",
        ),
        ("Content-Range: bytes 0-0/2\r\n", "in part"),
        ("Content-Encoding: gzip\r\n", "content-encoding"),
        (
            "If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n",
            "If-Match",
        ),
    ] {
        let answer = put(&setup, "/api/files/b", wrong, "x").await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(
            answer.json()["detail"].as_str().unwrap().contains(rule),
            "{:?}",
            answer.json()
        );
    }
    assert_eq!(setup.master.n_commits(), 1);
}

#[tokio::test]
async fn what_a_removal_would_free_is_told_for_a_file_and_for_a_prefix() {
    let setup = start().await;
    setup.master.put_file("d/a", b"x");
    setup.master.put_file("d/b", b"y");
    let freed = get(&setup, "/api/files/d/a?explain=freed", "").await.json();
    assert_eq!(
        (&freed["name"], &freed["size"], &freed["other_names"]),
        (&"d/a".into(), &1.into(), &1.into())
    );
    assert_eq!(
        (&freed["unique_bytes"], &freed["freed_bytes"]),
        (&1_000.into(), &700.into())
    );
    assert_eq!(
        (&freed["shared_blocks"], &freed["freed_blocks"]),
        (&4.into(), &6.into())
    );
    let usage = get(&setup, "/api/usage?prefix=d/", "").await.json();
    assert_eq!(
        (&usage["files"], &usage["shared_bytes"]),
        (&2.into(), &600.into())
    );
    assert_eq!(get(&setup, "/api/usage", "").await.status, 200);
    for (path, status) in [
        ("/api/files/missing?explain=freed", 404),
        ("/api/files/d/a?explain=cost", 400),
        ("/api/download/d/a?explain=freed", 400),
    ] {
        assert_eq!(get(&setup, path, "").await.status, status, "{path}");
    }
}

#[tokio::test]
async fn a_misspelt_parameter_changes_nothing() {
    let setup = start().await;
    setup.master.put_file("a", b"x");
    for (line, known) in [
        ("PUT /api/files/a?overwirte=true", "overwrite"),
        ("POST /api/files/a:copy?overwrite=true", "none"),
        ("DELETE /api/files/a?force=1", "none"),
        ("GET /api/files?prefx=b", "prefix"),
        ("GET /api/files/a?explian=freed", "explain"),
        ("GET /api/stats?x=1", "none"),
        ("GET /api/cluster?x=1", "none"),
    ] {
        let answer = send(
            setup.addr,
            format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        )
        .await;
        assert_eq!(answer.status, 400, "{line}");
        assert!(
            answer.json()["detail"].as_str().unwrap().contains(known),
            "{line}: {:?}",
            answer.json()
        );
    }
    assert_eq!(get(&setup, "/api/files/a", "").await.status, 200);
}

#[tokio::test]
async fn a_file_is_read_whole_in_part_and_conditionally() {
    let setup = start().await;
    setup.master.put_file("d/a b.txt", b"0123456789");
    let path = "/api/files/d/a%20b.txt";
    let whole = get(&setup, path, "").await;
    assert_eq!(
        (whole.status, whole.body.as_slice()),
        (200, &b"0123456789"[..])
    );
    assert_eq!(whole.header("etag"), Some("\"0123-1\""));
    assert_eq!(whole.header("content-type"), Some("text/plain"));
    assert_eq!(
        whole.header("last-modified"),
        Some("Sun, 06 Nov 1994 08:49:37 GMT")
    );
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));

    let part = get(&setup, path, "Range: bytes=2-4\r\n").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(
        get(&setup, path, "Range: bytes=1-2,4-5\r\n").await.status,
        200
    );
    assert_eq!(
        get(&setup, path, "Range: bytes=2-4\r\nIf-Range: \"old\"\r\n")
            .await
            .status,
        200
    );
    let outside = get(&setup, path, "Range: bytes=10-\r\n").await;
    assert_eq!(
        (outside.status, outside.code().as_str()),
        (416, "range_not_satisfiable")
    );
    assert_eq!(outside.header("content-range"), Some("bytes */10"));

    let same = get(&setup, path, "If-None-Match: \"0123-1\"\r\n").await;
    assert_eq!(
        (same.status, same.header("etag")),
        (304, Some("\"0123-1\""))
    );
    assert_eq!(get(&setup, path, "If-Match: \"x\"\r\n").await.status, 412);

    let head = send(
        setup.addr,
        format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n"),
    )
    .await;
    assert_eq!(
        (head.status, head.header("content-length"), head.body.len()),
        (200, Some("10"), 0)
    );
    let saved = get(&setup, "/api/download/d/a%20b.txt", "").await;
    assert_eq!(
        saved.header("content-disposition"),
        Some("attachment; filename=\"a b.txt\"; filename*=UTF-8''a%20b%2Etxt")
    );
}

#[tokio::test]
async fn a_download_that_is_cut_never_looks_whole() {
    let setup = start().await;
    setup.master.put_file("a", b"0123456789");
    for cut in [3, 5, 9, 10] {
        setup.worker.with(|state| state.cut_after = Some(cut));
        let mut stream = setup::connect(setup.addr).await;
        stream
            .write_all(b"GET /api/files/a HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .unwrap();
        let mut bytes = Vec::new();
        // A reset is as good as an end: what came before it is not the whole.
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(body.len() < 10, "cut after {cut}: {text}");
        assert!(
            text.is_empty() || text.to_ascii_lowercase().contains("content-length: 10\r\n"),
            "{text}"
        );
    }
    setup.worker.with(|state| state.cut_after = Some(0));
    assert_eq!(get(&setup, "/api/files/a", "").await.status, 500);
}

#[tokio::test]
async fn an_empty_file_needs_no_worker() {
    let setup = start().await;
    setup.master.put_file("empty", b"");
    let answer = get(&setup, "/api/files/empty", "").await;
    assert_eq!(
        (answer.status, answer.header("content-length")),
        (200, Some("0"))
    );
    assert_eq!(
        get(&setup, "/api/files/empty", "Range: bytes=0-\r\n")
            .await
            .status,
        416
    );
}

#[tokio::test]
async fn names_are_removed_listed_copied_and_renamed() {
    let setup = start().await;
    setup.master.put_file("a", b"x");
    let list = get(&setup, "/api/files?prefix=a&limit=10", "").await;
    assert_eq!(list.json()["files"][0]["name"].as_str(), Some("a"));
    assert_eq!(get(&setup, "/api/files?limit=0", "").await.status, 400);
    assert_eq!(get(&setup, "/api/files?limit=1001", "").await.status, 400);
    let post = |path: &str, body: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}",
            body.len()
        )
    };
    let copied = send(setup.addr, post("/api/files/a:copy", r#"{"to":"b/c"}"#)).await;
    assert_eq!(
        (copied.status, copied.json()["name"].as_str()),
        (200, Some("b/c"))
    );
    assert_eq!(
        send(
            setup.addr,
            post("/api/files/a:rename", r#"{"to":"b","overwrite":true}"#)
        )
        .await
        .status,
        200
    );
    assert_eq!(
        send(setup.addr, post("/api/files/a:copy", r#"{"to":"../b"}"#))
            .await
            .status,
        400
    );
    assert_eq!(
        send(setup.addr, post("/api/files/a:copy", r#"{"too":"b"}"#))
            .await
            .status,
        400
    );
    let no_verb = send(setup.addr, post("/api/files/a:move", "{}")).await;
    assert_eq!(
        (no_verb.status, no_verb.header("allow")),
        (405, Some("GET, HEAD, PUT, DELETE"))
    );
    let delete = "DELETE /api/files/a HTTP/1.1\r\nHost: x\r\n\r\n";
    assert_eq!(send(setup.addr, delete).await.status, 204);
    assert_eq!(send(setup.addr, delete).await.status, 404);
}

#[tokio::test]
async fn unknown_paths_methods_and_bad_names_have_the_one_error_shape() {
    let setup = start().await;
    let cases = [
        ("GET /nothing", 404, "not_found"),
        ("GET /api/files/", 404, "not_found"),
        ("GET /api/files/missing", 404, "not_found"),
        ("PATCH /api/files/a", 405, "invalid_argument"),
        ("GET /api/upload", 405, "invalid_argument"),
        ("GET /api/files/a//b", 400, "invalid_argument"),
        ("GET /api/files/%2E%2E/a", 400, "invalid_argument"),
        ("GET /api/files/%zz", 400, "invalid_argument"),
        ("PUT /api/files/%00", 400, "invalid_argument"),
    ];
    for (line, status, code) in cases {
        let answer = send(setup.addr, format!("{line} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (status, code),
            "{line}"
        );
        assert_eq!(
            answer.json()["error"]["trace_id"].as_str(),
            answer.header("x-cstore-trace-id"),
            "{line}"
        );
    }
    let stats = get(&setup, "/api/stats", "").await.json();
    assert_eq!(
        (stats["files"].as_u64(), stats["dedup_ratio"].as_f64()),
        (Some(2), Some(3.0))
    );
    assert_eq!(get(&setup, "/api/cluster", "").await.status, 200);
    assert_eq!(get(&setup, "/", "").await.status, 200);
}

#[tokio::test]
async fn i13_without_anonymous_access_everything_under_api_is_refused() {
    let setup = start_with(|config| config.anonymous = false).await;
    for line in [
        "GET /api/files",
        "PUT /api/files/a",
        "DELETE /api/files/a",
        "POST /api/upload",
        "GET /api/stats",
    ] {
        let answer = send(
            setup.addr,
            format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n"),
        )
        .await;
        assert_eq!(
            (answer.status, answer.code().as_str()),
            (401, "unauthenticated"),
            "{line}"
        );
    }
    assert_eq!(get(&setup, "/", "").await.status, 200);
}
