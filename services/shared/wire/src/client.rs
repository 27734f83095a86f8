//! The worker's end of a connection of frames: many requests in flight, answers matched by request
//! id.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use bytes::Bytes;
use cstore_types::{BlockId, MapVersion, StoreUuid};
use parking_lot::Mutex;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use crate::connection::{ClientConfig, RunningRead, check_welcome, hello_of};
use crate::error::{ClientError, Disconnect, HandshakeError};
use crate::frame::{Opcode, Prefix, TraceField};
use crate::handshake::{Answer, Direction, encode_proof, is_proof, prove};
use crate::io::{Outgoing, bare_frame, read_header, read_payload};
use crate::limits::{
    CREDIT_UNIT, FRAME_DEADLINE, GATHERED_FRAMES, PING_AFTER, READ_BUFFER, SILENCE_DEADLINE,
    WRITE_QUEUE,
};
use crate::message::{BlockReply, Encoded, Request, Response};
use crate::pulse::{Heard, Pulse};
use crate::sink::BlockInTransit;
use crate::task::spawn;

enum Waiter {
    One(oneshot::Sender<Response>),
    Blocks(mpsc::Sender<BlockInTransit>),
}

/// First version in which the answer to a seal may hold a nonce.
const NONCE_VERSION: u16 = 3;

/// State that the tasks of a connection and its handles share.
struct Shared {
    waiters: Mutex<HashMap<u32, Waiter>>,
    next_id: AtomicU32,
    credits: Arc<Semaphore>,
    max_credits: usize,
    closed: CancellationToken,
    /// First reason, once the connection is closed.
    why_closed: Mutex<Option<Disconnect>>,
    pulse: Arc<Pulse>,
    /// Version that both sides speak.
    version: u16,
}

impl Shared {
    fn close(&self, why: Disconnect) {
        self.why_closed.lock().get_or_insert(why);
        self.closed.cancel();
        // Dropped senders tell every waiting call that the connection is gone.
        self.waiters.lock().clear();
    }

    fn lost(&self) -> ClientError {
        self.why_closed
            .lock()
            .clone()
            .unwrap_or(Disconnect::Closed)
            .into()
    }
}

/// A storage node at the other end of a stream of frames. It disconnects when the last clone is gone.
#[derive(Clone)]
pub(crate) struct RemotePeer {
    shared: Arc<Shared>,
    sender: mpsc::Sender<Encoded>,
    _closer: Arc<tokio_util::sync::DropGuard>,
}

/// Forgets a waiting call when its future is dropped.
pub(crate) struct Pending {
    shared: Arc<Shared>,
    id: u32,
}

impl std::fmt::Debug for Pending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Pending({})", self.id)
    }
}

impl Drop for Pending {
    fn drop(&mut self) {
        self.shared.waiters.lock().remove(&self.id);
    }
}

impl RemotePeer {
    /// Shakes hands over a stream that is connected already. Returns the peer and its disk.
    pub(crate) async fn over<S>(
        stream: S,
        config: &ClientConfig,
    ) -> Result<(Self, StoreUuid), ClientError>
    where
        S: AsyncRead + AsyncWrite + Send + 'static,
    {
        let pulse = Pulse::new();
        let (reader, mut writer) = tokio::io::split(stream);
        let reader = Heard::new(reader, pulse.clone());
        let mut reader = BufReader::with_capacity(READ_BUFFER, reader);
        let Agreed {
            store,
            credits,
            version,
        } = shake_hands(&mut reader, &mut writer, config).await?;
        let closed = CancellationToken::new();
        let max_credits = (credits as usize / CREDIT_UNIT).max(1);
        let shared = Arc::new(Shared {
            waiters: Mutex::default(),
            next_id: AtomicU32::new(1),
            credits: Arc::new(Semaphore::new(max_credits)),
            max_credits,
            closed: closed.clone(),
            why_closed: Mutex::default(),
            pulse,
            version,
        });
        let (sender, queue) = mpsc::channel(WRITE_QUEUE);
        spawn(write_all(shared.clone(), writer, queue));
        spawn(read_all(shared.clone(), reader, config.progress_deadline));
        spawn(keep_alive(shared.clone(), sender.downgrade()));
        let peer = Self {
            shared,
            sender,
            _closer: Arc::new(closed.drop_guard()),
        };
        Ok((peer, store))
    }

    pub(crate) fn closed(&self) -> &CancellationToken {
        &self.shared.closed
    }

    pub(crate) fn lost(&self) -> ClientError {
        self.shared.lost()
    }

