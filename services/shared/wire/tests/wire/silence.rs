//! I12: a peer that vanished without a word is found out; one that has nothing to say is not.

#![allow(
    clippy::unwrap_used,
    clippy::disallowed_methods,
    reason = "a test may fail loudly and owns its tasks"
)]

use std::time::Duration;

use cstore_types::MapVersion;
use cstore_wire::{Connection, Request, Response};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, duplex, split};
use tokio::time::{Instant, timeout};
use tokio_util::sync::CancellationToken;

use crate::server::{LONG, client_config, serve, server_config};

/// Passes bytes on until `cut`; then they vanish, and neither side is told.
async fn pass<R, W>(mut from: R, mut to: W, cut: CancellationToken)
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut bytes = [0; 1_024];
    loop {
        tokio::select! {
            () = cut.cancelled() => return std::future::pending().await,
            read = from.read(&mut bytes) => match read {
                Ok(0) | Err(_) => return,
                Ok(n) => to.write_all(&bytes[..n]).await.unwrap(),
            },
        }
    }
}

/// A connection to a server of its own, and the switch that cuts it.
async fn connected() -> (Connection, CancellationToken) {
    let (ours, left) = duplex(1 << 16);
    let (right, theirs) = duplex(1 << 16);
    serve(theirs, server_config());
    let cut = CancellationToken::new();
    let ((left_read, left_write), (right_read, right_write)) = (split(left), split(right));
    tokio::spawn(pass(left_read, right_write, cut.clone()));
    tokio::spawn(pass(right_read, left_write, cut.clone()));
    (Connection::over(ours, &client_config()).await.unwrap(), cut)
}

#[tokio::test(start_paused = true)]
async fn i12_a_peer_that_vanished_without_a_word_is_found_out() {
    let (connection, cut) = connected().await;
    cut.cancel();
    let start = Instant::now();
    timeout(Duration::from_secs(60), connection.closed())
        .await
        .unwrap();
    assert!(
        start.elapsed() <= Duration::from_secs(15),
        "{:?}",
        start.elapsed()
    );
    assert!(connection.is_closed());
}

#[tokio::test(start_paused = true)]
async fn a_peer_with_nothing_to_say_or_much_to_do_is_not_taken_for_gone() {
    let (connection, _cut) = connected().await;
    let request = Request::Unpin {
        session: cstore_types::SessionId::from_bytes([1; 16]),
    };
    // It is worked on for longer than silence is borne, and than the server bears it.
    let patience = Duration::from_secs(120);
    let answer = connection
        .call(&request, MapVersion(1), None, patience)
        .await;
    assert!(
        matches!(answer, Err(cstore_wire::ClientError::Deadline(_))),
        "{answer:?}"
    );
    assert!(!connection.is_closed());
    assert_eq!(
        connection
            .call(&Request::Ping, MapVersion(1), None, LONG)
            .await
            .unwrap(),
        Response::Ok
    );
}
