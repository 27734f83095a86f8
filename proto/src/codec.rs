//! Codec of gRPC messages: protobuf, with buffers as small as the messages.
//!
//! The codec of `tonic_prost` begins each message with a buffer of 8 KiB, and lets it grow while the
//! message is written. Most of our messages have some hundred bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Codec for requests and answers of types `T` and `U`.
#[derive(Debug, Clone)]
pub struct MessageCodec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for MessageCodec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> Codec for MessageCodec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = MessageEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        MessageEncoder(ProstEncoder::new(buffer_settings()))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstDecoder::new(buffer_settings())
    }
}

/// Encoder that allocates the whole message at once.
#[derive(Debug, Clone)]
pub struct MessageEncoder<T>(ProstEncoder<T>);

impl<T: Message> Encoder for MessageEncoder<T> {
    type Item = T;
    type Error = Status;

    fn encode(&mut self, item: T, buf: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buf.reserve(item.encoded_len());
        self.0.encode(item, buf)
    }

    fn buffer_settings(&self) -> BufferSettings {
        self.0.buffer_settings()
    }
}

fn buffer_settings() -> BufferSettings {
    /// First buffer of a stream of messages, in bytes.
    const FIRST_BUFFER: usize = 512;
    /// Encoded bytes that a stream sends at once: the default of tonic.
    const SENT_AT_ONCE: usize = 32 << 10;
    BufferSettings::new(FIRST_BUFFER, SENT_AT_ONCE)
}
