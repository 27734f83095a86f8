//! A storage node that workers of the same process ask without sockets and frames.
//!
//! ```text
//! worker: Connection ─▶ LocalPeer: credits, number of requests ─▶ Handler of the node, on a task of its own
//!                       blocks ◀── budget of the connection, budget of the process ◀──┘
//! ```
//! Invariants, the same as those of a connection of frames
//! * Both sides prove the frame key and agree on cluster, node and version before the first request.
//! * Bytes in flight, requests at work and blocks that wait for the worker are bounded.
//! * A request that the node has begun runs to its end, whether or not its caller still waits.
//! * A node that stops takes no new requests, and finishes those at work.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::task::Poll;
use std::time::Duration;

use cstore_types::{BlockId, Fault, MapVersion, NodeId, StoreUuid};
use futures_util::FutureExt;
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tokio_util::task::task_tracker::TaskTrackerToken;

use crate::budget::ConnectionBudget;
use crate::connection::{ClientConfig, RunningRead, check_welcome, hello_of};
use crate::error::{ClientError, Disconnect, HandshakeError};
use crate::frame::TraceField;
use crate::handshake::{Direction, is_proof, prove};
use crate::limits::CREDIT_UNIT;
use crate::message::{BlockReply, Request, Response};
use crate::server::{Context, Handler, ServerConfig, check_hello, panicked, welcome_of};
use crate::sink::{BlockSink, Outlet};
use crate::task::spawn;

/// A storage node as workers of the same process reach it. Clones are the same node.
#[derive(Clone)]
pub struct LocalNode {
    config: Arc<ServerConfig>,
    /// `None` after the node has closed: workers keep connections for a while, and the handler holds
    /// the disk.
    handler: Arc<Mutex<Option<Arc<dyn Handler>>>>,
    /// Cancelled when the node takes no more requests.
    closed: CancellationToken,
    /// Requests at work.
    requests: TaskTracker,
}

impl std::fmt::Debug for LocalNode {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "LocalNode({})", self.config.node)
    }
}

impl LocalNode {
    /// A node whose requests `handler` handles.
    pub fn new(config: Arc<ServerConfig>, handler: Arc<dyn Handler>) -> Self {
        Self {
            config,
            handler: Arc::new(Mutex::new(Some(handler))),
            closed: CancellationToken::new(),
            requests: TaskTracker::new(),
        }
    }

    /// Refuses new requests, waits up to `patience` for those at work, and releases the handler.
    pub async fn close(&self, patience: Duration) {
        self.closed.cancel();
        self.requests.close();
        if timeout(patience, self.requests.wait()).await.is_err() {
            let requests = self.requests.len();
            tracing::warn!(requests, "requests of this process did not end in time");
        }
        *self.handler.lock() = None;
    }

    /// Closes the node when the result is dropped, without waiting for requests at work.
    pub fn close_on_drop(&self) -> CloseOnDrop {
        CloseOnDrop(self.clone())
    }

    fn handler(&self) -> Result<Arc<dyn Handler>, Disconnect> {
        self.handler.lock().clone().ok_or(Disconnect::Closed)
    }

    /// Counts a request as running until the token is dropped. The count comes BEFORE the look whether
    /// the node is closed: otherwise a closing node could miss the request.
    fn begin(&self) -> Result<(Arc<dyn Handler>, TaskTrackerToken), Disconnect> {
        let running = self.requests.token();
        if self.closed.is_cancelled() {
            return Err(Disconnect::Closed);
        }
        Ok((self.handler()?, running))
    }
}

/// Closes a [`LocalNode`] when it is dropped: a role that ends without closing it must not keep its
/// disk.
#[derive(Debug)]
pub struct CloseOnDrop(LocalNode);

impl Drop for CloseOnDrop {
    fn drop(&mut self) {
        self.0.closed.cancel();
        *self.0.handler.lock() = None;
    }
}

/// A worker's end of a connection to a [`LocalNode`].
#[derive(Clone)]
pub(crate) struct LocalPeer(Arc<Shared>);

struct Shared {
    node: LocalNode,
    /// Name of the worker.
    worker: NodeId,
    credits: Arc<Semaphore>,
    max_credits: usize,
    /// Places of requests at work.
    places: Arc<Semaphore>,
    outgoing: Arc<ConnectionBudget>,
}

/// Credits and the place of a request. Returned when the request ends.
struct Admission {
    _credits: OwnedSemaphorePermit,
    _place: OwnedSemaphorePermit,
}

