//! A storage node in memory that can be told how to reply.

use std::collections::{BTreeMap, HashMap, HashSet, VecDeque};
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use cstore_mesh::BoxIo;
use cstore_node::shutdown::spawn;
use cstore_types::limits::{MAX_IDS, MAX_REQUEST_BYTES};
use cstore_types::{
    Block, BlockId, ErrorCode, Fault, FrameKey, NodeId, PartNo, SealSeq, SessionId, SpaceUsage,
    StoreUuid,
};
use cstore_wire::{
    BlockSink, Context, Handler, Opcode, PutStatus, Request, Response, ServerConfig,
    serve_connection,
};
use futures_util::FutureExt;
use futures_util::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::task::AbortOnDropHandle;

use crate::{CLUSTER, DEDUP_KEY};

/// Key of the handshake.
pub const FRAME_KEY: FrameKey = FrameKey::from_bytes([5; 32]);

/// Bytes that a connection holds in each direction.
const PIPE: usize = 256 << 10;

/// The reply to a request that is not GetBlocks.
#[derive(Debug, Clone)]
pub enum StoreReply {
    /// Refuses the request. Nothing is done.
    Refuse(Fault),
    /// Refuses every block of a PutBlocks. Nothing is done.
    RefuseBlocks(ErrorCode),
    /// Closes all connections of the node. Nothing is done.
    Disconnect,
    /// Does the request and closes all connections instead of replying.
    DoAndDisconnect,
    /// Drops all blocks that no part refers to, as a restart does, then does the request.
    LoseBlocks,
    /// Sends this reply. Nothing is done.
    Instead(Response),
    /// Waits for [`FakeStore::release`], then does the request.
    Hold,
}

/// The reply to a GetBlocks.
#[derive(Debug, Clone)]
pub enum ReadReply {
    /// Refuses the request.
    Refuse(Fault),
    /// Refuses each block.
    RefuseBlocks(ErrorCode),
    /// Sends one block and closes all connections.
    Disconnect,
    /// Sends the blocks, each as one that was not asked for.
    IndexBeyond,
    /// Sends the first block once for each that was asked for.
    RepeatFirst,
    /// Sends the blocks, each under the index of its neighbour.
    Rotate,
    /// Waits for [`FakeStore::release`], then sends the blocks.
    Hold,
}

/// A request as the node received it.
#[derive(Debug, Clone)]
pub struct Call {
    /// Kind of the request.
    pub opcode: Opcode,
    /// Session that the request belongs to.
    pub session: Option<SessionId>,
    /// Blocks whose bytes came with the request.
    pub sent: Vec<BlockId>,
    /// Bytes of these blocks.
    pub bytes: u64,
}

#[derive(Debug, Default)]
struct State {
    blocks: HashMap<BlockId, Bytes>,
    pins: HashMap<SessionId, HashSet<BlockId>>,
    parts: BTreeMap<(SessionId, PartNo), (SealSeq, Vec<BlockId>)>,
    seal_seq: u64,
    script: VecDeque<(Opcode, StoreReply)>,
    always: HashMap<Opcode, StoreReply>,
    read_script: VecDeque<ReadReply>,
    always_read: Option<ReadReply>,
    calls: Vec<Call>,
    /// Connections are refused.
    is_away: bool,
    connections: Vec<AbortOnDropHandle<()>>,
}

/// A storage node in memory that keeps the requests that came, and whose replies a test may choose.
///
/// Unless told otherwise it stores, pins and seals as the real one does, and checks on the way that
/// each request is one that a sound worker sends.
#[derive(Debug)]
pub struct FakeStore {
    /// Name of the node.
    pub node: NodeId,
    /// Identity of its disk.
    pub uuid: StoreUuid,
    state: Mutex<State>,
    released: watch::Sender<bool>,
}

impl FakeStore {
    /// Returns an empty node, whose name and disk have this number.
    pub fn new(number: u8) -> Arc<Self> {
        Arc::new(Self {
            node: NodeId::new(&format!("storage-{number}")).unwrap(),
            uuid: StoreUuid::from_bytes([number; 16]),
            state: Mutex::default(),
            released: watch::Sender::new(false),
        })
    }

