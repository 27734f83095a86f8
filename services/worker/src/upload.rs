//! One upload: cut, hash, put what is missing, seal part by part, commit.
//!
//! ```text
//! chunks ─▶ chunker ─▶ batches ─┬─ hash (hashing service) ──▶ per node: HaveBlocks, PutBlocks ─┐ several batches
//!                               └───────────────────────────────────────────────────────────────┤ in flight,
//!                                                          in order: recipe, parts ─▶ Seal ◀────┘ taken in order
//! all there, Finish agrees ─▶ newest seals ─▶ CommitUpload
//! ```
//! A body that is whole before the first batch is full takes the short way: one PutSeal per node.

use std::collections::{BTreeMap, HashSet};

use bytes::Bytes;
use cstore_types::limits::{MAX_IDS, MAX_PART_BYTES};
use cstore_types::{
    Block, BlockId, BlockKind, Chunking, ETag, ETagBuilder, Fault, NodeId, PartNo, Root,
    RootBuilder, SessionId,
};
use futures_util::future::try_join_all;
use futures_util::stream::{FuturesOrdered, StreamExt};
use tokio_util::task::AbortOnDropHandle;

use crate::blocks::{New, Seals};
use crate::budget::Budget;
use crate::chunker::Chunker;
use crate::cluster::Route;
use crate::digests::Digests;
use crate::error::lost_task;
use crate::limits::{BATCH_BLOCKS, BATCH_BYTES, BLIND_BYTES, MAX_IN_FLIGHT};

/// Result of an upload before its commit.
#[derive(Debug)]
pub(crate) struct Stored {
    pub(crate) root: Root,
    pub(crate) etag: ETag,
    pub(crate) blocks: u64,
    pub(crate) new: New,
    pub(crate) seals: Seals,
    pub(crate) digests: Digests,
    /// True if storage nodes may hold pins of the session.
    pub(crate) has_pins: bool,
}

/// A batch that is stored.
struct Done {
    blocks: Vec<(BlockId, u64)>,
    bytes: usize,
    new: New,
}

/// Blocks of one node that are put and not sealed yet.
#[derive(Debug, Default)]
struct Part {
    number: u32,
    ids: Vec<BlockId>,
    known: HashSet<BlockId>,
    bytes: u64,
}

/// An upload in work.
pub(crate) struct Upload {
    route: Route,
    session: SessionId,
    chunker: Chunker,
    digests: Digests,
    budget: Budget,
    batch: Vec<Bytes>,
    batch_bytes: usize,
    in_flight_bytes: usize,
    in_flight: FuturesOrdered<futures_util::future::BoxFuture<'static, Result<Done, Fault>>>,
    started: bool,
    recipe: RootBuilder,
    etag: ETagBuilder,
    blocks: u64,
    new: New,
    /// The open part of each storage node that holds blocks of the file.
    parts: BTreeMap<NodeId, Part>,
    seals: Seals,
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upload({})", self.session)
    }
}

impl Upload {
    pub(crate) fn new(
        route: Route,
        session: SessionId,
        chunking: Chunking,
        digests: Digests,
        budget: Budget,
    ) -> Self {
        Self {
            route,
            session,
            chunker: Chunker::new(chunking),
            digests,
            budget,
            batch: Vec::new(),
            batch_bytes: 0,
            in_flight_bytes: 0,
            in_flight: FuturesOrdered::new(),
            started: false,
            recipe: RootBuilder::new(chunking),
            etag: ETagBuilder::default(),
            blocks: 0,
            new: New::default(),
            parts: BTreeMap::new(),
            seals: Seals::default(),
        }
    }

    /// Takes the next bytes of the file. Waits while too much is in flight, which stops the sender.
    pub(crate) async fn push(&mut self, chunk: Bytes) -> Result<(), Fault> {
        self.digests.update(&chunk).await?;
        let (batch, mut bytes) = (&mut self.batch, 0);
        self.chunker.push(chunk, &mut |block| {
            bytes += block.len();
            batch.push(block);
        });
        self.batch_bytes += bytes;
        while self.batch_bytes >= BATCH_BYTES || self.batch.len() >= BATCH_BLOCKS {
            self.started = true;
            self.send_batch().await?;
        }
        Ok(())
    }

