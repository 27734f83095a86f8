//! The server stack of the gRPC fakes, and pipes in memory instead of sockets.

use std::future::pending;
use std::io;

use cstore_mesh::{BoxIo, Dial, GrpcServer, MeshMetrics, ServerOptions};
use cstore_node::shutdown::spawn;
use cstore_proto::Verifier;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;

use crate::{PATIENCE, secret};

/// Bytes that a pipe holds in each direction.
const PIPE: usize = 64 << 10;
/// Connections that wait to be accepted. A dial waits when there are more.
const CONNECTIONS: usize = 8;

/// Returns a server without services that says that it is serving. Callers need bearers of the
/// cluster of tests.
pub async fn grpc_server() -> GrpcServer {
    let options = ServerOptions {
        role: "fake",
        verifier: Verifier::new(&secret()),
        reflection: false,
        metrics: MeshMetrics::default(),
        drain: PATIENCE,
    };
    let server = GrpcServer::new(options).await.unwrap();
    server.health().set_serving(true).await;
    server
}

/// Serves until the runtime ends, and returns the way to connect: every dial leads to this server,
/// whatever its target.
pub fn serve_over_pipes(server: GrpcServer) -> Dial {
    let (accept, accepted) = mpsc::channel::<io::Result<BoxIo>>(CONNECTIONS);
    let serving = server.serve_over(ReceiverStream::new(accepted), pending());
    drop(spawn("fake", async move { serving.await.unwrap() }));
    Dial::new(move |_| {
        let accept = accept.clone();
        Box::pin(async move {
            let (ours, theirs) = tokio::io::duplex(PIPE);
            let refused = |_| io::Error::from(io::ErrorKind::ConnectionRefused);
            accept.send(Ok(Box::new(theirs))).await.map_err(refused)?;
            Ok(Box::new(ours) as BoxIo)
        })
    })
}
