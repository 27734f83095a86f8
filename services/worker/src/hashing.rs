//! Hashing service of a worker: blocks of concurrent uploads are hashed together.
//!
//! ```text
//! few bytes ──▶ hashed where they are
//! many bytes ─▶ queue ─▶ hashing tasks, on blocking threads ─▶ ids, one reply per call
//! ```
//! MD5 of 16 or 32 blocks takes about as long as MD5 of 2 blocks ([`BlockId::of_many`]), but most
//! calls have only 1 or 2 blocks. So a task takes the calls that have gathered while the tasks were
//! busy. Nothing waits for more calls to come: a call that finds a task idle is hashed at once.
//!
//! Invariants:
//!
//! * While a call is in the queue, a task is running or about to run. A task ends under the mutex
//!   of the queue, and only if the queue is empty: otherwise a call that came at that moment would
//!   never be hashed.
//! * Each call gets its reply, or its reply channel is closed: the caller fails and does not hang.
//! * Blocks in the queue and in the tasks have at most [`HASH_QUEUE_BYTES`] together. The memory
//!   budget of uploads does not count blocks whose caller was dropped; this bound does. No task
//!   waits for an upload, so a caller that waits for room here may hold a part of that budget.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::Arc;
use std::thread::available_parallelism;

use bytes::Bytes;
use cstore_types::{BlockId, DedupKey, ErrorCode, Fault};
use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, oneshot};

use crate::limits::{HASH_QUEUE_BYTES, HASH_TASK_BLOCKS, INLINE_BLOCK_BYTES, MAX_HASH_TASKS};

/// A function that returns the id of each block, in order.
type HashFunction = Box<dyn Fn(&[&[u8]]) -> Vec<BlockId> + Send + Sync>;

/// The hashing service. Cheap to clone.
#[derive(Clone)]
pub(crate) struct HashingService {
    shared: Arc<Shared>,
}

struct Shared {
    hash: HashFunction,
    queue: Mutex<Queue>,
    /// Bytes that may be added to the queue.
    room: Arc<Semaphore>,
    /// Most tasks that run at the same time.
    max_tasks: usize,
}

#[derive(Default)]
struct Queue {
    calls: VecDeque<Call>,
    /// Tasks that run or were started.
    tasks: usize,
}

/// Blocks of one call.
struct Call {
    blocks: Vec<Bytes>,
    /// Closed if the caller was dropped.
    reply: oneshot::Sender<Vec<BlockId>>,
    /// Room of the blocks in the queue, given back when this is dropped.
    _room: OwnedSemaphorePermit,
}

impl std::fmt::Debug for HashingService {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("HashingService")
    }
}

impl HashingService {
    /// Creates a service with one task per core, up to [`MAX_HASH_TASKS`].
    pub(crate) fn new(key: DedupKey) -> Self {
        let cores = available_parallelism().map_or(1, usize::from);
        let hash = move |blocks: &[&[u8]]| BlockId::of_many(&key, blocks);
        Self::with_function(Box::new(hash), cores.min(MAX_HASH_TASKS))
    }