    /// The body is whole: stores what is left and seals.
    pub(crate) async fn finish(mut self) -> Result<Stored, Fault> {
        if let Some(last) = self.chunker.finish() {
            self.batch_bytes += last.len();
            self.batch.push(last);
        }
        if !self.started {
            return self.finish_small().await;
        }
        if !self.batch.is_empty() {
            self.send_batch().await?;
        }
        while let Some(done) = self.in_flight.next().await {
            self.take(done?).await?;
        }
        let mut leaves = Vec::new();
        let key = self.route.stores.key().clone();
        let root = self
            .take_recipe()
            .finish(&mut |leaf: Vec<u8>| keep_leaf(&key, leaf, &mut leaves))?;
        self.put_leaves(leaves).await?;
        let nodes: Vec<NodeId> = self.parts.keys().cloned().collect();
        for node in &nodes {
            self.seal_part(node).await?;
        }
        Ok(Stored {
            root,
            etag: self.etag.finish(),
            blocks: self.blocks,
            new: self.new,
            seals: self.seals,
            digests: self.digests,
            has_pins: true,
        })
    }

    fn take_recipe(&mut self) -> RootBuilder {
        std::mem::replace(&mut self.recipe, RootBuilder::new(Chunking::Fixed(1)))
    }

    /// Starts to hash and store up to one batch.
    async fn send_batch(&mut self) -> Result<(), Fault> {
        let mut bytes = 0;
        let fits = |block: &&Bytes| {
            let first = bytes == 0;
            bytes += block.len();
            first || bytes <= BATCH_BYTES
        };
        let count = self
            .batch
            .iter()
            .take(BATCH_BLOCKS)
            .take_while(fits)
            .count();
        let blocks: Vec<Bytes> = self.batch.drain(..count).collect();
        let bytes: usize = blocks.iter().map(Bytes::len).sum();
        self.batch_bytes -= bytes;
        while self.in_flight_bytes + bytes > MAX_IN_FLIGHT {
            match self.in_flight.next().await {
                Some(done) => self.take(done?).await?,
                None => break,
            }
        }
        self.in_flight_bytes += bytes;
        let held = self.budget.upload(bytes as u64).await?;
        let (route, session) = (self.route.clone(), self.session);
        // Started at once on a task of its own, so that it runs while this one waits for the
        // client.
        let task = cstore_node::shutdown::spawn("upload batch", async move {
            let blocks = hash(&route, blocks).await?;
            let lengths = blocks
                .iter()
                .map(|block| (block.id, block.bytes.len() as u64))
                .collect();
            let new = put_everywhere(&route, session, blocks).await?;
            // Given back BEFORE the batch is taken: an upload that waits for the budget takes no
            // batches, so uploads would wait for each other's stored batches for ever otherwise.
            drop(held);
            Ok(Done {
                blocks: lengths,
                bytes,
                new,
            })
        });
        // An upload that ends early MUST NOT go on putting blocks, otherwise they are pinned again
        // after its Unpin.
        let task = AbortOnDropHandle::new(task);
        self.in_flight.push_back(Box::pin(async move {
            task.await.unwrap_or_else(|error| Err(lost_task(error)))
        }));
        Ok(())
    }

    /// Takes a stored batch into recipe and parts, in order of the file.
    async fn take(&mut self, done: Done) -> Result<(), Fault> {
        self.new.add(done.new);
        self.in_flight_bytes -= done.bytes;
        let key = self.route.stores.key().clone();
        for (id, len) in done.blocks {
            let mut leaves = Vec::new();
            self.etag.push(&id);
            self.blocks += 1;
            self.recipe.push(id, len, &mut |leaf: Vec<u8>| {
                keep_leaf(&key, leaf, &mut leaves)
            })?;
            self.add_to_part(id, len).await?;
            if !leaves.is_empty() {
                self.put_leaves(leaves).await?;
            }
        }
        Ok(())
    }

