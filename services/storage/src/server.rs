//! The frames of `cstore-wire` on top of the engine. Only translates.

use std::sync::Arc;

use bytes::Bytes;
use cstore_types::{Block, BlockId, ErrorCode, Fault, MapVersion, PartNo, SessionId, SessionUsage};
use cstore_wire::{
    BlockSink, Context, Handler, HeldBytes, Opcode, PutStatus, ReadBudget, Request, Reserver,
    Response, SealedBlock,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{Instrument, field};

use crate::engine::EngineError;
use crate::engine::{Engine, PutOutcome, SealOutcome};
use crate::limits::{
    INLINE_READ_BYTES, MAX_READERS, MAX_USAGE_QUESTIONS, READ_BATCH, READ_BATCH_BYTES, RETRY_AFTER,
};
use crate::metrics::FrameMetrics;

/// Handler of the requests of workers.
#[derive(Debug)]
pub(crate) struct BlockServer {
    engine: Engine,
    /// Oldest map whose frames are taken; a node refuses maps older than its own hand-over.
    oldest_map: Mutex<MapVersion>,
    readers: Arc<Semaphore>,
    /// Questions about used space.
    questions: Arc<Semaphore>,
    metrics: FrameMetrics,
}

impl BlockServer {
    pub(crate) fn new(engine: Engine, metrics: FrameMetrics) -> Self {
        Self {
            engine,
            oldest_map: Mutex::new(MapVersion(0)),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
            questions: Arc::new(Semaphore::new(MAX_USAGE_QUESTIONS)),
            metrics,
        }
    }

    fn check_map(&self, context: &Context) -> Result<(), Fault> {
        let oldest = *self.oldest_map.lock();
        if context.map_version < oldest {
            let text = format!(
                "placement map {} is too old, this node needs {oldest}",
                context.map_version
            );
            return Err(Fault::new(ErrorCode::PreconditionFailed, text));
        }
        Ok(())
    }

    async fn answer(&self, request: Request) -> Result<Response, Fault> {
        match request {
            Request::HaveBlocks { session, ids } => {
                let missing = self.engine.missing_blocks(session, &ids);
                if missing.contains(&true) {
                    Ok(Response::SomeMissing(missing))
                } else {
                    Ok(Response::AllHere)
                }
            }
            Request::PutBlocks { session, blocks } => Ok(self.put(session, blocks).await),
            Request::Seal { session, part, ids } => self.seal(session, part, ids, Vec::new()).await,
            Request::PutSeal {
                session,
                part,
                ids,
                blocks,
            } => self.seal(session, part, ids, blocks).await,
            Request::Unpin { session } => {
                self.engine.unpin_aside(session).await;
                Ok(Response::Ok)
            }
            Request::Usage { sessions } => self.usage(sessions).await,
            Request::GetBlocks { .. } | Request::Ping | Request::Goodbye => Err(Fault::new(
                ErrorCode::Internal,
                "the connection answers this itself",
            )),
        }
    }

    /// Reads many reference sets, so it takes the place of a reader, AFTER its turn among the
    /// questions: those that wait keep no reader from others.
    async fn usage(&self, sessions: Vec<SessionUsage>) -> Result<Response, Fault> {
        let turn = self.questions.clone().acquire_owned().await;
        let permit = self.readers.clone().acquire_owned().await;
        let engine = self.engine.clone();
        let counted = cstore_node::blocking(move || {
            let _permits = (turn, permit);
            engine.holdings().usage(&sessions)
        });
        let counted = counted.await.map_err(EngineError::from).flatten();
        counted.map(Response::Usage).map_err(fault)
    }

    async fn put(&self, session: SessionId, blocks: Vec<Block>) -> Response {
        let outcomes = self.engine.put_blocks(session, blocks).await;
        let status = |outcome: PutOutcome| match outcome {
            PutOutcome::Stored => PutStatus::Stored,
            PutOutcome::Duplicate => PutStatus::Duplicate,
            PutOutcome::Refused(error) => PutStatus::Refused(error.code()),
        };
        Response::PutResult(outcomes.into_iter().map(status).collect())
    }

    async fn seal(
        &self,
        session: SessionId,
        part: PartNo,
        ids: Vec<BlockId>,
        blocks: Vec<SealedBlock>,
    ) -> Result<Response, Fault> {
        let new = |block: SealedBlock| {
            let id = usize::try_from(block.index)
                .ok()
                .and_then(|at| ids.get(at))
                .copied();
            id.map(|id| Block {
                id,
                kind: block.kind,
                bytes: block.bytes,
            })
        };
        let blocks: Option<Vec<Block>> = blocks.into_iter().map(new).collect();
        let blocks = blocks
            .ok_or_else(|| Fault::new(ErrorCode::InvalidArgument, "block index beyond the ids"))?;
        Ok(
            match self
                .engine
                .put_seal(session, part, ids, blocks)
                .await
                .map_err(fault)?
            {
                SealOutcome::Sealed { seal_seq, stored } => Response::Sealed {
                    store: self.engine.store(),
                    seal_seq,
                    nonce: self.engine.judge().seal_point(seal_seq).nonce,
                    new: stored,
                },
                SealOutcome::Missing(indices) => Response::SealMissing(indices),
                SealOutcome::Conflict => Response::SealConflict,
            },
        )
    }

    /// One count and one line a request, as the other roles have for their calls.
    fn answered(&self, opcode: Opcode, refused: Option<&Fault>, begun: Instant) {
        let (code, took) = (refused.map(|fault| fault.code), begun.elapsed());
        self.metrics.answered(opcode, code, took);
        tracing::debug!(?opcode, refused = code.map(field::debug), ?took, "answered");
    }

    /// Reads batch by batch on blocking threads, one ahead of the socket. The bytes of a batch are
    /// reserved BEFORE it is read, and each block returns its own when it is written.
    async fn read_all(&self, ids: Vec<BlockId>, mut blocks: BlockSink) -> Result<(), Fault> {
        let mut batches = batches(&ids, &self.engine.block_lens(&ids)).into_iter();
        let mut next = match batches.next() {
            Some(batch) => Some(self.read_batch(batch, blocks.reserver()).await?),
            None => None,
        };
        while let Some(batch) = next.take() {
            let reserver = blocks.reserver();
            let ahead = async {
                match batches.next() {
                    Some(batch) => self.read_batch(batch, reserver).await.map(Some),
                    None => Ok(None),
                }
            };
            let send = async {
                let mut held = batch.held;
                for (n, result) in batch.results.into_iter().enumerate() {
                    let index = u32::try_from(batch.start + n).unwrap_or(u32::MAX);
                    blocks.send_held(index, result, &mut held).await?;
                }
                Ok::<_, Fault>(())
            };
            let (ahead, sent) = futures_util::join!(ahead, send);
            sent?;
            next = ahead?;
        }
        Ok(())
    }

    /// Returns the blocks of a small batch if all of them are in memory: that takes less than the way to
    /// a blocking thread and back.
    fn read_cached(&self, batch: &Batch, bytes: usize) -> Option<Vec<Result<Bytes, ErrorCode>>> {
        if bytes > INLINE_READ_BYTES {
            return None;
        }
        let read = |(id, len): &(BlockId, Option<usize>)| {
            len.and_then(|_| self.engine.read_cached_block(id)).map(Ok)
        };
        batch.blocks.iter().map(read).collect()
    }

    async fn read_batch(&self, batch: Batch, reserver: Reserver) -> Result<ReadBatch, Fault> {
        let lens: Vec<usize> = batch
            .blocks
            .iter()
            .map(|(_, len)| len.unwrap_or(0))
            .collect();
        let held = reserver.reserve(&lens).await?;
        if let Some(results) = self.read_cached(&batch, lens.iter().sum()) {
            return Ok(ReadBatch {
                start: batch.start,
                results,
                held,
            });
        }
        let permit = self.readers.clone().acquire_owned().await;
        let engine = self.engine.clone();
        let read = cstore_node::blocking(move || {
            let _permit = permit;
            let read = |(id, len): &(BlockId, Option<usize>)| match len {
                Some(_) => engine.read_block(id).map_err(|error| error.code()),
                // Nothing is reserved for a block that came since.
                None => Err(ErrorCode::NotFound),
            };
            // Keep the permit with the batch: its bytes count even if the request is gone.
            (batch.blocks.iter().map(read).collect(), held)
        });
        let (results, held) = read.await.map_err(|error| fault(error.into()))?;
        Ok(ReadBatch {
            start: batch.start,
            results,
            held,
        })
    }
}

/// Blocks that are read together, with their lengths; `None` for those that are not here.
#[derive(Debug, PartialEq, Eq)]
struct Batch {
    /// Position of the first one in the request.
    start: usize,
    blocks: Vec<(BlockId, Option<usize>)>,
}

/// A batch that was read, with the reservation of its bytes.
struct ReadBatch {
    start: usize,
    results: Vec<Result<Bytes, ErrorCode>>,
    held: HeldBytes,
}

/// Cuts a request into batches, bounded in blocks and, beyond the first block of each, in bytes.
fn batches(ids: &[BlockId], lens: &[Option<usize>]) -> Vec<Batch> {
    let mut batches: Vec<Batch> = Vec::new();
    let mut bytes = 0usize;
    for (n, (id, len)) in ids.iter().zip(lens).enumerate() {
        bytes = bytes.saturating_add(len.unwrap_or(0));
        match batches.last_mut() {
            Some(batch) if batch.blocks.len() < READ_BATCH && bytes <= READ_BATCH_BYTES => {
                batch.blocks.push((*id, *len));
            }
            _ => {
                bytes = len.unwrap_or(0);
                batches.push(Batch {
                    start: n,
                    blocks: vec![(*id, *len)],
                });
            }
        }
    }
    batches
}

impl Handler for BlockServer {
    fn call(
        self: Arc<Self>,
        context: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Fault>> {
        let span = crate::trace::request_span(&context, &request);
        async move {
            let (opcode, begun) = (request.opcode(), Instant::now());
            let result = match self.check_map(&context) {
                Ok(()) => self.answer(request).await,
                Err(refused) => Err(refused),
            };
            self.answered(opcode, result.as_ref().err(), begun);
            result
        }
        .instrument(span)
        .boxed()
    }

    fn read_budget(&self) -> ReadBudget {
        self.metrics.reads.clone()
    }

    fn get_blocks(
        self: Arc<Self>,
        context: Context,
        ids: Vec<BlockId>,
        blocks: BlockSink,
    ) -> BoxFuture<'static, Result<(), Fault>> {
        let span = crate::trace::read_span(&context, ids.len());
        async move {
            let begun = Instant::now();
            let result = match self.check_map(&context) {
                Ok(()) => self.read_all(ids, blocks).await,
                Err(refused) => Err(refused),
            };
            self.answered(Opcode::GetBlocks, result.as_ref().err(), begun);
            result
        }
        .instrument(span)
        .boxed()
    }
}

fn fault(error: EngineError) -> Fault {
    let fault = Fault::from_error(error.code(), error);
    if fault.code.is_retryable() {
        fault.retry_after(RETRY_AFTER)
    } else {
        fault
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use cstore_log::{FaultyDisk, RealDisk};
    use cstore_types::{BlockKind, ClusterUuid, FrameKey, NodeId, StoreUuid};
    use cstore_wire::{ClientConfig, Connection, ServerConfig, serve_connection};
    use futures_util::StreamExt;
    use futures_util::stream::FuturesUnordered;
    use tokio::io::{AsyncWriteExt, copy, duplex, split};

    use super::*;
    use crate::engine::{DiskOptions, small_disk};

    const LEN: usize = 40_000;
    /// Blocks on the disk, and in each request.
    const COUNT: usize = 64;
    /// Budget of the connection: room for one batch and a part of another.
    const CREDITS: u32 = 1 << 20;
    const LONG: Duration = Duration::from_secs(60);

    /// A disk with blocks, and their ids.
    async fn filled() -> (Engine, Vec<BlockId>) {
        let (identity, options) = small_disk();
        let options = DiskOptions {
            capacity: 16 << 20,
            ..options
        };
        let disk = Arc::new(FaultyDisk::new());
        let engine = Engine::open(disk, "memory", &identity, &options).unwrap();
        let mut ids = Vec::new();
        for n in 0..COUNT {
            let bytes = Bytes::from(vec![u8::try_from(n).unwrap(); LEN]);
            let id = BlockId::of_many(&identity.key, &[&bytes])[0];
            let block = Block {
                id,
                kind: BlockKind::Data,
                bytes,
            };
            let put = engine.put_blocks(SessionId::from_bytes([9; 16]), vec![block]);
            assert!(matches!(put.await[..], [PutOutcome::Stored]));
            ids.push(id);
        }
        (engine, ids)
    }

    #[tokio::test]
    async fn i8_a_block_in_memory_is_read_at_once_and_a_damaged_one_is_left_to_the_slow_way() {
        let folder = tempfile::tempdir().unwrap();
        let (identity, options) = small_disk();
        let disk = RealDisk::open(folder.path()).unwrap();
        let engine = Engine::open(disk, "disk", &identity, &options).unwrap();
        let bytes = Bytes::from_static(b"bytes of a block that are found in the file");
        let id = BlockId::of_many(&identity.key, &[&bytes])[0];
        assert_eq!(engine.read_cached_block(&id), None, "it is not here");
        let block = Block {
            id,
            kind: BlockKind::Data,
            bytes: bytes.clone(),
        };
        let put = engine.put_blocks(SessionId::from_bytes([9; 16]), vec![block]);
        assert!(matches!(put.await[..], [PutOutcome::Stored]));
        match engine.read_cached_block(&id) {
            Some(read) => assert_eq!(read, bytes),
            None => println!("SKIP: this file system cannot tell what is in memory"),
        }

        let is_segment = |path: &std::path::PathBuf| {
            let found = std::fs::read(path).unwrap_or_default();
            found.windows(bytes.len()).any(|part| part == &bytes[..])
        };
        let files = |folder: &std::path::Path| -> Vec<std::path::PathBuf> {
            let entries = std::fs::read_dir(folder).unwrap();
            entries.map(|entry| entry.unwrap().path()).collect()
        };
        let folders = files(folder.path());
        let below = folders
            .iter()
            .filter(|path| path.is_dir())
            .flat_map(|path| files(path));
        let segment = folders
            .iter()
            .cloned()
            .chain(below)
            .find(is_segment)
            .unwrap();
        let mut content = std::fs::read(&segment).unwrap();
        let at = content
            .windows(bytes.len())
            .position(|part| part == &bytes[..]);
        content[at.unwrap()] ^= 1;
        std::fs::write(&segment, content).unwrap();
        assert_eq!(engine.read_cached_block(&id), None);
        let read = engine.read_block(&id).map_err(|error| error.code());
        assert_eq!(read, Err(ErrorCode::DataLoss));
    }

    /// Connects through a pipe whose way back can be cut. Returns the task of that way.
    #[allow(
        clippy::disallowed_methods,
        reason = "the tasks end with the runtime of their test"
    )]
    async fn connect(server: &Arc<BlockServer>) -> (Connection, tokio::task::JoinHandle<()>) {
        let key = [5; 32];
        let config = ServerConfig {
            key: FrameKey::from_bytes(key),
            cluster: ClusterUuid::from_bytes([2; 16]),
            node: NodeId::new("storage-1").unwrap(),
            store: StoreUuid::from_bytes([1; 16]),
            credits: CREDITS,
            max_requests: 256,
            handshake_deadline: LONG,
            progress_deadline: LONG,
            idle_deadline: LONG,
        };
        let (near, far) = (duplex(4_096), duplex(4_096));
        let (mut from_client, mut to_client) = split(near.1);
        let (mut from_server, mut to_server) = split(far.1);
        let pending = std::future::pending();
        drop(tokio::spawn(serve_connection(
            far.0,
            Arc::new(config),
            server.clone(),
            pending,
        )));
        drop(tokio::spawn(async move {
            let _ = copy(&mut from_client, &mut to_server).await;
            let _ = to_server.shutdown().await;
        }));
        let back = tokio::spawn(async move {
            let _ = copy(&mut from_server, &mut to_client).await;
        });
        let client = ClientConfig {
            key: FrameKey::from_bytes(key),
            cluster: ClusterUuid::from_bytes([2; 16]),
            node: NodeId::new("worker-1").unwrap(),
            expect: NodeId::new("storage-1").unwrap(),
            handshake_deadline: LONG,
            progress_deadline: LONG,
        };
        (Connection::over(near.0, &client).await.unwrap(), back)
    }

    /// Lets all others run until nothing changes any more.
    async fn settle() {
        for _ in 0..2_000 {
            tokio::task::yield_now().await;
        }
    }

    /// A reader that is stuck in the middle of a frame, and asks for more and more.
    #[tokio::test(start_paused = true)]
    async fn requests_of_a_peer_that_does_not_read_are_not_read_from_the_disk_beyond_its_budget() {
        let (engine, ids) = filled().await;
        let mut registry = prometheus_client::registry::Registry::default();
        let metrics = crate::metrics::register(&mut registry, &engine);
        let reads = metrics.reads.clone();
        let server = Arc::new(BlockServer::new(engine.clone(), metrics));

        let (slow, back) = connect(&server).await;
        // The pipe from the server is read no more. It stays open, the other way has its other
        // half.
        back.abort();
        let ask = |connection: Connection| {
            let ids = ids.clone();
            async move {
                // A peer that claims less than it gets does not keep to its credits.
                let asked = connection.get_blocks(ids, 1, MapVersion(1), None, LONG);
                asked.await
            }
        };
        let asked = FuturesUnordered::new();
        for _ in 0..12 {
            asked.push(ask(slow.clone()));
        }
        let streams: Vec<_> = asked.collect().await;
        settle().await;
        let n_read = usize::try_from(engine.counters().read_blocks.get()).unwrap();
        assert!(n_read > 0 && n_read * LEN <= CREDITS as usize, "{n_read}");
        assert!(reads.held_bytes() <= CREDITS.into());

        let (other, _back) = connect(&server).await;
        let mut stream = ask(other).await.unwrap();
        let mut n_here = 0;
        while let Some(block) = stream.next().await {
            n_here += usize::from(block.unwrap().result.is_ok());
        }
        assert_eq!(n_here, COUNT);
        drop(streams);
    }

    #[test]
    fn a_batch_is_bounded_in_blocks_and_bytes_and_has_one_block_at_least() {
        let cut = |lens: &[usize]| {
            let ids = vec![BlockId::from_bytes([1; 32]); lens.len()];
            let lens: Vec<_> = lens
                .iter()
                .map(|len| Some(*len).filter(|len| *len > 0))
                .collect();
            let cut = batches(&ids, &lens);
            let mut start = 0;
            for batch in &cut {
                assert_eq!(batch.start, start);
                start += batch.blocks.len();
            }
            assert_eq!(start, lens.len());
            let sizes = cut.iter().map(|batch| batch.blocks.len());
            sizes.collect::<Vec<_>>()
        };
        assert_eq!(cut(&[]), Vec::<usize>::new());
        assert_eq!(cut(&[1; 40]), [16, 16, 8]);
        assert_eq!(cut(&[0; 17]), [16, 1], "those that are not here");
        assert_eq!(cut(&[4 << 20; 3]), [1, 1, 1]);
        assert_eq!(cut(&[1 << 20; 9]), [4, 4, 1]);
        assert_eq!(cut(&[3 << 20, 1 << 20, 1, 9 << 20, 1]), [2, 1, 1, 1]);
    }
}