    fn with_function(hash: HashFunction, max_tasks: usize) -> Self {
        let shared = Shared {
            hash,
            queue: Mutex::default(),
            room: Arc::new(Semaphore::new(HASH_QUEUE_BYTES)),
            max_tasks,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// Returns the id of each block, in order. Waits while the queue is full.
    ///
    /// A call that is dropped is removed from the queue, unless a task has taken it already.
    ///
    /// # Errors
    /// [`ErrorCode::Internal`] if hashing panicked or the runtime shuts down.
    pub(crate) async fn ids_of(&self, blocks: &[Bytes]) -> Result<Vec<BlockId>, Fault> {
        let bytes: usize = blocks.iter().map(Bytes::len).sum();
        if bytes <= INLINE_BLOCK_BYTES {
            let hash = AssertUnwindSafe(|| self.shared.hash_blocks(blocks.iter()));
            return catch_unwind(hash).map_err(|_| lost());
        }

        // A call with more bytes than the whole queue waits until it has the queue for itself.
        let wanted = u32::try_from(bytes.min(HASH_QUEUE_BYTES)).unwrap_or(u32::MAX);
        let room = self.shared.room.clone().acquire_many_owned(wanted).await;
        let room = room.map_err(|error| Fault::from_error(ErrorCode::Internal, error))?;
        let (reply, ids) = oneshot::channel();
        let task = self.shared.add(Call {
            blocks: blocks.to_vec(),
            reply,
            _room: room,
        });

        let Some(task) = task else {
            return ids.await.map_err(|_| lost());
        };
        // The first poll starts the task, which then goes on without this future. MUST come BEFORE any
        // await: calls of other uploads count on the task already. It hashes other calls after this
        // one, so do not wait for its end.
        let mut task = pin!(cstore_node::blocking(move || task.run()));
        if futures_util::poll!(task.as_mut()).is_ready() {
            return ids.await.map_err(|_| lost());
        }
        let mut ids = pin!(ids);
        tokio::select! {
            biased;
            _ = task => ids.await.map_err(|_| lost()),
            found = &mut ids => found.map_err(|_| lost()),
        }
    }
}

/// Makes the fault of blocks whose hashing panicked or never began.
fn lost() -> Fault {
    let text = "blocks were not hashed: hashing ended early";
    Fault::new(ErrorCode::Internal, text)
}

impl Shared {
    /// Appends a call to the queue. Returns a task that the caller MUST run if there is one:
    /// otherwise nobody hashes the call.
    fn add(self: &Arc<Self>, call: Call) -> Option<HashTask> {
        let mut queue = self.queue.lock();
        queue.calls.push_back(call);
        if queue.tasks >= self.max_tasks {
            return None;
        }
        queue.tasks += 1;
        Some(HashTask {
            shared: self.clone(),
            has_ended: false,
        })
    }

    fn hash_blocks<'a>(&self, blocks: impl Iterator<Item = &'a Bytes>) -> Vec<BlockId> {
        let slices: Vec<&[u8]> = blocks.map(Bytes::as_ref).collect();
        (self.hash)(&slices)
    }
}

/// A hashing task. Runs until the queue is empty.
struct HashTask {
    shared: Arc<Shared>,
    /// The queue does not count this task any more.
    has_ended: bool,
}

impl HashTask {
    fn run(mut self) {
        loop {
            let calls = self.take_calls();
            if calls.is_empty() {
                return;
            }
            // A panic closes the reply channels of these calls, and the task goes on with others.
            let shared = &self.shared;
            let hashed = catch_unwind(AssertUnwindSafe(|| hash_calls(shared, calls)));
            if hashed.is_err() {
                tracing::error!("hashing of blocks panicked; their uploads fail");
            }
        }
    }

    /// Takes calls from the queue until they fill the lanes of a hash. Returns none after the task
    /// has ended.
    fn take_calls(&mut self) -> Vec<Call> {
        let mut queue = self.shared.queue.lock();
        let mut calls = Vec::new();
        let mut blocks = 0;
        while blocks < HASH_TASK_BLOCKS
            && let Some(call) = queue.calls.pop_front()
        {
            if !call.reply.is_closed() {
                blocks += call.blocks.len();
                calls.push(call);
            }
        }

        // Counted under the mutex, so that the next call finds that it has to start a task.
        if calls.is_empty() {
            queue.tasks -= 1;
            self.has_ended = true;
        }
        calls
    }
}

impl Drop for HashTask {
    /// Closes the calls in the queue if this was the last task and did not end by itself: the
    /// runtime shut down before it began.
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let mut queue = self.shared.queue.lock();
        queue.tasks -= 1;
        if queue.tasks == 0 {
            queue.calls.clear();
        }
    }
}