    async fn put_leaves(&mut self, leaves: Vec<Block>) -> Result<(), Fault> {
        let ids: Vec<(BlockId, u64)> = leaves
            .iter()
            .map(|leaf| (leaf.id, leaf.bytes.len() as u64))
            .collect();
        put_everywhere(&self.route, self.session, leaves).await?;
        for (id, len) in ids {
            self.add_to_part(id, len).await?;
        }
        Ok(())
    }

    async fn add_to_part(&mut self, id: BlockId, len: u64) -> Result<(), Fault> {
        let node = self.route.node_of(&id);
        let part = match self.parts.get_mut(node) {
            Some(part) => part,
            None => self.parts.entry(node.clone()).or_default(),
        };
        if part.known.insert(id) {
            part.ids.push(id);
            part.bytes += len;
        }
        if part.ids.len() >= MAX_IDS || part.bytes >= MAX_PART_BYTES {
            let node = node.clone();
            self.seal_part(&node).await?;
        }
        Ok(())
    }

    async fn seal_part(&mut self, node: &NodeId) -> Result<(), Fault> {
        let Some(part) = self.parts.get_mut(node) else {
            return Ok(());
        };
        if part.ids.is_empty() {
            return Ok(());
        }
        let ids = std::mem::take(&mut part.ids);
        part.known.clear();
        part.bytes = 0;
        let number = PartNo(part.number);
        part.number += 1;
        let seal = self.route.seal(node, self.session, number, ids).await?;
        self.seals.add(seal)
    }

    /// The short way: everything is in memory, one PutSeal per node.
    async fn finish_small(mut self) -> Result<Stored, Fault> {
        let body = std::mem::take(&mut self.batch);
        let mut blocks = hash(&self.route, body).await?;
        let key = self.route.stores.key().clone();
        let mut leaves = Vec::new();
        for block in &blocks {
            self.etag.push(&block.id);
            let len = block.bytes.len() as u64;
            self.recipe.push(block.id, len, &mut |leaf: Vec<u8>| {
                keep_leaf(&key, leaf, &mut leaves)
            })?;
        }
        let root = self
            .take_recipe()
            .finish(&mut |leaf: Vec<u8>| keep_leaf(&key, leaf, &mut leaves))?;
        self.blocks = blocks.len() as u64;
        blocks.extend(leaves);
        let ask_first = self.batch_bytes > BLIND_BYTES;
        let (route, session) = (&self.route, self.session);
        let groups = route.by_node(blocks, |block| block.id);
        let put = groups.iter().map(|(node, blocks)| async move {
            route.put_seal(node, session, blocks, ask_first).await
        });
        let mut new = New::default();
        let mut seals = Seals::default();
        let mut has_pins = false;
        for sealed in try_join_all(put).await? {
            new.add(sealed.new);
            seals.add(sealed.seal)?;
            has_pins |= sealed.has_pins;
        }
        Ok(Stored {
            root,
            etag: self.etag.finish(),
            blocks: self.blocks,
            new,
            seals,
            digests: self.digests,
            has_pins,
        })
    }
}

fn keep_leaf(key: &cstore_types::DedupKey, leaf: Vec<u8>, leaves: &mut Vec<Block>) -> BlockId {
    let id = BlockId::of_many(key, &[&leaf])
        .first()
        .copied()
        .unwrap_or(BlockId::from_bytes([0; 32]));
    leaves.push(Block {
        id,
        kind: BlockKind::Manifest,
        bytes: leaf.into(),
    });
    id
}

/// Hashes blocks together, and with those of other uploads.
async fn hash(route: &Route, blocks: Vec<Bytes>) -> Result<Vec<Block>, Fault> {
    let ids = route.stores.hashing().ids_of(&blocks).await?;
    let pairs = ids.into_iter().zip(blocks);
    Ok(pairs
        .map(|(id, bytes)| Block {
            id,
            kind: BlockKind::Data,
            bytes,
        })
        .collect())
}

async fn put_everywhere(
    route: &Route,
    session: SessionId,
    blocks: Vec<Block>,
) -> Result<New, Fault> {
    let groups = route.by_node(blocks, |block| block.id);
    let puts = groups
        .into_iter()
        .map(|(node, blocks)| route.put(node, session, blocks));
    let mut new = New::default();
    for found in try_join_all(puts).await? {
        new.add(found);
    }
    Ok(new)
}
