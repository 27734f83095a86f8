//! One download: windows of blocks fetched ahead, verified, in order.
//!
//! ```text
//! fetch a window ─▶ send it, fetch the next one meanwhile ─▶ …
//!                     └─ the reader pauses: give both up, wait for the reader, fetch again from there
//! ```
//! So a reader that takes nothing holds [`crate::limits::OPEN_BYTES`] and no blocks, and one that
//! is slow gets small windows.

use std::ops::Range;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use cstore_types::{ErrorCode, Fault, Root};
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout_at};

use crate::budget::{Budget, Hold};
use crate::cluster::Route;
use crate::fetch::{Window, fetch};
use crate::limits::{
    CHUNK_BYTES, FIRST_WINDOW, MAX_WINDOW, MIN_WINDOW, QUICK_READER, SECOND_WINDOW, SLOW_READER,
    WINDOW_BLOCKS, WINDOW_PATIENCE,
};
use crate::recipe_walk::RecipeWalk;

/// Piece that a download hands to its stream.
pub(crate) type Chunk = Result<Bytes, Fault>;

/// How far a window got.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Sent {
    bytes: u64,
    /// The rest was given up: the reader takes nothing.
    paused: bool,
}

/// Sends the bytes of `range` into `out`, every one verified, and ends with an error instead of
/// ending early. Answers the bytes sent; stops when nobody listens.
pub(crate) async fn download(
    route: Route,
    root: Root,
    range: Range<u64>,
    budget: Budget,
    out: mpsc::Sender<Chunk>,
) -> Result<u64, Fault> {
    let _open = budget.open(range.end - range.start).await?;
    let mut at = range.start;
    loop {
        let part = Part {
            route: &route,
            root: &root,
            range: at..range.end,
            budget: &budget,
            out: &out,
        };
        let sent = part.send_all(at == range.start).await?;
        at += sent.bytes;
        if !sent.paused {
            break;
        }
        // Until the reader takes a chunk again.
        drop(out.reserve().await.map_err(|_| gone())?);
    }
    let (sent, wanted) = (at - range.start, range.end - range.start);
    if sent != wanted {
        return Err(Fault::new(
            ErrorCode::DataLoss,
            format!("recipe covers {sent} of {wanted} bytes"),
        ));
    }
    Ok(sent)
}

/// Remaining part of a download.
struct Part<'a> {
    route: &'a Route,
    root: &'a Root,
    range: Range<u64>,
    budget: &'a Budget,
    out: &'a mpsc::Sender<Chunk>,
}

impl Part<'_> {
    /// Sends until the end of the range, or until the reader pauses.
    async fn send_all(&self, is_first: bool) -> Result<Sent, Fault> {
        let mut walk = RecipeWalk::new(self.root, self.range.clone());
        let (first, second) = if is_first {
            (FIRST_WINDOW, SECOND_WINDOW)
        } else {
            (MIN_WINDOW, MIN_WINDOW)
        };
        let (mut size, mut bytes) = (second.min(self.max_window()), 0);
        let mut next = Some(self.fetch(&mut walk, first, is_first).await?);
        let mut sends_first = is_first;
        while let Some((window, hold)) = next.take().filter(|(window, _)| !window.is_empty()) {
            let begun = Instant::now();
            let send = async {
                let sent = send(window, &self.range, self.out, begun + WINDOW_PATIENCE).await;
                drop(hold);
                sent
            };
            let (ahead, sent) = both(self.fetch(&mut walk, size, false), send).await?;
            bytes += sent.bytes;
            let Some(ahead) = ahead else {
                return Ok(Sent {
                    bytes,
                    paused: true,
                });
            };
            // The first window fits into the buffers of the stream, so its time says nothing about the
            // reader.
            if !std::mem::take(&mut sends_first) {
                size = next_size(size, begun.elapsed()).min(self.max_window());
            }
            next = Some(ahead);
        }
        Ok(Sent {
            bytes,
            paused: false,
        })
    }

    fn max_window(&self) -> u64 {
        self.budget.max_window().max(MIN_WINDOW)
    }

    async fn fetch(
        &self,
        walk: &mut RecipeWalk,
        size: u64,
        is_first: bool,
    ) -> Result<(Window, Hold), Fault> {
        let pieces = walk.next(self.route, size, WINDOW_BLOCKS).await?;
        let bytes = pieces.iter().map(|piece| piece.len).sum();
        let hold = self.budget.window(is_first, bytes).await?;
        Ok((fetch(self.route, pieces).await?, hold))
    }
}

/// Both at once; nothing is fetched any more once the reader pauses.
async fn both<T>(
    ahead: impl Future<Output = Result<T, Fault>>,
    send: impl Future<Output = Result<Sent, Fault>>,
) -> Result<(Option<T>, Sent), Fault> {
    tokio::pin!(ahead, send);
    let mut fetched = None;
    let sent = loop {
        tokio::select! {
            biased;
            sent = &mut send => break sent?,
            found = &mut ahead, if fetched.is_none() => fetched = Some(found?),
        }
    };
    match (sent.paused, fetched) {
        (true, _) => Ok((None, sent)),
        (false, Some(fetched)) => Ok((Some(fetched), sent)),
        (false, None) => Ok((Some(ahead.await?), sent)),
    }
}