    /// Opens a connection to this node.
    ///
    /// # Errors
    /// `ConnectionRefused` after [`Self::go_away`].
    pub fn connect(self: &Arc<Self>) -> io::Result<BoxIo> {
        let mut state = self.state.lock();
        if state.is_away {
            return Err(io::ErrorKind::ConnectionRefused.into());
        }
        let config = ServerConfig {
            key: FRAME_KEY,
            cluster: CLUSTER,
            node: self.node.clone(),
            store: self.uuid,
            credits: 32 << 20,
            max_requests: 64,
            handshake_deadline: Duration::from_secs(5),
            progress_deadline: Duration::from_secs(30),
            idle_deadline: Duration::from_secs(120),
        };
        let (ours, theirs) = tokio::io::duplex(PIPE);
        let serving = serve_connection(
            theirs,
            Arc::new(config),
            self.clone(),
            std::future::pending(),
        );
        state
            .connections
            .push(AbortOnDropHandle::new(spawn("fake store", serving)));
        Ok(Box::new(ours))
    }

    /// Gives these replies to the next requests of the opcode, one each.
    pub fn script(&self, opcode: Opcode, replies: impl IntoIterator<Item = StoreReply>) {
        self.state
            .lock()
            .script
            .extend(replies.into_iter().map(|reply| (opcode, reply)));
    }

    /// Gives this reply to all requests of the opcode for which the script has no reply.
    pub fn always(&self, opcode: Opcode, reply: StoreReply) {
        self.state.lock().always.insert(opcode, reply);
    }

    /// Gives these replies to the next GetBlocks, one each.
    pub fn script_reads(&self, replies: impl IntoIterator<Item = ReadReply>) {
        self.state.lock().read_script.extend(replies);
    }

    /// Gives this reply to all GetBlocks for which the script has no reply.
    pub fn always_read(&self, reply: ReadReply) {
        self.state.lock().always_read = Some(reply);
    }

    /// Ends the wait of all requests that are held, also of later ones.
    pub fn release(&self) {
        self.released.send_replace(true);
    }

    /// Closes all connections and refuses new ones.
    pub fn go_away(&self) {
        self.state.lock().is_away = true;
        self.disconnect();
    }

    /// Returns the requests that came since the last call, and forgets them.
    pub fn take_calls(&self) -> Vec<Call> {
        std::mem::take(&mut self.state.lock().calls)
    }

    /// Returns the number of requests of an opcode.
    pub fn count(&self, opcode: Opcode) -> usize {
        self.state
            .lock()
            .calls
            .iter()
            .filter(|call| call.opcode == opcode)
            .count()
    }

    /// Returns the blocks that the node holds.
    pub fn ids(&self) -> HashSet<BlockId> {
        self.state.lock().blocks.keys().copied().collect()
    }

    /// Returns the blocks of each sealed part of a session, and the sequence of its last seal.
    pub fn parts(&self, session: SessionId) -> (Vec<Vec<BlockId>>, Option<SealSeq>) {
        let state = self.state.lock();
        let of_session = || {
            state
                .parts
                .iter()
                .filter(|((owner, _), _)| *owner == session)
        };
        for (n, ((_, part), _)) in of_session().enumerate() {
            assert_eq!(part.0 as usize, n, "parts are numbered without gaps");
        }
        let ids = of_session().map(|(_, (_, ids))| ids.clone()).collect();
        (ids, of_session().map(|(_, (seq, _))| *seq).max())
    }

    /// Returns the number of blocks that a session pins.
    pub fn pins(&self, session: SessionId) -> usize {
        self.state.lock().pins.get(&session).map_or(0, HashSet::len)
    }

    /// Replaces the bytes of a block. Returns whether the node holds it.
    pub fn change(&self, id: &BlockId, change: impl FnOnce(&mut Vec<u8>)) -> bool {
        let mut state = self.state.lock();
        let Some(bytes) = state.blocks.get_mut(id) else {
            return false;
        };
        let mut changed = bytes.to_vec();
        change(&mut changed);
        *bytes = changed.into();
        true
    }

    /// Drops a block. Returns whether the node held it.
    pub fn remove(&self, id: &BlockId) -> bool {
        self.state.lock().blocks.remove(id).is_some()
    }

    fn disconnect(&self) {
        self.state.lock().connections.clear();
    }