    pub(crate) async fn call(
        &self,
        request: &Request,
        map_version: MapVersion,
        trace: Option<TraceField>,
    ) -> Result<Response, ClientError> {
        let (sender, answer) = oneshot::channel();
        let (pending, encoded) = self.begin(request, map_version, trace, Waiter::One(sender));
        let _credits = self.credits(encoded.len).await?;
        self.send(encoded).await?;
        let response = answer.await.map_err(|_| self.lost())?;
        drop(pending);
        Ok(response)
    }

    /// Asks for blocks; `expected_bytes` is their size together.
    pub(crate) async fn get_blocks(
        &self,
        ids: Vec<BlockId>,
        expected_bytes: usize,
        map_version: MapVersion,
        trace: Option<TraceField>,
    ) -> Result<RunningRead, ClientError> {
        // The channel has a place for each block, so the reader never waits for a slow caller.
        let (sender, blocks) = mpsc::channel(ids.len().max(1));
        let (pending, encoded) = self.begin(
            &Request::GetBlocks { ids },
            map_version,
            trace,
            Waiter::Blocks(sender),
        );
        let credits = self
            .credits(encoded.len.saturating_add(expected_bytes))
            .await?;
        self.send(encoded).await?;
        Ok(RunningRead {
            blocks,
            _credits: credits,
            _pending: Some(pending),
        })
    }

    fn begin(
        &self,
        request: &Request,
        map_version: MapVersion,
        trace: Option<TraceField>,
        waiter: Waiter,
    ) -> (Pending, Encoded) {
        let id = self.shared.next_id.fetch_add(1, Ordering::Relaxed);
        self.shared.waiters.lock().insert(id, waiter);
        let pending = Pending {
            shared: self.shared.clone(),
            id,
        };
        let encoded = request.encode(&Prefix {
            request_id: id,
            map_version,
            trace,
            knows_version_3: self.shared.version >= NONCE_VERSION,
        });
        tracing::debug!(target: "cstore_wire", opcode = ?request.opcode(), request = id, bytes = encoded.len, "frame out");
        (pending, encoded)
    }

    async fn send(&self, encoded: Encoded) -> Result<(), ClientError> {
        let sent = self.sender.send(encoded).await;
        sent.map_err(|_| self.lost())
    }

    async fn credits(&self, bytes: usize) -> Result<OwnedSemaphorePermit, ClientError> {
        let units = bytes
            .div_ceil(CREDIT_UNIT)
            .clamp(1, self.shared.max_credits);
        let units = u32::try_from(units).unwrap_or(u32::MAX);
        tokio::select! {
            biased;
            () = self.shared.closed.cancelled() => Err(self.lost()),
            permit = self.shared.credits.clone().acquire_many_owned(units) => permit.map_err(|_| self.lost()),
        }
    }
}

/// What a handshake has agreed on.
struct Agreed {
    store: StoreUuid,
    credits: u32,
    version: u16,
}

async fn shake_hands<R, W>(
    reader: &mut R,
    writer: &mut W,
    config: &ClientConfig,
) -> Result<Agreed, ClientError>
where
    R: AsyncRead + Unpin,
    W: AsyncWrite + Unpin,
{
    let mut nonce = [0; 32];
    getrandom::fill(&mut nonce).map_err(HandshakeError::from)?;
    let hello = hello_of(config, nonce).encode();
    let mut out = Outgoing::default();
    out.extend(bare_frame(Opcode::Handshake, hello.clone()));
    out.write_to(writer).await.map_err(Disconnect::from)?;

    let payload = expect(reader, Opcode::Handshake, config).await?;
    let (welcome, proof) = match Answer::decode(payload).map_err(HandshakeError::from)? {
        Answer::Welcome(welcome, proof) => (welcome, proof),
        Answer::Refused(fault) => return Err(HandshakeError::Refused(fault).into()),
    };
    let signed = welcome.encode();
    if !is_proof(&config.key, Direction::Server, &hello, &signed, &proof) {
        return Err(HandshakeError::Secret.into());
    }
    check_welcome(&welcome, config)?;
    out.extend(bare_frame(
        Opcode::Handshake,
        encode_proof(prove(&config.key, Direction::Client, &hello, &signed)),
    ));
    out.write_to(writer).await.map_err(Disconnect::from)?;
    expect(reader, Opcode::Ok, config).await?;
    Ok(Agreed {
        store: welcome.store,
        credits: welcome.credits,
        version: welcome.version,
    })
}

