//! Endurance of the gateway: clients that send nothing, too much or too slowly, workers that are
//! gone, and a stop.

use std::time::Duration;

use cstore_proto::v1;
use cstore_testkit::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::http;
use crate::http::send;
use crate::rest::{get, put};
use crate::setup;
use crate::setup::{start, start_with};

#[tokio::test]
async fn a_worker_that_is_gone_costs_no_upload_and_no_download() {
    let setup = start().await;
    setup.make_next_ticket_dead();
    assert_eq!(
        put(&setup, "/api/files/large", "", &"x".repeat(100_000))
            .await
            .status,
        201
    );
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
    setup.make_next_ticket_dead();
    assert_eq!(put(&setup, "/api/files/small", "", "x").await.status, 201);
    // Workers take turns, and one of the two that the master calls ready is gone.
    for _ in 0..4 {
        assert_eq!(
            get(&setup, "/api/files/large", "").await.body.len(),
            100_000
        );
    }
}

#[tokio::test]
async fn clients_that_send_nothing_or_half_a_head_are_let_go() {
    let setup = start_with(|config| config.header_timeout = Duration::from_millis(200)).await;
    for sent in ["", "PRI * HTTP", "GET / HTTP/1.1\r\nHost: x"] {
        let mut stream = setup::connect(setup.addr).await;
        stream.write_all(sent.as_bytes()).await.unwrap();
        let ended = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut Vec::new())).await;
        assert!(ended.is_ok(), "after {sent:?}");
    }
}

#[tokio::test]
async fn a_body_without_progress_is_given_up_and_commits_nothing() {
    let setup = start_with(|config| config.idle_timeout = Duration::from_millis(200)).await;
    for length in [10, 100_000] {
        let request =
            format!("PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: {length}\r\n\r\nabc");
        let answer = send(setup.addr, request).await;
        assert_eq!(
            (answer.status, answer.header("connection")),
            (400, Some("close")),
            "of {length}"
        );
    }
    assert_eq!(setup.master.n_commits(), 0);
}

#[tokio::test]
async fn heads_are_bounded() {
    let setup = start().await;
    let long = format!("GET /{} HTTP/1.1\r\nHost: x\r\n\r\n", "x".repeat(1 << 20));
    let many = format!(
        "GET / HTTP/1.1\r\nHost: x\r\n{}\r\n",
        "A: b\r\n".repeat(500)
    );
    for request in [long, many] {
        let mut stream = setup::connect(setup.addr).await;
        // The gateway may hang up before it has all of it.
        let _ = stream.write_all(request.as_bytes()).await;
        let mut bytes = Vec::new();
        let _ = stream.read_to_end(&mut bytes).await;
        assert!(
            !bytes.starts_with(b"HTTP/1.1 2"),
            "{}",
            String::from_utf8_lossy(&bytes)
        );
    }
}

#[tokio::test]
async fn a_stop_lets_the_running_upload_end() {
    let setup = start().await;
    let mut stream = setup::connect(setup.addr).await;
    let head = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n";
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
