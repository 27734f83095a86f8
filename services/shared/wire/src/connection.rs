//! A worker's connection to a storage node, over frames or, in one process, by direct calls.

use std::future::Future;
use std::io;
use std::time::Duration;

use cstore_types::{BlockId, ClusterUuid, FrameKey, MapVersion, NodeId, StoreUuid};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::{OwnedSemaphorePermit, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use crate::client::{Pending, RemotePeer};
use crate::error::{ClientError, Disconnect, HandshakeError};
use crate::frame::{Opcode, TraceField};
use crate::handshake::{Hello, MIN_VERSION, Role, VERSION, Welcome, common_version};
use crate::local::{LocalNode, LocalPeer};
use crate::message::{BlockReply, Request, Response};
use crate::sink::BlockInTransit;

/// Parameters of a connection to a storage node.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// Key that proves membership.
    pub key: FrameKey,
    /// Cluster of this worker.
    pub cluster: ClusterUuid,
    /// Name of this worker.
    pub node: NodeId,
    /// Node that must be at the other end; another one is refused.
    pub expect: NodeId,
    /// Bound of connect and handshake together.
    pub handshake_deadline: Duration,
    /// Bound of each wait inside of a frame.
    pub progress_deadline: Duration,
}

/// A live connection; cheap to clone. It closes when the last handle is gone.
#[derive(Clone)]
pub struct Connection {
    peer: Peer,
    store: StoreUuid,
}

/// The other end of a connection.
#[derive(Clone)]
enum Peer {
    Remote(RemotePeer),
    Local(LocalPeer),
}

impl std::fmt::Debug for Connection {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Connection")
            .field("store", &self.store)
            .field("closed", &self.is_closed())
            .finish()
    }
}

impl Connection {
    /// Waits for a stream that is being connected and shakes hands over it, within one deadline.
    ///
    /// # Errors
    /// [`ClientError::Disconnected`] if nobody answers, [`ClientError::Handshake`] if the node is
    /// not the expected one or the proof fails.
    pub async fn connect<S>(
        dialling: impl Future<Output = io::Result<S>>,
        config: &ClientConfig,
    ) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let connect = async { Self::over(dialling.await.map_err(Disconnect::from)?, config).await };
        let late = Disconnect::Late(config.handshake_deadline);
        timeout(config.handshake_deadline, connect)
            .await
            .map_err(|_| late)?
    }

    /// Shakes hands over a stream that is connected already.
    ///
    /// # Errors
    /// Those of [`Self::connect`].
    pub async fn over<S>(stream: S, config: &ClientConfig) -> Result<Self, ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let (peer, store) = RemotePeer::over(stream, config).await?;
        let peer = Peer::Remote(peer);
        Ok(Self { peer, store })
    }

    /// Connects to a storage node of this process, which checks what a handshake checks.
    ///
    /// # Errors
    /// Those of [`Self::connect`].
    pub fn to_local(node: &LocalNode, config: &ClientConfig) -> Result<Self, ClientError> {
        let (peer, store) = LocalPeer::connect(node, config)?;
        let peer = Peer::Local(peer);
        Ok(Self { peer, store })
    }

    /// Returns the disk behind this connection.
    pub fn store(&self) -> StoreUuid {
        self.store
    }

    /// Returns true if the connection is closed.
    pub fn is_closed(&self) -> bool {
        self.end().is_cancelled()
    }

    /// Waits until the connection is closed.
    pub async fn closed(&self) {
        self.end().cancelled().await;
    }

    fn end(&self) -> &CancellationToken {
        match &self.peer {
            Peer::Remote(peer) => peer.closed(),
            Peer::Local(peer) => peer.closed(),
        }
    }

    fn lost(&self) -> ClientError {
        match &self.peer {
            Peer::Remote(peer) => peer.lost(),
            Peer::Local(_) => Disconnect::Closed.into(),
        }
    }

    /// Sends a request and waits for the answer. If the future is dropped, the answer is discarded;
    /// the request may have been carried out.
    ///
    /// # Errors
    /// [`ClientError`]; only `Refused` says that nothing was done.
    pub async fn call(
        &self,
        request: &Request,
        map_version: MapVersion,
        trace: Option<TraceField>,
        deadline: Duration,
    ) -> Result<Response, ClientError> {
        let ask = async {
            match &self.peer {
                Peer::Remote(peer) => peer.call(request, map_version, trace).await,
                Peer::Local(peer) => peer.call(request.clone(), map_version, trace).await,
            }
        };
        let late = |_| ClientError::Deadline(deadline.as_millis());
        match timeout(deadline, ask).await.map_err(late)?? {
            Response::Error(fault) => Err(ClientError::Refused(fault)),
            response => Ok(response),
        }
    }

    /// Asks for blocks; `expected_bytes` is their size together, so that credits bound the bytes in
    /// flight. `deadline` bounds the wait for each block.
    ///
    /// # Errors
    /// [`ClientError::Disconnected`], [`ClientError::Deadline`].
    pub async fn get_blocks(
        &self,
        ids: Vec<BlockId>,
        expected_bytes: usize,
        map_version: MapVersion,
        trace: Option<TraceField>,
        deadline: Duration,
    ) -> Result<BlockStream, ClientError> {
        let left = ids.len();
        let ask = async {
            match &self.peer {
                Peer::Remote(peer) => {
                    peer.get_blocks(ids, expected_bytes, map_version, trace)
                        .await
                }
                Peer::Local(peer) => {
                    peer.get_blocks(ids, expected_bytes, map_version, trace)
                        .await
                }
            }
        };
        let late = |_| ClientError::Deadline(deadline.as_millis());
        let running = timeout(deadline, ask).await.map_err(late)??;
        Ok(BlockStream {
            running,
            connection: self.clone(),
            left,
            deadline,
        })
    }
}