fn next_size(size: u64, took: Duration) -> u64 {
    match took {
        took if took < QUICK_READER => (size * 2).min(MAX_WINDOW),
        took if took > SLOW_READER => MIN_WINDOW,
        _ => size,
    }
}

fn gone() -> Fault {
    Fault::new(ErrorCode::Unavailable, "nobody reads the download any more")
}

/// Sends the part of a window that lies in `range`. At the deadline it gives up what has not been
/// sent.
async fn send(
    window: Window,
    range: &Range<u64>,
    out: &mpsc::Sender<Chunk>,
    deadline: Instant,
) -> Result<Sent, Fault> {
    let mut sent = Sent {
        bytes: 0,
        paused: false,
    };
    let mut small = BytesMut::new();
    for (piece, bytes) in window {
        let from = range.start.saturating_sub(piece.offset).min(piece.len);
        let to = range.end.saturating_sub(piece.offset).min(piece.len);
        let part =
            bytes.slice(usize::try_from(from).unwrap_or(0)..usize::try_from(to).unwrap_or(0));
        let is_small = part.len() * 4 < CHUNK_BYTES;
        if is_small {
            small.extend_from_slice(&part);
        }
        if !small.is_empty() && (!is_small || small.len() >= CHUNK_BYTES) {
            give(small.split().freeze(), out, deadline, &mut sent).await?;
        }
        if !is_small {
            for chunk in chunks(part) {
                give(chunk, out, deadline, &mut sent).await?;
            }
        }
        if sent.paused {
            return Ok(sent);
        }
    }
    if !small.is_empty() {
        give(small.freeze(), out, deadline, &mut sent).await?;
    }
    Ok(sent)
}

/// Sends a chunk, unless one before it was given up.
async fn give(
    chunk: Bytes,
    out: &mpsc::Sender<Chunk>,
    deadline: Instant,
    sent: &mut Sent,
) -> Result<(), Fault> {
    if sent.paused {
        return Ok(());
    }
    match timeout_at(deadline, out.reserve()).await {
        Ok(place) => {
            sent.bytes += chunk.len() as u64;
            place.map_err(|_| gone())?.send(Ok(chunk));
        }
        Err(_) => sent.paused = true,
    }
    Ok(())
}

fn chunks(mut part: Bytes) -> Vec<Bytes> {
    let mut chunks = Vec::new();
    while part.len() > CHUNK_BYTES {
        chunks.push(part.split_to(CHUNK_BYTES));
    }
    chunks.push(part);
    chunks
}

#[cfg(test)]
mod tests {
    use crate::limits::CHUNKS_AHEAD;

    use super::*;
    use crate::recipe_walk::Piece;
    use cstore_types::BlockId;

    fn window(lens: &[usize]) -> Window {
        let mut offset = 0;
        let mut piece = |len: usize| {
            let piece = Piece {
                id: BlockId::from_bytes([0; 32]),
                offset,
                len: len as u64,
            };
            let bytes = (offset..offset + len as u64)
                .map(|at| at as u8)
                .collect::<Vec<u8>>();
            offset += len as u64;
            (piece, Bytes::from(bytes))
        };
        lens.iter().map(|len| piece(*len)).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_reader_that_pauses_gets_a_clean_prefix_and_the_rest_is_given_up() {
        let lens = [1_000, 200_000, 500, 300_000, 70_000, 90];
        for range in [0..571_590, 300..571_589, 250_000..400_000] {
            for taken in 0..12 {
                let (out, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
                let mut got = Vec::new();
                let reading = async {
                    for _ in 0..taken {
                        let Some(chunk) = chunks.recv().await else {
                            break;
                        };
                        got.extend_from_slice(&chunk.unwrap());
                    }
                };
                let pieces = window(&lens).into_iter().filter(|(piece, _)| {
                    piece.offset < range.end && piece.offset + piece.len > range.start
                });
                let sending = async {
                    let out = out;
                    send(
                        pieces.collect(),
                        &range,
                        &out,
                        Instant::now() + WINDOW_PATIENCE,
                    )
                    .await
                };
                let (sent, ()) = tokio::join!(sending, reading);
                let sent = sent.unwrap();
                while let Some(chunk) = chunks.recv().await {
                    got.extend_from_slice(&chunk.unwrap());
                }
                let expected: Vec<u8> = (range.start..range.start + sent.bytes)
                    .map(|at| at as u8)
                    .collect();
                assert!(got == expected, "{range:?}, {taken} taken");
                assert_eq!(
                    sent.paused,
                    sent.bytes < range.end - range.start,
                    "{range:?}, {taken} taken"
                );
            }
        }
    }

    #[test]
    fn quick_readers_get_large_windows_and_slow_ones_small_ones() {
        let quick = Duration::from_millis(1);
        let grown = (0..3).fold(MIN_WINDOW, |size, _| next_size(size, quick));
        assert_eq!((grown, next_size(grown, quick)), (MAX_WINDOW, MAX_WINDOW));
        assert_eq!(next_size(MAX_WINDOW, SLOW_READER * 2), MIN_WINDOW);
        assert_eq!(next_size(MAX_WINDOW, QUICK_READER * 2), MAX_WINDOW);
    }
}