/// Hashes the blocks of all calls together, and sends each call its ids.
fn hash_calls(shared: &Shared, calls: Vec<Call>) {
    let blocks = calls.iter().flat_map(|call| &call.blocks);
    let mut ids = shared.hash_blocks(blocks).into_iter();
    for call in calls {
        let ids_of_call = ids.by_ref().take(call.blocks.len()).collect();
        // Fails if the caller was dropped, which needs no ids.
        let _ = call.reply.send(ids_of_call);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::mpsc::{SyncSender, sync_channel};

    use cstore_testkit::{DEDUP_KEY, PATIENCE};
    use futures_util::FutureExt;
    use futures_util::future::join_all;
    use rand::rngs::StdRng;
    use rand::{Rng, RngExt, SeedableRng};
    use tokio::sync::mpsc;
    use tokio::sync::oneshot::error::TryRecvError;
    use tokio::time::timeout;

    use super::*;

    /// A block that is not hashed where it is.
    const LARGE: usize = INLINE_BLOCK_BYTES + 1;
    /// First byte of a block whose hashing panics.
    const PANIC: u8 = 0xff;

    /// Control over the hash function of a service.
    struct Gate {
        /// First bytes of the blocks of each hashing that began.
        begun: mpsc::Receiver<Vec<u8>>,
        /// Lets one hashing return.
        release: SyncSender<()>,
    }

    impl Gate {
        /// Creates a service whose hash function waits for the gate.
        fn new(max_tasks: usize) -> (HashingService, Self) {
            let (begin, begun) = mpsc::channel(100);
            let (release, released) = sync_channel(100);
            let released = Mutex::new(released);
            let hash = move |blocks: &[&[u8]]| -> Vec<BlockId> {
                let firsts: Vec<u8> = blocks.iter().map(|block| block[0]).collect();
                begin.try_send(firsts.clone()).unwrap();
                // A test that failed has dropped the gate.
                let _ = released.lock().recv();
                assert!(!firsts.contains(&PANIC), "on purpose");
                firsts.into_iter().map(id).collect()
            };
            let service = HashingService::with_function(Box::new(hash), max_tasks);
            (service, Self { begun, release })
        }

        /// Waits until a hashing begins. Returns the first bytes of its blocks.
        async fn begun(&mut self) -> Vec<u8> {
            timeout(PATIENCE, self.begun.recv()).await.unwrap().unwrap()
        }

        fn release(&self) {
            self.release.send(()).unwrap();
        }
    }

    fn id(first: u8) -> BlockId {
        BlockId::from_bytes([first; 32])
    }

    fn blocks(first: u8, len: usize) -> Vec<Bytes> {
        vec![vec![first; len].into()]
    }

    /// Starts a call of one block.
    fn call(service: &HashingService, first: u8) -> Reply {
        call_with(service, blocks(first, LARGE))
    }

    type Reply = std::pin::Pin<Box<dyn Future<Output = Result<Vec<BlockId>, Fault>>>>;

    fn call_with(service: &HashingService, blocks: Vec<Bytes>) -> Reply {
        let service = service.clone();
        let mut reply: Reply = Box::pin(async move { service.ids_of(&blocks).await });
        assert!(reply.as_mut().now_or_never().is_none());
        reply
    }

    async fn reply(reply: Reply) -> Result<Vec<BlockId>, Fault> {
        timeout(PATIENCE, reply).await.unwrap()
    }

    /// Waits until all tasks have ended. Checks that the queue is empty and its room given back.
    async fn assert_idle(service: &HashingService) {
        let room = service.shared.room.acquire_many(HASH_QUEUE_BYTES as u32);
        drop(timeout(PATIENCE, room).await.unwrap().unwrap());
        assert_eq!(service.shared.queue.lock().calls.len(), 0);
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 4)]
    async fn concurrent_calls_have_the_ids_of_direct_hashing() {
        let (seed, cases) = cstore_testkit::seed_and_cases(1, 60);
        let service = HashingService::new(DEDUP_KEY);
        let calls = (seed..seed + cases).map(|seed| {
            let service = service.clone();
            cstore_node::shutdown::spawn("test call", async move {
                let mut random = StdRng::seed_from_u64(seed);
                for _ in 0..5 {
                    let count = random.random_range(0..6);
                    let blocks: Vec<Bytes> = (0..count)
                        .map(|_| {
                            let mut block = vec![0; random.random_range(0..70_000)];
                            random.fill_bytes(&mut block);
                            block.into()
                        })
                        .collect();
                    let slices: Vec<&[u8]> = blocks.iter().map(Bytes::as_ref).collect();
                    let expected = BlockId::of_many(&DEDUP_KEY, &slices);
                    assert_eq!(service.ids_of(&blocks).await, Ok(expected), "seed {seed}");
                }
            })
        });
        for ended in join_all(calls).await {
            ended.unwrap();
        }
        assert_idle(&service).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_that_come_while_a_task_is_busy_are_hashed_together() {
        let (service, mut gate) = Gate::new(1);
        let first = call(&service, 1);
        assert_eq!(gate.begun().await, [1], "an idle service hashes at once");
        let two = vec![vec![2; LARGE].into(), vec![3; 1].into()];
        let second = call_with(&service, two);
        let third = call(&service, 4);

        gate.release();
        assert_eq!(reply(first).await, Ok(vec![id(1)]));
        assert_eq!(gate.begun().await, [2, 3, 4]);
        gate.release();
        assert_eq!(reply(third).await, Ok(vec![id(4)]));
        assert_eq!(reply(second).await, Ok(vec![id(2), id(3)]));
        assert_idle(&service).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_task_takes_as_many_calls_as_fill_the_lanes() {
        let (service, mut gate) = Gate::new(1);
        let first = call(&service, 1);
        assert_eq!(gate.begun().await, [1]);
        let n_calls = HASH_TASK_BLOCKS + 1;
        let calls: Vec<Reply> = (0..n_calls).map(|_| call(&service, 2)).collect();
        for blocks in [HASH_TASK_BLOCKS, 1] {
            gate.release();
            assert_eq!(gate.begun().await, vec![2; blocks]);
        }
        gate.release();
        for call in calls.into_iter().chain([first]) {
            assert!(reply(call).await.is_ok());
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn no_more_tasks_run_than_are_allowed() {
        let (service, mut gate) = Gate::new(2);
        let first = call(&service, 1);
        assert_eq!(gate.begun().await, [1]);
        let second = call(&service, 2);
        assert_eq!(gate.begun().await, [2]);
        let calls = [first, second, call(&service, 3), call(&service, 4)];
        assert_eq!(service.shared.queue.lock().calls.len(), 2);
        assert_eq!(service.shared.queue.lock().tasks, 2);
        assert!(gate.begun.try_recv().is_err());
        for _ in &calls {
            gate.release();
        }
        for (call, first) in calls.into_iter().zip(1..) {
            assert_eq!(reply(call).await, Ok(vec![id(first)]));
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn dropped_callers_hold_nothing_up() {
        let (service, mut gate) = Gate::new(1);
        // The caller that started the task is dropped, and one in the queue.
        let first = call(&service, 1);
        assert_eq!(gate.begun().await, [1]);
        let second = call(&service, 2);
        let third = call(&service, 3);
        drop(first);
        drop(second);
        gate.release();
        assert_eq!(gate.begun().await, [3], "the dropped call is not hashed");
        gate.release();
        assert_eq!(reply(third).await, Ok(vec![id(3)]));
        assert_idle(&service).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_panic_fails_the_calls_that_were_hashed_and_no_others() {
        let (service, mut gate) = Gate::new(1);
        let first = call(&service, PANIC);
        assert_eq!(gate.begun().await, [PANIC]);
        let second = call(&service, 2);
        gate.release();
        gate.release();
        assert_eq!(reply(first).await.unwrap_err().code, ErrorCode::Internal);
        assert_eq!(reply(second).await, Ok(vec![id(2)]));
        let third = call(&service, 3);
        gate.release();
        assert_eq!(reply(third).await, Ok(vec![id(3)]));
        gate.release();
        let small = service.ids_of(&blocks(PANIC, 1)).await;
        assert_eq!(small.unwrap_err().code, ErrorCode::Internal);
        assert_idle(&service).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn calls_wait_while_the_queue_is_full() {
        let (service, mut gate) = Gate::new(1);
        let first = call_with(&service, blocks(1, HASH_QUEUE_BYTES - LARGE));
        assert_eq!(gate.begun().await, [1]);
        let second = call(&service, 2);
        let third = call(&service, 3);
        let larger_than_all = call_with(&service, blocks(4, HASH_QUEUE_BYTES + 1));
        assert_eq!(service.shared.queue.lock().calls.len(), 1);
        assert_eq!(service.shared.room.available_permits(), 0);

        for _ in 0..4 {
            gate.release();
        }
        let waiting = [first, second, third, larger_than_all];
        for (call, first) in waiting.into_iter().zip(1..) {
            assert_eq!(reply(call).await, Ok(vec![id(first)]));
        }
        assert_idle(&service).await;
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn few_bytes_are_hashed_at_once_while_tasks_are_busy() {
        let (service, mut gate) = Gate::new(1);
        let first = call(&service, 1);
        assert_eq!(gate.begun().await, [1]);
        gate.release();
        gate.release();
        let small = blocks(2, INLINE_BLOCK_BYTES);
        let found = service.ids_of(&small).now_or_never();
        assert_eq!(found, Some(Ok(vec![id(2)])));
        assert_eq!(reply(first).await, Ok(vec![id(1)]));
    }

    #[tokio::test]
    async fn a_runtime_of_one_thread_hashes_where_the_call_is() {
        let service = HashingService::new(DEDUP_KEY);
        let block = vec![7; LARGE];
        let expected = BlockId::of_many(&DEDUP_KEY, &[&block]);
        let found = service.ids_of(&[block.into()]).now_or_never();
        assert_eq!(found, Some(Ok(expected)));
    }

    #[test]
    fn a_task_that_never_runs_closes_the_calls_in_the_queue() {
        let (service, _gate) = Gate::new(1);
        let add = || {
            let (reply, ids) = oneshot::channel();
            let room = service.shared.room.clone().try_acquire_many_owned(1);
            let call = Call {
                blocks: blocks(1, LARGE),
                reply,
                _room: room.unwrap(),
            };
            (service.shared.add(call), ids)
        };
        for _ in 0..2 {
            let (task, mut first) = add();
            let (no_task, mut second) = add();
            assert!(no_task.is_none());
            drop(task.unwrap());
            assert_eq!(first.try_recv(), Err(TryRecvError::Closed));
            assert_eq!(second.try_recv(), Err(TryRecvError::Closed));
            assert_eq!(service.shared.room.available_permits(), HASH_QUEUE_BYTES);
        }
    }
}
