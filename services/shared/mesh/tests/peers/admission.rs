//! Callers that only hold connections keep out nobody that calls.

use std::io::ErrorKind;

use cstore_node::connections::ConnectionLimits;
use cstore_testkit::{PATIENCE, until};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::peer::{Caller, Network, Peer};

/// Returns true if the other side has not closed the connection.
fn is_open(stream: &TcpStream) -> bool {
    // The server sends its settings at once.
    let mut settings = [0; 64];
    loop {
        match stream.try_read(&mut settings) {
            Ok(0) => return false,
            Ok(_) => {}
            Err(error) => return error.kind() == ErrorKind::WouldBlock,
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn i12_silent_connections_make_room_for_calls() {
    const TOTAL: usize = 8;

    let peer = Peer::start_limited(ConnectionLimits::halved(TOTAL)).await;
    let caller = Caller::new(&Network::default(), [&peer.target()]);
    assert!(caller.get_files(10, 2).await.is_empty());
    let mut silent = Vec::new();
    for n in 0..300 {
        let mut stream = TcpStream::connect(peer.addr).await.unwrap();
        let sent: &[u8] = match n % 3 {
            0 => b"",
            // Half of the preface of HTTP/2.
            1 => b"PRI * HTTP/2",
            // The whole preface, with empty settings. No deadline ends such a connection.
            _ => b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0",
        };
        stream.write_all(sent).await.unwrap();
        silent.push(stream);
    }
    let failed = caller.get_files(200, 4).await;
    assert!(failed.is_empty(), "{failed:?}");

    // A caller that comes later is served, too, although the port is full.
    let later = Caller::new(&Network::default(), [&peer.target()]);
    let failed = later.get_files(50, 2).await;
    assert!(failed.is_empty(), "{failed:?}");
    let few_are_open = || {
        let open = silent.iter().filter(|stream| is_open(stream)).count();
        (open <= TOTAL).then_some(())
    };
    // Sooner than pings would end them.
    let soon = std::time::Duration::from_secs(15);
    let closed = until("the silent connections are closed", few_are_open);
    assert!(tokio::time::timeout(soon, closed).await.is_ok());
}

#[tokio::test(start_paused = true)]
async fn a_connection_without_a_preface_ends_by_itself() {
    let peer = Peer::start_limited(ConnectionLimits::halved(8)).await;
    let begun = tokio::time::Instant::now();
    let mut silent = TcpStream::connect(peer.addr).await.unwrap();
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(PATIENCE, silent.read_to_end(&mut rest)).await;
    assert!(
        ended.is_ok(),
        "it is still open after {:?}",
        begun.elapsed()
    );
}
