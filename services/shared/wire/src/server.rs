//! The storage node's end of a connection.

use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cstore_types::{
    BlockId, ClusterUuid, ErrorCode, Fault, FrameKey, MapVersion, NodeId, StoreUuid, error_chain,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{Semaphore, mpsc};
use tokio::time::timeout;

use crate::budget::{ConnectionBudget, ReadBudget};
use crate::decode_error::DecodeError;
use crate::error::Disconnect;
use crate::frame::{Opcode, Prefix, TraceField};
use crate::handshake::{
    Direction, Hello, MIN_VERSION, Role, VERSION, Welcome, common_version, decode_proof,
    encode_refused, is_proof, prove,
};
use crate::io::{Outgoing, bare_frame, read_header, read_payload};
use crate::limits::{CREDIT_UNIT, GATHERED_FRAMES, READ_BUFFER, WRITE_QUEUE};
use crate::message::{Request, Response};
use crate::sink::{BlockSink, Frame, Outlet};
use crate::task::spawn;

/// Parameters by which a storage node serves connections.
#[derive(Debug, Clone)]
pub struct ServerConfig {
    /// Key that proves membership.
    pub key: FrameKey,
    /// Cluster of this node.
    pub cluster: ClusterUuid,
    /// Name of this node.
    pub node: NodeId,
    /// Disk of this node.
    pub store: StoreUuid,
    /// Bytes of requests that one connection may have in flight, and of blocks that its answers hold.
    pub credits: u32,
    /// Requests of one connection that are worked on at once.
    pub max_requests: usize,
    /// Bound of the whole handshake.
    pub handshake_deadline: Duration,
    /// Bound of each wait inside of a frame, and for a peer that does not read.
    pub progress_deadline: Duration,
    /// Time after which a connection is closed if nothing comes over it.
    pub idle_deadline: Duration,
}

/// Sender of a request, and the trace of the request.
#[derive(Debug, Clone)]
pub struct Context {
    /// The peer's name, proven by the handshake.
    pub peer: NodeId,
    /// Placement map of the peer.
    pub map_version: MapVersion,
    /// Trace context of the peer.
    pub trace: Option<TraceField>,
}

/// Handler of a storage node's requests.
pub trait Handler: Send + Sync + 'static {
    /// Handles every request but GetBlocks, Ping and Goodbye.
    fn call(
        self: Arc<Self>,
        context: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Fault>>;

    /// Returns the budget of the blocks that all connections of the handler hold. Without limit,
    /// unless the handler has one.
    fn read_budget(&self) -> ReadBudget {
        ReadBudget::new(u64::MAX)
    }

    /// Sends one answer for each id into `blocks`.
    fn get_blocks(
        self: Arc<Self>,
        context: Context,
        ids: Vec<BlockId>,
        blocks: BlockSink,
    ) -> BoxFuture<'static, Result<(), Fault>>;
}

/// Serves one connection until the peer closes, breaks the protocol or `shutdown` ends. Requests in
/// work are finished and answered within the progress deadline.
pub async fn serve_connection<S, H>(
    stream: S,
    config: Arc<ServerConfig>,
    handler: Arc<H>,
    shutdown: impl Future<Output = ()> + Send,
) where
    S: AsyncRead + AsyncWrite + Send + 'static,
    H: Handler + ?Sized,
{
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(READ_BUFFER, reader);
    let shake = shake_hands(&mut reader, &mut writer, &config);
    let peer = match timeout(config.handshake_deadline, shake).await {
        Ok(Ok(peer)) => peer,
        Ok(Err(why)) => return tracing::info!(why = %error_chain(&why), "connection refused"),
        Err(_) => return tracing::info!("connection refused: no handshake in time"),
    };
    let (frames, queue) = mpsc::channel(WRITE_QUEUE);
    let mut write = AbortOnDrop(spawn(write_all(writer, queue, config.progress_deadline)));
    let units = (config.credits as usize / CREDIT_UNIT).max(1);
    let outgoing = ConnectionBudget::new(config.credits, handler.read_budget());
    let connection = Serving {
        config: config.clone(),
        handler,
        peer,
        frames,
        incoming: Arc::new(Semaphore::new(units)),
        outgoing: Arc::new(outgoing),
        requests: Arc::new(Semaphore::new(config.max_requests)),
        units,
    };
    tokio::select! {
        biased;
        error = connection.read_all(&mut reader) => connection.say_why(error).await,
        () = shutdown => {}
        // The writer ends early only when the peer is gone or does not read.
        () = connection.frames.closed() => {}
    }
    let drain = connection
        .requests
        .clone()
        .acquire_many_owned(u32::try_from(config.max_requests).unwrap_or(u32::MAX));
    let _ = timeout(config.progress_deadline, drain).await;
    drop(connection);
    let _ = timeout(config.progress_deadline, &mut write.0).await;
}

/// Closes the socket also when a handler hangs or the connection's own task is dropped.
struct AbortOnDrop(tokio::task::JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

struct Serving<H: ?Sized> {
    config: Arc<ServerConfig>,
    handler: Arc<H>,
    peer: NodeId,
    frames: mpsc::Sender<Frame>,
    incoming: Arc<Semaphore>,
    outgoing: Arc<ConnectionBudget>,
    requests: Arc<Semaphore>,
    units: usize,
}

impl<H: Handler + ?Sized> Serving<H> {
    async fn read_all<R: AsyncRead + Unpin>(&self, reader: &mut R) -> Disconnect {
        loop {
            if let Err(error) = self.read_one(reader).await {
                return error;
            }
        }
    }

    /// Reads one request and starts to work on it. Stops reading while the connection has too much
    /// in flight.
    async fn read_one<R: AsyncRead + Unpin>(&self, reader: &mut R) -> Result<(), Disconnect> {
        let gone = || Disconnect::Closed;
        let (opcode, len) = read_header(
            reader,
            self.config.idle_deadline,
            self.config.progress_deadline,
        )
        .await?;
        let units = (len as usize).div_ceil(CREDIT_UNIT).clamp(1, self.units);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        let held = self
            .incoming
            .clone()
            .acquire_many_owned(units)
            .await
            .map_err(|_| gone())?;
        let running = self
            .requests
            .clone()
            .acquire_owned()
            .await
            .map_err(|_| gone())?;
        let payload = read_payload(reader, len, self.config.progress_deadline).await?;
        let (prefix, request) = Request::decode(opcode, payload)?;
        tracing::debug!(target: "cstore_wire", ?opcode, request = prefix.request_id, bytes = len, peer = %self.peer, "frame in");
        if request == Request::Goodbye {
            return Err(Disconnect::Closed);
        }
        let context = Context {
            peer: self.peer.clone(),
            map_version: prefix.map_version,
            trace: prefix.trace,
        };
        let (id, knows_version_3) = (prefix.request_id, prefix.knows_version_3);
        let answer = self.answer(id, context, request);
        let frames = self.frames.clone();
        spawn(async move {
            let answer = AssertUnwindSafe(answer).catch_unwind().await;
            let answer = answer.unwrap_or_else(|_| Some(panicked()));
            if let Some(response) = answer {
                let response = match knows_version_3 {
                    true => response,
                    false => response.for_version_2(),
                };
                let encoded = response.encode(&Prefix::answer(id));
                tracing::debug!(target: "cstore_wire", opcode = ?response.opcode(), request = id, bytes = encoded.len, "frame out");
                let _ = frames
                    .send(Frame {
                        encoded,
                        request: Some(held),
                        block: None,
                    })
                    .await;
            }
            drop(running);
        });
        Ok(())
    }

    /// The future that works on a request; `None` when everything was sent as blocks.
    fn answer(
        &self,
        id: u32,
        context: Context,
        request: Request,
    ) -> BoxFuture<'static, Option<Response>> {
        let handler = self.handler.clone();
        match request {
            Request::Ping => async { Some(Response::Ok) }.boxed(),
            Request::GetBlocks { ids } => {
                let outlet = Outlet::Frames(self.frames.clone(), id);
                let blocks = BlockSink::new(ids.len(), outlet, self.outgoing.clone());
                handler
                    .get_blocks(context, ids, blocks)
                    .map(|done| done.err().map(Response::Error))
                    .boxed()
            }
            request => handler
                .call(context, request)
                .map(|done| Some(done.unwrap_or_else(Response::Error)))
                .boxed(),
        }
    }

    /// A peer that broke the protocol is told why before the connection closes.
    async fn say_why(&self, error: Disconnect) {
        match error {
            Disconnect::Decode(error) => {
                tracing::info!(peer = %self.peer, error = %error_chain(&error), "peer broke the protocol");
                let encoded = Response::Error(error.into()).encode(&Prefix::answer(0));
                let _ = self
                    .frames
                    .send(Frame {
                        encoded,
                        request: None,
                        block: None,
                    })
                    .await;
            }
            Disconnect::Closed => {}
            error => {
                tracing::info!(peer = %self.peer, error = %error_chain(&error), "connection ended")
            }
        }
    }
}

/// Returns the answer to a request whose handler panicked, and says so in the log.
pub(crate) fn panicked() -> Response {
    tracing::error!("request handler panicked");
    Response::Error(Fault::new(ErrorCode::Internal, "request handler panicked"))
}

async fn write_all<W: AsyncWrite + Unpin>(
    mut writer: W,
    mut queue: mpsc::Receiver<Frame>,
    progress: Duration,
) {
    let mut out = Outgoing::default();
    let mut batch = Vec::with_capacity(GATHERED_FRAMES);
    while queue.recv_many(&mut batch, GATHERED_FRAMES).await > 0 {
        let mut held = Vec::with_capacity(batch.len());
        for frame in batch.drain(..) {
            out.extend(frame.encoded.buffers);
            held.push((frame.request, frame.block));
        }
        match timeout(progress, out.write_to(&mut writer)).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => return tracing::info!(%error, "connection ended"),
            Err(_) => return tracing::info!("connection ended: peer does not read"),
        }
    }
    let _ = tokio::io::AsyncWriteExt::shutdown(&mut writer).await;
}

