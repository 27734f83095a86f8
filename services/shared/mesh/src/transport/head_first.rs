//! Bodies whose large messages are received without a second copy.
//!
//! The decoder of tonic appends the data of each frame to its buffer. When it finds the head of a
//! message (5 bytes, see [the gRPC protocol]), it reserves the length of the whole message behind
//! what it has already. So a message that arrives as one frame is copied twice, into a buffer of
//! twice its length. If the head comes first, the buffer is reserved before the message is copied.
//!
//! [the gRPC protocol]: https://github.com/grpc/grpc/blob/master/doc/PROTOCOL-HTTP2.md

use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Frame, SizeHint};
use tonic::Status;
use tonic::body::Body;

/// Length of the head of a gRPC message: flags and length.
const HEAD: usize = 5;

/// Longest data that is not split: copying it twice costs less than another poll.
const WHOLE: usize = 16 << 10;

/// A body that yields the head of a large message apart from the rest of its frame.
///
/// Data that does not begin with the head of a message is split as well, which changes no byte.
#[derive(Debug)]
pub(crate) struct HeadFirst {
    body: Body,
    /// Rest of the frame whose head was yielded last.
    rest: Option<Bytes>,
}

impl HeadFirst {
    pub(crate) const fn new(body: Body) -> Self {
        Self { body, rest: None }
    }
}

impl http_body::Body for HeadFirst {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some(rest) = self.rest.take() {
            return Poll::Ready(Some(Ok(Frame::data(rest))));
        }
        let mut frame = ready!(Pin::new(&mut self.body).poll_frame(cx));
        if let Some(Ok(frame)) = &mut frame
            && let Some(data) = frame.data_mut()
            && data.len() > WHOLE
        {
            let head = data.split_to(HEAD);
            self.rest = Some(std::mem::replace(data, head));
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.rest.is_none() && self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        let rest = self.rest.as_ref().map_or(0, Bytes::len) as u64;
        let inner = self.body.size_hint();
        let mut hint = SizeHint::new();
        if let Some(upper) = inner.upper() {
            hint.set_upper(upper.saturating_add(rest));
        }
        hint.set_lower(inner.lower().saturating_add(rest));
        hint
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;

    use super::*;

    fn frames_of(frames: Vec<Frame<Bytes>>) -> Vec<Frame<Bytes>> {
        let frames = frames.into_iter().map(Ok::<_, Status>);
        let body = http_body_util::StreamBody::new(futures_util::stream::iter(frames));
        let mut body = HeadFirst::new(Body::new(body));
        let next = || futures_util::FutureExt::now_or_never(body.frame()).unwrap();
        std::iter::from_fn(next).map(Result::unwrap).collect()
    }

    fn lengths(frames: &[Frame<Bytes>]) -> Vec<Option<usize>> {
        frames
            .iter()
            .map(|frame| frame.data_ref().map(Bytes::len))
            .collect()
    }

    #[test]
    fn the_head_of_a_large_frame_comes_first_and_no_byte_changes() {
        let large: Bytes = (0..u32::try_from(WHOLE).unwrap())
            .flat_map(u32::to_le_bytes)
            .collect();
        let whole = large.slice(..WHOLE);
        let trailers = http::HeaderMap::new();
        let sent = [
            Frame::data(whole.clone()),
            Frame::data(large.clone()),
            Frame::trailers(trailers),
        ];
        let got = frames_of(sent.into());
        let expected = [Some(WHOLE), Some(HEAD), Some(large.len() - HEAD), None];
        assert_eq!(lengths(&got), expected);
        let bytes: Vec<u8> = got
            .iter()
            .filter_map(Frame::data_ref)
            .flatten()
            .copied()
            .collect();
        assert!(bytes == [whole, large].concat());
    }

    #[test]
    fn the_end_comes_after_the_rest() {
        let body = http_body_util::Full::new(Bytes::from(vec![1; 2 * WHOLE]));
        let mut body = HeadFirst::new(Body::new(body));
        let (all, rest) = (2 * WHOLE as u64, (2 * WHOLE - HEAD) as u64);
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(all));
        let head = futures_util::FutureExt::now_or_never(body.frame()).unwrap();
        assert!(head.is_some());
        assert!(!http_body::Body::is_end_stream(&body));
        assert_eq!(http_body::Body::size_hint(&body).exact(), Some(rest));
        let rest = futures_util::FutureExt::now_or_never(body.frame()).unwrap();
        assert!(rest.is_some());
        assert!(http_body::Body::is_end_stream(&body));
    }
}
