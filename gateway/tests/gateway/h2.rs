//! Clients that speak HTTP/2 and mean harm: uploads that break off, answers that nobody takes.

use std::time::Duration;

use ::http::Request;
use bytes::Bytes;
use cstore_testkit::PATIENCE;
use h2::Reason;
use h2::client::SendRequest;
use tokio::time::timeout;

use crate::http;
use crate::setup::{Setup, connect, start, start_with};

/// A connection whose streams may be sent so many bytes each without being asked for more.
async fn client(setup: &Setup, window: u32) -> SendRequest<Bytes> {
    let stream = connect(setup.addr).await;
    let mut builder = h2::client::Builder::new();
    let (sender, connection) = builder
        .initial_window_size(window)
        .handshake::<_, Bytes>(stream)
        .await
        .unwrap();
    drop(cstore_node::shutdown::spawn("connection", async move {
        let _ = connection.await;
    }));
    sender.ready().await.unwrap()
}

fn put(setup: &Setup, name: &str, length: Option<usize>) -> Request<()> {
    let mut request = Request::put(format!(
        "http://{}/api/files/{name}?overwrite=true",
        setup.addr
    ));
    if let Some(length) = length {
        request = request.header("content-length", length);
    }
    request.body(()).unwrap()
}

/// Until the worker has got something of an upload.
async fn begun(setup: &Setup) {
    while setup
        .worker
        .with(|state| std::mem::take(&mut state.received))
        == 0
    {
        tokio::task::yield_now().await;
    }
}

/// A reset without an error looks like the end of the body to some, and is none.
#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
async fn i2_an_upload_that_is_reset_is_never_a_file_whatever_the_reason_says() {
    let setup = start().await;
    let mut sender = client(&setup, 65_535).await;
    let mut broken = 0;
    for reason in [Reason::NO_ERROR, Reason::CANCEL, Reason::INTERNAL_ERROR] {
        for (announced, sent) in [
            (Some(600_000), 700),
            (Some(600_000), 100_000),
            (None, 100_000),
        ] {
            for _ in 0..10 {
                let request = put(&setup, "cut", announced);
                sender = sender.ready().await.unwrap();
                let (response, mut body) = sender.send_request(request, false).unwrap();
                body.send_data(Bytes::from(vec![7; sent]), false).unwrap();
                // The gateway has begun to read it, and waits for more.
                timeout(PATIENCE, begun(&setup))
                    .await
                    .expect("the upload reaches the worker");
                body.send_reset(reason);
                broken += 1;
                let _ = timeout(PATIENCE, response).await.expect("the stream ends");
            }
        }
    }
    // The last of them has been judged when this one, behind it, has been stored.
    let (response, mut body) = sender
        .send_request(put(&setup, "whole", None), false)
        .unwrap();
    body.send_data(Bytes::from_static(b"all of it"), true)
        .unwrap();
    assert_eq!(
        timeout(PATIENCE, response).await.unwrap().unwrap().status(),
        201
    );
    let names = setup
        .master
        .with(|state| state.files.keys().cloned().collect::<Vec<_>>());
    assert_eq!(names, ["whole"], "{broken} uploads were cut off");
}

#[tokio::test]
async fn i10_an_answer_that_nobody_takes_is_given_up_though_its_client_answers_pings() {
    let setup = start_with(|config| {
        config.idle_timeout = Duration::from_millis(300);
        config.max_connections = 2;
    })
    .await;
    setup.master.put_file("large", &[7; 1_000]);
    let mut closed = client(&setup, 0).await;
    let mut slow = client(&setup, 100).await;
    for sender in [&mut closed, &mut slow] {
        let request = Request::get(format!("http://{}/api/files/large", setup.addr))
            .body(())
            .unwrap();
        let (response, _) = sender.send_request(request, true).unwrap();
        let mut body = timeout(PATIENCE, response)
            .await
            .unwrap()
            .unwrap()
            .into_body();
        // Taken, and not given back to the window.
        let mut taken = Vec::new();
        let end = async {
            loop {
                match body.data().await {
                    Some(Ok(bytes)) => taken.push(bytes.len()),
                    Some(Err(error)) => return error,
                    None => panic!("a part of the file ended as if it were all of it"),
                }
            }
        };
        let error = timeout(PATIENCE, end).await.expect("the stream is reset");
        assert_eq!(error.reason(), Some(Reason::CANCEL), "{error} {taken:?}");
    }
    // The connections are free for others again.
    let answer = http::send(
        setup.addr,
        "HEAD /api/files/large HTTP/1.1\r\nHost: x\r\n\r\n",
    );
    assert_eq!(timeout(PATIENCE, answer).await.unwrap().status, 200);
}