    async fn reply_to(&self, request: Request) -> Result<Response, Fault> {
        let reply = {
            let mut state = self.state.lock();
            state.calls.push(call_of(&request));
            state.next_reply(request.opcode())
        };
        match reply {
            None => Ok(self.state.lock().apply(self.uuid, request)),
            Some(StoreReply::Refuse(fault)) => Err(fault),
            Some(StoreReply::RefuseBlocks(code)) => {
                let Request::PutBlocks { blocks, .. } = request else {
                    panic!("not a PutBlocks")
                };
                Ok(Response::PutResult(vec![
                    PutStatus::Refused(code);
                    blocks.len()
                ]))
            }
            Some(StoreReply::Instead(response)) => Ok(response),
            Some(StoreReply::Disconnect) => {
                self.disconnect();
                std::future::pending().await
            }
            Some(StoreReply::DoAndDisconnect) => {
                self.state.lock().apply(self.uuid, request);
                self.disconnect();
                std::future::pending().await
            }
            Some(StoreReply::LoseBlocks) => {
                let mut state = self.state.lock();
                state.lose_blocks();
                Ok(state.apply(self.uuid, request))
            }
            Some(StoreReply::Hold) => {
                self.wait_for_release().await;
                Ok(self.state.lock().apply(self.uuid, request))
            }
        }
    }

    async fn wait_for_release(&self) {
        let mut released = self.released.subscribe();
        drop(released.wait_for(|released| *released).await);
    }

    async fn read(&self, ids: Vec<BlockId>, mut sink: BlockSink) -> Result<(), Fault> {
        let reply = {
            let mut state = self.state.lock();
            let none = Call {
                opcode: Opcode::GetBlocks,
                session: None,
                sent: Vec::new(),
                bytes: 0,
            };
            state.calls.push(none);
            state
                .read_script
                .pop_front()
                .or_else(|| state.always_read.clone())
        };
        if matches!(reply, Some(ReadReply::Hold)) {
            self.wait_for_release().await;
        }
        let count = ids.len();
        for (n, id) in ids.iter().enumerate() {
            let found = self
                .state
                .lock()
                .blocks
                .get(id)
                .cloned()
                .ok_or(ErrorCode::NotFound);
            let (index, result) = match &reply {
                None | Some(ReadReply::Hold) => (n, found),
                Some(ReadReply::Refuse(fault)) => return Err(fault.clone()),
                Some(ReadReply::RefuseBlocks(code)) => (n, Err(*code)),
                Some(ReadReply::Disconnect) => {
                    sink.send(0, found).await?;
                    self.disconnect();
                    std::future::pending().await
                }
                Some(ReadReply::IndexBeyond) => (n + count, found),
                Some(ReadReply::RepeatFirst) => (
                    0,
                    self.state
                        .lock()
                        .blocks
                        .get(&ids[0])
                        .cloned()
                        .ok_or(ErrorCode::NotFound),
                ),
                Some(ReadReply::Rotate) => ((n + 1) % count, found),
            };
            sink.send(index as u32, result).await?;
        }
        Ok(())
    }
}

impl State {
    fn next_reply(&mut self, opcode: Opcode) -> Option<StoreReply> {
        let scripted = self.script.iter().position(|(wanted, _)| *wanted == opcode);
        let scripted = scripted
            .and_then(|at| self.script.remove(at))
            .map(|(_, reply)| reply);
        scripted.or_else(|| self.always.get(&opcode).cloned())
    }

    fn lose_blocks(&mut self) {
        let kept: HashSet<BlockId> = self
            .parts
            .values()
            .flat_map(|(_, ids)| ids)
            .copied()
            .collect();
        self.blocks.retain(|id, _| kept.contains(id));
        self.pins.clear();
    }

    /// Does a request as a storage node without faults does it.
    fn apply(&mut self, store: StoreUuid, request: Request) -> Response {
        match request {
            Request::HaveBlocks { session, ids } => {
                check_ids(&ids);
                let missing: Vec<bool> =
                    ids.iter().map(|id| !self.blocks.contains_key(id)).collect();
                let here = ids.into_iter().filter(|id| self.blocks.contains_key(id));
                self.pins.entry(session).or_default().extend(here);
                match missing.contains(&true) {
                    true => Response::SomeMissing(missing),
                    false => Response::AllHere,
                }
            }
            Request::PutBlocks { session, blocks } => {
                let status = |new| {
                    if new {
                        PutStatus::Stored
                    } else {
                        PutStatus::Duplicate
                    }
                };
                Response::PutResult(self.put(session, blocks).into_iter().map(status).collect())
            }
            Request::Seal { session, part, ids } => {
                self.seal(store, session, part, ids, Vec::new())
            }
            Request::PutSeal {
                session,
                part,
                ids,
                blocks,
            } => {
                let block = |block: cstore_wire::SealedBlock| Block {
                    id: ids[block.index as usize],
                    kind: block.kind,
                    bytes: block.bytes,
                };
                let new = self.store(blocks.into_iter().map(block).collect());
                self.seal(store, session, part, ids, new)
            }
            Request::Unpin { session } => {
                self.pins.remove(&session);
                Response::Ok
            }
            Request::Usage { .. } => Response::Usage(SpaceUsage::default()),
            Request::GetBlocks { .. } | Request::Ping | Request::Goodbye => {
                panic!("the connection replies to it")
            }
        }
    }

