//! The REST surface over real sockets, before a master and a worker that are fakes in this process.

use std::time::Duration;

use cstore_types::ErrorCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::fake::{self, start, start_with};
use crate::http::{self, Answer, send};

async fn put(setup: &fake::Setup, path: &str, headers: &str, body: &str) -> Answer {
    let request =
        format!("PUT {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n{headers}\r\n{body}", body.len());
    send(setup.addr, request).await
}

pub(crate) async fn get(setup: &fake::Setup, path: &str, headers: &str) -> Answer {
    send(setup.addr, format!("GET {path} HTTP/1.1\r\nHost: x\r\n{headers}\r\n")).await
}

async fn post_form(setup: &fake::Setup, query: &str, form: &str) -> Answer {
    let request = format!(
        "POST /api/upload{query} HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XY\r\nContent-Length: {}\r\n\r\n{form}",
        form.len()
    );
    send(setup.addr, request).await
}

fn file_part(filename: &str, content: &str) -> String {
    format!("--XY\r\nContent-Disposition: form-data; name=\"file\"{filename}\r\n\r\n{content}\r\n")
}

#[tokio::test]
async fn a_put_is_answered_201_with_all_fields_and_a_taken_name_409() {
    let setup = start().await;
    let answer = put(&setup, "/api/files/a%20b.txt", "Content-Type: text/plain\r\n", "hello").await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let json = answer.json();
    assert_eq!((json["status"].as_str(), json["file"].as_str()), (Some("success"), Some("a b.txt")));
    for field in ["node", "size", "etag", "blocks", "new_blocks", "new_bytes", "trace_id"] {
        assert!(!json[field].is_null(), "{field} in {json}");
    }
    assert_eq!(answer.header("location"), Some("/api/files/a%20b.txt"));
    assert_eq!(answer.header("etag").unwrap(), format!("\"{}\"", json["etag"].as_str().unwrap()));
    assert_eq!(answer.header("x-cstore-trace-id"), json["trace_id"].as_str());
    assert_eq!(setup.fake.with(|state| state.files["a b.txt"].1.content_type.clone()), "text/plain");

    let taken = put(&setup, "/api/files/a%20b.txt", "", "again").await;
    assert_eq!((taken.status, taken.code().as_str()), (409, "already_exists"));
    let header = put(&setup, "/api/files/a%20b.txt", "If-None-Match: *\r\n", "again").await;
    assert_eq!((header.status, header.code().as_str()), (412, "precondition_failed"));
    assert_eq!(put(&setup, "/api/files/a%20b.txt?overwrite=true", "", "again").await.status, 200);
    let other = put(&setup, "/api/files/a%20b.txt", "If-Match: \"no-1\"\r\n", "again").await;
    assert_eq!(other.status, 412);
}

#[tokio::test]
async fn a_taken_name_is_refused_before_a_large_body_is_sent() {
    let setup = start().await;
    setup.fake.put_file("a", b"x");
    let mut stream = fake::connect(setup.addr).await;
    let head =
        "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = http::read(&mut stream, false).await;
    assert_eq!((answer.status, answer.code().as_str()), (409, "already_exists"));
}

#[tokio::test]
async fn expect_100_continue_is_answered_when_the_body_is_wanted() {
    let setup = start().await;
    let mut stream = fake::connect(setup.addr).await;
    let head =
        "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go = [0; 25];
    stream.read_exact(&mut go).await.unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    assert_eq!(http::read(&mut stream, false).await.status, 201);
    assert_eq!(setup.fake.with(|state| state.files["a"].0.len()), 100_000);
}

#[tokio::test]
async fn a_body_of_unknown_length_is_streamed() {
    let setup = start().await;
    let request = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(send(setup.addr, request).await.status, 201);
    assert_eq!(setup.fake.with(|state| state.files["a"].0.clone()), "abcde");
}

#[tokio::test]
async fn i2_a_body_that_is_cut_off_commits_nothing() {
    let setup = start().await;
    let cuts = [
        "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nabc".to_owned(),
        format!(
            "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n{}",
            "x".repeat(100_000)
        ),
        "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n".to_owned(),
        format!(
            "POST /api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XY\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n",
            file_part("; filename=a", "abc").len(),
            file_part("; filename=a", "abc")
        ),
    ];
    for cut in &cuts {
        let mut stream = fake::connect(setup.addr).await;
        stream.write_all(cut.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(!rest.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&rest));
    }
    let whole = format!("{}--XY\r\n", file_part("; filename=a", "abc"));
    assert_eq!(post_form(&setup, "", &whole).await.status, 400, "a form without its closing delimiter");
    assert_eq!(setup.fake.with(|state| state.commits), 0);
}

