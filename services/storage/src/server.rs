//! The frames of `cstore-wire` on top of the engine. Only translates.

use std::sync::Arc;

use bytes::Bytes;
use cstore_types::{Block, BlockId, ErrorCode, Fault, MapVersion, PartNo, SessionId, SessionUsage};
use cstore_wire::{BlockSink, Context, Handler, Opcode, PutStatus, Request, Response, SealedBlock};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::Semaphore;
use tokio::time::Instant;
use tracing::{Instrument, field};

use crate::engine::EngineError;
use crate::engine::{Engine, PutOutcome, SealOutcome};
use crate::limits::{MAX_READERS, READ_BATCH, RETRY_AFTER};
use crate::metrics::FrameMetrics;

/// Handler of the requests of workers.
#[derive(Debug)]
pub(crate) struct BlockServer {
    engine: Engine,
    /// Oldest map whose frames are taken; a node refuses maps older than its own hand-over.
    oldest_map: Mutex<MapVersion>,
    readers: Arc<Semaphore>,
    metrics: FrameMetrics,
}

impl BlockServer {
    pub(crate) fn new(engine: Engine, metrics: FrameMetrics) -> Self {
        Self {
            engine,
            oldest_map: Mutex::new(MapVersion(0)),
            readers: Arc::new(Semaphore::new(MAX_READERS)),
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

    /// Reads many reference sets, so it takes the place of a reader.
    async fn usage(&self, sessions: Vec<SessionUsage>) -> Result<Response, Fault> {
        let permit = self.readers.clone().acquire_owned().await;
        let engine = self.engine.clone();
        let counted = cstore_node::blocking(move || {
            let _permit = permit;
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

    /// Reads batch by batch on blocking threads, one ahead of the socket.
    async fn read_all(&self, ids: Vec<BlockId>, mut blocks: BlockSink) -> Result<(), Fault> {
        let mut batches: Vec<(usize, Vec<BlockId>)> = ids
            .chunks(READ_BATCH)
            .enumerate()
            .map(|(n, ids)| (n * READ_BATCH, ids.to_vec()))
            .collect();
        batches.reverse();
        let mut next = match batches.pop() {
            Some(batch) => Some(self.read_batch(batch).await?),
            None => None,
        };
        while let Some((start, read)) = next.take() {
            let ahead = async {
                match batches.pop() {
                    Some(batch) => self.read_batch(batch).await.map(Some),
                    None => Ok(None),
                }
            };
            let send = async {
                for (n, result) in read.into_iter().enumerate() {
                    let index = u32::try_from(start + n).unwrap_or(u32::MAX);
                    blocks.send(index, result).await?;
                }
                Ok::<_, Fault>(())
            };
            let (ahead, sent) = futures_util::join!(ahead, send);
            sent?;
            next = ahead?;
        }
        Ok(())
    }

    async fn read_batch(&self, batch: (usize, Vec<BlockId>)) -> Result<ReadBatch, Fault> {
        let permit = self.readers.clone().acquire_owned().await;
        let engine = self.engine.clone();
        let (start, ids) = batch;
        let read = cstore_node::blocking(move || {
            let _permit = permit;
            let read = |id: &BlockId| engine.read_block(id).map_err(|error| error.code());
            ids.iter().map(read).collect()
        });
        let read = read.await.map_err(|error| fault(error.into()))?;
        Ok((start, read))
    }
}

type ReadBatch = (usize, Vec<Result<Bytes, ErrorCode>>);

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
