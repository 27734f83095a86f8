//! gRPC without generated code: any path with any bytes, for doors that should stay shut.

use bytes::{Buf, BufMut, Bytes};
use cstore_testkit::PATIENCE;
use tonic::client::Grpc;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::transport::Endpoint;
use tonic::{Request, Status};

/// Sends one message to `path` (`/package.Service/Method`) and answers the first that comes back.
///
/// # Errors
/// The status of the server; `DeadlineExceeded` when it says nothing.
///
/// # Panics
/// When `addr` or `path` is none.
pub async fn call(
    addr: &str,
    path: &str,
    bearer: Option<&str>,
    message: Bytes,
) -> Result<Bytes, Status> {
    let endpoint = Endpoint::from_shared(format!("http://{addr}")).expect("the address is one");
    let channel = endpoint
        .connect()
        .await
        .map_err(|error| Status::from_error(Box::new(error)))?;
    let mut client = Grpc::new(channel);
    client
        .ready()
        .await
        .map_err(|error| Status::from_error(Box::new(error)))?;
    let mut request = Request::new(tokio_stream::once(message));
    if let Some(bearer) = bearer {
        let value = format!("Bearer {bearer}")
            .parse()
            .expect("a bearer is printable");
        request.metadata_mut().insert("authorization", value);
    }
    let path = path.parse().expect("the path is one");
    let answered = tokio::time::timeout(PATIENCE, async {
        let mut answers = client.streaming(request, path, Raw).await?.into_inner();
        Ok(answers.message().await?.unwrap_or_default())
    });
    answered
        .await
        .unwrap_or_else(|_| Err(Status::deadline_exceeded("no answer")))
}

/// Messages as the bytes that they are.
#[derive(Debug, Clone, Copy)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        *self
    }

    fn decoder(&mut self) -> Self {
        *self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        dst.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(src.copy_to_bytes(src.remaining())))
    }
}