async fn expect<R: AsyncRead + Unpin>(
    reader: &mut R,
    wanted: Opcode,
    config: &ClientConfig,
) -> Result<Bytes, ClientError> {
    let read = async {
        let (opcode, len) =
            read_header(reader, config.handshake_deadline, config.progress_deadline).await?;
        Ok::<_, Disconnect>((
            opcode,
            read_payload(reader, len, config.progress_deadline).await?,
        ))
    };
    let (opcode, payload) = read.await?;
    if opcode == wanted {
        return Ok(payload);
    }
    Err(match Response::decode(opcode, payload) {
        Ok((_, Response::Error(fault))) => HandshakeError::Refused(fault).into(),
        _ => HandshakeError::Opcode {
            expected: wanted,
            found: opcode,
        }
        .into(),
    })
}

async fn write_all<W: AsyncWrite + Unpin>(
    shared: Arc<Shared>,
    mut writer: W,
    mut queue: mpsc::Receiver<Encoded>,
) {
    let mut out = Outgoing::default();
    let mut batch = Vec::with_capacity(GATHERED_FRAMES);
    loop {
        tokio::select! {
            biased;
            () = shared.closed.cancelled() => return,
            n = queue.recv_many(&mut batch, GATHERED_FRAMES) => if n == 0 { return shared.close(Disconnect::ByUs) },
        }
        for encoded in batch.drain(..) {
            out.extend(encoded.buffers);
        }
        tokio::select! {
            biased;
            () = shared.closed.cancelled() => return,
            written = out.write_to(&mut writer) => if let Err(error) = written { return shared.close(error.into()) },
        }
    }
}

async fn read_all<R: AsyncRead + Unpin>(shared: Arc<Shared>, mut reader: R, progress: Duration) {
    let read = async {
        loop {
            let (opcode, len) = read_header(&mut reader, FRAME_DEADLINE, progress).await?;
            let payload = read_payload(&mut reader, len, progress).await?;
            let (prefix, response) = Response::decode(opcode, payload)?;
            tracing::debug!(target: "cstore_wire", ?opcode, request = prefix.request_id, bytes = len, "frame in");
            deliver(&shared, prefix.request_id, response);
        }
    };
    let result: Result<std::convert::Infallible, Disconnect> = tokio::select! {
        biased;
        () = shared.closed.cancelled() => Err(Disconnect::Closed),
        result = read => result,
    };
    let Err(error) = result;
    shared.close(error);
}

/// Pings a silent peer, and closes the connection if nothing comes.
async fn keep_alive(shared: Arc<Shared>, sender: mpsc::WeakSender<Encoded>) {
    loop {
        tokio::select! {
            biased;
            () = sleep(PING_AFTER) => {}
            () = shared.closed.cancelled() => return,
        }
        let silence = shared.pulse.silence();
        if silence >= SILENCE_DEADLINE {
            return shared.close(Disconnect::Silent(silence));
        }
        if silence >= PING_AFTER {
            // Nobody waits for the answer: its bytes are all that counts. A full queue is no reason
            // not to judge.
            let Some(sender) = sender.upgrade() else {
                return;
            };
            let request_id = shared.next_id.fetch_add(1, Ordering::Relaxed);
            let prefix = Prefix {
                request_id,
                map_version: MapVersion(0),
                trace: None,
                knows_version_3: false,
            };
            let _ = sender.try_send(Request::Ping.encode(&prefix));
        }
    }
}

/// Hands an answer to its caller. A missing caller is no error: the call was dropped.
fn deliver(shared: &Shared, id: u32, response: Response) {
    let mut waiters = shared.waiters.lock();
    match (waiters.remove(&id), response) {
        (Some(Waiter::Blocks(sender)), Response::Block(block)) => {
            let last = block.last;
            let full = sender.try_send(block.into()).is_err();
            if !last && !full {
                waiters.insert(id, Waiter::Blocks(sender));
            }
        }
        (Some(Waiter::Blocks(sender)), Response::Error(fault)) => {
            let failed = BlockReply {
                index: u32::MAX,
                last: true,
                result: Err(fault.code),
            };
            let _ = sender.try_send(failed.into());
        }
        (Some(Waiter::One(sender)), response) => drop(sender.send(response)),
        // An error without a request is about the connection: the server closes after it.
        (None, Response::Error(fault)) if id == 0 => {
            drop(waiters);
            shared.close(Disconnect::Refused(fault));
        }
        (Some(Waiter::Blocks(_)) | None, _) => {}
    }
}
