//! Blocks on their way to the storage nodes: which are missing, put those, seal.

use std::collections::HashSet;

use cstore_types::epoch::{SealPoint, epoch_of};
use cstore_types::limits::MAX_STORE_SEALS;
use cstore_types::limits::{MAX_IDS, MAX_REQUEST_BYTES};
use cstore_types::{
    Block, BlockId, BlockKind, ErrorCode, Fault, NodeId, PartNo, SessionId, StoreUuid,
};
use cstore_wire::{ClientError, PutStatus, Request, Response, SealedBlock};
use tracing::Instrument;

use crate::cluster::Route;
use crate::limits::{
    MAX_BUSY_PAUSE, MAX_REQUEST_RETRIES, MIN_BUSY_PAUSE, REQUEST_DEADLINE, UNSPLIT_BYTES,
    WRITE_PATIENCE,
};
use crate::trace;

/// Data blocks that a put found new.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct New {
    pub(crate) blocks: u64,
    pub(crate) bytes: u64,
}

impl New {
    pub(crate) fn add(&mut self, other: Self) {
        self.blocks += other.blocks;
        self.bytes += other.bytes;
    }
}

/// Proof of a store that it holds a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Seal {
    pub(crate) store: StoreUuid,
    pub(crate) point: SealPoint,
}

/// Result of a PutSeal.
#[derive(Debug)]
pub(crate) struct SealedBody {
    pub(crate) seal: Seal,
    pub(crate) new: New,
    /// True if the node may hold pins of the session, which an Unpin drops. A body that was sealed
    /// at once, in one group, was never pinned.
    pub(crate) has_pins: bool,
}

/// Newest seals of an upload: one for each open of each store that has sealed a part. A later open
/// proves nothing of what an earlier one has sealed, as it may be of an older copy of the disk.
#[derive(Debug, Clone, Default)]
pub(crate) struct Seals(Vec<Seal>);

impl Seals {
    /// Adds a seal.
    ///
    /// # Errors
    /// `unavailable` if the storage node was started again too often during the upload.
    pub(crate) fn add(&mut self, seal: Seal) -> Result<(), Fault> {
        let open = |seal: &Seal| (seal.store, epoch_of(seal.point.seq.0), seal.point.nonce);
        if let Some(known) = self.0.iter_mut().find(|known| open(known) == open(&seal)) {
            known.point = known.point.max(seal.point);
            return Ok(());
        }
        let n_of_store = self.0.iter().filter(|known| known.store == seal.store);
        if n_of_store.count() >= MAX_STORE_SEALS {
            let text =
                "a storage node was started again too often during this upload; send it again";
            return Err(Fault::new(ErrorCode::Unavailable, text));
        }
        self.0.push(seal);
        Ok(())
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = &Seal> {
        self.0.iter()
    }
}

/// Makes the fault of a reply that does not belong to the request, or has another number of
/// entries.
pub(crate) fn unexpected(node: &NodeId, response: &Response) -> Fault {
    Fault::new(
        ErrorCode::Internal,
        format!("storage node {node} answered {:?}", response.opcode()),
    )
}

/// Makes the fault of a request that failed at `node`. Keeps the time after which a busy node wants
/// to be asked again.
fn failed(node: &NodeId, error: ClientError) -> Fault {
    let retry_after = match &error {
        ClientError::Refused(refused) => refused.retry_after,
        _ => None,
    };
    let fault = Fault::new(error.code(), format!("storage node {node}: {error}"));
    Fault {
        retry_after,
        ..fault.with_source(error)
    }
}

impl Route {
    /// Asks a node, over a new connection when the one before broke.
    pub(crate) async fn ask(
        &self,
        node: &NodeId,
        request: &Request,
        blocks: usize,
    ) -> Result<Response, Fault> {
        let name = match request {
            Request::HaveBlocks { .. } => "HaveBlocks",
            Request::PutBlocks { .. } => "PutBlocks",
            Request::GetBlocks { .. } => "GetBlocks",
            Request::Seal { .. } => "Seal",
            Request::PutSeal { .. } => "PutSeal",
            Request::Usage { .. } => "UsageOf",
            Request::Unpin { .. } => "Unpin",
            Request::Ping => "Ping",
            Request::Goodbye => "Goodbye",
        };
        let span = trace::batch_span(name, node.as_str(), blocks);
        let field = trace::field(&span);
        let ask = async {
            let mut tries = 0;
            loop {
                let connection = self.stores.connection(node, WRITE_PATIENCE).await?;
                match connection
                    .call(request, self.version(), field, REQUEST_DEADLINE)
                    .await
                {
                    Err(ClientError::Disconnected(_)) if tries < MAX_REQUEST_RETRIES => tries += 1,
                    Err(ClientError::Refused(refused))
                        if refused.code == ErrorCode::Overloaded && tries < MAX_REQUEST_RETRIES =>
                    {
                        tries += 1;
                        let pause = refused
                            .retry_after
                            .unwrap_or_default()
                            .clamp(MIN_BUSY_PAUSE, MAX_BUSY_PAUSE);
                        tokio::time::sleep(pause).await;
                    }
                    answer => return answer.map_err(|error| failed(node, error)),
                }
            }
        };
        ask.instrument(span).await
    }