    /// Stores blocks and pins them. Returns for each whether it was new.
    fn put(&mut self, session: SessionId, blocks: Vec<Block>) -> Vec<bool> {
        let ids = blocks.iter().map(|block| block.id);
        self.pins.entry(session).or_default().extend(ids);
        self.store(blocks)
    }

    /// Stores blocks. Returns for each whether it was new.
    fn store(&mut self, blocks: Vec<Block>) -> Vec<bool> {
        assert!(blocks.len() <= MAX_IDS);
        let bytes: usize = blocks.iter().map(|block| block.bytes.len()).sum();
        assert!(bytes <= MAX_REQUEST_BYTES, "{bytes} bytes in one request");
        let put = |block: Block| {
            assert!(
                block.id.matches(&DEDUP_KEY, &block.bytes),
                "the id of a block must be that of its bytes"
            );
            self.blocks.insert(block.id, block.bytes).is_none()
        };
        blocks.into_iter().map(put).collect()
    }

    fn seal(
        &mut self,
        store: StoreUuid,
        session: SessionId,
        part: PartNo,
        ids: Vec<BlockId>,
        new: Vec<bool>,
    ) -> Response {
        check_ids(&ids);
        let missing = (0u32..)
            .zip(&ids)
            .filter(|(_, id)| !self.blocks.contains_key(id));
        let missing: Vec<u32> = missing.map(|(at, _)| at).collect();
        if !missing.is_empty() {
            return Response::SealMissing(missing);
        }
        if let Some((seal_seq, sealed)) = self.parts.get(&(session, part)) {
            return match *sealed == ids {
                true => Response::Sealed {
                    store,
                    seal_seq: *seal_seq,
                    nonce: 0,
                    new,
                },
                false => Response::SealConflict,
            };
        }
        self.seal_seq += 1;
        let seal_seq = SealSeq(self.seal_seq);
        self.parts.insert((session, part), (seal_seq, ids));
        Response::Sealed {
            store,
            seal_seq,
            nonce: 0,
            new,
        }
    }
}

fn check_ids(ids: &[BlockId]) {
    assert!(
        (1..=MAX_IDS).contains(&ids.len()),
        "{} ids in one request",
        ids.len()
    );
    assert_eq!(
        ids.iter().collect::<HashSet<_>>().len(),
        ids.len(),
        "an id is named once in a request"
    );
}

fn call_of(request: &Request) -> Call {
    let opcode = request.opcode();
    let (session, sent, bytes) = match request {
        Request::HaveBlocks { session, .. }
        | Request::Seal { session, .. }
        | Request::Unpin { session } => (Some(*session), Vec::new(), 0),
        Request::PutBlocks { session, blocks } => {
            let bytes = blocks.iter().map(|block| block.bytes.len() as u64).sum();
            (
                Some(*session),
                blocks.iter().map(|block| block.id).collect(),
                bytes,
            )
        }
        Request::PutSeal {
            session,
            ids,
            blocks,
            ..
        } => {
            let bytes = blocks.iter().map(|block| block.bytes.len() as u64).sum();
            (
                Some(*session),
                blocks
                    .iter()
                    .map(|block| ids[block.index as usize])
                    .collect(),
                bytes,
            )
        }
        Request::Usage { .. } | Request::GetBlocks { .. } | Request::Ping | Request::Goodbye => {
            (None, Vec::new(), 0)
        }
    };
    Call {
        opcode,
        session,
        sent,
        bytes,
    }
}

impl Handler for FakeStore {
    fn call(
        self: Arc<Self>,
        _: Context,
        request: Request,
    ) -> BoxFuture<'static, Result<Response, Fault>> {
        async move { self.reply_to(request).await }.boxed()
    }

    fn get_blocks(
        self: Arc<Self>,
        _: Context,
        ids: Vec<BlockId>,
        blocks: BlockSink,
    ) -> BoxFuture<'static, Result<(), Fault>> {
        async move { self.read(ids, blocks).await }.boxed()
    }
}
