//! Limits of a worker: connections and requests to storage nodes, uploads, downloads.

use std::time::Duration;

cstore_types::limits! {
    /// Time that an upload waits for a storage node that is away: its bytes have been sent already.
    /// Beyond it the upload fails as unavailable.
    pub(crate) time WRITE_PATIENCE: Duration = Duration::from_secs(10);
    /// Time that a download waits for a storage node that is away. Beyond it the download fails:
    /// its client can ask again, and for other files in the meantime.
    pub(crate) time READ_PATIENCE: Duration = Duration::from_secs(2);
    /// Time of the handshake with a storage node. Beyond it the connection is closed and dialled
    /// again.
    pub(crate) time HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
    /// Longest pause inside of a frame, and longest wait for a storage node that does not read.
    /// Then the connection is closed and its requests fail.
    pub(crate) time PROGRESS_DEADLINE: Duration = Duration::from_secs(30);
    /// Longest wait for the answer to one request; a busy disk may take long over 8 MiB. Beyond it
    /// the request fails.
    pub(crate) time REQUEST_DEADLINE: Duration = Duration::from_secs(30);
    /// Times that a request to a storage node is sent again after its connection broke or the node
    /// was overloaded: all requests are idempotent. Then it fails.
    pub(crate) count MAX_REQUEST_RETRIES: usize = 3;
    /// Shortest pause before an overloaded storage node is asked again, even if it names a shorter
    /// one.
    pub(crate) time MIN_BUSY_PAUSE: Duration = Duration::from_millis(10);
    /// Longest pause before an overloaded storage node is asked again, even if it names a longer
    /// one.
    pub(crate) time MAX_BUSY_PAUSE: Duration = Duration::from_secs(1);

    /// Longest wait for the next message of an upload. Beyond it the upload fails with
    /// DEADLINE_EXCEEDED.
    pub(crate) time CLIENT_DEADLINE: Duration = Duration::from_secs(60);
    /// Largest chunk of an upload. A larger one is refused as invalid.
    pub(crate) bytes MAX_UPLOAD_CHUNK: usize = 1 << 20;
    /// Bytes of one batch of blocks: enough to fill the lanes of a hash, and a frame worth sending.
    /// The next batch begins then.
    pub(crate) bytes BATCH_BYTES: usize = 1 << 20;
    /// Most blocks of one batch, which bounds batches of small blocks. The next batch begins then.
    pub(crate) count BATCH_BLOCKS: usize = 4_096;
    /// Most bytes of one upload on their way to storage nodes; with the batch and the block that
    /// are being filled that is at most 8 MiB. The upload takes no more until some are stored.
    pub(crate) bytes MAX_IN_FLIGHT: usize = 4 << 20;
    /// Largest body whose blocks are sent without asking first which of them are known. For a
    /// larger one the storage nodes are asked.
    pub(crate) bytes BLIND_BYTES: usize = 256 << 10;
    /// Largest chunk that is hashed where it arrives. A larger one is hashed on a blocking thread.
    pub(crate) bytes INLINE_HASH_BYTES: usize = 16 << 10;
    /// Most bytes of blocks that are hashed where they are, in about 30 microseconds. More are
    /// hashed on a blocking thread, together with blocks of other uploads.
    pub(crate) bytes INLINE_BLOCK_BYTES: usize = 16 << 10;
    /// Bytes of blocks that wait for a hashing task or are hashed by one. Uploads with more blocks
    /// wait, in order of their calls.
    pub(crate) bytes HASH_QUEUE_BYTES: usize = 32 << 20;
    /// Blocks after which a hashing task takes no further call from the queue: as many as the widest
    /// lanes hash at once. Another task, or the next turn of this one, takes the other calls.
    pub(crate) count HASH_TASK_BLOCKS: usize = 32;
    /// Most hashing tasks of a worker, which starts one per core at most. Blocks wait for these on
    /// machines with more cores.
    pub(crate) count MAX_HASH_TASKS: usize = 16;
    /// Largest body that every storage node writes as one group with its reference set: a quarter of
    /// the smallest segment. The blocks of a larger one may be pinned in between, so an Unpin follows.
    pub(crate) bytes UNSPLIT_BYTES: usize = 16 << 10;
    /// Time for which a commit is repeated while its outcome is unknown: a master restarts in it.
    /// Beyond it the upload fails.
    pub(crate) time COMMIT_PATIENCE: Duration = Duration::from_secs(30);
    /// Pause before a commit is repeated, until its patience is over.
    pub(crate) time COMMIT_PAUSE: Duration = Duration::from_millis(250);

    /// Longest wait of an upload in one call for memory. Beyond it the upload is refused as overloaded.
    pub(crate) time SMALL_UPLOAD_PATIENCE: Duration = Duration::from_secs(5);
    /// Longest wait for a place among the open downloads. Beyond it the download is refused as
    /// overloaded.
    pub(crate) time DOWNLOAD_PATIENCE: Duration = Duration::from_secs(5);
    /// Bytes that a download fetches first. What goes wrong with them is an error before the first
    /// byte; what is missing later breaks the download off.
    pub(crate) bytes FIRST_WINDOW: u64 = 256 << 10;
    /// Bytes that a download fetches while `FIRST_WINDOW` is sent.
    pub(crate) bytes SECOND_WINDOW: u64 = 1 << 20;
    /// Most bytes that a download fetches together. It fetches more when they are sent.
    pub(crate) bytes MAX_WINDOW: u64 = 2 << 20;
    /// Bytes that a download fetches together for a slow reader. A quick one gets twice as many
    /// each time.
    pub(crate) bytes MIN_WINDOW: u64 = 256 << 10;
    /// Most blocks that a download fetches together. More follow when they are sent.
    pub(crate) count WINDOW_BLOCKS: usize = 1_024;
    /// Time after which fetched bytes that a reader does not take are dropped. They are fetched
    /// again when it takes more.
    pub(crate) time WINDOW_PATIENCE: Duration = Duration::from_secs(1);
    /// Time below which a reader took its window quickly. It gets a larger one next.
    pub(crate) time QUICK_READER: Duration = Duration::from_millis(250);
    /// Time above which a reader took its window slowly. It gets the smallest one next.
    pub(crate) time SLOW_READER: Duration = Duration::from_millis(750);
    /// Size of the chunks of a download. Small blocks are joined to chunks of it, large ones are
    /// cut.
    pub(crate) bytes CHUNK_BYTES: usize = 128 << 10;
    /// Chunks that wait for a slow reader. The download waits with the next.
    pub(crate) count CHUNKS_AHEAD: usize = 1;
    /// Most bytes that a download holds whose reader takes nothing: the chunks ahead, one that is
    /// being encoded, one in the connection. The number of open downloads follows from it.
    pub(crate) bytes OPEN_BYTES: u64 = ((CHUNKS_AHEAD + 2) * CHUNK_BYTES) as u64;
    /// Fetched bytes up to which blocks are verified where they arrive. More are verified on a
    /// blocking thread.
    pub(crate) bytes INLINE_CHECK_BYTES: u64 = 256 << 10;
    /// Blocks of a file that one message of its recipe names. More take several messages.
    pub(crate) count RECIPE_PAGE: usize = 512;

    /// Granularity in which memory is counted. Fewer bytes count as this many.
    pub(crate) bytes BUDGET_UNIT: u64 = 1_024;
    /// Time that the last heartbeat and other tasks may take at a stop. They are cut off then.
    pub(crate) time STOP_PATIENCE: Duration = Duration::from_secs(5);
}