    /// Makes sure that a node has these blocks, which it pins: asks which are missing and sends
    /// only those.
    pub(crate) async fn put(
        &self,
        node: &NodeId,
        session: SessionId,
        blocks: Vec<Block>,
    ) -> Result<New, Fault> {
        let mut seen = HashSet::new();
        let blocks: Vec<Block> = blocks
            .into_iter()
            .filter(|block| seen.insert(block.id))
            .collect();
        let mut new = New::default();
        for some in blocks.chunks(MAX_IDS) {
            let ids = some.iter().map(|block| block.id).collect();
            let missing = match self
                .ask(node, &Request::HaveBlocks { session, ids }, some.len())
                .await?
            {
                Response::AllHere => continue,
                Response::SomeMissing(missing) if missing.len() == some.len() => missing,
                other => return Err(unexpected(node, &other)),
            };
            let missing = some
                .iter()
                .zip(missing)
                .filter(|(_, missing)| *missing)
                .map(|(block, _)| block.clone());
            for request in requests(missing) {
                new.add(self.put_missing(node, session, request).await?);
            }
        }
        Ok(new)
    }

    async fn put_missing(
        &self,
        node: &NodeId,
        session: SessionId,
        blocks: Vec<Block>,
    ) -> Result<New, Fault> {
        let request = Request::PutBlocks {
            session,
            blocks: blocks.clone(),
        };
        let statuses = match self.ask(node, &request, blocks.len()).await? {
            Response::PutResult(statuses) if statuses.len() == blocks.len() => statuses,
            other => return Err(unexpected(node, &other)),
        };
        let mut new = New::default();
        for (block, status) in blocks.iter().zip(statuses) {
            match status {
                PutStatus::Stored => new.add(New {
                    blocks: 1,
                    bytes: block.bytes.len() as u64,
                }),
                PutStatus::Duplicate => {}
                PutStatus::Refused(ErrorCode::Full) => {
                    return Err(Fault::new(
                        ErrorCode::Full,
                        format!("storage node {node} is full"),
                    ));
                }
                PutStatus::Refused(code) => {
                    let text = format!("storage node {node} refused a block: {code}");
                    return Err(Fault::new(code, text));
                }
            }
        }
        Ok(new)
    }

    /// Seals a part over blocks that the node has.
    pub(crate) async fn seal(
        &self,
        node: &NodeId,
        session: SessionId,
        part: PartNo,
        ids: Vec<BlockId>,
    ) -> Result<Seal, Fault> {
        let n_ids = ids.len();
        match self
            .ask(node, &Request::Seal { session, part, ids }, n_ids)
            .await?
        {
            Response::Sealed {
                store,
                seal_seq: seq,
                nonce,
                ..
            } => Ok(Seal {
                store,
                point: SealPoint { seq, nonce },
            }),
            // It restarted and dropped what nothing referred to; the bytes have left our memory.
            Response::SealMissing(missing) => Err(Fault::new(
                ErrorCode::Unavailable,
                format!(
                    "storage node {node} lost {} blocks of this upload; send it again",
                    missing.len()
                ),
            )),
            other => Err(refused_seal(node, &other)),
        }
    }