/// A handshake that failed at the storage node's end.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HelloError {
    /// The connection ended.
    #[error("connection ended")]
    Disconnected(#[from] Disconnect),
    /// The peer sent something that is no handshake message.
    #[error("handshake message cannot be read")]
    Decode(#[from] DecodeError),
    /// The operating system gave no random bytes.
    #[error("no nonce")]
    Nonce(#[from] getrandom::Error),
    /// The first frame does not belong into a handshake.
    #[error("expected a handshake, found {0:?}")]
    Opcode(Opcode),
    /// The peer speaks other versions only.
    #[error("versions {min} to {max} are not spoken here, {MIN_VERSION} to {VERSION} are")]
    Versions {
        /// Oldest version of the peer.
        min: u16,
        /// Newest version of the peer.
        max: u16,
    },
    /// The peer is no worker.
    #[error("only workers may connect")]
    Role,
    /// The peer is of another cluster than ours.
    #[error("this node belongs to cluster {0}")]
    Cluster(ClusterUuid),
    /// The peer does not hold the frame key.
    #[error("proof does not fit the cluster secret")]
    Proof,
}

/// Sends Welcome or Refused in reply to Hello, and Ok to a good proof. Everything else ends the
/// connection.
async fn shake_hands<R, W>(
    reader: &mut R,
    writer: &mut W,
    config: &ServerConfig,
) -> Result<NodeId, HelloError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut out = Outgoing::default();
    let payload = read_handshake(reader, config).await?;
    let hello = Hello::decode(payload.clone()).map_err(HelloError::from);
    let hello = match hello.and_then(|hello| check_hello(hello, config)) {
        Ok(hello) => hello,
        Err(why) => {
            let fault = Fault::new(ErrorCode::PermissionDenied, error_chain(&why).to_string());
            out.extend(bare_frame(Opcode::Handshake, encode_refused(&fault)));
            let _ = out.write_to(writer).await;
            return Err(why);
        }
    };
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce)?;
    let welcome = welcome_of(config, &hello, nonce);
    let signed = welcome.encode().freeze();
    let mut answer = bytes::BytesMut::from(&signed[..]);
    answer.extend_from_slice(&prove(&config.key, Direction::Server, &payload, &signed));
    out.extend(bare_frame(Opcode::Handshake, answer.freeze()));
    out.write_to(writer).await.map_err(Disconnect::from)?;

    let proof = decode_proof(read_handshake(reader, config).await?)?;
    if !is_proof(&config.key, Direction::Client, &payload, &signed, &proof) {
        let fault = Fault::from_error(ErrorCode::Unauthenticated, HelloError::Proof);
        out.extend(Response::Error(fault).encode(&Prefix::answer(0)).buffers);
        let _ = out.write_to(writer).await;
        return Err(HelloError::Proof);
    }
    out.extend(bare_frame(
        Opcode::Ok,
        Bytes::from_static(&[0; crate::frame::PREFIX]),
    ));
    out.write_to(writer).await.map_err(Disconnect::from)?;
    Ok(hello.node)
}

