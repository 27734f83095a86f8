//! Codec of gRPC messages: protobuf in buffers of the size of a message.
//!
//! The codec of `tonic_prost` allocates 8 KiB for each message and lets the buffer grow while it
//! encodes. Most messages of C-Store have some hundred bytes.

use std::marker::PhantomData;

use prost::Message;
use tonic::Status;
use tonic::codec::{BufferSettings, Codec, EncodeBuf, Encoder};
use tonic_prost::{ProstDecoder, ProstEncoder};

/// Codec for requests and answers of types `T` and `U`.
#[derive(Debug, Clone)]
pub(crate) struct MessageCodec<T, U>(PhantomData<(T, U)>);

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

/// Encoder that reserves the length of a message before it encodes the message.
#[derive(Debug, Clone)]
pub(crate) struct MessageEncoder<T>(ProstEncoder<T>);

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
    /// Bytes of the first buffer of a stream.
    const BUFFER: usize = 512;
    /// Encoded bytes from which a stream sends its buffer: the default of tonic.
    const YIELD_THRESHOLD: usize = 32 << 10;
    BufferSettings::new(BUFFER, YIELD_THRESHOLD)
}