    /// Puts and seals a whole upload of one part in one frame: its bytes are all here, so whatever
    /// is missing can be sent again.
    pub(crate) async fn put_seal(
        &self,
        node: &NodeId,
        session: SessionId,
        blocks: &[Block],
        ask_first: bool,
    ) -> Result<SealedBody, Fault> {
        let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
        let mut has_pins = ask_first || bytes > UNSPLIT_BYTES;
        let mut seen = HashSet::new();
        let blocks: Vec<&Block> = blocks
            .iter()
            .filter(|block| seen.insert(block.id))
            .collect();
        let ids: Vec<BlockId> = blocks.iter().map(|block| block.id).collect();
        let mut send: Vec<usize> = (0..blocks.len()).collect();
        if ask_first {
            let request = Request::HaveBlocks {
                session,
                ids: ids.clone(),
            };
            match self.ask(node, &request, ids.len()).await? {
                Response::AllHere => send.clear(),
                Response::SomeMissing(missing) if missing.len() == ids.len() => {
                    send.retain(|at| missing.get(*at) == Some(&true));
                }
                other => return Err(unexpected(node, &other)),
            }
        }
        for _ in 0..MAX_REQUEST_RETRIES {
            let picked = send
                .iter()
                .filter_map(|at| Some((u32::try_from(*at).ok()?, *blocks.get(*at)?)));
            let sealed = picked.map(|(index, block)| SealedBlock {
                index,
                kind: block.kind,
                bytes: block.bytes.clone(),
            });
            let (part, ids) = (PartNo(0), ids.clone());
            let request = Request::PutSeal {
                session,
                part,
                ids,
                blocks: sealed.collect(),
            };
            match self.ask(node, &request, send.len()).await? {
                Response::Sealed {
                    store,
                    seal_seq: seq,
                    nonce,
                    new,
                } => {
                    let mut sum = New::default();
                    let stored = send.iter().zip(new).filter(|(_, new)| *new);
                    let stored = stored.filter_map(|(at, _)| blocks.get(*at));
                    // Leaves of the recipe are not counted, as they are not among the blocks of a
                    // file.
                    for block in stored.filter(|block| block.kind == BlockKind::Data) {
                        sum.add(New {
                            blocks: 1,
                            bytes: block.bytes.len() as u64,
                        });
                    }
                    return Ok(SealedBody {
                        seal: Seal {
                            store,
                            point: SealPoint { seq, nonce },
                        },
                        new: sum,
                        has_pins,
                    });
                }
                Response::SealMissing(missing) => {
                    has_pins = true;
                    send = missing
                        .iter()
                        .filter_map(|at| usize::try_from(*at).ok())
                        .collect();
                }
                other => return Err(refused_seal(node, &other)),
            }
        }
        let text = format!("storage node {node} keeps losing blocks of this upload");
        Err(Fault::new(ErrorCode::Unavailable, text))
    }
}

fn refused_seal(node: &NodeId, response: &Response) -> Fault {
    match response {
        Response::SealConflict => {
            let text = format!("storage node {node} has sealed this part with other blocks");
            Fault::new(ErrorCode::Internal, text)
        }
        other => unexpected(node, other),
    }
}

/// Cuts blocks into requests within the limits of a frame.
fn requests(blocks: impl Iterator<Item = Block>) -> Vec<Vec<Block>> {
    let mut requests: Vec<Vec<Block>> = Vec::new();
    let mut bytes = 0;
    for block in blocks {
        let len = block.bytes.len();
        match requests.last_mut() {
            Some(request) if bytes + len <= MAX_REQUEST_BYTES && request.len() < MAX_IDS => {
                bytes += len;
                request.push(block);
            }
            _ => {
                bytes = len;
                requests.push(vec![block]);
            }
        }
    }
    requests
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn requests_stay_within_the_frame_and_keep_the_order() {
        let block = |n: u8| Block {
            id: BlockId::from_bytes([n; 32]),
            kind: BlockKind::Data,
            bytes: Bytes::from(vec![n; 3 << 20]),
        };
        let cut = requests((0..5).map(block));
        assert_eq!(cut.iter().map(Vec::len).collect::<Vec<_>>(), [2, 2, 1]);
        assert!(
            cut.concat()
                .iter()
                .map(|block| block.id)
                .eq((0..5).map(|n| block(n).id))
        );
    }
}
