//! The simulated network as the roles take it.

use std::io;

use cstore_mesh::{BoxIo, Dial};
use futures_util::StreamExt;
use futures_util::stream::{self, BoxStream};
use turmoil::net::{TcpListener, TcpStream};

/// Connections of the node that dials.
pub(crate) fn dial() -> Dial {
    Dial::new(|target| {
        Box::pin(async move { Ok(Box::new(TcpStream::connect(target.addr.as_str()).await?) as BoxIo) })
    })
}

/// Connections that come to the node that listens.
pub(crate) async fn listen(port: u16) -> io::Result<BoxStream<'static, io::Result<BoxIo>>> {
    let listener = TcpListener::bind(("0.0.0.0", port)).await?;
    let accept = |listener: TcpListener| async move {
        let accepted = listener.accept().await.map(|(stream, _)| Box::new(stream) as BoxIo);
        Some((accepted, listener))
    };
    Ok(stream::unfold(listener, accept).boxed())
}
