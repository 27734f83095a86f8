//! Clients that mean harm, as bytes on sockets: what is refused, what is bounded, and who is not
//! disturbed by it.

use std::time::Duration;

use cstore_testkit::PATIENCE;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::http;
use crate::setup::{self, connect, start, start_with};

/// Everything that comes until the end of the connection.
async fn rest(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let reading = stream.read_to_end(&mut bytes);
    // A reset is an end too.
    let _ = tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("the connection ends");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The lines with the status of each answer.
fn statuses(text: &str) -> Vec<&str> {
    text.lines()
        .filter(|line| line.starts_with("HTTP/1."))
        .map(|line| &line[9..12])
        .collect()
}

/// Requests that two readers could split differently, each with a request for `victim` hidden in
/// it.
#[expect(clippy::too_many_lines, reason = "a table")]
fn ambiguous() -> Vec<(&'static str, String)> {
    let hidden = "GET /api/files/victim HTTP/1.1\r\nHost: x\r\n\r\n";
    let long = hidden.len();
    let chunked = format!("0\r\n\r\n{hidden}");
    let put = "PUT /api/files/a HTTP/1.1\r\nHost: x\r\n";
    vec![
        (
            "length before chunked",
            format!(
                "{put}Content-Length: {}\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}",
                chunked.len()
            ),
        ),
        (
            "length behind chunked",
            format!(
                "{put}Transfer-Encoding: chunked\r\nContent-Length: {}\r\n\r\n{chunked}",
                chunked.len()
            ),
        ),
        (
            "two lengths",
            format!("{put}Content-Length: 0\r\nContent-Length: {long}\r\n\r\n{hidden}"),
        ),
        (
            "a list of lengths",
            format!("{put}Content-Length: 0, {long}\r\n\r\n{hidden}"),
        ),
        (
            "a signed length",
            format!("{put}Content-Length: +{long}\r\n\r\n{hidden}"),
        ),
        (
            "a length in hexadecimal",
            format!("{put}Content-Length: 0x10\r\n\r\n{hidden}"),
        ),
        (
            "a length beyond numbers",
            format!("{put}Content-Length: 99999999999999999999\r\n\r\n{hidden}"),
        ),
        (
            "a coding behind chunked",
            format!("{put}Transfer-Encoding: chunked, identity\r\n\r\n{chunked}"),
        ),
        (
            "a coding before chunked",
            format!("{put}Transfer-Encoding: gzip, chunked\r\n\r\n{chunked}"),
        ),
        (
            "chunked twice",
            format!(
                "{put}Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"
            ),
        ),
        (
            "a coding that looks like chunked",
            format!("{put}Transfer-Encoding: xchunked\r\n\r\n{chunked}"),
        ),
        (
            "chunked in HTTP/1.0",
            format!("PUT /api/files/a HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n{chunked}"),
        ),
        (
            "a space before the colon",
            format!("{put}Content-Length : {long}\r\n\r\n{hidden}"),
        ),
        (
            "a folded line",
            format!("{put}X: y\r\n Content-Length: {long}\r\n\r\n{hidden}"),
        ),
        (
            "a control character",
            format!("{put}X: a\0b\r\n\r\n{hidden}"),
        ),
        (
            "a bare carriage return",
            format!("{put}X: a\rContent-Length: {long}\r\n\r\n{hidden}"),
        ),
        (
            "a chunk size that is none",
            format!("{put}Transfer-Encoding: chunked\r\n\r\nZZ\r\n{hidden}"),
        ),
        (
            "a chunk size beyond numbers",
            format!(
                "{put}Transfer-Encoding: chunked\r\n\r\n{}\r\n{hidden}",
                "f".repeat(17)
            ),
        ),
        (
            "a chunk without its end",
            format!("{put}Transfer-Encoding: chunked\r\n\r\n1\r\nxx{hidden}"),
        ),
        (
            "two hosts",
            format!("GET / HTTP/1.1\r\nHost: x\r\nHost: y\r\n\r\n{hidden}"),
        ),
        ("no host", format!("GET / HTTP/1.1\r\n\r\n{hidden}")),
        (
            "a space in the target",
            format!("GET /a b HTTP/1.1\r\nHost: x\r\n\r\n{hidden}"),
        ),
        (
            "another version",
            format!("GET / HTTP/3.0\r\nHost: x\r\n\r\n{hidden}"),
        ),
    ]
}

#[tokio::test]
async fn requests_that_two_readers_could_split_differently_are_refused_or_are_the_last() {
    let setup = start().await;
    setup.master.put_file("victim", b"not for you");
    for (case, request) in ambiguous() {
        let mut stream = connect(setup.addr).await;
        stream.write_all(request.as_bytes()).await.unwrap();
        let text = rest(&mut stream).await;
        let found = statuses(&text);
        assert!(found.len() <= 1, "{case}: {text}");
        assert!(!text.contains("not for you"), "{case}: {text}");
        // Chunked wins over a length, as the standard says, and no request follows it.
        let served = case.contains("length be") && case.contains("chunked");
        assert!(
            found
                .first()
                .is_none_or(|status| served == (*status == "201")),
            "{case}: {text}"
        );
        let _ = setup.master.with(|state| state.files.remove("a"));
    }
}

#[tokio::test]
async fn sockets_that_only_wait_make_room_for_who_asks() {
    let tune = |config: &mut cstore_gateway::Config| {
        config.max_connections = 8;
        // So that it is not the deadline that ends them.
        config.header_timeout = Duration::from_secs(3_600);
    };
    let setup = start_with(tune).await;
    setup.master.put_file("a", b"here");
    let mut idle = Vec::new();
    for n in 0..40 {
        let mut stream = connect(setup.addr).await;
        stream
            .write_all(&b"GET / HTTP/1.1\r\nHost"[..n % 20])
            .await
            .unwrap();
        idle.push(stream);
    }
    for _ in 0..3 {
        let answer = http::send(setup.addr, "GET /api/files/a HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!((answer.status, answer.body.as_slice()), (200, &b"here"[..]));
    }
    for stream in idle.iter_mut().take(30) {
        assert_eq!(rest(stream).await, "", "the oldest have been sent away");
    }
}

#[tokio::test]
async fn an_address_that_has_its_share_is_told_so_and_what_runs_goes_on() {
    let setup = start_with(|config| config.max_connections_per_address = 2).await;
    let head = "PUT /api/files/NAME HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    let mut busy = Vec::new();
    for name in ["a", "b"] {
        let mut stream = connect(setup.addr).await;
        stream
            .write_all(head.replace("NAME", name).as_bytes())
            .await
            .unwrap();
        let mut go = [0; 25];
        stream.read_exact(&mut go).await.unwrap();
        busy.push(stream);
    }
    let mut third = connect(setup.addr).await;
    let text = rest(&mut third).await;
    assert_eq!(statuses(&text), ["503"], "{text}");
    assert!(
        text.contains("retry-after: 1") && text.contains("connection: close"),
        "{text}"
    );
    for stream in &mut busy {
        stream.write_all(b"12345").await.unwrap();
        assert_eq!(http::read(stream, false).await.status, 201);
    }
    // Their requests have ended: they only wait now, and one of them makes room.
    assert_eq!(
        http::send(setup.addr, "GET / HTTP/1.1\r\nHost: x\r\n\r\n")
            .await
            .status,
        200
    );
}

#[tokio::test]
async fn when_all_connections_are_busy_the_next_waits_its_turn() {
    let setup = start_with(|config| config.max_connections = 1).await;
    let mut busy = connect(setup.addr).await;
    let head =
        "PUT /api/files/a HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nExpect: 100-continue\r\n\r\n";
    busy.write_all(head.as_bytes()).await.unwrap();
    let mut go = [0; 25];
    busy.read_exact(&mut go).await.unwrap();
    let mut next = connect(setup.addr).await;
    next.write_all(b"GET /api/files/a HTTP/1.1\r\nHost: x\r\n\r\n")
        .await
        .unwrap();
    busy.write_all(b"12345").await.unwrap();
    assert_eq!(http::read(&mut busy, false).await.status, 201);
    let answer = http::read(&mut next, false).await;
    assert_eq!(
        (answer.status, answer.body.as_slice()),
        (200, &b"12345"[..])
    );
}

/// A frame of HTTP/2 (RFC 9113 §4.1).
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const SETTINGS: u8 = 4;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
/// GET http://x/ by HPACK's static table.
const GET: &[u8] = &[0x82, 0x86, 0x84, 0x41, 0x01, b'x'];

/// Sends until the gateway says GOAWAY or hangs up; fails when it takes it all.
async fn until_goaway(setup: &setup::Setup, bytes: Vec<u8>) {
    let mut stream = connect(setup.addr).await;
    let _ = stream
        .write_all(&[PREFACE, &frame(SETTINGS, 0, 0, &[])].concat())
        .await;
    let (mut reader, mut writer) = stream.into_split();
    let sending = cstore_node::shutdown::spawn("attack", async move {
        let _ = writer.write_all(&bytes).await;
        writer
    });
    let mut answer = Vec::new();
    let reading = reader.read_to_end(&mut answer);
    let _ = tokio::time::timeout(PATIENCE, reading)
        .await
        .expect("the connection ends");
    drop(sending.await);
    let mut left = answer.as_slice();
    let mut kinds = Vec::new();
    while left.len() >= 9 {
        let length = usize::from(left[0]) << 16 | usize::from(left[1]) << 8 | usize::from(left[2]);
        kinds.push(left[3]);
        left = left.get(9 + length..).unwrap_or_default();
    }
    assert!(
        kinds.is_empty() || kinds.contains(&GOAWAY) || !left.is_empty(),
        "frames {kinds:?}"
    );
}

#[tokio::test]
async fn floods_of_http_2_end_their_connection_and_nothing_else() {
    let setup = start().await;
    setup.master.put_file("a", b"here");
    let resets: Vec<u8> = (0..20_000_u32)
        .flat_map(|n| {
            let id = 2 * n + 1;
            [
                frame(HEADERS, END_STREAM | END_HEADERS, id, GET),
                frame(RST_STREAM, 0, id, &[0, 0, 0, 8]),
            ]
            .concat()
        })
        .collect();
    let mut endless = frame(HEADERS, 0, 1, GET);
    let field = [&[0x00, 0x01, b'a', 0x7f, 0xff, 0x06][..], &[b'x'; 1_000]].concat();
    for _ in 0..2_000 {
        endless.extend(frame(CONTINUATION, 0, 1, &field));
    }
    let empty: Vec<u8> = std::iter::once(frame(HEADERS, 0, 1, GET))
        .chain(std::iter::repeat_n(frame(CONTINUATION, 0, 1, &[]), 100_000))
        .flatten()
        .collect();
    let zero = frame(HEADERS, END_HEADERS, 0, GET);
    for attack in [resets, endless, empty, zero] {
        until_goaway(&setup, attack).await;
        let answer = http::send(setup.addr, "GET /api/files/a HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(answer.status, 200);
    }
}
