//! An answer always arrives: clients that send everything before they read still see why they were
//! refused (RFC 9112 §9.6).

use cstore_testkit::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http;
use crate::setup::{self, Setup, connect, start, start_with};

/// More than the buffers of both sockets hold.
const LARGE: usize = 20_000_000;

/// Sends `head` and `length` bytes without reading, as Python's http.client does, then reads the
/// answer up to the end of the connection. Returns its status.
async fn send_all_then_read(stream: TcpStream, head: &str, length: usize) -> u16 {
    let (mut reader, mut writer) = stream.into_split();
    let exchange = async {
        writer.write_all(head.as_bytes()).await.unwrap();
        let piece = vec![b'x'; 100_000];
        for _ in 0..length / piece.len() {
            writer.write_all(&piece).await.unwrap();
        }
        let mut answer = Vec::new();
        reader.read_to_end(&mut answer).await.unwrap();
        answer
    };
    let answer = tokio::time::timeout(PATIENCE, exchange)
        .await
        .expect("an answer comes in time");
    let status = std::str::from_utf8(&answer[9..12]).unwrap();
    status.parse().unwrap()
}

async fn status_of(setup: &Setup, head: &str, length: usize) -> u16 {
    send_all_then_read(connect(setup.addr).await, head, length).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_body_is_answered_however_much_of_it_comes() {
    let setup = start().await;
    setup.master.put_file("taken", b"x");
    let length = format!("Content-Length: {LARGE}");
    for (request, headers, status) in [
        ("PUT /api/files/taken", length.as_str(), 409),
        ("PUT /api/files/a//b", &length, 400),
        ("PUT /api/files/a?overwirte=1", &length, 400),
        ("PUT /nowhere", &length, 404),
        ("POST /api/files/taken", &length, 405),
        ("POST /api/files/taken:copy", &length, 413),
        ("POST /api/upload", &length, 400),
        (
            "PUT /api/files/b",
            "Content-Length: 20000000\r\nIf-Match: no",
            400,
        ),
        // A request that has no use for a body.
        ("GET /api/files/taken", &length, 200),
        ("HEAD /api/files/taken", &length, 200),
        ("DELETE /api/files/none", &length, 404),
        ("OPTIONS /api/files", &length, 405),
    ] {
        let head = format!("{request} HTTP/1.1\r\nHost: x\r\n{headers}\r\n\r\n");
        assert_eq!(status_of(&setup, &head, LARGE).await, status, "{request}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_store_that_fills_in_the_middle_of_a_body_answers_507() {
    let setup = start().await;
    setup.worker.with(|state| state.full_after = Some(100_000));
    let head = format!("PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGE}\r\n\r\n");
    assert_eq!(status_of(&setup, &head, LARGE).await, 507);
    assert_eq!(setup.master.n_commits(), 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_head_is_answered_although_a_body_follows() {
    let setup = start().await;
    let long = "x".repeat(400_000);
    for (head, status) in [
        ("PUT /api/files/a HTTP/1.1\r\nHost : x\r\n\r\n".to_owned(), 400),
        (format!("GET /{long} HTTP/1.1\r\nHost: x\r\n\r\n"), 431),
        (
            "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\n"
                .to_owned(),
            400,
        ),
    ] {
        let found = status_of(&setup, &head, LARGE).await;
        assert_eq!(found, status, "{head:.60}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_beyond_the_share_of_its_address_reads_503() {
    let setup = start_with(|config| config.max_connections_per_address = 1).await;
    // A request that never ends keeps the only connection busy. It runs once 100 Continue comes.
    let mut busy = connect(setup.addr).await;
    let head = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n";
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut go_on = [0; 25];
    busy.read_exact(&mut go_on).await.unwrap();
    let head = format!("PUT /api/files/b HTTP/1.1\r\nHost: x\r\nContent-Length: {LARGE}\r\n\r\n");
    assert_eq!(status_of(&setup, &head, LARGE).await, 503);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_short_body_without_a_use_keeps_the_connection() {
    let setup = start().await;
    setup.master.put_file("a", b"x");
    let mut stream = setup::connect(setup.addr).await;
    for _ in 0..3 {
        let head = "GET /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 2\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.flush().await.unwrap();
        stream.write_all(b"{}").await.unwrap();
        assert_eq!(http::read(&mut stream, false).await.status, 200);
    }
}

/// Heads of 100 headers of 320 bytes fit, and one byte more than the bound does not.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_bound_of_a_head_is_the_same_whatever_follows_it() {
    const BOUND: usize = 32 << 10;

    let setup = start().await;
    let head_of = |length: usize| {
        let head = "PUT /api/files/a?overwrite=true HTTP/1.1\r\nHost: x\r\nConnection: close\r\nContent-Length: 100000\r\n";
        let mut head = head.to_owned();
        // Headers of 1 KiB each, then one that fills up.
        while head.len() + 1_100 < length {
            head.push_str(&format!("x-fill: {}\r\n", "x".repeat(1_014)));
        }
        let rest = length - head.len() - "x-fill: \r\n\r\n".len();
        head.push_str(&format!("x-fill: {}\r\n\r\n", "x".repeat(rest)));
        assert_eq!(head.len(), length);
        head
    };
    for (length, status) in [(BOUND, 201), (BOUND - 1, 200), (BOUND + 1, 431)] {
        let found = status_of(&setup, &head_of(length), 100_000).await;
        assert_eq!(found, status, "a head of {length} bytes");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_address_leaves_half_of_the_places_to_others() {
    let setup = start_with(|config| {
        config.max_connections = 8;
        config.max_connections_per_address = 7;
    })
    .await;
    let head = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 100000\r\nExpect: 100-continue\r\n\r\n";
    let mut busy = Vec::new();
    for _ in 0..4 {
        let mut stream = connect(setup.addr).await;
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut go_on = [0; 25];
        stream.read_exact(&mut go_on).await.unwrap();
        busy.push(stream);
    }
    let mut stream = connect(setup.addr).await;
    stream.write_all(head.as_bytes()).await.unwrap();
    let answer = http::read(&mut stream, false).await;
    assert_eq!(
        (answer.status, answer.code().as_str()),
        (429, "rate_limited")
    );
    assert_eq!(answer.header("retry-after"), Some("1"));

    // Another address has places.
    let socket = tokio::net::TcpSocket::new_v4().unwrap();
    socket.bind("127.0.0.2:0".parse().unwrap()).unwrap();
    let mut other = socket.connect(setup.addr).await.unwrap();
    let request = "GET /api/stats HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n";
    other.write_all(request.as_bytes()).await.unwrap();
    assert_eq!(http::read(&mut other, false).await.status, 200);

    // The place of a request that ends is free again.
    drop(busy.pop());
    let again = async {
        loop {
            let answer = http::send(setup.addr, request).await;
            if answer.status == 200 {
                return;
            }
        }
    };
    tokio::time::timeout(PATIENCE, again)
        .await
        .expect("a place is free");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_heads_of_a_kept_connection_are_counted_one_by_one() {
    let setup = start().await;
    setup.master.put_file("a", b"x");
    let mut stream = connect(setup.addr).await;
    let fill = "x".repeat(1_000);
    for n in 0..100 {
        let head = format!("GET /api/files/a HTTP/1.1\r\nHost: x\r\nx-fill: {fill}\r\n\r\n");
        stream.write_all(head.as_bytes()).await.unwrap();
        assert_eq!(
            http::read(&mut stream, false).await.status,
            200,
            "request {n}"
        );
    }
    // Nor do bodies count.
    for n in 0..5 {
        let head =
            "PUT /api/files/b?overwrite=true HTTP/1.1\r\nHost: x\r\nContent-Length: 300000\r\n\r\n";
        stream.write_all(head.as_bytes()).await.unwrap();
        stream.write_all(&vec![n; 300_000]).await.unwrap();
        let status = http::read(&mut stream, false).await.status;
        assert!(matches!(status, 200 | 201), "{status}");
    }
}
