//! A cluster of storage nodes in memory, bodies to upload, and what uploading them must come to.

use std::collections::{HashMap, HashSet};
use std::io;
use std::ops::Range;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cstore_mesh::Dial;
use cstore_mesh::member::Membership;
use cstore_node::shutdown::Shutdown;
use cstore_testkit::fake::{Call, FRAME_KEY, FakeStore};
use cstore_testkit::{CLUSTER, DEDUP_KEY};
use cstore_types::{
    BlockId, Chunking, Fault, MapVersion, NodeId, Placement, PlacementNode, Root, SessionId,
};
use cstore_wire::Opcode;
use md5::{Digest, Md5};
use rand::rngs::StdRng;
use rand::{Rng, RngExt};
use tokio::sync::{mpsc, watch};

use crate::budget::Budget;
use crate::cluster::{Route, Stores, View};
use crate::digests::Digests;
use crate::download::{Chunk, download};
use crate::limits::CHUNKS_AHEAD;
use crate::upload::{Stored, Upload};

pub(super) const MAP: MapVersion = MapVersion(7);
/// The largest chunk of an upload that the worker accepts.
const MAX_CHUNK: usize = 1 << 20;
/// Entries of a table of a recipe, as `cstore_types::recipe` describes them.
const LEAF_ENTRIES: usize = 1_024;
const ROOT_ENTRIES: usize = 100;

/// Storage nodes and what a worker knows of them.
pub(super) struct Cluster {
    pub(super) stores: Vec<Arc<FakeStore>>,
    pub(super) route: Route,
    pub(super) budget: Budget,
    /// Must live as long as the cluster: without it links to nodes are not made again.
    _view: watch::Sender<View>,
}

impl Cluster {
    /// Starts a cluster whose worker may hold as much as it does by default.
    pub(super) fn new(nodes: u8) -> Self {
        Self::with_budget(nodes, 256 << 20)
    }

    pub(super) fn with_budget(nodes: u8, budget: u64) -> Self {
        let stores: Vec<Arc<FakeStore>> = (1..=nodes).map(FakeStore::new).collect();
        let placed = |store: &Arc<FakeStore>| PlacementNode {
            id: store.node.clone(),
            failure_domain: store.node.to_string(),
        };
        let placement = Placement::new(MAP, stores.iter().map(placed).collect()).unwrap();
        let addr = |store: &Arc<FakeStore>| (store.node.clone(), format!("{}:1", store.node));
        let addrs: HashMap<NodeId, String> = stores.iter().map(addr).collect();
        let by_addr: HashMap<String, Arc<FakeStore>> = stores
            .iter()
            .map(|store| (format!("{}:1", store.node), store.clone()))
            .collect();
        let dial = Dial::new(move |target| {
            let connected = by_addr.get(&target.addr).map(FakeStore::connect);
            Box::pin(
                async move { connected.unwrap_or_else(|| Err(io::ErrorKind::NotFound.into())) },
            )
        });
        let (view, receiver) = watch::channel(View {
            placement: Some(Arc::new(placement)),
            addrs,
        });
        let membership = Membership {
            cluster: CLUSTER,
            key: DEDUP_KEY,
            heartbeat: Duration::from_secs(1),
            has_map: false,
        };
        let stores_of_worker = Stores::new(
            membership,
            NodeId::new("worker-1").unwrap(),
            FRAME_KEY,
            Duration::from_millis(100),
            dial,
            receiver,
            Shutdown::new(),
        );
        let route = Route::new(&stores_of_worker).unwrap();
        Self {
            stores,
            route,
            budget: Budget::new(budget),
            _view: view,
        }
    }

    pub(super) fn upload(&self, session: SessionId, block: u32) -> Upload {
        let chunking = Chunking::fixed(block.into()).unwrap();
        Upload::new(
            self.route.clone(),
            session,
            chunking,
            Digests::default(),
            self.budget.clone(),
        )
    }

    /// Uploads a body that comes in the largest chunks.
    pub(super) async fn store(
        &self,
        session: SessionId,
        block: u32,
        body: &Bytes,
    ) -> Result<Stored, Fault> {
        self.store_pieces(session, block, pieces_of(body, MAX_CHUNK))
            .await
    }

    pub(super) async fn store_pieces(
        &self,
        session: SessionId,
        block: u32,
        pieces: Vec<Bytes>,
    ) -> Result<Stored, Fault> {
        let mut upload = self.upload(session, block);
        for piece in pieces {
            upload.push(piece).await?;
        }
        upload.finish().await
    }

    /// Downloads a range. Returns what the reader received, and how the download ended.
    pub(super) async fn read(
        &self,
        root: &Root,
        range: Range<u64>,
    ) -> (Vec<u8>, Result<u64, Fault>) {
        let (out, mut chunks) = mpsc::channel::<Chunk>(CHUNKS_AHEAD);
        let sending = download(
            self.route.clone(),
            root.clone(),
            range,
            self.budget.clone(),
            out,
        );
        let receiving = async {
            let mut received = Vec::new();
            while let Some(chunk) = chunks.recv().await {
                received.extend_from_slice(&chunk.unwrap());
            }
            received
        };
        let (sent, received) = tokio::join!(sending, receiving);
        (received, sent)
    }

