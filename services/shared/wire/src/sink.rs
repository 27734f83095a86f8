//! Where the blocks of one GetBlocks go: into frames, or straight to a worker of this process.

use std::sync::Arc;

use bytes::Bytes;
use cstore_types::{ErrorCode, Fault};
use tokio::sync::{OwnedSemaphorePermit, mpsc};

use crate::budget::{ConnectionBudget, HeldBytes};
use crate::frame::Prefix;
use crate::message::{BlockReply, Encoded, Response};

/// A frame that waits for the socket.
pub(crate) struct Frame {
    pub(crate) encoded: Encoded,
    /// Credits of the request that is answered, returned when the frame is written.
    pub(crate) request: Option<OwnedSemaphorePermit>,
    /// Budget of a block, returned when the frame is written.
    pub(crate) block: Option<HeldBytes>,
}

impl std::fmt::Debug for Frame {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Frame({} bytes)", self.encoded.len)
    }
}

/// A block between the node and the worker.
#[derive(Debug)]
pub(crate) struct BlockInTransit {
    pub(crate) reply: BlockReply,
    /// Budget of the block at a storage node of this process, returned when the worker has it.
    _block: Option<HeldBytes>,
}

impl From<BlockReply> for BlockInTransit {
    fn from(reply: BlockReply) -> Self {
        Self {
            reply,
            _block: None,
        }
    }
}

/// The way to the worker. Clones lead to the same place.
#[derive(Debug, Clone)]
pub(crate) enum Outlet {
    /// Frames of a connection, with the id of the request that they answer.
    Frames(mpsc::Sender<Frame>, u32),
    Local(mpsc::Sender<BlockInTransit>),
}

impl Outlet {
    async fn send(&self, reply: BlockReply, held: &mut HeldBytes) -> Result<(), Fault> {
        match self {
            Self::Frames(frames, request_id) => {
                let encoded = Response::Block(reply).encode(&Prefix::answer(*request_id));
                let frame = Frame {
                    request: None,
                    block: held.split(encoded.len),
                    encoded,
                };
                frames.send(frame).await.map_err(|_| gone())
            }
            Self::Local(blocks) => {
                let len = reply.result.as_ref().map_or(0, Bytes::len);
                let block = BlockInTransit {
                    _block: held.split_block(len),
                    reply,
                };
                blocks.send(block).await.map_err(|_| gone())
            }
        }
    }

    /// Waits until the receiver is closed.
    async fn closed(&self) {
        match self {
            Self::Frames(frames, _) => frames.closed().await,
            Self::Local(blocks) => blocks.closed().await,
        }
    }
}

/// Takes the blocks of one GetBlocks, in any order.
#[derive(Debug)]
pub struct BlockSink {
    left: usize,
    outlet: Outlet,
    budget: Arc<ConnectionBudget>,
}

impl BlockSink {
    /// Returns a sink for `left` blocks.
    pub(crate) fn new(left: usize, outlet: Outlet, budget: Arc<ConnectionBudget>) -> Self {
        Self {
            left,
            outlet,
            budget,
        }
    }

    /// Returns a handle that reserves bytes for blocks of this request. It can be used while a block is
    /// being sent.
    pub fn reserver(&self) -> Reserver {
        Reserver {
            outlet: self.outlet.clone(),
            budget: self.budget.clone(),
        }
    }

    /// Sends block `index`, which is in memory already; waits while too many bytes wait for the
    /// worker.
    ///
    /// # Errors
    /// A [`Fault`] when the connection is gone: stop reading blocks.
    pub async fn send(
        &mut self,
        index: u32,
        result: Result<Bytes, ErrorCode>,
    ) -> Result<(), Fault> {
        let len = result.as_ref().map_or(0, Bytes::len);
        let mut held = self.reserver().reserve(&[len]).await?;
        self.send_held(index, result, &mut held).await
    }

    /// Sends block `index`, whose bytes were reserved: they are taken out of `held` and returned when
    /// they are written, or received by a worker of this process.
    ///
    /// # Errors
    /// A [`Fault`] when the connection is gone: stop reading blocks.
    pub async fn send_held(
        &mut self,
        index: u32,
        result: Result<Bytes, ErrorCode>,
        held: &mut HeldBytes,
    ) -> Result<(), Fault> {
        self.left = self.left.saturating_sub(1);
        let reply = BlockReply {
            index,
            last: self.left == 0,
            result,
        };
        self.outlet.send(reply, held).await
    }
}

/// Reserves bytes for the blocks of one GetBlocks.
#[derive(Debug)]
pub struct Reserver {
    outlet: Outlet,
    budget: Arc<ConnectionBudget>,
}

impl Reserver {
    /// Waits until blocks of these lengths may be held, in order with the other requests of the
    /// connection. MUST be called BEFORE the blocks are read: what is read without it is bounded by
    /// nothing. Cancel safe.
    ///
    /// # Errors
    /// A [`Fault`] when the connection is gone: stop reading blocks.
    pub async fn reserve(&self, lens: &[usize]) -> Result<HeldBytes, Fault> {
        tokio::select! {
            biased;
            // Requests of a connection that is gone read nothing for it.
            () = self.outlet.closed() => Err(gone()),
            held = self.budget.reserve(lens) => held.ok_or_else(gone),
        }
    }
}

fn gone() -> Fault {
    Fault::new(ErrorCode::Unavailable, "connection is gone")
}
