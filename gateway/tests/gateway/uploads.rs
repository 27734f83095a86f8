//! Uploads over real sockets, before a master and a worker that are fakes in this process.

use cstore_proto::v1;
use cstore_testkit::fake::Reply;
use cstore_types::ErrorCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http;
use crate::http::{Answer, send};
use crate::rest::{get, put};
use crate::setup;
use crate::setup::start;

async fn post_form(setup: &setup::Setup, query: &str, form: &str) -> Answer {
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
    let answer = put(
        &setup,
        "/api/files/a%20b.txt",
        "Content-Type: text/plain\r\n",
        "hello",
    )
    .await;
    assert_eq!(answer.status, 201, "{answer:?}");
    let json = answer.json();
    assert_eq!(
        (json["status"].as_str(), json["file"].as_str()),
        (Some("success"), Some("a b.txt"))
    );
    for field in [
        "node",
        "size",
        "etag",
        "blocks",
        "new_blocks",
        "new_bytes",
        "trace_id",
    ] {
        assert!(!json[field].is_null(), "{field} in {json}");
    }
    assert_eq!(answer.header("location"), Some("/api/files/a%20b.txt"));
    assert_eq!(
        answer.header("etag").unwrap(),
        format!("\"{}\"", json["etag"].as_str().unwrap())
    );
    assert_eq!(
        answer.header("x-cstore-trace-id"),
        json["trace_id"].as_str()
    );
    assert_eq!(
        setup
            .master
            .with(|state| state.files["a b.txt"].1.content_type.clone()),
        "text/plain"
    );

    let taken = put(&setup, "/api/files/a%20b.txt", "", "again").await;
    assert_eq!(
        (taken.status, taken.code().as_str()),
        (409, "already_exists")
    );
    let header = put(
        &setup,
        "/api/files/a%20b.txt",
        "If-None-Match: *\r\n",
        "again",
    )
    .await;
    assert_eq!(
        (header.status, header.code().as_str()),
        (412, "precondition_failed")
    );
    assert_eq!(
        put(&setup, "/api/files/a%20b.txt?overwrite=true", "", "again")
            .await
            .status,
        200
    );
    let other = put(
        &setup,
        "/api/files/a%20b.txt",
        "If-Match: \"no-1\"\r\n",
        "again",
    )
    .await;
    assert_eq!(other.status, 412);
}

#[tokio::test]
async fn a_taken_name_is_refused_before_a_large_body_is_sent() {
    let setup = start().await;
    setup.master.put_file("a", b"x");
    let mut stream = setup::connect(setup.addr).await;
    let head = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = http::read(&mut stream, false).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (409, "already_exists")
    );
}

#[tokio::test]
async fn expect_100_continue_is_answered_when_the_body_is_wanted() {
    let setup = start().await;
    let mut stream = setup::connect(setup.addr).await;
    let head = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n";
    stream.write_all(head.as_bytes()).await.unwrap();
    let mut go = [0; 25];
    stream.read_exact(&mut go).await.unwrap();
    assert_eq!(&go, b"HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(&[b'x'; 100_000]).await.unwrap();
    assert_eq!(http::read(&mut stream, false).await.status, 201);
    assert_eq!(setup.master.with(|state| state.files["a"].0.len()), 100_000);
}

#[tokio::test]
async fn a_body_of_unknown_length_is_streamed() {
    let setup = start().await;
    let request = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n";
    assert_eq!(send(setup.addr, request).await.status, 201);
    assert_eq!(
        setup.master.with(|state| state.files["a"].0.clone()),
        "abcde"
    );
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
        "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n"
            .to_owned(),
        format!(
            "POST /api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: multipart/form-data; boundary=XY\r\nTransfer-Encoding: chunked\r\n\r\n{:x}\r\n{}\r\n",
            file_part("; filename=a", "abc").len(),
            file_part("; filename=a", "abc")
        ),
    ];
    for cut in &cuts {
        let mut stream = setup::connect(setup.addr).await;
        stream.write_all(cut.as_bytes()).await.unwrap();
        stream.shutdown().await.unwrap();
        let mut rest = Vec::new();
        stream.read_to_end(&mut rest).await.unwrap();
        assert!(
            !rest.starts_with(b"HTTP/1.1 2"),
            "{}",
            String::from_utf8_lossy(&rest)
        );
    }
    let whole = format!("{}--XY\r\n", file_part("; filename=a", "abc"));
    assert_eq!(
        post_form(&setup, "", &whole).await.status,
        400,
        "a form without its closing delimiter"
    );
    assert_eq!(setup.master.n_commits(), 0);
}

#[tokio::test]
async fn a_form_is_stored_under_the_name_of_its_part_or_of_the_query() {
    let setup = start().await;
    let form = format!("{}--XY--\r\n", file_part("; filename=\"a/b.txt\"", "hello"));
    let answer = post_form(&setup, "", &form).await;
    assert_eq!(
        (answer.status, answer.json()["file"].as_str()),
        (201, Some("a/b.txt"))
    );
    assert_eq!(post_form(&setup, "", &form).await.status, 409);
    assert_eq!(
        post_form(&setup, "?overwrite=true", &form).await.status,
        200
    );
    let answer = post_form(&setup, "?name=other+name", &form).await;
    assert_eq!(answer.json()["file"].as_str(), Some("other name"));
    assert_eq!(
        setup
            .master
            .with(|state| state.files["other name"].0.clone()),
        "hello"
    );
}