    /// Checks that a whole file reads back.
    pub(super) async fn assert_reads_back(&self, stored: &Stored, body: &Bytes) {
        let (received, sent) = self.read(&stored.root, 0..body.len() as u64).await;
        assert_eq!(sent, Ok(body.len() as u64));
        assert!(received == body[..], "another content is read back");
        assert_eq!(
            self.budget.held(),
            0,
            "everything is given back to the budget"
        );
    }

    /// Returns the requests of all nodes since the last call, and forgets them.
    pub(super) fn take_calls(&self) -> Vec<Call> {
        self.stores
            .iter()
            .flat_map(|store| store.take_calls())
            .collect()
    }

    pub(super) fn count(&self, opcode: Opcode) -> usize {
        self.stores.iter().map(|store| store.count(opcode)).sum()
    }

    /// Returns all blocks that the nodes hold.
    pub(super) fn ids(&self) -> HashSet<BlockId> {
        self.stores.iter().flat_map(|store| store.ids()).collect()
    }

    /// Checks that nothing of a session was sealed anywhere.
    pub(super) fn assert_nothing_sealed(&self, session: SessionId) {
        for store in &self.stores {
            assert_eq!(
                store.parts(session).0,
                Vec::<Vec<BlockId>>::new(),
                "{}",
                store.node
            );
        }
    }
}

/// Makes a body of random bytes: blocks do not repeat unless they are very short.
pub(super) fn random_body(random: &mut StdRng, len: usize) -> Bytes {
    let mut body = vec![0; len];
    random.fill_bytes(&mut body);
    body.into()
}

/// Cuts a body into pieces of `size` bytes.
pub(super) fn pieces_of(body: &Bytes, size: usize) -> Vec<Bytes> {
    (0..body.len())
        .step_by(size)
        .map(|from| body.slice(from..body.len().min(from + size)))
        .collect()
}

/// Cuts a body into pieces of random sizes, some of them empty.
pub(super) fn random_pieces(random: &mut StdRng, body: &Bytes) -> Vec<Bytes> {
    let max = if random.random_bool(0.5) {
        MAX_CHUNK
    } else {
        1 + body.len() / 50
    };
    let mut pieces = Vec::new();
    let mut from = 0;
    while from < body.len() {
        let to = body
            .len()
            .min(from + random.random_range(0..=max.min(MAX_CHUNK)));
        pieces.push(body.slice(from..to));
        from = to;
    }
    pieces
}

/// Expected form of a stored body: computed from the description of the formats, without the
/// worker's code.
pub(super) struct Expected {
    /// Encoded root of the recipe.
    pub(super) root: Vec<u8>,
    pub(super) etag: String,
    /// Data blocks in the order of the file.
    pub(super) blocks: Vec<(BlockId, u64)>,
    pub(super) leaves: Vec<BlockId>,
}

impl Expected {
    pub(super) fn new(body: &[u8], block: u32) -> Self {
        let cut: Vec<&[u8]> = body.chunks(block as usize).collect();
        let ids = BlockId::of_many(&DEDUP_KEY, &cut);
        let blocks: Vec<(BlockId, u64)> = ids
            .iter()
            .copied()
            .zip(cut.iter().map(|bytes| bytes.len() as u64))
            .collect();
        let mut of_etag = Md5::new();
        for bytes in &cut {
            of_etag.update(Md5::digest(bytes));
        }
        let etag = format!("{}-{}", hex::encode(of_etag.finalize()), cut.len());

        let mut leaves = Vec::new();
        let mut table = blocks.clone();
        let mut depth = 0u8;
        while table.len() > ROOT_ENTRIES {
            let mut above = Vec::new();
            for entries in table.chunks(LEAF_ENTRIES) {
                let mut leaf = vec![1, depth];
                leaf.extend((entries.len() as u16).to_le_bytes());
                leaf.extend([0; 4]);
                let covered = put_entries(&mut leaf, entries);
                above.push((BlockId::of_many(&DEDUP_KEY, &[&leaf])[0], covered));
            }
            leaves.extend(above.iter().map(|(id, _)| *id));
            table = above;
            depth += 1;
        }
        let mut root = vec![1, depth, 1, 0];
        root.extend(block.to_le_bytes());
        root.extend((body.len() as u64).to_le_bytes());
        root.extend((table.len() as u32).to_le_bytes());
        put_entries(&mut root, &table);
        Self {
            root,
            etag,
            blocks,
            leaves,
        }
    }

    /// Returns the blocks that the file refers to, each once.
    pub(super) fn ids(&self) -> HashSet<BlockId> {
        self.blocks
            .iter()
            .map(|(id, _)| *id)
            .chain(self.leaves.iter().copied())
            .collect()
    }

    /// Returns number and bytes of the data blocks that are not among `known`.
    pub(super) fn new_beside(&self, known: &HashSet<BlockId>) -> (u64, u64) {
        let distinct: HashMap<BlockId, u64> = self.blocks.iter().copied().collect();
        let new = distinct.iter().filter(|(id, _)| !known.contains(id));
        new.fold((0, 0), |(blocks, bytes), (_, len)| {
            (blocks + 1, bytes + len)
        })
    }
}

fn put_entries(out: &mut Vec<u8>, entries: &[(BlockId, u64)]) -> u64 {
    let mut end = 0;
    for (id, len) in entries {
        end += len;
        out.extend(id.as_bytes());
        out.extend(end.to_le_bytes());
    }
    end
}