#[tokio::test]
async fn a_form_is_stored_under_the_name_of_its_part_or_of_the_query() {
    let setup = start().await;
    let form = format!("{}--XY--\r\n", file_part("; filename=\"a/b.txt\"", "hello"));
    let answer = post_form(&setup, "", &form).await;
    assert_eq!((answer.status, answer.json()["file"].as_str()), (201, Some("a/b.txt")));
    assert_eq!(post_form(&setup, "", &form).await.status, 409);
    assert_eq!(post_form(&setup, "?overwrite=true", &form).await.status, 200);
    let answer = post_form(&setup, "?name=other+name", &form).await;
    assert_eq!(answer.json()["file"].as_str(), Some("other name"));
    assert_eq!(setup.fake.with(|state| state.files["other name"].0.clone()), "hello");
}

#[tokio::test]
async fn hostile_forms_are_refused_and_commit_nothing() {
    let setup = start().await;
    let cases = [
        ("two files", format!("{0}{0}--XY--", file_part("; filename=a", "x")), 400),
        ("no file name", format!("{}--XY--", file_part("", "x")), 400),
        ("no part", "--XY--".to_owned(), 400),
        ("no body", String::new(), 400),
        ("header block too large", format!("--XY\r\nX: {}\r\n\r\n--XY--", "y".repeat(20_000)), 413),
        ("a name that leads out", format!("{}--XY--", file_part("; filename=\"../a\"", "x")), 400),
    ];
    for (case, form, status) in cases {
        assert_eq!(post_form(&setup, "", &form).await.status, status, "{case}");
    }
    let wrong =
        "POST /api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(send(setup.addr, wrong).await.status, 400);
    assert_eq!(setup.fake.with(|state| state.commits), 0);
}

#[tokio::test]
async fn a_full_store_answers_507_while_the_client_still_sends_and_closes() {
    let setup = start().await;
    setup.fake.with(|state| state.full_after = Some(100_000));
    let mut stream = fake::connect(setup.addr).await;
    let head = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1000000000\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let (mut reader, mut writer) = stream.into_split();
    let sending = cstore_node::shutdown::spawn("client", async move {
        while writer.write_all(&[0; 10_000]).await.is_ok() {}
    });
    let mut bytes = vec![0; 12];
    reader.read_exact(&mut bytes).await.unwrap();
    assert_eq!(&bytes, b"HTTP/1.1 507");
    // The connection ends, so that the sender notices too.
    tokio::time::timeout(http::PATIENCE, sending).await.unwrap().unwrap();
    assert_eq!(setup.fake.with(|state| state.commits), 0);
}

#[tokio::test]
async fn i11_a_small_upload_whose_answer_was_lost_succeeds_once() {
    let setup = start().await;
    let lost = || cstore_proto::status(ErrorCode::Unavailable, "gone");
    setup.fake.with(|state| state.lose_answer = Some(lost()));
    assert_eq!(put(&setup, "/api/files/a", "", "x").await.status, 201);
    // A worker that is known to be away is not even tried; one that was tried is given up by an abort first.
    let (commits, aborts) = setup.fake.with(|state| (state.commits, state.aborts));
    assert!(commits == 1 && aborts <= 1, "{commits} commits, {aborts} aborts");
    setup.fake.with(|state| state.refuse_put = Some(lost()));
    assert_eq!(put(&setup, "/api/files/b", "", "x").await.status, 201);
    assert_eq!(setup.fake.with(|state| (state.commits, state.aborts)), (2, 2));
}

/// Another client removes a published file after its answer was lost and before the gateway asks the master. The upload
/// still succeeds, and the body is not stored a second time.
#[tokio::test]
async fn i11_a_small_upload_whose_answer_and_file_are_gone_has_succeeded_and_is_not_stored_again() {
    let setup = start().await;
    setup.fake.with(|state| {
        state.lose_answer = Some(cstore_proto::status(ErrorCode::Unavailable, "gone"));
        state.remove_before_abort = true;
    });
    let answer = put(&setup, "/api/files/a", "", "six by").await;
    assert_eq!(answer.status, 200, "version 3 replaced a file");
    let body = answer.json();
    // MD5 of the MD5s of "six " and "by", which any S3 client would compute for parts of 4 bytes.
    assert_eq!((&body["size"], &body["blocks"]), (&6.into(), &2.into()));
    assert_eq!(body["etag"], "b865fe9ffc5c33ac0294d929411f13e9-2");
    let (commits, aborts, files) = setup.fake.with(|state| (state.commits, state.aborts, state.files.len()));
    assert_eq!((commits, aborts, files), (1, 1, 0));
}

