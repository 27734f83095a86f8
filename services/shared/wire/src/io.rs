//! Frames on a socket: reading within bounds and deadlines, writing many buffers at once.

use std::collections::VecDeque;
use std::io::{self, IoSlice};
use std::time::Duration;

use bytes::{Buf, Bytes, BytesMut};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::timeout;

use crate::error::Disconnect;
use crate::frame::{HEADER, Opcode, decode_header};
use crate::limits::FIRST_RESERVATION;

/// Reads opcode and length. `idle` bounds the wait for the first byte, `progress` each wait after
/// it.
pub(crate) async fn read_header<R: AsyncRead + Unpin>(
    reader: &mut R,
    idle: Duration,
    progress: Duration,
) -> Result<(Opcode, u32), Disconnect> {
    let mut header = [0; HEADER];
    let (first, rest) = header.split_at_mut(1);
    let read = timeout(idle, reader.read(first))
        .await
        .map_err(|_| Disconnect::Idle)??;
    if read == 0 {
        return Err(Disconnect::Closed);
    }
    timeout(progress, reader.read_exact(rest))
        .await
        .map_err(|_| Disconnect::Idle)??;
    Ok(decode_header(header)?)
}

/// Reads a payload whose length was checked. The whole of it is reserved only after its first bytes
/// have come.
pub(crate) async fn read_payload<R: AsyncRead + Unpin>(
    reader: &mut R,
    len: u32,
    progress: Duration,
) -> Result<Bytes, Disconnect> {
    let len = usize::try_from(len).unwrap_or(usize::MAX);
    let mut payload = BytesMut::with_capacity(len.min(FIRST_RESERVATION));
    while payload.len() < len {
        if payload.len() == payload.capacity() {
            payload.reserve(len.saturating_sub(payload.len()));
        }
        let rest = len.saturating_sub(payload.len()) as u64;
        let mut limited = (&mut *reader).take(rest);
        if timeout(progress, limited.read_buf(&mut payload))
            .await
            .map_err(|_| Disconnect::Idle)??
            == 0
        {
            let cut = "peer closed the connection inside of a frame";
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, cut).into());
        }
    }
    Ok(payload.freeze())
}

/// Buffers on their way out, as one [`Buf`] that offers many slices to a vectored write.
#[derive(Debug, Default)]
pub(crate) struct Outgoing(VecDeque<Bytes>);

impl Outgoing {
    pub(crate) fn extend(&mut self, buffers: Vec<Bytes>) {
        self.0
            .extend(buffers.into_iter().filter(|buffer| !buffer.is_empty()));
    }

    pub(crate) async fn write_to<W: AsyncWrite + Unpin>(
        &mut self,
        writer: &mut W,
    ) -> io::Result<()> {
        writer.write_all_buf(self).await?;
        writer.flush().await
    }
}

impl Buf for Outgoing {
    fn remaining(&self) -> usize {
        self.0.iter().map(Bytes::len).sum()
    }

    fn chunk(&self) -> &[u8] {
        self.0.front().map(Bytes::as_ref).unwrap_or_default()
    }

    fn chunks_vectored<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let mut filled = 0;
        for (slice, buffer) in slices.iter_mut().zip(&self.0) {
            *slice = IoSlice::new(buffer);
            filled += 1;
        }
        filled
    }

    fn advance(&mut self, mut count: usize) {
        while let Some(front) = self.0.front_mut() {
            if count < front.len() {
                front.advance(count);
                return;
            }
            count = count.saturating_sub(front.len());
            self.0.pop_front();
        }
    }
}

/// A handshake or other frame without the payload prefix.
pub(crate) fn bare_frame(opcode: Opcode, payload: Bytes) -> Vec<Bytes> {
    let mut header = BytesMut::with_capacity(HEADER);
    header.extend_from_slice(&[opcode.byte()]);
    header.extend_from_slice(
        &u32::try_from(payload.len())
            .unwrap_or(u32::MAX)
            .to_le_bytes(),
    );
    vec![header.freeze(), payload]
}
