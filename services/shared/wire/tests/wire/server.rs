//! A server that connections are tested with, and the configuration of both ends.

#![allow(clippy::unwrap_used, reason = "a test may fail loudly")]

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cstore_testkit::CLUSTER;
use cstore_types::{BlockId, ErrorCode, Fault, FrameKey, NodeId, StoreUuid};
use cstore_wire::{
    BlockSink, ClientConfig, Context, Handler, Request, Response, ServerConfig, serve_connection,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::DuplexStream;

pub(crate) const KEY: [u8; 32] = [5; 32];
/// Deadline that is met only where a test waits for it.
pub(crate) const LONG: Duration = Duration::from_secs(20);

/// A storage node without blocks: HaveBlocks finds everything, Unpin never ends, Seal panics, and
/// everything else finds the disk full. Block n reads as n bytes of n.
#[derive(Debug)]
pub(crate) struct Fake;

impl Handler for Fake {
    fn call(
        self: Arc<Self>,
        _: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Fault>> {
        async move {
            match request {
                Request::HaveBlocks { .. } => Ok(Response::AllHere),
                Request::Unpin { .. } => std::future::pending().await,
                Request::Seal { .. } => panic!("a defect of the handler"),
                _ => Err(Fault::new(ErrorCode::Full, "no room")),
            }
        }
        .boxed()
    }

    fn get_blocks(
        self: Arc<Self>,
        _: Context,
        ids: Vec<BlockId>,
        mut blocks: BlockSink,
    ) -> BoxFuture<'static, Result<(), Fault>> {
        async move {
            for (index, id) in ids.iter().enumerate().rev() {
                let n = id.as_bytes()[0];
                blocks
                    .send(index as u32, Ok(Bytes::from(vec![n; n.into()])))
                    .await?;
            }
            Ok(())
        }
        .boxed()
    }
}

/// Returns a configuration without short deadlines.
pub(crate) fn server_config() -> ServerConfig {
    ServerConfig {
        key: FrameKey::from_bytes(KEY),
        cluster: CLUSTER,
        node: NodeId::new("storage-1").unwrap(),
        store: StoreUuid::from_bytes([7; 16]),
        credits: 1 << 20,
        max_requests: 8,
        handshake_deadline: LONG,
        progress_deadline: LONG,
        idle_deadline: LONG,
    }
}

/// Returns the configuration of a client that [`server_config`] admits.
pub(crate) fn client_config() -> ClientConfig {
    ClientConfig {
        key: FrameKey::from_bytes(KEY),
        cluster: CLUSTER,
        node: NodeId::new("worker-1").unwrap(),
        expect: NodeId::new("storage-1").unwrap(),
        handshake_deadline: LONG,
        progress_deadline: LONG,
    }
}

/// Serves one connection by [`Fake`].
#[allow(
    clippy::disallowed_methods,
    reason = "the task ends with the runtime of its test"
)]
pub(crate) fn serve(stream: DuplexStream, config: ServerConfig) -> tokio::task::JoinHandle<()> {
    let serving = serve_connection(
        stream,
        Arc::new(config),
        Arc::new(Fake),
        std::future::pending(),
    );
    tokio::spawn(serving)
}