async fn read_handshake<R: AsyncRead + Unpin>(
    reader: &mut R,
    config: &ServerConfig,
) -> Result<Bytes, HelloError> {
    let (opcode, len) =
        read_header(reader, config.handshake_deadline, config.progress_deadline).await?;
    if opcode != Opcode::Handshake {
        return Err(HelloError::Opcode(opcode));
    }
    Ok(read_payload(reader, len, config.progress_deadline).await?)
}

/// Returns the answer to a Hello that was checked.
pub(crate) fn welcome_of(config: &ServerConfig, hello: &Hello, nonce: [u8; 32]) -> Welcome {
    Welcome {
        version: common_version(hello.min_version, hello.max_version).unwrap_or(MIN_VERSION),
        role: Role::Storage,
        cluster: config.cluster,
        store: config.store,
        nonce,
        max_frame: Opcode::PutSeal.payload_bounds().1,
        credits: config.credits,
        node: config.node.clone(),
    }
}

pub(crate) fn check_hello(hello: Hello, config: &ServerConfig) -> Result<Hello, HelloError> {
    if common_version(hello.min_version, hello.max_version).is_none() {
        return Err(HelloError::Versions {
            min: hello.min_version,
            max: hello.max_version,
        });
    }
    if hello.role != Role::Worker {
        return Err(HelloError::Role);
    }
    if hello.cluster != config.cluster {
        return Err(HelloError::Cluster(config.cluster));
    }
    Ok(hello)
}
