//! Limits of the master: its rules, its log, its snapshots, the index.

use std::time::Duration;

cstore_types::limits! {
    /// Most nodes that may register. Another one is refused as overloaded.
    pub(crate) count MAX_NODES: usize = 4_096;
    /// Longest text of a node about itself, such as an address or a reason. A longer one is
    /// refused.
    pub(crate) bytes MAX_NODE_TEXT: usize = 256;
    /// Attempts to make a folder among the temporary files. Each fails only if another process takes
    /// the new folder for a leftover and removes it. Beyond it the folder is not made.
    pub(crate) count SCRATCH_ATTEMPTS: usize = 8;
    /// Most doubts of one disk that are kept and shown. A disk has no more; others are left out.
    pub(crate) count MAX_NODE_DOUBTS: usize = 32;
    /// Most epochs of sequences of one disk that are kept. Older ones are left out.
    pub(crate) count MAX_TOLD_EPOCHS: usize = 4_096;
    /// Most lives of the metadata that are kept. With another one the oldest goes: a storage node
    /// that heard nothing since is in doubt about the master.
    pub(crate) count MAX_LIVES: usize = 4_096;
    /// Most links of the newest batches that are kept in memory. A copy of a running process that
    /// wrote other batches before these is not noticed.
    pub(crate) count MAX_LINKS: usize = 65_536;
    /// Time after which a lost worker is forgotten, counted from the end of its lease: it keeps
    /// nothing, and an orchestrator never brings its name back. Storage nodes are remembered for
    /// ever.
    pub(crate) time FORGET_WORKER: Duration = Duration::from_secs(600);
    /// Shortest time between two looks for leases that ran out. It is a fifth of a lease if that is
    /// longer.
    pub(crate) time MIN_LEASE_CHECK: Duration = Duration::from_millis(10);
    /// Free bytes that every storage node must have. While one has less, new uploads are refused
    /// with 507.
    pub(crate) bytes MIN_UPLOAD_SPACE: u64 = 16 << 10;

    /// Times that a decision is made again because another change came first. Then the request is
    /// refused as overloaded.
    pub(crate) count MAX_DECISIONS: usize = 64;
    /// Turns that changes of names share, so that changes of one file wait for each other instead of
    /// conflicting. With fewer, changes of different files wait for each other more often.
    pub(crate) count SESSION_TURNS: usize = 1_024;
    /// Most open uploads whose progress is remembered. More count as open, without a clock that
    /// ends them.
    pub(crate) count MAX_OPEN_SESSIONS: usize = 100_000;
    /// Sessions whose verdicts are made at the same time. More wait for them.
    pub(crate) count JUDGED_TOGETHER: usize = 64;
    /// Share of its space in use from which a storage node gets releases of deleted files at once,
    /// before their delay is over.
    pub(crate) percent HIGH_PRESSURE: u32 = 80;
    /// Names that are read from the index together for a list. A longer list takes several reads.
    pub(crate) count SCANNED_NAMES: usize = 256;

    /// Sessions that are read from the index together for an audit of a disk. More take several
    /// heartbeats.
    pub(crate) count AUDITED_SESSIONS: usize = 500;
    /// Most files of one page of an audit that are logged because a disk lost their sets. The
    /// number of all stands in the doubt of the disk.
    pub(crate) count MAX_LOGGED_ABSENT: usize = 20;

    /// Most damaged values that a master which is read-only names in its log at the start. The
    /// number of all is part of the reason why it is read-only.
    pub(crate) count MAX_LOGGED_DAMAGED: usize = 100;

    /// Batches of changes that wait for the writer. More are refused as overloaded.
    pub(crate) count WRITER_QUEUE: usize = 4_096;
    /// Most batches that share one sync. More wait for the next.
    pub(crate) count MAX_GROUP: usize = 1_024;
    /// Most batches that share one sync while the disk is nearly full, so that one group cannot
    /// take the rest of it.
    pub(crate) count MAX_TIGHT_GROUP: usize = 64;
    /// Time between two checks of the space behind the end of the index while no change arrives.
    /// Missing space is allocated then.
    pub(crate) time HOLD_INTERVAL: Duration = Duration::from_millis(10);
    /// Checks after the last change: three seconds of them. sled flushes every second, so the index is
    /// written by then, and checks stop until the next change.
    pub(crate) count HOLD_CHECKS: usize = 300;
    /// Largest frame of the log. A group that needs more is written in several.
    pub(crate) bytes LOG_FRAME_BYTES: usize = 8 << 20;
    /// Bytes that wait for the log. More are refused as overloaded.
    pub(crate) bytes LOG_QUEUE_BYTES: usize = 64 << 20;
    /// Largest log. When a snapshot cannot shorten it in time, changes are refused as full.
    pub(crate) bytes MAX_LOG_BYTES: u64 = 64 << 30;
    /// Standard size of a file of the log. The next file begins then.
    pub(crate) bytes LOG_FILE_BYTES: u64 = 8 << 20;
    /// Least size of a file of the metadata log: on a small file system a file is a 32nd of it.
    pub(crate) bytes MIN_LOG_FILE_BYTES: u64 = 256 << 10;
    /// Most bytes of the log that are reserved for removals, which free space; an eighth of a
    /// smaller log. New names are refused when only the reserve is left.
    pub(crate) bytes MAX_LOG_RESERVE: u64 = 64 << 20;
    /// Most files of the metadata log that are kept open at a time. Others are opened when they are
    /// read.
    pub(crate) count MAX_OPEN_LOG_FILES: usize = 4;
    /// Smallest reserve of the master's file system; the reserve is an eighth of the file system. New
    /// names are refused if less than half of the reserve is free beside the ballast.
    pub(crate) bytes MIN_DISK_RESERVE: u64 = 8 << 20;
    /// Largest reserve of the master's file system. A file system of more than 512 MiB reserves less
    /// than an eighth.
    pub(crate) bytes MAX_DISK_RESERVE: u64 = 64 << 20;
    /// Files of the log for which a start needs room: the copy of an unproven tail, and a new one.
    /// Without it the reserve on the disk is used up.
    pub(crate) count FILES_AT_OPEN: u64 = 2;
    /// Time between two tries to write while writes are blocked. They go on when one succeeds.
    pub(crate) time PROBE_INTERVAL: Duration = Duration::from_secs(1);
    /// Time for which a master that was opened for reads serves names at least, if the probe of its
    /// disk's writes has succeeded each time. After that it starts again.
    pub(crate) time READS_AT_LEAST: Duration = Duration::from_secs(60);

    /// Bytes that are allocated for a snapshot beyond its pairs, for head and checksums. Beyond it a
    /// snapshot takes free space.
    pub(crate) bytes SNAPSHOT_SLACK_BYTES: u64 = 64 << 10;
    /// Most pairs that a snapshot copies while it holds the lock, for about 0.3 ms. Changes wait
    /// for as long.
    pub(crate) count SNAPSHOT_CHUNK_PAIRS: usize = 64;
    /// Bytes after which such a copy ends. The next follows after a rest.
    pub(crate) bytes SNAPSHOT_CHUNK_BYTES: usize = 128 << 10;
    /// Times as long as a copy took that a snapshot rests after it, so that commits keep the
    /// processor.
    pub(crate) count SNAPSHOT_REST_FACTOR: u32 = 2;
    /// Longest rest of a snapshot between two copies. It goes on then.
    pub(crate) time MAX_SNAPSHOT_REST: Duration = Duration::from_millis(5);
    /// Most bytes of old values that are saved for a running snapshot. Beyond it the writer waits
    /// for the snapshot.
    pub(crate) bytes MAX_SAVED_BYTES: usize = 64 << 20;
    /// Bytes of a snapshot after which the room on the disk is measured again. Without room the
    /// snapshot is given up.
    pub(crate) bytes MEASURE_BYTES: u64 = 1 << 20;
    /// Bytes of a snapshot after which it is synced: one sync of everything at the end would hold
    /// up those of the log.
    pub(crate) bytes SNAPSHOT_SYNC_BYTES: u64 = 4 << 20;
    /// Longest key or value of a snapshot. A longer one makes the snapshot fail, and is damage when
    /// it is read.
    pub(crate) bytes MAX_SNAPSHOT_ITEM: u32 = 1 << 20;
    /// Bytes of a snapshot that share a checksum. More take several.
    pub(crate) bytes SNAPSHOT_BLOCK_BYTES: usize = 64 << 10;
    /// Buffer of a snapshot that is written or read. It is flushed or filled in this size.
    pub(crate) bytes SNAPSHOT_BUFFER: usize = 256 << 10;
    /// Pairs of a snapshot that are loaded together. More take several steps.
    pub(crate) count SNAPSHOT_READ_PAIRS: usize = 1_000;
    /// Batches of the log that are replayed into the index together at a start. More take several
    /// steps.
    pub(crate) count REPLAY_GROUP: usize = 256;

    /// Memory that the index caches in. The rest is read from its files.
    pub(crate) bytes INDEX_CACHE_BYTES: u64 = 16 << 20;
    /// Times that an index that does not open for an error of the system is tried again. Then the
    /// start is refused.
    pub(crate) count INDEX_OPEN_TRIES: u32 = 100;
    /// Pause between two such tries. It ends with the next.
    pub(crate) time INDEX_OPEN_PAUSE: Duration = Duration::from_millis(20);
    /// Interval in which the index writes its buffers. Nothing is lost with them: the log has it.
    pub(crate) time INDEX_FLUSH_INTERVAL: Duration = Duration::from_secs(1);

    /// Values that `cstore admin inspect` reads at once. It goes on with the next as many.
    pub(crate) count INSPECTED_PAGE: usize = 1_000;
}
