//! The end of a connection whose client was answered before it had sent everything, as when an
//! upload is refused by its head.
//!
//! Closing a socket with unread bytes resets the connection, and a reset drops the answer that waits
//! in the client's socket: the client sees a broken pipe instead of 409, and a proxy makes it 502.
//! So the sending side is shut down, and what the client still sends is read and dropped until it
//! closes (RFC 9112 §9.6). A connection that lingers is idle to the limiter, which may evict it.

use std::sync::Arc;
use std::time::Duration;

use parking_lot::Mutex;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};

use crate::http::pace::Pace;
use crate::limits::{LINGER_BUFFER, LINGER_RATE, LINGER_SILENCE, LINGER_TIME};

/// Place where the socket of a connection is left when hyper is done with it.
#[derive(Debug, Clone, Default)]
pub(crate) struct SocketReturn(Arc<Mutex<Option<TcpStream>>>);

impl SocketReturn {
    /// Leaves the socket here.
    pub(crate) fn put(&self, stream: TcpStream) {
        *self.0.lock() = Some(stream);
    }

    /// Takes the socket; `None` before it was left.
    pub(crate) fn take(&self) -> Option<TcpStream> {
        self.0.lock().take()
    }
}

/// Bounds of a client that is read on.
#[derive(Debug, Clone, Copy)]
struct Bounds {
    time: Duration,
    silence: Duration,
    /// Bytes a second that the client must send while it is waited for.
    min_rate: u64,
    /// Bytes a second that are read at most.
    max_rate: u64,
}

/// Shuts down the sending side of `stream` and reads until the client closes, is silent for
/// [`LINGER_SILENCE`], sends less than `min_rate` bytes a second, or [`LINGER_TIME`] is over.
pub(crate) async fn linger(stream: TcpStream, min_rate: u64) {
    let bounds = Bounds {
        time: LINGER_TIME,
        silence: LINGER_SILENCE,
        min_rate,
        max_rate: LINGER_RATE,
    };
    linger_within(stream, bounds).await;
}

/// Like [`linger`] for a client that was not admitted, and so has no slot that could be evicted.
pub(crate) async fn linger_briefly(stream: TcpStream) {
    let bounds = Bounds {
        time: LINGER_SILENCE,
        silence: LINGER_SILENCE,
        min_rate: 0,
        max_rate: LINGER_RATE,
    };
    linger_within(stream, bounds).await;
}

async fn linger_within(mut stream: TcpStream, bounds: Bounds) {
    if stream.shutdown().await.is_err() {
        return;
    }
    // An error says that the time is over: the connection ends in any case.
    let _: Result<(), _> = timeout(bounds.time, read_on(&mut stream, bounds)).await;
}

async fn read_on(stream: &mut TcpStream, bounds: Bounds) {
    let begun = Instant::now();
    let mut pace = Pace::new(bounds.min_rate);
    let mut dropped = vec![0; LINGER_BUFFER];
    let mut n_read = 0_u64;
    loop {
        let asked = Instant::now();
        let n = match timeout(bounds.silence, stream.read(&mut dropped)).await {
            Ok(Ok(n)) if n > 0 => n as u64,
            _ => return,
        };
        if !pace.keeps_up(asked.elapsed(), n) {
            return;
        }
        n_read = n_read.saturating_add(n);
        let due = Duration::from_millis(n_read.saturating_mul(1_000) / bounds.max_rate);
        sleep_until(begun + due).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    async fn pair() -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let (client, server) = tokio::join!(TcpStream::connect(address), listener.accept());
        (client.unwrap(), server.unwrap().0)
    }

    #[tokio::test]
    async fn a_client_that_sends_on_gets_its_answer() {
        let (mut client, mut server) = pair().await;
        let sending = async {
            // Far beyond all buffers of both sockets.
            let piece = vec![7; 1 << 20];
            for _ in 0..20 {
                client.write_all(&piece).await.unwrap();
            }
            client.shutdown().await.unwrap();
            let mut answer = Vec::new();
            client.read_to_end(&mut answer).await.unwrap();
            answer
        };
        let serving = async {
            server.write_all(b"409").await.unwrap();
            linger(server, 1_024).await;
        };
        let (answer, ()) = tokio::join!(sending, serving);
        assert_eq!(answer, b"409");
    }

    #[tokio::test(start_paused = true)]
    async fn a_silent_client_is_left_after_a_while() {
        let (client, server) = pair().await;
        let begun = Instant::now();
        linger(server, 1_024).await;
        assert_eq!(begun.elapsed(), LINGER_SILENCE);
        drop(client);
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_drips_is_left() {
        let (mut client, server) = pair().await;
        let begun = Instant::now();
        let dripping = async {
            let pause = Duration::from_secs(3);
            while client.write_all(b"x").await.is_ok() {
                tokio::time::sleep(pause).await;
            }
        };
        let lingering = async {
            linger(server, 1_024).await;
            begun.elapsed()
        };
        tokio::select! {
            () = dripping => panic!("the client is not left before the server closes"),
            waited = lingering => assert!(waited < LINGER_TIME / 2, "{waited:?}"),
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_client_that_sends_without_end_is_slowed_and_left() {
        let (mut client, server) = pair().await;
        let bounds = Bounds {
            time: Duration::from_secs(4),
            silence: LINGER_SILENCE,
            min_rate: 1_024,
            max_rate: 1 << 20,
        };
        let begun = Instant::now();
        let sending = async {
            let piece = vec![7; 64 << 10];
            let mut n_sent = 0;
            while client.write_all(&piece).await.is_ok() {
                n_sent += piece.len();
            }
            n_sent
        };
        let (n_sent, ()) = tokio::join!(sending, linger_within(server, bounds));
        assert!(begun.elapsed() >= bounds.time);
        // 4 MiB are read; the rest is what the buffers of two sockets hold.
        assert!(n_sent < 24 << 20, "{n_sent} bytes");
    }
}