#[tokio::test]
async fn hostile_forms_are_refused_and_commit_nothing() {
    let setup = start().await;
    let cases = [
        (
            "two files",
            format!("{0}{0}--XY--", file_part("; filename=a", "x")),
            400,
        ),
        ("no file name", format!("{}--XY--", file_part("", "x")), 400),
        ("no part", "--XY--".to_owned(), 400),
        ("no body", String::new(), 400),
        (
            "header block too large",
            format!("--XY\r\nX: {}\r\n\r\n--XY--", "y".repeat(20_000)),
            413,
        ),
        (
            "a name that leads out",
            format!("{}--XY--", file_part("; filename=\"../a\"", "x")),
            400,
        ),
    ];
    for (case, form, status) in cases {
        assert_eq!(post_form(&setup, "", &form).await.status, status, "{case}");
    }
    let wrong = "POST /api/upload HTTP/1.1\r\nHost: x\r\nContent-Type: text/plain\r\nContent-Length: 1\r\n\r\nx";
    assert_eq!(send(setup.addr, wrong).await.status, 400);
    assert_eq!(setup.master.n_commits(), 0);
}

#[tokio::test]
async fn i11_a_small_upload_whose_answer_was_lost_succeeds_once() {
    let setup = start().await;
    let lost = || cstore_proto::status(ErrorCode::Unavailable, "gone");
    setup.worker.reply_next(Reply::Lose(lost()));
    assert_eq!(put(&setup, "/api/files/a", "", "x").await.status, 201);
    // A worker that is known to be away is not even tried; one that was tried is given up by an
    // abort first.
    let (commits, aborts) = (
        setup.master.n_commits(),
        setup.master.count::<v1::AbortUploadRequest>(),
    );
    assert!(
        commits == 1 && aborts <= 1,
        "{commits} commits, {aborts} aborts"
    );
    setup.worker.reply_next(Reply::Refuse(lost()));
    assert_eq!(put(&setup, "/api/files/b", "", "x").await.status, 201);
    assert_eq!(
        (
            setup.master.n_commits(),
            setup.master.count::<v1::AbortUploadRequest>()
        ),
        (2, 2)
    );
}

/// Another client removes a published file after its answer was lost and before the gateway asks
/// the master. The upload still succeeds, and the body is not stored a second time.
#[tokio::test]
async fn i11_a_small_upload_whose_answer_and_file_are_gone_has_succeeded_and_is_not_stored_again() {
    let setup = start().await;
    let lost = cstore_proto::status(ErrorCode::Unavailable, "gone");
    setup.worker.reply_next(Reply::Lose(lost));
    setup.master.with(|state| state.remove_before_abort = true);
    let answer = put(&setup, "/api/files/a", "", "six by").await;
    assert_eq!(answer.status, 200, "version 3 replaced a file");
    let body = answer.json();
    // MD5 of the MD5s of "six " and "by", which any S3 client would compute for parts of 4 bytes.
    assert_eq!((&body["size"], &body["blocks"]), (&6.into(), &2.into()));
    assert_eq!(body["etag"], "b865fe9ffc5c33ac0294d929411f13e9-2");
    let (commits, aborts, files) = (
        setup.master.n_commits(),
        setup.master.count::<v1::AbortUploadRequest>(),
        setup.master.with(|state| state.files.len()),
    );
    assert_eq!((commits, aborts, files), (1, 1, 0));
}

#[tokio::test]
async fn tickets_in_stock_serve_many_small_files() {
    let setup = start().await;
    for name in ["a", "b", "c"] {
        assert_eq!(
            put(&setup, &format!("/api/files/{name}"), "", "x")
                .await
                .status,
            201
        );
    }
    assert_eq!(
        (
            setup.master.count::<v1::BeginUploadRequest>(),
            setup.master.n_commits()
        ),
        (1, 3)
    );
}

#[tokio::test]
async fn digests_travel_to_the_worker() {
    let setup = start().await;
    let headers = "Content-MD5: 1B2M2Y8AsgTpgAmY7PhCfg==\r\nx-cstore-sha256: e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855\r\n";
    assert_eq!(put(&setup, "/api/files/a", headers, "").await.status, 201);
    let header = setup
        .worker
        .with(|state| state.last_header.clone())
        .unwrap();
    assert_eq!(
        (header.expect_md5.len(), header.expect_sha256.len()),
        (16, 32)
    );
    let sha256 = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
    assert_eq!(
        get(&setup, "/api/files/a", "")
            .await
            .header("x-cstore-sha256"),
        Some(sha256)
    );
    let twice = format!("x-cstore-sha256: {sha256}\r\n").repeat(2);
    assert_eq!(put(&setup, "/api/files/b", &twice, "").await.status, 400);
    assert_eq!(
        put(&setup, "/api/files/b", "Content-MD5: nonsense\r\n", "")
            .await
            .status,
        400
    );
}