#[tokio::test]
async fn tickets_in_stock_serve_many_small_files() {
    let setup = start().await;
    for name in ["a", "b", "c"] {
        assert_eq!(put(&setup, &format!("/api/files/{name}"), "", "x").await.status, 201);
    }
    assert_eq!(setup.fake.with(|state| (state.begun, state.commits)), (1, 3));
}

#[tokio::test]
async fn digests_travel_to_the_worker() {
    let setup = start().await;
    let headers = "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\nx-cstore-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\r\n";
    assert_eq!(put(&setup, "/api/files/a", headers, "").await.status, 201);
    let header = setup.fake.with(|state| state.last_header.clone()).unwrap();
    assert_eq!((header.expect_md5.len(), header.expect_sha256.len()), (16, 32));
    let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(get(&setup, "/api/files/a", "").await.header("x-cstore-sha256"), Some(sha256));
    let twice = format!("x-cstore-sha256: {sha256}\r\n").repeat(2);
    assert_eq!(put(&setup, "/api/files/b", &twice, "").await.status, 400);
    assert_eq!(put(&setup, "/api/files/b", "Content-MD5: nonsense\r\n", "").await.status, 400);
}

#[tokio::test]
async fn metadata_is_kept_with_the_file_and_given_back_by_get_and_head() {
    let setup = start().await;
    let noted = "X-CStore-Meta-Owner: Ada L.\r\nx-cstore-meta-empty:\r\n";
    assert_eq!(put(&setup, "/api/files/a", noted, "x").await.status, 201);
    for method in ["GET", "HEAD"] {
        let answer = send(setup.addr, format!("{method} /api/files/a HTTP/1.1\r\nHost: x\r\n\r\n")).await;
        assert_eq!(answer.header("x-cstore-meta-owner"), Some("Ada L."), "{method}: {}", answer.head);
        assert!(answer.head.contains("x-cstore-meta-empty:"), "{method}: {}", answer.head);
    }
    let many: String = (0..33).map(|n| format!("x-cstore-meta-k{n}: v\r\n")).collect();
    for (wrong, rule) in [
        (many.as_str(), "at most 32"),
        ("x-cstore-meta-: v\r\n", "1 to 64 characters"),
        ("x-cstore-meta-a: 1\r\nx-cstore-meta-a: 2\r\n", "twice"),
        (&format!("x-cstore-meta-a: {}\r\n", "v".repeat(1_025)), "1024"),
        ("Content-Range: bytes 0-0/2\r\n", "in part"),
        ("Content-Encoding: gzip\r\n", "content-encoding"),
        ("If-Unmodified-Since: Sun, 06 Nov 1994 08:49:37 GMT\r\n", "If-Match"),
    ] {
        let answer = put(&setup, "/api/files/b", wrong, "x").await;
        assert_eq!(answer.status, 400, "{wrong}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(rule), "{:?}", answer.json());
    }
    assert_eq!(setup.fake.with(|state| state.commits), 1);
}

#[tokio::test]
async fn what_a_removal_would_free_is_told_for_a_file_and_for_a_prefix() {
    let setup = start().await;
    setup.fake.put_file("d/a", b"x");
    setup.fake.put_file("d/b", b"y");
    let freed = get(&setup, "/api/files/d/a?explain=freed", "").await.json();
    assert_eq!(
        (&freed["name"], &freed["size"], &freed["other_names"]),
        (&"d/a".into(), &1.into(), &1.into())
    );
    assert_eq!((&freed["unique_bytes"], &freed["freed_bytes"]), (&1_000.into(), &700.into()));
    assert_eq!((&freed["shared_blocks"], &freed["freed_blocks"]), (&4.into(), &6.into()));
    let usage = get(&setup, "/api/usage?prefix=d/", "").await.json();
    assert_eq!((&usage["files"], &usage["shared_bytes"]), (&2.into(), &600.into()));
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
    setup.fake.put_file("a", b"x");
    for (line, known) in [
        ("PUT /api/files/a?overwirte=true", "overwrite"),
        ("POST /api/files/a:copy?overwrite=true", "none"),
        ("DELETE /api/files/a?force=1", "none"),
        ("GET /api/files?prefx=b", "prefix"),
        ("GET /api/files/a?explian=freed", "explain"),
        ("GET /api/stats?x=1", "none"),
        ("GET /api/cluster?x=1", "none"),
    ] {
        let answer =
            send(setup.addr, format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!(answer.status, 400, "{line}");
        assert!(answer.json()["detail"].as_str().unwrap().contains(known), "{line}: {:?}", answer.json());
    }
    assert_eq!(get(&setup, "/api/files/a", "").await.status, 200);
}

#[tokio::test]
async fn a_file_is_read_whole_in_part_and_conditionally() {
    let setup = start().await;
    setup.fake.put_file("d/a b.txt", b"0123456789");
    let path = "/api/files/d/a%20b.txt";
    let whole = get(&setup, path, "").await;
    assert_eq!((whole.status, whole.body.as_slice()), (200, &b"0123456789"[..]));
    assert_eq!(whole.header("etag"), Some("\"0123-1\""));
    assert_eq!(whole.header("content-type"), Some("text/plain"));
    assert_eq!(whole.header("last-modified"), Some("Sun, 06 Nov 1994 08:49:37 GMT"));
    assert_eq!(whole.header("accept-ranges"), Some("bytes"));

    let part = get(&setup, path, "Range: bytes=2-4\r\n").await;
    assert_eq!((part.status, part.body.as_slice()), (206, &b"234"[..]));
    assert_eq!(part.header("content-range"), Some("bytes 2-4/10"));
    assert_eq!(get(&setup, path, "Range: bytes=1-2,4-5\r\n").await.status, 200);
    assert_eq!(get(&setup, path, "Range: bytes=2-4\r\nIf-Range: \"old\"\r\n").await.status, 200);
    let outside = get(&setup, path, "Range: bytes=10-\r\n").await;
    assert_eq!((outside.status, outside.code().as_str()), (416, "range_not_satisfiable"));
    assert_eq!(outside.header("content-range"), Some("bytes */10"));

    let same = get(&setup, path, "If-None-Match: \"0123-1\"\r\n").await;
    assert_eq!((same.status, same.header("etag")), (304, Some("\"0123-1\"")));
    assert_eq!(get(&setup, path, "If-Match: \"x\"\r\n").await.status, 412);

    let head = send(setup.addr, format!("HEAD {path} HTTP/1.1\r\nHost: x\r\n\r\n")).await;
    assert_eq!((head.status, head.header("content-length"), head.body.len()), (200, Some("10"), 0));
    let saved = get(&setup, "/api/download/d/a%20b.txt", "").await;
    assert_eq!(saved.header("content-disposition"), Some("attachment; filename*=UTF-8''a%20b%2Etxt"));
}

#[tokio::test]
async fn a_download_that_is_cut_never_looks_whole() {
    let setup = start().await;
    setup.fake.put_file("a", b"0123456789");
    for cut in [3, 5, 9, 10] {
        setup.fake.with(|state| state.cut_after = Some(cut));
        let mut stream = fake::connect(setup.addr).await;
        stream.write_all(b"GET /api/files/a HTTP/1.1\r\nHost: x\r\n\r\n").await.unwrap();
        let mut bytes = Vec::new();
        // A reset is as good as an end: what came before it is not the whole.
        let _ = stream.read_to_end(&mut bytes).await;
        let text = String::from_utf8(bytes).unwrap();
        let body = text.split_once("\r\n\r\n").map_or("", |(_, body)| body);
        assert!(body.len() < 10, "cut after {cut}: {text}");
        assert!(text.is_empty() || text.to_ascii_lowercase().contains("content-length: 10\r\n"), "{text}");
    }
    setup.fake.with(|state| state.cut_after = Some(0));
    assert_eq!(get(&setup, "/api/files/a", "").await.status, 500);
}

#[tokio::test]
async fn an_empty_file_needs_no_worker() {
    let setup = start().await;
    setup.fake.put_file("empty", b"");
    let answer = get(&setup, "/api/files/empty", "").await;
    assert_eq!((answer.status, answer.header("content-length")), (200, Some("0")));
    assert_eq!(get(&setup, "/api/files/empty", "Range: bytes=0-\r\n").await.status, 416);
}

#[tokio::test]
async fn names_are_removed_listed_copied_and_renamed() {
    let setup = start().await;
    setup.fake.put_file("a", b"x");
    let list = get(&setup, "/api/files?prefix=a&limit=10", "").await;
    assert_eq!(list.json()["files"][0]["name"].as_str(), Some("a"));
    assert_eq!(get(&setup, "/api/files?limit=0", "").await.status, 400);
    assert_eq!(get(&setup, "/api/files?limit=1001", "").await.status, 400);
    let post = |path: &str, body: &str| {
        format!("POST {path} HTTP/1.1\r\nHost: x\r\nContent-Length: {}\r\n\r\n{body}", body.len())
    };
    let copied = send(setup.addr, post("/api/files/a:copy", r#"{"to":"b/c"}"#)).await;
    assert_eq!((copied.status, copied.json()["name"].as_str()), (200, Some("b/c")));
    assert_eq!(
        send(setup.addr, post("/api/files/a:rename", r#"{"to":"b","overwrite":true}"#)).await.status,
        200
    );
    assert_eq!(send(setup.addr, post("/api/files/a:copy", r#"{"to":"../b"}"#)).await.status, 400);
    assert_eq!(send(setup.addr, post("/api/files/a:copy", r#"{"too":"b"}"#)).await.status, 400);
    let no_verb = send(setup.addr, post("/api/files/a:move", "{}")).await;
    assert_eq!((no_verb.status, no_verb.header("allow")), (405, Some("GET, HEAD, PUT, DELETE")));
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
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{line}");
        assert_eq!(answer.json()["error"]["trace_id"].as_str(), answer.header("x-cstore-trace-id"), "{line}");
    }
    let stats = get(&setup, "/api/stats", "").await.json();
    assert_eq!((stats["files"].as_u64(), stats["dedup_ratio"].as_f64()), (Some(2), Some(3.0)));
    assert_eq!(get(&setup, "/api/cluster", "").await.status, 200);
    assert_eq!(get(&setup, "/", "").await.status, 200);
}

#[tokio::test]
async fn i13_without_anonymous_access_everything_under_api_is_refused() {
    let setup = start_with(|config| config.anonymous = false).await;
    for line in
        ["GET /api/files", "PUT /api/files/a", "DELETE /api/files/a", "POST /api/upload", "GET /api/stats"]
    {
        let answer =
            send(setup.addr, format!("{line} HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n")).await;
        assert_eq!((answer.status, answer.code().as_str()), (401, "unauthenticated"), "{line}");
    }
    assert_eq!(get(&setup, "/", "").await.status, 200);
}

#[tokio::test]
async fn a_worker_that_is_gone_costs_no_upload_and_no_download() {
    let setup = start().await;
    setup.fake.with(|state| state.dead_ticket = true);
    assert_eq!(put(&setup, "/api/files/large", "", &"x".repeat(100_000)).await.status, 201);
    // A worker that is known to be away is not even tried; one that was tried is given up by an abort first.
    let (commits, aborts) = setup.fake.with(|state| (state.commits, state.aborts));
    assert!(commits == 1 && aborts <= 1, "{commits} commits, {aborts} aborts");
    setup.fake.with(|state| state.dead_ticket = true);
    assert_eq!(put(&setup, "/api/files/small", "", "x").await.status, 201);
    // Workers take turns, and one of the two that the master calls ready is gone.
    for _ in 0..4 {
        assert_eq!(get(&setup, "/api/files/large", "").await.body.len(), 100_000);
    }
}

#[tokio::test]
async fn clients_that_send_nothing_or_half_a_head_are_let_go() {
    let setup = start_with(|config| config.header_timeout = Duration::from_millis(200)).await;
    for sent in ["", "PRI * HTTP", "GET / HTTP/1.1\r\nHost: x"] {
        let mut stream = fake::connect(setup.addr).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let ended = tokio::time::timeout(http::PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "after {sent:?}");
    }
}

#[tokio::test]
async fn a_body_without_progress_is_given_up_and_commits_nothing() {
    let setup = start_with(|config| config.idle_timeout = Duration::from_millis(200)).await;
    for length in [10, 100_000] {
        let request = format!("PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nabc");
        let answer = send(setup.addr, request).await;
        assert_eq!((answer.status, answer.header("connection")), (400, Some("close")), "of {length}");
    }
    assert_eq!(setup.fake.with(|state| state.commits), 0);
}

#[tokio::test]
async fn heads_are_bounded() {
    let setup = start().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20));
    let many = format!("GET / HTTP/1.1\r\nHost: x\r\n{}\r\n", "A: b\r\n".repeat(500));
    for request in [long, many] {
        let mut stream = fake::connect(setup.addr).await;
        // The gateway may hang up before it has all of it.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        assert!(!bytes.starts_with(b"HTTP/1.1 2"), "{}", String::from_utf8_lossy(&bytes));
    }
}

#[tokio::test]
async fn a_stop_lets_the_running_upload_end() {
    let setup = start().await;
    let mut stream = fake::connect(setup.addr).await;
    let head =
        "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go = [0; 25];
    stream.read_exact(&mut go).await.unwrap();
    let fakes = setup.shutdown;
    // The fakes share the shutdown and drain as well, so the upload must pass through both.
    fakes.trigger();
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    assert_eq!(http::read(&mut stream, false).await.status, 201);
    setup.done.await.unwrap().unwrap();
}