impl LocalPeer {
    /// Checks what a handshake checks. Returns the peer and its disk.
    pub(crate) fn connect(
        node: &LocalNode,
        config: &ClientConfig,
    ) -> Result<(Self, StoreUuid), ClientError> {
        if node.closed.is_cancelled() {
            return Err(Disconnect::Closed.into());
        }
        let server = &node.config;
        let refused = |why| {
            let code = cstore_types::ErrorCode::PermissionDenied;
            HandshakeError::Refused(Fault::from_error(code, why))
        };
        // Nothing is replayed inside of a process: the proofs need no nonce.
        let hello = hello_of(config, [0; 32]);
        let hello_bytes = hello.encode();
        let hello = check_hello(hello, server).map_err(refused)?;
        let welcome = welcome_of(server, &hello, [0; 32]);
        let welcome_bytes = welcome.encode();
        for (ours, theirs, direction) in [
            (&config.key, &server.key, Direction::Server),
            (&server.key, &config.key, Direction::Client),
        ] {
            let proof = prove(theirs, direction, &hello_bytes, &welcome_bytes);
            if !is_proof(ours, direction, &hello_bytes, &welcome_bytes, &proof) {
                return Err(HandshakeError::Secret.into());
            }
        }
        check_welcome(&welcome, config)?;

        let max_credits = (server.credits as usize / CREDIT_UNIT).max(1);
        let outgoing = ConnectionBudget::new(server.credits, node.handler()?.read_budget());
        let peer = Self(Arc::new(Shared {
            node: node.clone(),
            worker: config.node.clone(),
            credits: Arc::new(Semaphore::new(max_credits)),
            max_credits,
            places: Arc::new(Semaphore::new(server.max_requests)),
            outgoing: Arc::new(outgoing),
        }));
        Ok((peer, welcome.store))
    }

    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.0.node.closed
    }

    /// Hands a request to the node. It runs to its end even if this future is dropped.
    pub(crate) async fn call(
        &self,
        request: Request,
        map_version: MapVersion,
        trace: Option<TraceField>,
    ) -> Result<Response, ClientError> {
        let admission = self.admit(request.weight()).await?;
        match request {
            Request::Ping => return Ok(Response::Ok),
            Request::Goodbye => return Err(Disconnect::ByUs.into()),
            _ => {}
        }
        let (handler, running) = self.0.node.begin()?;
        let handling = handler.call(self.context(map_version, trace), request);
        let handling = AssertUnwindSafe(handling).catch_unwind();
        let mut handled = Box::pin(handling.map(move |handled| {
            drop((admission, running));
            let answered = handled.map(|answer| answer.unwrap_or_else(Response::Error));
            answered.unwrap_or_else(|_| panicked())
        }));

        // Most requests for what is in memory end at once and need no task.
        if let Poll::Ready(response) = futures_util::poll!(&mut handled) {
            return Ok(response);
        }
        let task = spawn(handled);
        task.await.map_err(|_| Disconnect::Closed.into())
    }

    /// Asks for blocks; `expected_bytes` is their size together.
    pub(crate) async fn get_blocks(
        &self,
        ids: Vec<BlockId>,
        expected_bytes: usize,
        map_version: MapVersion,
        trace: Option<TraceField>,
    ) -> Result<RunningRead, ClientError> {
        let ids_bytes = ids.len().saturating_mul(BlockId::LEN);
        let Admission {
            _credits: credits,
            _place: place,
        } = self.admit(ids_bytes.saturating_add(expected_bytes)).await?;
        let (sender, blocks) = mpsc::channel(ids.len().max(1));
        let sink = BlockSink::new(
            ids.len(),
            Outlet::Local(sender.clone()),
            self.0.outgoing.clone(),
        );
        let (handler, running) = self.0.node.begin()?;
        let handling = handler.get_blocks(self.context(map_version, trace), ids, sink);
        let handling = AssertUnwindSafe(handling).catch_unwind();
        let mut handled = Box::pin(handling.map(move |done| {
            drop((place, running));
            let failed = match done {
                Ok(Ok(())) => return,
                Ok(Err(fault)) => fault.code,
                Err(_) => {
                    drop(panicked());
                    cstore_types::ErrorCode::Internal
                }
            };
            let failed = BlockReply {
                index: u32::MAX,
                last: true,
                result: Err(failed),
            };
            let _ = sender.try_send(failed.into());
        }));

        if futures_util::poll!(&mut handled).is_pending() {
            drop(spawn(handled));
        }
        Ok(RunningRead {
            blocks,
            _credits: credits,
            _pending: None,
        })
    }

    /// Waits for a place and for credits.
    async fn admit(&self, bytes: usize) -> Result<Admission, ClientError> {
        // A task whose requests are all answered at once would never let others run otherwise.
        tokio::task::coop::consume_budget().await;
        let units = bytes.div_ceil(CREDIT_UNIT).clamp(1, self.0.max_credits);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let lost = |_| Disconnect::Closed;
        let admitted = async {
            Ok::<_, Disconnect>(Admission {
                _credits: self
                    .0
                    .credits
                    .clone()
                    .acquire_many_owned(units)
                    .await
                    .map_err(lost)?,
                _place: self.0.places.clone().acquire_owned().await.map_err(lost)?,
            })
        };
        tokio::select! {
            biased;
            () = self.closed().cancelled() => Err(Disconnect::Closed.into()),
            admitted = admitted => Ok(admitted?),
        }
    }

    fn context(&self, map_version: MapVersion, trace: Option<TraceField>) -> Context {
        Context {
            peer: self.0.worker.clone(),
            map_version,
            trace,
        }
    }
}