/// A read of blocks that was begun. Dropping it tells the other end that nobody waits any more.
pub(crate) struct RunningRead {
    pub(crate) blocks: mpsc::Receiver<BlockInTransit>,
    pub(crate) _credits: OwnedSemaphorePermit,
    /// `None` if no frames lead to the node.
    pub(crate) _pending: Option<Pending>,
}

/// Blocks of one GetBlocks as they arrive.
pub struct BlockStream {
    running: RunningRead,
    connection: Connection,
    left: usize,
    deadline: Duration,
}

impl std::fmt::Debug for BlockStream {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "BlockStream({} left)", self.left)
    }
}

impl BlockStream {
    /// Returns the next block, in the order in which they arrive; `None` after the last one.
    ///
    /// # Errors
    /// [`ClientError`]; blocks that came before it are good.
    pub async fn next(&mut self) -> Option<Result<BlockReply, ClientError>> {
        if self.left == 0 {
            return None;
        }
        let result = match timeout(self.deadline, self.running.blocks.recv()).await {
            Ok(Some(block)) => Ok(block.reply),
            Ok(None) => Err(self.connection.lost()),
            Err(_) => Err(ClientError::Deadline(self.deadline.as_millis())),
        };
        self.left = if result.is_ok() {
            self.left.saturating_sub(1)
        } else {
            0
        };
        Some(result)
    }
}

/// Returns the first message of a worker.
pub(crate) fn hello_of(config: &ClientConfig, nonce: [u8; 32]) -> Hello {
    Hello {
        min_version: MIN_VERSION,
        max_version: VERSION,
        role: Role::Worker,
        cluster: config.cluster,
        nonce,
        max_frame: Opcode::PutSeal.payload_bounds().1,
        node: config.node.clone(),
    }
}

/// Checks that the other end is the storage node that a worker expects.
///
/// # Errors
/// [`HandshakeError::Foreign`], [`HandshakeError::Node`].
pub(crate) fn check_welcome(
    welcome: &Welcome,
    config: &ClientConfig,
) -> Result<(), HandshakeError> {
    let is_foreign = welcome.cluster != config.cluster
        || welcome.role != Role::Storage
        || common_version(welcome.version, welcome.version).is_none();
    if is_foreign {
        return Err(HandshakeError::Foreign);
    }
    if welcome.node != config.expect {
        return Err(HandshakeError::Node {
            expected: config.expect.clone(),
            found: welcome.node.clone(),
        });
    }
    Ok(())
}
