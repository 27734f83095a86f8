//! Limits of a storage node: connections, the disk and its log, requests, compaction, releases.

use std::time::Duration;

cstore_types::limits! {
    /// Most bytes of requests of one connection, from before they are read from the socket until their
    /// answers are written; and most bytes of blocks that its answers hold, from before they are read
    /// from the disk until they are written. A worker waits before it sends more; answers wait.
    pub(crate) bytes CONNECTION_CREDITS: u32 = 32 << 20;
    /// Most requests of one connection that are worked on at once. More wait in the socket.
    pub(crate) count MAX_REQUESTS: usize = 256;
    /// Time of the whole handshake of a connection. A slower peer is disconnected.
    pub(crate) time HANDSHAKE_DEADLINE: Duration = Duration::from_secs(5);
    /// Longest pause inside of a frame, and longest wait for a peer that does not read. Then the
    /// connection is closed.
    pub(crate) time PROGRESS_DEADLINE: Duration = Duration::from_secs(30);
    /// Silence after which a connection is closed.
    pub(crate) time IDLE_DEADLINE: Duration = Duration::from_secs(300);
    /// Time after which a worker is asked to repeat a request that was refused as overloaded: a few
    /// syncs of the disk.
    pub(crate) time RETRY_AFTER: Duration = Duration::from_millis(100);

    /// Most blocks that one blocking call reads before it sends them. More take several calls.
    pub(crate) count READ_BATCH: usize = 16;
    /// Bytes of blocks after which such a call ends, but not before its first one. A request holds two
    /// calls at most: one that is sent and one that is read.
    pub(crate) bytes READ_BATCH_BYTES: usize = 4 << 20;
    /// Most bytes of blocks that all connections hold together from before they are read until they are
    /// written to the socket. Beside it each connection may hold one call, so a peer that does not read
    /// never stops the others. More requests wait, in their order.
    pub(crate) bytes READ_BUDGET: u64 = 128 << 20;
    /// Most questions about used space that are worked on at once: each may hold a few hundred MiB, see
    /// `MAX_USAGE_BLOCKS`. More wait.
    pub(crate) count MAX_USAGE_QUESTIONS: usize = 1;
    /// Bytes of a batch up to which blocks that are in memory are read and verified where the request
    /// arrives. More are read on a blocking thread.
    pub(crate) bytes INLINE_READ_BYTES: usize = 128 << 10;
    /// Most batches that are read at once over all connections. More wait: they would only queue at
    /// the disk.
    pub(crate) count MAX_READERS: usize = 16;
    /// Most bytes that an open reads at once for reference sets that lie near each other.
    pub(crate) bytes SET_READ_BYTES: u64 = 1 << 20;
    /// Largest gap between two sets that are read at once: reading it costs less than another read.
    pub(crate) bytes SET_GAP_BYTES: u64 = 64 << 10;
    /// Least and largest part of a file system that new blocks leave to others, when it has less room
    /// than FS_SIZE: a sixteenth of it otherwise. Uploads are refused with 507 before.
    pub(crate) bytes MIN_FS_FLOOR: u64 = 4 << 20;
    /// See `MIN_FS_FLOOR`.
    pub(crate) bytes MAX_FS_FLOOR: u64 = 64 << 20;
    /// Segments that are made before they are needed: releases and compaction have them also when
    /// others fill the file system.
    pub(crate) count READY_SEGMENTS: usize = 2;
    /// Most segments that are kept open at a time; fewer if the process may have few files open.
    /// Others are opened when they are read.
    pub count MAX_OPEN_SEGMENTS: usize = 1_024;
    /// Blocks that an open reads to see whether a disk without superblock has ids by the cluster's
    /// key. It is refused if none of them has.
    pub(crate) count KEY_SAMPLE: usize = 64;
    /// Blocks of one segment among them: a damaged segment says nothing about the key.
    pub(crate) count KEY_SAMPLE_OF_SEGMENT: usize = 8;
    /// Times that a read is repeated because its record moved to another file. Then it fails.
    pub count MAX_READ_TRIES: usize = 3;
    /// Longest wait for the note that a block is damaged to be durable. The read fails then without
    /// it.
    pub time VERDICT_PATIENCE: Duration = Duration::from_secs(1);
    /// Most verdicts on damaged blocks that share a group when they are written later, because the
    /// disk did not take them. More take several groups.
    pub(crate) count MAX_VERDICTS: usize = 1_000;
    /// Bytes of a request up to which blocks are checked where they arrive. More are checked on a
    /// blocking thread.
    pub(crate) bytes INLINE_CHECK_BYTES: usize = 128 << 10;
    /// Times that a request makes room that other writers claim first. Then it is refused as full
    /// or overloaded.
    pub(crate) count MAX_ROOM_TRIES: usize = 16;
    /// Times that a seal waits for blocks that other requests are writing. Then it is refused as
    /// overloaded.
    pub(crate) count MAX_SEAL_ROUNDS: usize = 4;
    /// Most blocks that are absent and counted. Beyond it the doubt about them cannot be accepted.
    pub(crate) count MAX_ABSENT: usize = 4 << 20;
    /// Most ids of reference sets that a group of releases keeps in memory. The others are read
    /// twice.
    pub(crate) count MAX_KEPT_IDS: usize = 128 << 10;
    /// Largest half of the inventory of segments that is read. A larger one counts as damaged.
    pub(crate) bytes MAX_INVENTORY_AREA: u64 = 64 << 20;
    /// Shortest time between two writes of the place in the master's history that a disk has
    /// obeyed, as long as nothing is freed by it.
    pub(crate) time NOTE_INTERVAL: Duration = Duration::from_secs(1);
    /// Time for which a disk that was opened for reads is served at least, if the probe of its writes has
    /// succeeded each time. After that the node starts again.
    pub(crate) time READS_AT_LEAST: Duration = Duration::from_secs(60);
    /// Time from one comparison of the reference sets with the committed sessions to the next.
    pub(crate) time AUDIT_INTERVAL: Duration = Duration::from_secs(3_600);
    /// Most epochs of sequences that a disk lists. The oldest ones go: where they ended stays
    /// known.
    pub(crate) count MAX_EPOCHS: usize = 4_096;
    /// Epochs that are kept in front of the one that the master asks for: uploads may have sealed
    /// parts in them. An upload over more starts of a storage node is refused.
    pub(crate) count KEPT_EPOCHS: usize = 64;
    /// Most pinned block ids over all uploads. Beyond it a pin is left out: the block may be freed
    /// before its seal, and the upload sends it again.
    pub(crate) count MAX_PINS: usize = 4 << 20;
    /// Entries that long work on the index visits in one hold of its mutex, such as pins that end, or
    /// sessions that are listed. Requests wait for as many.
    pub(crate) count INDEX_STEP: usize = 4_096;
    /// Parts of the table of blocks. One of them is visited in one hold of the index, and moves when
    /// it grows: a few thousand blocks of a disk of 1 TiB.
    pub(crate) count BLOCK_SHARDS: usize = 4_096;
    /// Most distinct blocks of one question about used space. A question with more is refused.
    pub(crate) count MAX_USAGE_BLOCKS: usize = 2 << 20;
    /// Blocks that such a question looks up in one hold of the index. Requests wait for as many.
    pub(crate) count USAGE_LOOKUPS: usize = 1_024;

    /// Smallest disk. Below it there is no room for segments beside the reserves, and the disk is
    /// not opened.
    pub(crate) bytes MIN_CAPACITY: u64 = 1 << 20;
    /// Largest segment; between the bounds it is 1/32 of the disk. Larger ones would make
    /// compaction coarse.
    pub(crate) bytes MAX_SEGMENT_BYTES: u64 = 256 << 20;
    /// Smallest segment, also of a smaller disk. Smaller ones would be mostly headers.
    pub(crate) bytes MIN_SEGMENT_BYTES: u64 = 64 << 10;
    /// Most payload bytes of a group of records on a large disk. More are appended in several
    /// groups.
    pub(crate) bytes MAX_GROUP_BYTES: u64 = 1 << 20;
    /// Most bytes that share one frame, and so one sync. More wait for the next.
    pub(crate) bytes MAX_FRAME_BYTES: usize = 8 << 20;
    /// Most bytes that wait for the disk. Beyond it requests are refused as overloaded.
    pub(crate) bytes MAX_QUEUE_BYTES: usize = 64 << 20;

    /// Bytes a second that compaction copies while a quarter of the disk or more is free. It pauses
    /// to keep to it.
    pub(crate) bytes AMPLE_BYTES_PER_SECOND: u64 = 16 << 20;
    /// Bytes a second that compaction copies while an eighth to a quarter of the disk is free.
    /// Below it there is no limit.
    pub(crate) bytes LESS_BYTES_PER_SECOND: u64 = 64 << 20;
    /// Pause between two looks for a segment that is worth compacting, while there is none.
    pub(crate) time COMPACTION_PAUSE: Duration = Duration::from_secs(1);
    /// Pause of compaction after an error: the disk is read-only or about to close.
    pub(crate) time COMPACTION_FAILED_PAUSE: Duration = Duration::from_secs(10);
    /// Pause of a step of compaction that finds the queue of the log full. It is repeated then.
    pub(crate) time COMPACTION_BUSY_PAUSE: Duration = Duration::from_millis(10);
    /// Bytes of blocks that one step of the verification reads on a blocking thread. More take
    /// several steps.
    pub(crate) bytes VERIFY_STEP_BYTES: u64 = 1 << 20;
    /// Bytes a second that the verification reads. It pauses to keep to it: requests come first.
    pub(crate) bytes VERIFY_BYTES_PER_SECOND: u64 = 16 << 20;
    /// Pause of the verification while there is nothing to verify, and before a segment is tried
    /// again that could not be read.
    pub(crate) time VERIFY_PAUSE: Duration = Duration::from_secs(1);
    /// Bytes that compacting a segment must give back while there is enough space. Less is not
    /// worth a copy.
    pub(crate) bytes MIN_GAIN: u64 = 64 << 10;
    /// Bytes that compacting a segment must give back even under pressure, or a quarter of a tiny
    /// segment. Less is eaten by the headers and padding of the copy.
    pub(crate) bytes MIN_SHORT_GAIN: u64 = 16 << 10;
    /// Segments that one step passes over because they are damaged or fenced. Then the step ends
    /// without a copy.
    pub(crate) count MAX_PASSED_SEGMENTS: usize = 8;
    /// Looks for other segments before one is looked at again whose records were kept by seals or
    /// releases.
    pub(crate) count FENCED_LOOKS: u64 = 16;
    /// Times that compaction waits for seals and releases that keep records of its segment. Then it
    /// turns to another segment.
    pub(crate) count MAX_FENCE_WAITS: usize = 64;
    /// Most steps of compaction that one write or release makes for its own room. Then it is
    /// refused as full.
    pub(crate) count MAX_ROOM_STEPS: usize = 4_096;
    /// Segments that one write empties without more free space than before, because other writers
    /// claim it. Then it is refused as full.
    pub(crate) count MAX_FRUITLESS: usize = 8;
    /// Most records of one batch of copies. More take several batches.
    pub(crate) count MAX_COPIED_RECORDS: usize = 4_096;
    /// Directory entries that compaction looks up in one hold of the index. Requests wait for as
    /// many.
    pub(crate) count COMPACTION_LOOKUPS: usize = 16_384;
    /// Part of a group, one in this many, below which copies are not cut when the room is in
    /// pieces.
    pub(crate) count SMALLEST_COPY: usize = 64;

    /// Most uploads whose release records share a group. More take several groups.
    pub(crate) count MAX_RELEASE_GROUP: usize = 1_024;
    /// Uploads that are looked up in one hold of the mutex for the report to the master. Heartbeats
    /// wait for as many.
    pub(crate) count ROLL_CALL_LOOKUPS: usize = 4_096;
    /// Reports between two looks for confirmed uploads that hold nothing here any more. They are
    /// forgotten then.
    pub(crate) count FORGET_SELECTIONS: u64 = 600;
    /// Ticks of the sweeper between two sweeps over old pins. Pins of uploads that ended without a
    /// word are dropped by them.
    pub(crate) count PIN_SWEEP_TICKS: u64 = 600;

    /// Segments that `cstore admin inspect --payloads sample` reads whole. The others are judged by
    /// their footers.
    pub(crate) count INSPECTED_SEGMENTS: usize = 8;
    /// Doubts whose accept `cstore admin inspect` writes out. Its list of doubts has the numbers of
    /// others.
    pub(crate) count MAX_NAMED_ACCEPTS: usize = 4;
}
